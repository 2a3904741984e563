-- Asks the other nodes that an end of the pairing is at to tell Redis what they know of it.
-- KEYS pairing, remembered. ARGV node that asks, notice, channel prefix
local agents, devices = unpack(redis.call('HMGET', KEYS[1], 'an', 'dn'))
if devices == agents then devices = false end
local nodes, reached = 0, 0
for _, node in ipairs({agents or ARGV[1], devices or ARGV[1]}) do
    if node ~= ARGV[1] then
        nodes = nodes + 1
        reached = reached + math.min(1, redis.call('SPUBLISH', ARGV[3] .. node, ARGV[2]))
    end
end
return {'ok', nodes, reached}
