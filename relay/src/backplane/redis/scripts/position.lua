-- KEYS channel, history. ARGV an epoch in case there is none, messages of history, idle ms, epoch or '', offset
local list, c = redis.call('HGETALL', KEYS[1]), {}
for n = 1, #list, 2 do c[list[n]] = list[n + 1] end
if not c.e then
    local time = redis.call('TIME')
    c.e, c.o = ARGV[1], time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('HSET', KEYS[1], 'e', c.e, 'o', c.o)
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local offset, retained, missed, refetch = tonumber(c.o or 0), {}, {}, 0
for field, value in pairs(c) do
    if string.sub(field, 1, 1) == 'r' then retained[#retained + 1] = string.sub(value, 21) end
end
if ARGV[4] ~= '' then
    local since = tonumber(ARGV[5])
    if ARGV[4] ~= c.e or since > offset or offset - since > tonumber(ARGV[2]) then
        refetch = 1
    else
        for at = since + 1, offset do
            local message = redis.call('HGET', KEYS[2], at % tonumber(ARGV[2]))
            if not message or string.sub(message, 1, 16) ~= c.e .. struct.pack('>I8', at) then
                refetch = 1
                break
            end
            missed[#missed + 1] = string.sub(message, 9)
        end
    end
end
return {'ok', c.e, offset, refetch, retained, missed}
