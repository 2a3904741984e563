-- Somebody came or left at this node, or nobody did: then it only looks whose nodes are gone.
-- KEYS nodes, this node's sign of life. ARGV node, '+' or '-' or '', who, signs' prefix, sign's ms, sets' prefix, Redis
-- channel, list wanted
local self, change, who = ARGV[1], ARGV[2], ARGV[3]
local function set(node) return ARGV[6] .. node end
local alive = {}
if change == '+' then
    redis.call('SET', KEYS[2], '1', 'PX', ARGV[5])
    redis.call('SADD', KEYS[1], self)
end
local function elsewhere(who, except)
    for _, node in ipairs(alive) do
        if node ~= except and redis.call('SISMEMBER', set(node), who) == 1 then return true end
    end
end
local gone = {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local lives = redis.call('EXISTS', ARGV[4] .. node) == 1
    table.insert(lives and alive or gone, node)
end
for _, node in ipairs(gone) do
    local lost = redis.call('SMEMBERS', set(node))
    redis.call('DEL', set(node))
    redis.call('SREM', KEYS[1], node)
    for _, was in ipairs(lost) do
        if not elsewhere(was, '') then redis.call('SPUBLISH', ARGV[7], '-' .. was) end
    end
end
if change == '+' and redis.call('SADD', set(self), who) == 1 or change == '-' and redis.call('SREM', set(self), who) == 1 then
    if not elsewhere(who, self) then redis.call('SPUBLISH', ARGV[7], change .. who) end
    if redis.call('SCARD', set(self)) == 0 then redis.call('SREM', KEYS[1], self) end
end
local all = {}
if ARGV[8] == '1' then
    local known = {}
    for _, node in ipairs(alive) do
        for _, one in ipairs(redis.call('SMEMBERS', set(node))) do
            if not known[one] then
                known[one] = true
                all[#all + 1] = one
            end
        end
    end
end
return {'ok', all}
