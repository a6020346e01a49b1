-- The batch of a partition's router: one call reads it and one writes it. KEYS[1] is the base of the partition.
--   failures          HASH  environment -> its deaths in this partition (opaque), see alerts/groups/mass_failure.py
--   failures_written  ZSET  environment -> when its deaths were written, ms

-- route_read: ARGV: msgpack list, at most 100 of {worker, event ids, receivers}; msgpack list of at most 100
--   environments.
-- Result: {for each worker {its incidents as of `incidents_of`, for each receiver its group as of `look_at`}, for each
--   environment its deaths or false}.
register('route_read', 'no-writes', function(keys, args)
  local base, rows, failures = keys[1], {}, {}
  for k, want in ipairs(bounded(args[1])) do
    local groups = {}
    for n, receiver in ipairs(want[3]) do
      groups[n] = look_at(base .. 'to:' .. receiver .. ':', 'w' .. want[1], {}, want[2], 0)
    end
    rows[k] = { incidents_of(base, want[1], want[2]), groups }
  end
  for k, environment in ipairs(bounded(args[2])) do
    failures[k] = redis.call('HGET', base .. 'failures', environment)
  end
  return { rows, failures }
end)

local WRITTEN, CHANGED, LOST = 1, 0, -1

-- route_write: write what a batch changes in its partition, all of it or nothing.
-- ARGV: token of the router's lease; position up to which events are acknowledged by this, or ''; now; msgpack {keep_ms,
--   keep, changes as of `change_incidents`}; msgpack {keep_ms, {environment, its deaths or false}*}; msgpack bounds, as
--   of `save`; msgpack {partition, event ids}; msgpack {receiver, changes as of `save`}*.
-- Result: WRITTEN; or CHANGED: another process has written since the batch was read; or LOST: the router's lease.
register('route_write', 'allow-oom', function(keys, args)
  local base, position, now = keys[1], args[2], tonumber(args[3])
  local incidents, failures, bounds = cmsgpack.unpack(args[4]), cmsgpack.unpack(args[5]), cmsgpack.unpack(args[6])
  local batch, receivers = position == '' and cmsgpack.unpack(args[7]), cmsgpack.unpack(args[8])
  local token = redis.call('HGET', base .. 'router', 'token')
  if token and token ~= args[1] then
    return LOST
  end
  if not may_change(base, incidents[3]) then
    return CHANGED
  end
  for _, one in ipairs(receivers) do
    local to = base .. 'to:' .. one[1] .. ':'
    local wrong = misfit(to, one[2])
    if wrong then
      return fail('route_write: type of ' .. wrong)
    end
    for _, change in ipairs(one[2]) do
      if not may_write(to, change, group(to, change[C_GROUP])) then
        return CHANGED
      end
    end
  end
  change_incidents(base, now, incidents[3])
  forget_incidents(base, now, incidents[1], incidents[2])
  for _, one in ipairs(receivers) do
    write_changes(base, base .. 'to:' .. one[1] .. ':', now, bounds, batch, one[2])
  end
  local function forget_failures(environments)
    in_parts('HDEL', base .. 'failures', environments)
    in_parts('ZREM', base .. 'failures_written', environments)
  end
  for _, one in ipairs(failures[2]) do
    if one[2] then
      redis.call('HSET', base .. 'failures', one[1], one[2])
      redis.call('ZADD', base .. 'failures_written', int(now), one[1])
    else
      forget_failures({ one[1] })
    end
  end
  local old = int(now - failures[1])
  forget_failures(redis.call('ZRANGE', base .. 'failures_written', '-inf', old, 'BYSCORE', 'LIMIT', 0, LIMIT))
  if position ~= '' then
    redis.call('HSET', base .. 'router', 'cursor', position)
    redis.call('XTRIM', base .. 'outbox', 'MINID', '~', position, 'LIMIT', 10000)
  end
  return WRITTEN
end)
