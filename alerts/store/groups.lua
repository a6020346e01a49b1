-- The alert groups of one receiver: state, due times, outcomes of events, notifications.
--
-- KEYS[1] is the base key of every function, the base of a partition or
-- shard and "to:<receiver>:". All keys are derived from it:
--   queue             ZSET  group -> when it is due, ms. A claimed group is due when its lease ends.
--   queue:<tenant>    ZSET  the same, of one tenant's groups
--   turns             ZSET  tenant -> when its next turn is, ms: claims go round robin by tenant (P29). Not before the
--                           tenant's first group is due, and after a turn not before the tenants that were due then
--   groups            HASH  group -> msgpack {version, lease token or 0, end of the lease ms, state (opaque), tenant}
--   bodies            HASH  nid -> body, of notifications in flight and of dead letters
--   members:<group>   HASH  member -> its state (opaque)
--   firing:<group>    ZSET  firing member -> since, ms
--   outcomes          HASH  event id -> its outcome (opaque)
--   outcome_times     ZSET  event id -> when it was recorded, ms
--   in_hand           HASH  event id -> partition, of the current or last batch of each router. Until a batch is
--                           acknowledged it may be repeated, and only the outcomes show that its events were already
--                           added
--   batches           HASH  partition -> msgpack list of those event ids
--   notifications     HASH  nid -> record of a notification (opaque)
--   finished          ZSET  nid -> ms, notifications with a final outcome
--   open              ZSET  nid -> ms, notifications in flight
--   dead              ZSET  nid -> ms, dead letters
--   dead_open         ZSET  nid -> ms, open dead letters: neither over nor handled by an operator
--   state             HASH  lease -> the last lease token;  version -> the last version, so that a group that begins
--                           again is not taken for the previous one;  disabled -> why nothing is claimed;  retired -> 1
--                           after the receiver was removed from the configuration: then all keys expire
--   test              STRING exists while no further test of the receiver is allowed

local VERSION, TOKEN, UNTIL, STATE, TENANT = 1, 2, 3, 4, 5
local KINDS = {
  queue = 'zset', turns = 'zset', groups = 'hash', bodies = 'hash', outcomes = 'hash', outcome_times = 'zset',
  in_hand = 'hash', batches = 'hash', notifications = 'hash', finished = 'zset', open = 'zset', dead = 'zset',
  dead_open = 'zset', state = 'hash',
}

local function is_type(key, wanted)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == wanted
end

-- The name of a key that has the wrong type, or nil.
local function foreign(base)
  for name, kind in pairs(KINDS) do
    if not is_type(base .. name, kind) then
      return base .. name
    end
  end
  return nil
end

-- The base of the partition or shard, from its anchor.
local function tag_of(keys)
  return string.sub(keys[2], 1, -#'meta' - 1)
end

-- Keep the receiver's place among those of its partition or shard: when its first group is due. Result: that moment.
local function note_due(tag, base)
  local receiver = string.sub(base, #tag + #'to:' + 1, -2)
  local due = redis.call('ZRANGE', base .. 'queue', 0, 0, 'WITHSCORES')[2]
  if due then
    redis.call('ZADD', tag .. 'receivers_due', due, receiver)
  else
    redis.call('ZREM', tag .. 'receivers_due', receiver)
  end
  return due and tonumber(due) or false
end

local function group(base, key)
  return stored(base .. 'groups', key)
end

-- Delay a tenant's turn until its first group is due, and until `least`: turns of many tenants with nothing due would
-- hold up the others.
local function delay_turn(base, tenant, least)
  local first = redis.call('ZRANGE', base .. 'queue:' .. tenant, 0, 0, 'WITHSCORES')[2]
  if first then
    redis.call('ZADD', base .. 'turns', 'XX', 'GT', string.format('%.1f', math.max(least, tonumber(first))), tenant)
  else
    redis.call('ZREM', base .. 'turns', tenant)
  end
end

local function set_due(base, tenant, key, due)
  redis.call('ZADD', base .. 'queue', int(due), key)
  redis.call('ZADD', base .. 'queue:' .. tenant, int(due), key)
  redis.call('ZADD', base .. 'turns', 'LT', int(due), tenant)
  delay_turn(base, tenant, 0)
end

local function never_due(base, tenant, key)
  redis.call('ZREM', base .. 'queue', key)
  redis.call('ZREM', base .. 'queue:' .. tenant, key)
  delay_turn(base, tenant, 0)
end

local function values(key, fields)
  local found = {}
  for from = 1, #fields, CHUNK do
    for _, value in ipairs(redis.call('HMGET', key, unpack(fields, from, math.min(from + CHUNK - 1, #fields)))) do
      found[#found + 1] = value
    end
  end
  return found
end

-- Record the events of a router's current batch, in place of those of its previous one.
local function take_in_hand(base, partition, events)
  local before, pairs = redis.call('HGET', base .. 'batches', partition), {}
  in_parts('HDEL', base .. 'in_hand', before and cmsgpack.unpack(before) or {})
  for _, event in ipairs(events) do
    pairs[#pairs + 1], pairs[#pairs + 2] = event, partition
  end
  in_parts('HSET', base .. 'in_hand', pairs)
  redis.call('HSET', base .. 'batches', partition, cmsgpack.pack(events))
end

-- Delete history that is too old or too much. `grown`: how many entries this call has added to each set. Up to twice as
-- many and a few more are deleted, so that an excess shrinks with every call, whatever the calls add.
local function forget(base, now, bounds, grown)
  local age_ms, keep, outcomes, kept_notes, notes, dead = unpack(bounds)
  local old = spare(base .. 'outcome_times', now, age_ms, keep, outcomes, LIMIT + 2 * grown['outcome_times'])
  local held, gone, again = values(base .. 'in_hand', old), {}, {}
  for k, event in ipairs(old) do
    if held[k] then
      again[#again + 1], again[#again + 2] = int(now), event -- moved to now, so that the next calls do not find it
    else
      gone[#gone + 1] = event
    end
  end
  in_parts('ZADD', base .. 'outcome_times', again)
  in_parts('ZREM', base .. 'outcome_times', gone)
  in_parts('HDEL', base .. 'outcomes', gone)
  old = spare(base .. 'finished', now, age_ms, kept_notes, notes, LIMIT + 2 * grown['finished'])
  in_parts('ZREM', base .. 'finished', old)
  in_parts('HDEL', base .. 'notifications', old)
  old = spare(base .. 'dead', now, now, dead, dead, LIMIT + 2 * grown['dead'])
  in_parts('ZREM', base .. 'dead', old)
  in_parts('ZREM', base .. 'dead_open', old)
  in_parts('HDEL', base .. 'notifications', old)
  in_parts('HDEL', base .. 'bodies', old)
end

-- The fields of one change in `save`.
local C_GROUP, C_VERSION, C_TOKEN, C_RELEASE, C_STATE, C_DUE, C_MEMBERS, C_GONE = 1, 2, 3, 4, 5, 6, 7, 8
local C_OUTCOMES, C_NOTES, C_SETTLED, C_TENANT = 9, 10, 11, 12

-- Write one change. Result: the new version of the group.
local function apply(base, now, change, known, grown)
  local key, state, due, tenant = change[C_GROUP], change[C_STATE], change[C_DUE], change[C_TENANT]
  local held, written = known and known[TOKEN] ~= 0 and known[UNTIL] > now, 1
  if not state then
    redis.call('HDEL', base .. 'groups', key)
    never_due(base, tenant, key)
    redis.call('UNLINK', base .. 'members:' .. key, base .. 'firing:' .. key)
  else
    local token, ends = known and known[TOKEN] or 0, known and known[UNTIL] or 0
    if change[C_RELEASE] then
      token, ends, held = 0, 0, false
    end
    written = redis.call('HINCRBY', base .. 'state', 'version', 1)
    redis.call('HSET', base .. 'groups', key, cmsgpack.pack({ written, token, ends, state, tenant }))
    if held then
      set_due(base, tenant, key, ends) -- the lease holder reads the change before it gives the group back
    elseif due then
      set_due(base, tenant, key, due)
    else
      never_due(base, tenant, key)
    end
    local fields, scores = {}, {}
    for _, member in ipairs(change[C_MEMBERS]) do
      fields[#fields + 1], fields[#fields + 2] = member[1], member[2]
      scores[#scores + 1], scores[#scores + 2] = int(member[3]), member[1]
    end
    in_parts('HSET', base .. 'members:' .. key, fields)
    in_parts('ZADD', base .. 'firing:' .. key, scores)
    in_parts('HDEL', base .. 'members:' .. key, change[C_GONE])
    in_parts('ZREM', base .. 'firing:' .. key, change[C_GONE])
  end
  for _, outcome in ipairs(change[C_OUTCOMES]) do
    redis.call('HSET', base .. 'outcomes', outcome[1], outcome[2])
    grown['outcome_times'] = grown['outcome_times'] + redis.call('ZADD', base .. 'outcome_times', int(now), outcome[1])
  end
  for _, note in ipairs(change[C_NOTES]) do
    local nid, about, body, place = note[1], note[2], note[3], note[4]
    redis.call('HSET', base .. 'notifications', nid, about)
    for _, set in ipairs({ 'open', 'dead', 'finished' }) do
      if set ~= place or set ~= 'open' then -- an open one keeps its age, the others are listed by their last record
        redis.call('ZREM', base .. set, nid)
      end
    end
    if place == 'dead' then
      redis.call('ZADD', base .. 'dead_open', 'NX', int(now), nid)
    else
      redis.call('ZREM', base .. 'dead_open', nid)
    end
    grown[place] = grown[place] + redis.call('ZADD', base .. place, 'NX', int(now), nid)
    if body then
      redis.call('HSET', base .. 'bodies', nid, body)
    elseif place == 'finished' then
      redis.call('HDEL', base .. 'bodies', nid)
    end
  end
  in_parts('ZREM', base .. 'dead_open', change[C_SETTLED])
  return written
end

-- Whether a change would create a group again with events that it held before it was deleted. Then the change was sent
-- twice, or its sender has been stalled since it read that the group does not exist.
local function is_past(base, change)
  for _, outcome in ipairs(change[C_OUTCOMES]) do
    if redis.call('HEXISTS', base .. 'outcomes', outcome[1]) == 1 then
      return true
    end
  end
  for _, note in ipairs(change[C_NOTES]) do
    if redis.call('ZSCORE', base .. 'finished', note[1]) then
      return true
    end
  end
  return false
end

-- Keep all keys again, if they were to expire.
local function keep(base)
  if redis.call('HDEL', base .. 'state', 'retired') == 1 then
    for name in pairs(KINDS) do
      redis.call('PERSIST', base .. name)
    end
  end
end

-- The key that has the wrong type for these changes, or nil.
local function misfit(base, changes)
  local wrong = foreign(base)
  for _, change in ipairs(wrong and {} or changes) do
    if
      not is_type(base .. 'members:' .. change[C_GROUP], 'hash')
      or not is_type(base .. 'firing:' .. change[C_GROUP], 'zset')
      or not is_type(base .. 'queue:' .. change[C_TENANT], 'zset')
    then
      return 'the queue or the members of ' .. change[C_GROUP]
    end
  end
  return wrong
end

-- Whether a change may be written to a group as it is stored.
local function may_write(base, change, known)
  local version, token = known and known[VERSION] or 0, known and known[TOKEN] or 0
  local fits = version == change[C_VERSION] and (change[C_TOKEN] == 0 or change[C_TOKEN] == token)
  return fits and (known or not is_past(base, change))
end

-- Write the changes that may be written. `batch`: as for `save`, or false. Result: as of `save`.
local function write_changes(tag, base, now, bounds, batch, changes)
  keep(base)
  if batch then
    take_in_hand(base, batch[1], batch[2])
  end
  local result, grown = {}, { ['outcome_times'] = 0, ['finished'] = 0, ['dead'] = 0, ['open'] = 0 }
  for k, change in ipairs(changes) do
    local known = group(base, change[C_GROUP])
    result[k] = may_write(base, change, known) and apply(base, now, change, known, grown) or 0
  end
  forget(base, now, bounds, grown)
  note_due(tag, base)
  return result
end

-- save: write changes of groups, each only if the group has not changed since it was read.
-- ARGV: now ms; msgpack list of bounds: maximum age of history ms, outcomes kept regardless of age, maximum outcomes,
--   finished notifications kept regardless of age, maximum finished notifications, maximum dead letters; msgpack
--   {partition, event ids} of the batch of the events, or '' for none; msgpack list, at most 100 of
--   {group, version that was read (0: no group), lease token (0: no lease is held), whether to give the lease back,
--   state or false to delete the group, due ms or false for never, {member, its state, since ms}*, members that are
--   over, {event id, outcome}*, {nid, record, body or false, 'open' | 'dead' | 'finished'}*,
--   nids of dead letters that are over, tenant}.
-- While another process holds the lease of a group, the group stays due at the end of the lease, whatever `due` is.
-- Result: for each the new version of the group (1 for a deleted one), or 0 and nothing was written: the group has
-- changed, or another process holds the lease, or the group does not exist and the change has an event with an outcome
-- or a finished notification.
register('save', 'allow-oom', function(keys, args)
  local base, now = keys[1], tonumber(args[1])
  local changes = bounded(args[4])
  local wrong = misfit(base, changes)
  if wrong then
    return fail('save: type of ' .. wrong)
  end
  return write_changes(tag_of(keys), base, now, cmsgpack.unpack(args[2]), args[3] ~= '' and cmsgpack.unpack(args[3]), changes)
end)

-- Lease the group of a tenant that has been due longest, and append it to `result`. False: none is due.
local function lease_next(base, tag, tenant, now, lease, result)
  local key = redis.call('ZRANGE', base .. 'queue:' .. tenant, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not key then
    return false
  end
  local known = group(base, key)
  if known then
    known[TOKEN], known[UNTIL] = redis.call('HINCRBY', base .. 'state', 'lease', 1), now + lease
    redis.call('HSET', base .. 'groups', key, cmsgpack.pack(known))
    set_due(base, tenant, key, now + lease)
    local worker = string.match(key, '^w(.*)') -- its record is under this tag too
    result[#result + 1] = {
      key, known[VERSION], known[TOKEN], known[STATE],
      worker and redis.call('HGET', tag .. 'records', worker), worker and redis.call('HGET', tag .. 'transitions', worker),
    }
  else
    never_due(base, tenant, key) -- a group without state: unschedule it, so that it does not block the others
  end
  return true
end

-- claim: lease due groups: one of each tenant in turn, the longest due first, up to `limit`.
-- ARGV: now ms, lease ms, limit (at most 100).
-- Result: {when the next group is due ms or false, for each {group, version, lease token, state, and of a group of one
-- worker its record and last transitions, see lastseen.lua}}; while the receiver is disabled {false, {}}.
register('claim', 'allow-oom', function(keys, args)
  local base, now, lease, limit = keys[1], tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local tag, wrong = tag_of(keys), foreign(base)
  if wrong then
    return fail('claim: type of ' .. wrong)
  end
  if redis.call('HEXISTS', base .. 'state', 'disabled') == 1 then
    return { false, {} }
  end
  local turns = redis.call('ZRANGE', base .. 'turns', '-inf', '(' .. int(now + 1), 'BYSCORE', 'LIMIT', 0, int(limit))
  for _, tenant in ipairs(turns) do
    if not is_type(base .. 'queue:' .. tenant, 'zset') then
      return fail('claim: type of the queue of ' .. tenant)
    end
  end
  local result, looks, had = {}, 0, {}
  while #turns > 0 and #result < limit and looks < 3 * LIMIT do
    local left = {}
    for _, tenant in ipairs(turns) do
      if #result < limit and looks < 3 * LIMIT then
        looks, had[tenant] = looks + 1, true
        if lease_next(base, tag, tenant, now, lease, result) then
          left[#left + 1] = tenant
        end
      end
    end
    turns = left
  end
  for tenant in pairs(had) do
    -- Half a millisecond after the tenants that are due now. Still due now: a claim reads up to the next millisecond.
    delay_turn(base, tenant, now + 0.5)
  end
  return { note_due(tag, base), result }
end)

-- wake: make groups due now, except those under lease. ARGV: now ms, then at most 100 groups.
-- Result: how many were made due.
register('wake', 'allow-oom', function(keys, args)
  local base, now, woken = keys[1], tonumber(args[1]), 0
  for k = 2, #args do
    local known = group(base, args[k])
    if known and (known[TOKEN] == 0 or known[UNTIL] <= now) then
      set_due(base, known[TENANT], args[k], now)
      woken = woken + 1
    end
  end
  note_due(tag_of(keys), base)
  return woken
end)

-- switch: disable the receiver for a reason, or enable it (reason ''). ARGV: reason. Result: 1 if that was a change.
register('switch', 'allow-oom', function(keys, args)
  local key = keys[1] .. 'state'
  local was = redis.call('HEXISTS', key, 'disabled') == 1
  if args[1] == '' then
    redis.call('HDEL', key, 'disabled')
    return was and 1 or 0
  end
  redis.call('HSET', key, 'disabled', args[1])
  return was and 0 or 1
end)

-- retire: let all keys expire, because the receiver is no longer configured, or keep them again. ARGV: time to live ms,
-- or '' to keep them. `save` also keeps them: a daemon that still has the receiver may be running. Result: 1
register('retire', 'allow-oom', function(keys, args)
  local base, wrong = keys[1], foreign(keys[1])
  if wrong then
    return fail('retire: type of ' .. wrong)
  end
  if args[1] == '' then
    keep(base)
    return 1
  end
  redis.call('HSET', base .. 'state', 'retired', 1)
  for name in pairs(KINDS) do
    redis.call('PEXPIRE', base .. name, args[1])
  end
  return 1
end)

-- begin_test: begin a test of the receiver, unless one began less than `spacing_ms` ago. ARGV: spacing_ms.
-- Result: 0, or how long to wait, ms.
register('begin_test', 'allow-oom', function(keys, args)
  local key = keys[1] .. 'test'
  if redis.call('SET', key, '', 'NX', 'PX', args[1]) then
    return 0
  end
  return math.max(1, redis.call('PTTL', key))
end)
