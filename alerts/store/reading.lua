-- The read-only functions of the groups, which use the local names of groups.lua.

-- look: read groups.
-- ARGV[1]: msgpack list, at most 100 of {group, members, event ids, how many firing members to add}.
-- Result: for each {version (0: no such group), state, states of the members, outcomes of the events,
--   {member, its state}* of the longest firing}.
local function look(keys, args)
  local base, wanted = keys[1], cmsgpack.unpack(args[1])
  if #wanted > LIMIT then
    return fail('look: arguments')
  end
  local result = {}
  for _, want in ipairs(wanted) do
    local key, known = want[1], group(base, want[1])
    local first = {}
    if want[4] > 0 then
      local longest = redis.call('ZRANGE', base .. ':f:' .. key, 0, math.min(want[4], PAGE) - 1)
      local about = #longest > 0 and redis.call('HMGET', base .. ':m:' .. key, unpack(longest)) or {}
      for k, member in ipairs(longest) do
        first[#first + 1] = member
        first[#first + 1] = about[k]
      end
    end
    result[#result + 1] = {
      known and known[VERSION] or 0, known and known[STATE] or false, values(base .. ':m:' .. key, want[2]),
      values(base .. ':e', want[3]), first,
    }
  end
  return result
end

-- due: groups ordered by when they are due. ARGV: offset, limit (at most 500).
-- Result: groups.
local function due(keys, args)
  local from, limit = number(args[1]), number(args[2])
  if not from or not limit or limit > PAGE then
    return fail('due: arguments')
  end
  return redis.call('ZRANGE', keys[1] .. ':q', int(from), int(from + limit - 1))
end

-- some: arbitrary groups. ARGV: limit (at most 100). Result: for each {group, version, state}.
local function some(keys, args)
  local limit = number(args[1])
  if not limit or limit < 1 or limit > LIMIT then
    return fail('some: arguments')
  end
  local found, result = redis.call('HRANDFIELD', keys[1] .. ':k', int(limit), 'WITHVALUES'), {}
  for k = 1, #found, 2 do
    local known = cmsgpack.unpack(found[k + 1])
    result[#result + 1] = { found[k], known[VERSION], known[STATE] }
  end
  return result
end

-- notifications: a list, newest first. ARGV: ':open' | ':dead' | ':up' | ':nt', newest time ms (inclusive), offset from
-- there, limit (at most 500).
-- Result: for each {nid, ms, record}.
local function notifications(keys, args)
  local base, before, from, limit = keys[1], number(args[2]), number(args[3]), number(args[4])
  if not before or not from or not limit or limit > PAGE then
    return fail('notifications: arguments')
  end
  local found = redis.call(
    'ZRANGE', base .. args[1], int(before), '-inf', 'BYSCORE', 'REV', 'LIMIT', int(from), int(limit), 'WITHSCORES'
  )
  local result = {}
  for k = 1, #found, 2 do
    local about = redis.call('HGET', base .. ':n', found[k])
    if about then
      result[#result + 1] = { found[k], tonumber(found[k + 1]), about }
    end
  end
  return result
end

-- notification: one notification. ARGV: nid.
-- Result: {record or false, body or false, the set that lists it (':open', ':dead', ':nt') or ''}.
local function notification(keys, args)
  local base = keys[1]
  local place = ''
  for _, set in ipairs({ ':open', ':dead', ':nt' }) do
    if redis.call('ZSCORE', base .. set, args[1]) then
      place = set
    end
  end
  return { redis.call('HGET', base .. ':n', args[1]), redis.call('HGET', base .. ':b', args[1]), place }
end

-- stats: queue status. ARGV: now ms.
-- Result: {notifications in flight; lag ms: age of the notification longest in flight, or time since the group longest
--   due became due, whichever is longer, 0 without either; dead letters; groups; why the receiver is disabled or false;
--   dead letters that are neither over nor handled by an operator}.
local function stats(keys, args)
  local base, now = keys[1], number(args[1])
  if not now then
    return fail('stats: arguments')
  end
  local lag = 0
  for _, set in ipairs({ ':q', ':open' }) do -- a group in retries is never due for long, hence :open
    local first = redis.call('ZRANGE', base .. set, 0, 0, 'WITHSCORES')
    if first[2] then
      lag = math.max(lag, now - tonumber(first[2]))
    end
  end
  return {
    redis.call('ZCARD', base .. ':open'), lag, redis.call('ZCARD', base .. ':dead'), redis.call('HLEN', base .. ':k'),
    redis.call('HGET', base .. ':s', 'disabled'), redis.call('ZCARD', base .. ':up'),
  }
end

register('look', look, { 'no-writes' })
register('due', due, { 'no-writes' })
register('some', some, { 'no-writes' })
register('notifications', notifications, { 'no-writes' })
register('notification', notification, { 'no-writes' })
register('stats', stats, { 'no-writes' })
