-- The read-only functions of the groups, which use the local names of groups.lua.

-- A group: {version (0: no such group), state, states of the members, outcomes of the events, {member, its state}* of
-- the longest firing}.
local function look_at(base, key, members, events, firing)
  local known, first = group(base, key), {}
  if firing > 0 then
    local longest = redis.call('ZRANGE', base .. 'firing:' .. key, 0, math.min(firing, PAGE) - 1)
    local about = #longest > 0 and redis.call('HMGET', base .. 'members:' .. key, unpack(longest)) or {}
    for k, member in ipairs(longest) do
      first[#first + 1] = member
      first[#first + 1] = about[k]
    end
  end
  return {
    known and known[VERSION] or 0, known and known[STATE] or false, values(base .. 'members:' .. key, members),
    values(base .. 'outcomes', events), first,
  }
end

-- look: read groups.
-- ARGV[1]: msgpack list, at most 100 of {group, members, event ids, how many firing members to add}.
-- Result: for each as of `look_at`.
register('look', 'no-writes', function(keys, args)
  local result = {}
  for k, want in ipairs(bounded(args[1])) do
    result[k] = look_at(keys[1], want[1], want[2], want[3], want[4])
  end
  return result
end)

-- due: groups ordered by when they are due. ARGV: 'queue' or 'queue:<tenant>', offset, limit (at most 500).
-- Result: groups.
register('due', 'no-writes', function(keys, args)
  local from, limit = tonumber(args[2]), tonumber(args[3])
  return redis.call('ZRANGE', keys[1] .. args[1], int(from), int(from + limit - 1))
end)

-- some: at most 100 arbitrary groups. Result: as for claim, with the token 0.
register('some', 'no-writes', function(keys)
  local found, result = redis.call('HRANDFIELD', keys[1] .. 'groups', LIMIT, 'WITHVALUES'), {}
  for k = 1, #found, 2 do
    local known = cmsgpack.unpack(found[k + 1])
    result[#result + 1] = { found[k], known[VERSION], 0, known[STATE] }
  end
  return result
end)

-- notifications: a list, newest first. ARGV: 'open' | 'dead' | 'dead_open' | 'finished', newest time ms (inclusive),
-- offset from there, limit (at most 500).
-- Result: records.
register('notifications', 'no-writes', function(keys, args)
  local base, result = keys[1], {}
  local found = redis.call('ZRANGE', base .. args[1], args[2], '-inf', 'BYSCORE', 'REV', 'LIMIT', args[3], args[4])
  for _, nid in ipairs(found) do
    result[#result + 1] = redis.call('HGET', base .. 'notifications', nid) or nil
  end
  return result
end)

-- notification: one notification. ARGV: nid.
-- Result: {record or false, body or false}.
register('notification', 'no-writes', function(keys, args)
  return { redis.call('HGET', keys[1] .. 'notifications', args[1]), redis.call('HGET', keys[1] .. 'bodies', args[1]) }
end)
