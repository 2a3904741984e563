-- KEYS channel, history. ARGV Redis channel, kind, epoch of the statement in 20 digits, bytes, an epoch of the channel in
-- case there is none, messages of history, history ms
local field = 'r' .. ARGV[2]
local epoch, known = unpack(redis.call('HMGET', KEYS[1], 'e', field))
if known and string.sub(known, 1, 20) >= ARGV[3] then return {'ok', 0} end
if not epoch then
    -- Offsets rise even where a counter was lost: no channel has a thousand messages a second for long.
    local time = redis.call('TIME')
    epoch = ARGV[5]
    redis.call('HSET', KEYS[1], 'e', epoch, 'o', time[1] * 1000 + math.floor(time[2] / 1000))
end
local offset = redis.call('HINCRBY', KEYS[1], 'o', 1)
local message = epoch .. struct.pack('>I8', offset) .. ARGV[4]
redis.call('HSET', KEYS[1], 'R', 1, field, ARGV[3] .. string.sub(message, 9))
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[2], offset % tonumber(ARGV[6]), message)
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return {'ok', redis.call('SPUBLISH', ARGV[1], message)}
