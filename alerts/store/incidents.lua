-- Incidents. KEYS[1] is the base: that of a partition for incidents of its workers, that of a shard for incidents of
-- environments. All keys are derived from it:
--   incidents            HASH  id -> msgpack, see the fields below
--   incident_of_worker   HASH  worker -> id of its newest incident
--   incident_of_event    HASH  event id -> incident id, of the events of an incident. The first is left out: its id is
--                              part of the incident's id
--   incidents_closed     ZSET  id -> when its closing was recorded, ms
--   incidents:<tenant>   ZSET  places of all incidents, score 0;  incidents_open:<tenant>  of the open ones
--   incident_members:<id> HASH  member of an environment's incident -> 1 while it is open, 0 afterwards
-- A place is the time when the incident was opened, ms in 15 digits, and its id: places sort by time.

local I_VERSION, I_STATE, I_PLACE, I_TENANT, I_ENVIRONMENT, I_WORKER, I_EVENTS, I_MEMBERS = 1, 2, 3, 4, 5, 6, 7, 8
-- The fields of I_MEMBERS. The last three are of the member that closed last (when, by which kind and event), or false.
local M_ALL, M_OPEN, M_CLOSED, M_KIND, M_EVENT = 1, 2, 3, 4, 5
local FORGET = 200

local function incident(base, id)
  return stored(base .. 'incidents', id)
end

local function row(id, known)
  return { id, known[I_VERSION], known[I_STATE], known[I_MEMBERS] }
end

-- Delete the oldest closed incidents: those older than `keep_ms`, or beyond the newest `keep`. At most FORGET per call.
local function forget_incidents(base, now, keep_ms, keep)
  for _, id in ipairs(spare(base .. 'incidents_closed', now, keep_ms, 0, keep, FORGET)) do
    local known = incident(base, id)
    redis.call('ZREM', base .. 'incidents_closed', id)
    redis.call('HDEL', base .. 'incidents', id)
    redis.call('UNLINK', base .. 'incident_members:' .. id)
    if known then
      redis.call('ZREM', base .. 'incidents:' .. known[I_TENANT], known[I_PLACE])
      if redis.call('HGET', base .. 'incident_of_worker', known[I_WORKER]) == id then
        redis.call('HDEL', base .. 'incident_of_worker', known[I_WORKER])
      end
      in_parts('HDEL', base .. 'incident_of_event', known[I_EVENTS])
    end
  end
end

-- Index an incident as open or closed.
local function set_open(base, id, known, open, now)
  redis.call('ZADD', base .. 'incidents:' .. known[I_TENANT], 0, known[I_PLACE])
  if open then
    redis.call('ZADD', base .. 'incidents_open:' .. known[I_TENANT], 0, known[I_PLACE])
    redis.call('ZREM', base .. 'incidents_closed', id)
  else
    redis.call('ZREM', base .. 'incidents_open:' .. known[I_TENANT], known[I_PLACE])
    redis.call('ZADD', base .. 'incidents_closed', int(now), id)
  end
end

-- A worker's incidents: {id of its newest incident or false, {incident id or false for each event}, incidents}; an
-- incident is {id, version, state, members or false}.
local function incidents_of(base, worker, events)
  local last, of_events, seen, rows = redis.call('HGET', base .. 'incident_of_worker', worker), {}, {}, {}
  local function add(id)
    local known = id and incident(base, id)
    if known and not seen[id] then
      seen[id] = true
      rows[#rows + 1] = row(id, known)
    end
    return known and id
  end
  add(last)
  for k, event in ipairs(events) do
    of_events[k] = add('inc_' .. event) or add(redis.call('HGET', base .. 'incident_of_event', event)) or false
  end
  return { last, of_events, rows }
end

-- Whether no incident has changed since it was read.
local function may_change(base, changes)
  for _, change in ipairs(changes) do
    local known = incident(base, change[1])
    if (known and known[I_VERSION] or 0) ~= change[2] then
      return false
    end
  end
  return true
end

-- Write incidents, in the order in which they were opened. `changes`: of
--   {id, version that was read or 0, state, place, tenant, environment, worker, event ids except the first, open?}.
local function change_incidents(base, now, changes)
  for _, change in ipairs(changes) do
    local id = change[1]
    local known = { change[2] + 1, change[3], change[4], change[5], change[6], change[7], change[8], false }
    redis.call('HSET', base .. 'incidents', id, cmsgpack.pack(known))
    redis.call('HSET', base .. 'incident_of_worker', known[I_WORKER], id)
    for _, event in ipairs(known[I_EVENTS]) do
      redis.call('HSET', base .. 'incident_of_event', event, id)
    end
    set_open(base, id, known, change[9], now)
  end
end

-- Delete arbitrary closed members when more than `keep` are stored. A deleted member whose event is repeated is counted
-- twice. That can happen only to an event that is repeated after more than `keep` other members have closed.
local function forget_members(key, open, keep)
  if redis.call('HLEN', key) - open <= keep then
    return
  end
  local found = redis.call('HRANDFIELD', key, 2 * FORGET, 'WITHVALUES')
  for k = 1, #found, 2 do
    if found[k + 1] == '0' then
      redis.call('HDEL', key, found[k])
    end
  end
end

-- incidents_join: add incidents to the incident of an environment. A member that is closed stays closed.
-- ARGV: now, keep_ms, keep, maximum number of closed members stored individually, id, place, tenant, environment,
--   initial state, msgpack list of at most 100 of {member, open?, and if closed: when, by which kind, by which event}.
-- Result: 1
register('incidents_join', 'allow-oom', function(keys, args)
  local base, now, id, members = keys[1], tonumber(args[1]), args[5], bounded(args[10])
  local known = incident(base, id) or { 0, args[9], args[6], args[7], args[8], '', {}, { 0, 0, false, false, false } }
  local counts = known[I_MEMBERS]
  for _, member in ipairs(members) do
    local before, open = redis.call('HGET', base .. 'incident_members:' .. id, member[1]), member[2]
    if not before then
      counts[M_ALL] = counts[M_ALL] + 1
    end
    if before ~= '0' and (not open or not before) then
      redis.call('HSET', base .. 'incident_members:' .. id, member[1], open and '1' or '0')
      counts[M_OPEN] = counts[M_OPEN] + (open and 1 or 0) - (before and 1 or 0)
    end
    if not open and member[3] > (counts[M_CLOSED] or -1) then
      counts[M_CLOSED], counts[M_KIND], counts[M_EVENT] = member[3], member[4], member[5]
    end
  end
  forget_members(base .. 'incident_members:' .. id, counts[M_OPEN], tonumber(args[4]))
  known[I_VERSION] = known[I_VERSION] + 1
  redis.call('HSET', base .. 'incidents', id, cmsgpack.pack(known))
  set_open(base, id, known, counts[M_OPEN] > 0, now)
  forget_incidents(base, now, tonumber(args[2]), tonumber(args[3]))
  return 1
end)

-- incidents_get: ARGV: id. Result: the incident, or false.
register('incidents_get', 'no-writes', function(keys, args)
  local known = incident(keys[1], args[1])
  return known and row(args[1], known) or false
end)

-- incidents_put: ARGV: id, version that was read, state. Result: 1, or 0: another process has written since.
register('incidents_put', 'allow-oom', function(keys, args)
  local known = incident(keys[1], args[1])
  if not known or known[I_VERSION] ~= tonumber(args[2]) then
    return 0
  end
  known[I_VERSION], known[I_STATE] = known[I_VERSION] + 1, args[3]
  redis.call('HSET', keys[1] .. 'incidents', args[1], cmsgpack.pack(known))
  return 1
end)

-- incidents_page: a tenant's incidents, newest first.
-- ARGV: tenant, 'open', 'closed' or 'all', place to begin before ('' for the newest), limit, then the environments to
--   include, or none for all.
-- Result: {place up to which was scanned, '' when there are no more; {place, incident}*}.
register('incidents_page', 'no-writes', function(keys, args)
  local base, tenant, state, limit, wanted = keys[1], args[1], args[2], tonumber(args[4]), {}
  for k = 5, #args do
    wanted[args[k]] = true
  end
  local open = base .. 'incidents_open:' .. tenant
  local from = args[3] == '' and '+' or '(' .. args[3]
  local set = state == 'open' and open or base .. 'incidents:' .. tenant
  local places = redis.call('ZRANGE', set, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, PAGE)
  local result = { #places < PAGE and '' or places[PAGE] }
  for _, place in ipairs(places) do
    local id = string.sub(place, 16)
    local known = incident(base, id)
    if known and (#args < 5 or wanted[known[I_ENVIRONMENT]])
      and (state ~= 'closed' or not redis.call('ZSCORE', open, place)) then
      result[#result + 1] = { place, row(id, known) }
      if #result > limit then
        result[1] = place
        break
      end
    end
  end
  return result
end)
