-- KEYS spent, (none). ARGV amount, limit, window ms
local spent = tonumber(redis.call('GET', KEYS[1]) or 0)
local granted = math.max(0, math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - spent))
if spent == 0 and granted > 0 then
    redis.call('SET', KEYS[1], granted, 'PX', ARGV[3])
elseif granted > 0 then
    redis.call('INCRBY', KEYS[1], granted)
end
return {'ok', granted}
