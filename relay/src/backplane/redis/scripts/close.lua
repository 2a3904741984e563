-- KEYS pairing, remembered. ARGV side, other side, generation, notice, channel prefix
local s, o = ARGV[1], ARGV[2]
local t, generation, holder, node, over =
    unpack(redis.call('HMGET', KEYS[1], 't', s .. 'g', o .. 'h', o .. 'n', o .. 'c'))
if not t then return {redis.call('EXISTS', KEYS[2]) == 1 and 'expired' or 'unknown'} end
if not generation then return {'unknown'} end
if generation ~= ARGV[3] then return {'moved'} end
if over or not holder then
    redis.call('DEL', KEYS[1])
    return {'ok'}
end
redis.call('HSET', KEYS[1], s .. 'c', 1)
if node then redis.call('SPUBLISH', ARGV[5] .. node, ARGV[4]) end
return {'ok'}
