-- The one compare-and-set: of all claims one finds no device there.
-- KEYS pairing, remembered. ARGV tenant, certificate and token hash, node, generation, notice for the agent, its channel's prefix
local t, node, device, generation = unpack(redis.call('HMGET', KEYS[1], 't', 'an', 'dh', 'dg'))
if not t then return {redis.call('GET', KEYS[2]) == ARGV[1] and 'expired' or 'unknown'} end
if t ~= ARGV[1] then return {'unknown'} end
if device then
    if generation ~= ARGV[4] then return {'claimed'} end
    return {'ok', redis.call('PTTL', KEYS[1]), node or ''}
end
redis.call('HSET', KEYS[1], 'dh', ARGV[2], 'dn', ARGV[3], 'dg', ARGV[4], 'ds', 0, 'dk', 0, 'am', ARGV[5])
if node then redis.call('SPUBLISH', ARGV[6] .. node, ARGV[5]) end
return {'ok', redis.call('PTTL', KEYS[1]), node or ''}
