-- KEYS channel, history. ARGV Redis channel, bytes, an epoch in case there is none, messages of history, history ms, idle ms
local epoch, keeps = unpack(redis.call('HMGET', KEYS[1], 'e', 'R'))
if not epoch then
    -- Offsets rise even where a counter was lost: no channel has a thousand messages a second for long.
    local time = redis.call('TIME')
    epoch = ARGV[3]
    redis.call('HSET', KEYS[1], 'e', epoch, 'o', time[1] * 1000 + math.floor(time[2] / 1000))
end
local offset = redis.call('HINCRBY', KEYS[1], 'o', 1)
if not keeps then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
local message = epoch .. struct.pack('>I8', offset) .. ARGV[2]
redis.call('HSET', KEYS[2], offset % tonumber(ARGV[4]), message)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {'ok', redis.call('SPUBLISH', ARGV[1], message)}
