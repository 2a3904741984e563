-- Brings an end and its pairing to the same state after an outage, a failover or an overflow: what its node took in and
-- Redis does not have goes in (and on to the other end), what the end lacks comes back. Where Redis lost the pairing
-- altogether, it is made again: each of the two nodes brings its own end.
-- KEYS pairing, remembered. ARGV tenant, side, other side, node, generation, certificate and token hash, left ms,
-- remembered ms, sent, acknowledged of the other's, told of the other's, closed, claim seen, ring size, server time ms,
-- channel prefix, last FWDACK or '', CLAIM or '', close notice, acknowledged of its own, n, n x (seq, age ms, notice)
local s, o, ring = ARGV[2], ARGV[3], tonumber(ARGV[14])
local list, p = redis.call('HGETALL', KEYS[1]), {}
for n = 1, #list, 2 do p[list[n]] = list[n + 1] end
local left = tonumber(ARGV[7])
if not p.t then
    if left <= 0 or redis.call('EXISTS', KEYS[2]) == 1 then return {'expired'} end
    redis.call('HSET', KEYS[1], 't', ARGV[1])
    redis.call('PEXPIRE', KEYS[1], left)
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[8])
end
if p[s .. 'g'] and p[s .. 'g'] ~= ARGV[5] then return {'moved', p[s .. 'h'] == ARGV[6] and 1 or 0} end
local others, taken = tonumber(p[o .. 's'] or 0), tonumber(p[o .. 'k'] or 0)
local base, acked = tonumber(p[s .. 's'] or 0), tonumber(p[s .. 'k'] or 0)
local sent, got, told, count = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[21])
local mark, notices = {s .. 'h', ARGV[6], s .. 'n', ARGV[4], s .. 'g', ARGV[5]}, {}
local function set(field, value) mark[#mark + 1] = field; mark[#mark + 1] = value end
-- What the node no longer keeps is acknowledged, or came to Redis from another node.
local first = count > 0 and tonumber(ARGV[22]) or sent + 1
if first > base + 1 then base = first - 1 end
acked = math.max(acked, tonumber(ARGV[20]))
for n = 22, 21 + 3 * count, 3 do
    local seq = tonumber(ARGV[n])
    if seq > base then
        set(s .. (seq % ring), string.format('%d:', ARGV[15] - ARGV[n + 1]) .. ARGV[n + 2])
        notices[#notices + 1] = ARGV[n + 2]
    end
end
set(s .. 's', math.max(base, sent))
set(s .. 'k', math.min(acked, math.max(base, sent)))
others, taken = math.max(others, got), math.max(taken, got)
set(o .. 's', others)
set(o .. 'k', taken)
if ARGV[17] ~= '' and ARGV[17] ~= p[s .. 'l'] then
    set(s .. 'l', ARGV[17])
    notices[#notices + 1] = ARGV[17]
end
-- A claim that Redis forgot, or of which the agent is not known to have heard.
if s == 'd' and ARGV[18] ~= '' and (not p.dh or p.am == ARGV[18]) then
    set('am', ARGV[18])
    table.insert(notices, 1, ARGV[18])
end
if s == 'a' and ARGV[13] == '1' then p.am = ''; set('am', '') end
if ARGV[12] == '1' and not p[s .. 'c'] then
    set(s .. 'c', 1)
    notices[#notices + 1] = ARGV[19]
end
redis.call('HSET', KEYS[1], unpack(mark))
local node = p[o .. 'n']
if node then
    for _, notice in ipairs(notices) do redis.call('SPUBLISH', ARGV[16] .. node, notice) end
end
local missed = {}
for seq = math.max(told, taken) + 1, others do
    local notice = string.match(p[o .. (seq % ring)] or '', '^%d+:(.*)$')
    if notice then missed[#missed + 1] = notice end
end
return {'ok', p[o .. 'h'] and 1 or 0, p[o .. 'c'] and 1 or 0, s == 'a' and p.am or '', p[o .. 'l'] or '', missed}
