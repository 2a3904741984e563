-- A message: HMGET, HSET, SPUBLISH and no more, for this is the hot path. The ring of 16 needs no deleting: a message takes
-- the place of one that is acknowledged.
-- KEYS pairing, remembered. ARGV side, other side, generation, seq, ack, ring size, server time ms, notice, channel prefix
local s, o, seq, ack, ring = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local t, generation, sent, acked, closed, holder, node, others, taken, over =
    unpack(redis.call('HMGET', KEYS[1], 't', s .. 'g', s .. 's', s .. 'k', s .. 'c', o .. 'h', o .. 'n', o .. 's', o .. 'k', o .. 'c'))
if not t then return {redis.call('EXISTS', KEYS[2]) == 1 and 'expired' or 'unknown'} end
if not generation then return {'unknown'} end
if not holder then return {'unclaimed'} end
if generation ~= ARGV[3] then return {'moved'} end
if closed or over then return {'expired'} end
sent, acked, others, taken = tonumber(sent), tonumber(acked), tonumber(others), tonumber(taken)
if ack > others then return {'ahead', others} end
local mark = {o .. 'k', math.max(taken, ack)}
if s == 'a' then mark[3], mark[4] = 'am', '' end -- who answers has seen the CLAIM
if seq > 0 and seq <= sent then
    redis.call('HSET', KEYS[1], unpack(mark))
    return {'ok'}
end
if seq ~= sent + 1 then
    redis.call('HSET', KEYS[1], unpack(mark))
    return {'gap', sent + 1}
end
if sent - acked >= ring then
    redis.call('HSET', KEYS[1], unpack(mark))
    return {'unacked', sent - acked}
end
redis.call('HSET', KEYS[1], s .. 's', seq, s .. (seq % ring), ARGV[7] .. ':' .. ARGV[8], unpack(mark))
if node then redis.call('SPUBLISH', ARGV[9] .. node, ARGV[8]) end
return {'ok'}
