-- Moves an end to the node that asks, and answers with what the end lacks.
-- KEYS pairing, remembered. ARGV tenant, certificate and token hash, node, generation, last seq, ring size, server time ms,
-- kept for ms, channel prefix, rid, 1 or 0: whether all is known that the nodes of both ends knew
local list, p = redis.call('HGETALL', KEYS[1]), {}
for n = 1, #list, 2 do p[list[n]] = list[n + 1] end
if not p.t then return {redis.call('GET', KEYS[2]) == ARGV[1] and 'expired' or 'unknown'} end
if p.t ~= ARGV[1] then return {'unknown'} end
local s, o
if p.ah == ARGV[2] then s, o = 'a', 'd' elseif p.dh == ARGV[2] then s, o = 'd', 'a' else return {'denied'} end
local last, ring, missed = tonumber(ARGV[5]), tonumber(ARGV[6]), {}
if last > 0 then p.am = s == 'a' and '' or p.am end
local mark = {s .. 'n', ARGV[3], s .. 'g', ARGV[4]}
if s == 'a' and p.am then mark[#mark + 1] = 'am'; mark[#mark + 1] = p.am end
local others = 0
if p[o .. 'h'] then
    others = tonumber(p[o .. 's'])
    local acked = tonumber(p[o .. 'k'])
    -- Who knew of these is gone, but for the end that has them.
    if ARGV[11] == '0' and last > others then
        others, acked = last, last
        mark[#mark + 1] = o .. 's'; mark[#mark + 1] = last
    end
    if last > others or last < acked then return {'denied'} end
    for seq = last + 1, others do
        local at, notice = string.match(p[o .. (seq % ring)] or '', '^(%d+):(.*)$')
        if not at or tonumber(ARGV[7]) - tonumber(at) > tonumber(ARGV[8]) then return {'denied'} end
        missed[#missed + 1] = notice
    end
    mark[#mark + 1] = o .. 'k'; mark[#mark + 1] = last
elseif last > 0 then
    return {'denied'}
end
redis.call('HSET', KEYS[1], unpack(mark))
local former = p[s .. 'n']
if former and former ~= ARGV[3] then
    -- The generation that ends, not the new one: the end may be back there before it hears of this.
    redis.call('SPUBLISH', ARGV[9] .. former, 'M' .. ARGV[10] .. s .. p[s .. 'g'])
end
return {'ok', s, tonumber(p[s .. 's'] or 0), others, redis.call('PTTL', KEYS[1]), p[o .. 'c'] and 1 or 0,
    s == 'a' and p.am or '', p[o .. 'h'] and 1 or 0, missed, p[o .. 'n'] or '', tonumber(p[s .. 'k'] or 0)}
