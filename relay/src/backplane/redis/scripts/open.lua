-- A pairing waits to be claimed.
-- KEYS pairing, remembered. ARGV tenant, ttl ms, remembered ms, certificate and token hash, node, generation
local known = redis.call('HGET', KEYS[1], 'ag')
if known == ARGV[6] then return {'ok'} end -- the answer to the first try was lost
if known or redis.call('EXISTS', KEYS[2]) == 1 then return {'taken'} end
redis.call('HSET', KEYS[1], 't', ARGV[1], 'ah', ARGV[4], 'an', ARGV[5], 'ag', ARGV[6], 'as', 0, 'ak', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return {'ok'}
