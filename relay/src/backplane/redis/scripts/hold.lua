-- A node's share of what a tenant may have in all. The share of a node that is gone is free.
-- KEYS shares, this node's sign of life. ARGV node, share wanted, limit, signs' prefix, sign's ms, idle ms
redis.call('SET', KEYS[2], '1', 'PX', ARGV[5])
local list, taken = redis.call('HGETALL', KEYS[1]), 0
for n = 1, #list, 2 do
    if list[n] ~= ARGV[1] then
        if redis.call('EXISTS', ARGV[4] .. list[n]) == 1 then
            taken = taken + tonumber(list[n + 1])
        else
            redis.call('HDEL', KEYS[1], list[n])
        end
    end
end
local granted = math.max(0, math.min(tonumber(ARGV[2]), tonumber(ARGV[3]) - taken))
if granted > 0 then
    redis.call('HSET', KEYS[1], ARGV[1], granted)
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
else
    redis.call('HDEL', KEYS[1], ARGV[1])
end
return {'ok', granted}
