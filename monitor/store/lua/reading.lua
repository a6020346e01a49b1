-- Reading -------------------------------------------------------------------------------------------

local GATHER_LIMIT, COHORTS_LIMIT, PAGE_BYTES = 500, 200, 262144

-- A worker for an answer, in the order of `worker` in codec.py. Deadlines include credits.
local function describe(st, w)
  local rec, g, cold = w.rec, w.cohort, cold_of(st, w)
  local status, tasks, task = reported(rec[R_REPORT])
  local interval, allowance = g[C_INTERVAL], g[C_INTERVAL] + g[C_GRACE]
  local anchor, due = rec[R_LAST_SEEN], nil
  if rec[R_STATE] == ALIVE then
    anchor, due = deadline_of(st, w)
  else
    due = credited(st, anchor + allowance, allowance, interval)
  end
  local back = absence_of(st, w)
  local missed = back and credited(st, back, allowance, interval)
  return {
    w.tenant, w.worker, g[C_ENVIRONMENT], WORD[rec[R_STATE]], g[C_AFTER_STOP] and 1 or 0,
    rec[R_GENERATION], rec[R_SEQ], rec[R_LAST_SEEN], rec[R_SINCE], g[C_INTERVAL], g[C_GRACE],
    status, tasks, task or false, cold[X_META],
    cold[X_SYSTEM], cold[X_SYSTEM_CUT] and 1 or 0, cold[X_LOGS], cold[X_LOGS_CUT] and 1 or 0,
    back or false, missed or false, anchor + interval, due, gaps_of(rec), rejected_of(st, w) or false,
  }
end

-- get: a worker. ARGV: tenant, worker. Result: {t, swept, worker|nil, {kind, seq, due, detected, reason}*}.
register('get', { 'no-writes' }, function(st, args)
  local w = load_worker(st, args[1], args[2])
  if not w.rec then
    return { st.t, st.swept, false, {} }
  end
  return { st.t, st.swept, describe(st, w), past_of(st, w.mid) }
end)

-- The workers after `after` that can match a filter, collected from the cohorts' sets, as {rank, id} in the order of the
-- index; nil if there are many.
local function gather(st, tenant, after, environments, want)
  local cohort_ids = call('ZRANGE', st.keys.cohort_ids .. ':' .. tenant, 0, COHORTS_LIMIT)
  if #cohort_ids > COHORTS_LIMIT then
    return nil
  end
  local index = st.base .. 'names:' .. tenant
  local from = after == '' and 0 or call('ZLEXCOUNT', index, '-', '[' .. after)
  local found = {}
  local ranges = {}
  local total = 0
  for _, cohort_id in ipairs(cohort_ids) do
    local g = cohort(st, tonumber(cohort_id))
    if not environments or contains(environments, g[C_ENVIRONMENT]) then
      local s, d = st.base .. 'alive:' .. cohort_id, st.base .. 'down:' .. cohort_id
      local allowance = g[C_INTERVAL] + g[C_GRACE]
      local late, dead = int(st.t - g[C_INTERVAL]), int(cutoff(st, allowance, g[C_INTERVAL]) - allowance)
      for _, range in ipairs({
        { want.alive, s, '(' .. late, '+inf' },
        { want.late, s, '(' .. dead, late },
        { want.overdue, s, '-inf', dead },
        { want.down, d, '-inf', '+inf' },
      }) do
        ranges[#ranges + 1] = range[1] and range or nil
      end
    end
  end
  for _, range in ipairs(ranges) do
    total = total + call('ZCOUNT', range[2], range[3], range[4])
    if total > GATHER_LIMIT then
      return nil
    end
  end
  for _, range in ipairs(ranges) do
    for _, worker in ipairs(call('ZRANGE', range[2], range[3], range[4], 'BYSCORE')) do
      -- Lists have the order of the index, byte by byte. Lua's own order depends on the server's locale, and
      -- comparing in Lua takes a second for long IDs.
      local rank = call('ZRANK', index, worker)
      if rank and rank >= from then
        found[#found + 1] = { rank, worker }
      end
    end
  end
  table.sort(found, function(a, b)
    return a[1] < b[1]
  end)
  return found
end

-- list: workers of a tenant in the order of their IDs. ARGV: tenant, ID to begin after, limit, msgpack
--   {environments|nil, {alive, late, overdue, down -> boolean}|nil}: the caller's filter. The answer may have workers that
--   do not match, but lacks none that does. Result: {t, swept, last ID read ('' = the end), workers}.
register('list', { 'no-writes' }, function(st, args)
  local tenant, after, limit = args[1], args[2], tonumber(args[3])
  local filter = cmsgpack.unpack(args[4])
  local want = filter[2] or { alive = true, late = true, overdue = true, down = true }
  local ids
  if filter[1] or filter[2] then
    ids = gather(st, tenant, after, filter[1], want)
  end
  local last = ''
  if ids then
    local first = {}
    for k = 1, math.min(limit, #ids) do
      first[k] = ids[k][2]
    end
    last = #ids > limit and first[limit] or ''
    ids = first
  else
    local from = after == '' and '-' or '(' .. after
    ids = call('ZRANGE', st.base .. 'names:' .. tenant, from, '+', 'BYLEX', 'LIMIT', 0, limit)
    last = #ids == limit and ids[limit] or ''
  end
  local workers = {}
  local size = 0
  for k, id in ipairs(ids) do
    local w = load_worker(st, tenant, id)
    if w.rec then
      local cold = cold_of(st, w)
      workers[#workers + 1] = describe(st, w)
      size = size + #cold[X_META] + #(cold[X_SYSTEM] or '') + #(cold[X_LOGS] or '')
    end
    if size > PAGE_BYTES and k < #ids then
      last = id
      break
    end
  end
  return { st.t, st.swept, last, workers }
end)

-- The next cohorts of an index, after the given one; and the last of them, or 0 at the end.
local function next_cohorts(index, after)
  local cohort_ids = call('ZRANGE', index, '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, COHORTS_LIMIT)
  return cohort_ids, #cohort_ids == COHORTS_LIMIT and tonumber(cohort_ids[COHORTS_LIMIT]) or 0
end

-- The number of a cohort's workers in a state other than alive.
local function in_state(st, cohort_id, state)
  return tonumber(call('HGET', st.keys.down_counts, cohort_id .. ':' .. state)) or 0
end

-- count: workers by liveness, cohort by cohort. ARGV: tenant ('' = all), cohort_id to begin after.
-- Result: {t, swept, last cohort_id (0 = the end), {tenant, environment, after stop, on time, late, overdue, missing,
--   stale, stopped, failed}*}. Missing: stopped workers and overdue stragglers whose announced absence has ended.
register('count', { 'no-writes' }, function(st, args)
  local tenant = args[1] == '' and '' or ':' .. args[1]
  local cohort_ids, last = next_cohorts(st.keys.cohort_ids .. tenant, args[2])
  local rows = {}
  for _, cohort_id in ipairs(cohort_ids) do
    local g = cohort(st, tonumber(cohort_id))
    local s = st.base .. 'alive:' .. cohort_id
    local allowance = g[C_INTERVAL] + g[C_GRACE]
    local cut = cutoff(st, allowance, g[C_INTERVAL])
    local all = call('ZCARD', s)
    local late = call('ZCOUNT', s, '-inf', int(st.t - g[C_INTERVAL]))
    local overdue = call('ZCOUNT', s, '-inf', int(cut - allowance))
    local missing = call('ZCOUNT', st.base .. 'absent:' .. cohort_id, '-inf', int(cut))
    rows[#rows + 1] = {
      g[C_TENANT], g[C_ENVIRONMENT], g[C_AFTER_STOP] and 1 or 0, all - late, late - overdue, overdue, missing,
      in_state(st, cohort_id, STALE), in_state(st, cohort_id, STOPPED), in_state(st, cohort_id, FAILED),
    }
  end
  return { st.t, st.swept, last, rows }
end)

-- environment_health: counts of a tenant's workers in one environment. ARGV: tenant, environment, cohort_id to begin
-- after, a moment or ''.
-- Result: {t, last cohort_id (0 = the end), expected, silent, fallen, rejected, down}.
-- Expected: alive workers, without stragglers of a disconnect. Silent: expected workers without a beat for the longer of
-- interval and grace, with credits. Fallen: workers that became stale at the moment or later; an upper bound if others
-- have stopped or failed since. Rejected: stale workers whose beats are still refused, since any time.
-- Down: stale or failed workers; with a moment only those since then.
register('environment_health', { 'no-writes' }, function(st, args)
  local environment, since = args[2], args[4]
  local cohort_ids, last = next_cohorts(st.keys.cohort_ids .. ':' .. args[1], args[3])
  local expected, silent, fallen, rejected, down = 0, 0, 0, 0, 0
  for _, cohort_id in ipairs(cohort_ids) do
    local g = cohort(st, tonumber(cohort_id))
    if g[C_ENVIRONMENT] == environment and not g[C_AFTER_STOP] then
      local s = st.base .. 'alive:' .. cohort_id
      expected = expected + call('ZCARD', s)
      local allowance = math.max(g[C_INTERVAL], g[C_GRACE])
      silent = silent + call('ZCOUNT', s, '-inf', int(cutoff(st, allowance, g[C_INTERVAL]) - allowance))
      local stale = in_state(st, cohort_id, STALE)
      local all = stale + in_state(st, cohort_id, FAILED)
      if all > 0 and since ~= '' then
        all = math.min(all, call('ZCOUNT', st.base .. 'down:' .. cohort_id, since, int(st.t)))
        fallen = fallen + math.min(stale, all)
        rejected = rejected + (stale > 0 and call('ZCARD', st.base .. 'refused:' .. cohort_id) or 0)
      end
      down = down + all
    end
  end
  return { st.t, last, expected, silent, fallen, rejected, down }
end)

-- history: events of a tenant, in order. ARGV: tenant, position to begin after, limit, 'asc'|'desc'.
-- Result: {t, swept, newest t of a call that wrote, events}. No later event is before the third: t is not, if the
-- server's clock steps back before the next write.
register('history', { 'no-writes' }, function(st, args)
  local key, after, events = st.base .. 'history:' .. args[1], args[2]
  if args[4] == 'asc' then
    events = call('XRANGE', key, after == '' and '-' or '(' .. after, '+', 'COUNT', args[3])
  else
    events = call('XREVRANGE', key, after == '' and '+' or '(' .. after, '-', 'COUNT', args[3])
  end
  return { st.t, st.swept, st.last, events }
end)
