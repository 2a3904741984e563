-- KEYS pairing, remembered. ARGV side, other side, generation, ack, notice, channel prefix
local s, o, ack = ARGV[1], ARGV[2], tonumber(ARGV[4])
local t, generation, holder, node, others, taken =
    unpack(redis.call('HMGET', KEYS[1], 't', s .. 'g', o .. 'h', o .. 'n', o .. 's', o .. 'k'))
if not t then return {redis.call('EXISTS', KEYS[2]) == 1 and 'expired' or 'unknown'} end
if not generation then return {'unknown'} end
if not holder then return {'unclaimed'} end
if generation ~= ARGV[3] then return {'moved'} end
if ack > tonumber(others) then return {'ahead', tonumber(others)} end
local mark = {o .. 'k', math.max(tonumber(taken), ack), s .. 'l', ARGV[5]}
if s == 'a' then mark[5], mark[6] = 'am', '' end
redis.call('HSET', KEYS[1], unpack(mark))
if node then redis.call('SPUBLISH', ARGV[6] .. node, ARGV[5]) end
return {'ok'}
