-- beat ----------------------------------------------------------------------------------------------

local P_TENANT, P_ENVIRONMENT, P_FIRST, P_ALLOWED, P_INTERVAL, P_GRACE = 1, 2, 3, 4, 5, 6
local S_INTERVAL, S_GRACE, S_RULES, S_WORKERS, S_ENVIRONMENTS, S_DAEMON, S_STATUS_EVENTS = 1, 2, 3, 4, 5, 6, 7
local S_TIMINGS, S_BOUNDS, S_BYTES, S_PARTITIONS = 8, 9, 10, 11
local B_DIGEST, B_STATUS, B_TASKS, B_TASK, B_META, B_EVENT_META, B_EVENT_CUT = 1, 2, 3, 4, 5, 6, 7
local B_SYSTEM, B_SYSTEM_CUT, B_LOGS, B_LOGS_CUT = 8, 9, 10, 11
local MOVES_PER_CALL = 32

local EMPTY_METADATA = { '{}      ', nil, nil, nil, '{}', '', false, nil, false, nil, false }

-- Whether text matches a pattern whose only wildcard is '*'. Linear in the text for each star.
local function glob(pattern, text)
  local first, rest = string.match(pattern, '^([^*]*)(.*)$')
  if rest == '' then
    return text == pattern
  elseif sub(text, 1, #first) ~= first then
    return false
  end
  local at, middle, last = #first + 1, string.match(rest, '^(.*)%*(.*)$')
  for part in string.gmatch(middle, '[^*]+') do
    local _, stop = string.find(text, part, at, true)
    if not stop then
      return false
    end
    at = stop + 1
  end
  return #text - #last >= at - 1 and sub(text, #text - #last + 1) == last
end

-- {interval, grace} of an environment's workers that declare none.
local function expected_of(settings, environment)
  settings.expected = settings.expected or {}
  local found = settings.expected[environment]
  if not found then
    found = { settings[S_INTERVAL], settings[S_GRACE] }
    for _, rule in ipairs(settings[S_RULES]) do
      if glob(rule[1], environment) then
        found = { rule[2], rule[3] }
        break
      end
    end
    settings.expected[environment] = found
  end
  return found
end

-- Effective interval and grace. Declared values are stored unchanged, and bounded by the present limits here.
local function effective(settings, environment, rec)
  local usual, interval, grace = expected_of(settings, environment), rec[R_INTERVAL], rec[R_GRACE]
  local bounds = settings[S_BOUNDS]
  return interval == UNDECLARED and usual[1] or math.max(bounds[1], math.min(interval, bounds[2])),
    grace == UNDECLARED and usual[2] or math.max(bounds[3], math.min(grace, bounds[4]))
end

-- The effect of a beat of this profile on an alive worker with this key part of its record: {set, allowance, interval,
-- grace} if the beat only renews the worker, false if it may change more. The same for all workers with that key part.
local function steady_of(st, settings, profile, raw)
  local rec = decode(raw)
  local g = rec and rec[R_STATE] == ALIVE and rec[R_LEFT] == 0 and cohort(st, rec[R_COHORT])
  if
    not g
    or g[C_AFTER_STOP]
    or g[C_TENANT] ~= profile[P_TENANT]
    or (profile[P_ENVIRONMENT] and profile[P_ENVIRONMENT] ~= g[C_ENVIRONMENT])
    or (profile[P_ALLOWED] and not contains(profile[P_ALLOWED], g[C_ENVIRONMENT]))
    or (profile[P_INTERVAL] and profile[P_INTERVAL] ~= rec[R_INTERVAL])
    or (profile[P_GRACE] and profile[P_GRACE] ~= rec[R_GRACE])
  then
    return false
  end
  local interval, grace = effective(settings, g[C_ENVIRONMENT], rec)
  if interval ~= g[C_INTERVAL] or grace ~= g[C_GRACE] then
    return false
  end
  st.alive[rec[R_COHORT]] = st.alive[rec[R_COHORT]] or {}
  return { st.alive[rec[R_COHORT]], math.min(interval + grace, LONGEST_GAP), interval, grace }
end

-- Whether a beat would exceed its tenant's limit of cohorts. The cohorts of stragglers are not refused.
local function has_too_many_cohorts(st, settings, profile, w, environment)
  local rec, g = w.rec or {}, w.cohort
  local interval, grace = effective(settings, environment, {
    [R_INTERVAL] = profile[P_INTERVAL] or rec[R_INTERVAL] or UNDECLARED,
    [R_GRACE] = profile[P_GRACE] or rec[R_GRACE] or UNDECLARED,
  })
  if g and g[C_ENVIRONMENT] == environment and g[C_INTERVAL] == interval and g[C_GRACE] == grace then
    return false
  end
  return not cohort_id_of(st, cohort_key(w.tenant, environment, interval, grace, false))
    and cohorts_of(st, w.tenant) >= settings[S_TIMINGS]
end

-- A tenant's part of these quotas in this partition, if they were divided: {division; quotas, the ones divided; most, what
-- it may have here; held, what is promised to beats that are on their way, until `till`}, each {workers, bytes}.
local function part_of(st, tenant, workers, bytes)
  local packed = tenant_of(st, tenant).quota
  local part = packed and cmsgpack.unpack(packed)
  return part and part.quotas[1] == workers and part.quotas[2] == bytes and part
end

-- How many workers, and bytes of them, a tenant may have in this partition: its part of the quotas as last divided, or
-- else an equal one, rounded down. So all partitions together never allow more than the quotas.
local function allowance_of(st, settings, tenant)
  local workers, bytes, partitions = settings[S_WORKERS], settings[S_BYTES], settings[S_PARTITIONS]
  local part = partitions > 1 and part_of(st, tenant, workers, bytes)
  if part then
    return part.most[1], part.most[2]
  end
  return math.floor(workers / partitions), math.floor(bytes / partitions)
end

-- share ---------------------------------------------------------------------------------------------
-- One step of a division of a tenant's quotas among the partitions. ARGV: tenant, quota of workers, of bytes, the
-- division (a word). Then nothing, to allow no more here than there is or is promised; or workers and bytes to allow,
-- workers and bytes of these to promise, and for how many ms: this changes nothing if another division has begun since.
-- Result: {t, workers, bytes that are allowed now}. Events: none.
register('share', {}, function(st, args)
  local a = { nil, tonumber(args[2]), tonumber(args[3]), nil, tonumber(args[5]), tonumber(args[6]) }
  local known, part = tenant_of(st, args[1]), part_of(st, args[1], a[2], a[3])
  if not a[5] then
    local held = part and st.t < part.till and part.held or { 0, 0 }
    local most = { math.max(known.n, held[1]), math.max(known.b, held[2]) }
    part = { division = args[4], quotas = { a[2], a[3] }, most = most, held = held, till = part and part.till or 0 }
  elseif part and part.division == args[4] then
    part.most, part.held, part.till = { a[5], a[6] }, { tonumber(args[7]), tonumber(args[8]) }, st.t + args[9]
  end
  if part then
    call('HSET', st.base .. 'tenant:' .. args[1], 'quota', cmsgpack.pack(part))
  end
  return { st.t, part and part.most[1] or 0, part and part.most[2] or 0 }
end)

-- The outcome of a beat, before any change. grown: growth of the worker's cold parts in bytes.
local function judge(st, settings, profile, w, environment, grown)
  local was = w.cohort and w.cohort[C_ENVIRONMENT]
  local allowed = profile[P_ALLOWED]
  if w.damaged then
    return DAMAGED
  elseif allowed and not (contains(allowed, environment) and (not was or contains(allowed, was))) then
    return NOT_ALLOWED
  end
  local workers, bytes = allowance_of(st, settings, w.tenant)
  if not w.rec and tenant_of(st, w.tenant).n >= workers then
    return OVER_WORKERS
  end
  grown = grown + (w.rec and 0 or bytes_of(w.worker))
  if grown > 0 and tenant_of(st, w.tenant).b + grown > bytes then
    return OVER_BYTES
  elseif
    was ~= environment
    and workers_in(st, w.tenant, environment) == 0
    and tenant_of(st, w.tenant).v >= settings[S_ENVIRONMENTS]
  then
    return OVER_ENVIRONMENTS
  elseif has_too_many_cohorts(st, settings, profile, w, environment) then
    return OVER_TIMINGS
  end
  return STORED
end

-- The worker's cold parts after a beat, also packed; nil if the beat does not change them.
local function cold_after(st, w, more)
  if not (more and more[B_DIGEST]) or (w.rec and more[B_DIGEST] == w.rec[R_DIGEST]) then
    return nil
  end
  local cold = { spread(cold_of(st, w)) }
  if more[B_META] ~= nil then
    cold[X_META], cold[X_EVENT_META], cold[X_EVENT_CUT] = more[B_META], more[B_EVENT_META], more[B_EVENT_CUT]
  end
  if more[B_SYSTEM] ~= nil then
    cold[X_SYSTEM], cold[X_SYSTEM_CUT] = more[B_SYSTEM], more[B_SYSTEM_CUT]
  end
  if more[B_LOGS] ~= nil then
    cold[X_LOGS], cold[X_LOGS_CUT] = more[B_LOGS], more[B_LOGS_CUT]
  end
  return cold, cmsgpack.pack(cold)
end

-- Applies the beat's report to the worker's record.
local function take_report(w, report, more)
  local rec = w.rec
  if more and more[B_STATUS] ~= nil then
    local status, tasks, task = reported(rec[R_REPORT])
    status, tasks = more[B_STATUS] or status, more[B_TASKS] or tasks
    if more[B_TASK] ~= '' then
      task = more[B_TASK] and sub(more[B_TASK], 2) or nil
    end
    report = report_of(status, tasks, task)
  end
  if report then
    rec[R_REPORT] = report
  end
end

-- Creates the record of an unknown worker. The worker is in no set yet.
local function begin(st, w)
  -- A worker that was erased in this same millisecond must not come back with the same generation.
  local generation = math.max(st.t, st.erased + 1)
  w.rec = {
    RECORD_VERSION, ALIVE, 0, 0, UNDECLARED, UNDECLARED, generation, 0, st.t, NO_DIGEST, st.t,
    string.rep(NO_GAP, GAPS_KEPT), report_of('active', '0', nil), '',
  }
  return w.rec
end

-- Counts a new worker, and adds it to the list.
local function enrol(st, w, environment)
  set_in(st.names, w.tenant, w.worker, '0')
  local known = tenant_of(st, w.tenant)
  known.n, known.b = known.n + 1, known.b + bytes_of(w.worker)
  count_in(st, w.tenant, environment, 1)
end

-- Applies any beat that is not a mere renewal. Result: outcome, interval, grace.
local function apply(st, settings, profile, worker, raw, report, more)
  local w = load_worker(st, profile[P_TENANT], worker, raw)
  local rec, was = w.rec, w.cohort
  local environment = profile[P_ENVIRONMENT] or (was and was[C_ENVIRONMENT]) or profile[P_FIRST]
  local cold, packed = cold_after(st, w, more)
  local grown = packed and #packed - w.cold_bytes or 0
  local outcome = judge(st, settings, profile, w, environment, grown)
  if outcome ~= STORED then
    return outcome, 0
  end
  local from, back = '', nil
  if rec then
    expire_if_due(st, w)
    from, back = rec[R_STATE], absence_of(st, w)
    if back then
      set_absence(st, w, nil) -- in its old cohort
    end
    rec[R_GAPS] = sub(rec[R_GAPS], 5) .. write('>I4', math.min(st.t - rec[R_LAST_SEEN], LONGEST_GAP))
  else
    rec = begin(st, w)
  end
  local since, old_cohort_id, old_report = rec[R_SINCE], rec[R_COHORT], rec[R_REPORT]
  rec[R_INTERVAL] = profile[P_INTERVAL] or rec[R_INTERVAL]
  rec[R_GRACE] = profile[P_GRACE] or rec[R_GRACE]
  take_report(w, report, more)
  if packed then
    rec[R_DIGEST], w.cold, st.cold[w.mid] = more[B_DIGEST], cold, packed
  end
  if grown ~= 0 then
    local known = tenant_of(st, w.tenant)
    known.b, known.changed = known.b + grown, true
  end
  if rec[R_LEFT] > 0 and st.t - rec[R_LEFT] > STRAGGLER_MS then
    rec[R_LEFT] = 0
  end
  local interval, grace = effective(settings, environment, rec)
  if back and back <= st.t + interval + grace then
    rec[R_LEFT] = 0 -- the absence ends before this beat's deadline: silence until then is no stop
  end
  local cohort_id = cohort_for(st, w.tenant, environment, interval, grace, rec[R_LEFT] > 0)
  local to = MOVE[from][BEAT]
  rec[R_STATE], rec[R_COHORT], rec[R_LAST_SEEN], rec[R_DAEMON] = to.to, cohort_id, st.t, settings[S_DAEMON]
  w.cohort = cohort(st, cohort_id)
  if back and rec[R_LEFT] > 0 then
    set_absence(st, w, back)
  end
  if from == '' then
    enrol(st, w, environment)
  else
    if from ~= ALIVE or cohort_id ~= old_cohort_id then
      displace(st, w, from, old_cohort_id)
    end
    if was[C_ENVIRONMENT] ~= environment then
      count_in(st, w.tenant, environment, 1)
      count_in(st, w.tenant, was[C_ENVIRONMENT], -1)
    end
    if cohort_id ~= old_cohort_id then
      st.left[old_cohort_id] = true
    end
  end
  place(st, w)
  if to.event then
    rec[R_SINCE] = st.t
    record(st, w, {
      kind = to.event, old = from ~= '' and from or nil, new = to.to, due = st.t, since = since, reason = BEAT,
    })
  end
  if settings[S_STATUS_EVENTS] and from ~= '' then
    local old_status = reported(old_report)
    if old_status ~= reported(rec[R_REPORT]) then
      record(st, w, {
        kind = STATUS_CHANGED, old = to.to, new = to.to, due = st.t, since = rec[R_SINCE], reason = BEAT,
        old_status = old_status,
      })
    end
  end
  save(st, w)
  return STORED, interval, grace
end

-- Applies up to 512 beats, in order. A worker may occur more than once.
-- ARGV[1]: msgpack {interval, grace (ms), rules {{glob, interval, grace}*}, workers limit, environments limit, daemon,
--   status events (boolean), timings limit, bounds of declarations {least and most interval, least and most grace} (ms),
--   bytes limit}
-- ARGV[2]: msgpack list of profiles {tenant, environment|false, first environment, allowed|false, interval, grace (ms;
--   false keeps the last value, UNDECLARED withdraws it)}
-- ARGV[3]: msgpack list, four items for each beat: index of its profile, worker, report|false to keep it, more|false.
--   more: true for empty metadata alone, which changes nothing for a worker that never had any; or {digest|false,
--   status|nil, tasks, task, meta, event meta, event cut, system, system cut, logs, logs cut}.
--   With a status (false keeps it) the beat reports only some of three: tasks (decimal text; false keeps), task ('='
--   before it; false is null, '' keeps). With a digest it brings cold parts: nil keeps the last value, false is null.
-- ARGV[4]: before, see is_late.
-- Result: {t, {outcome, interval ms, number of consecutive beats with these}*, moves, least grace in ms of the stored
--   beats, or 0 for none}, or {t, LATE}. An outcome other than STORED changed nothing. The call ends early when
--   MOVES_PER_CALL events are recorded: the remaining beats are left to the next call.
-- Events: registered, recovered, resumed, status changed, and stale or stopped for a deadline that had passed.
register('beat', {}, function(st, args)
  local settings, profiles, rows = cmsgpack.unpack(args[1]), cmsgpack.unpack(args[2]), cmsgpack.unpack(args[3])
  if is_late(st, args[4]) then
    return { st.t, LATE }
  end
  local daemon, status_events = settings[S_DAEMON], settings[S_STATUS_EVENTS]
  local t, now, last_seen, records, moves = st.t, st.now, write('>I6', st.t), st.records, st.moves
  local count = #rows / 4
  local mids, prefixes, steadies = {}, {}, {}
  for k, profile in ipairs(profiles) do
    prefixes[k], steadies[k] = mid_of(profile[P_TENANT], ''), {}
  end
  for k = 1, count do
    mids[k] = prefixes[rows[4 * k - 3]] .. rows[4 * k - 2]
  end
  local raws = count > 0 and call('HMGET', st.keys.records, spread(mids, 1, count)) or {}
  local runs, least = {}, nil

  for k = 1, count do
    local at, worker, report, more = rows[4 * k - 3], rows[4 * k - 2], rows[4 * k - 1], rows[4 * k]
    local mid = mids[k]
    local raw = records[mid] or raws[k]
    local outcome, interval, grace, steady = STORED, nil, nil, nil
    if more == true then
      more = raw and sub(raw, KEPT_BYTES - 7, KEPT_BYTES) ~= NO_DIGEST and EMPTY_METADATA
    end
    if raw and (not more or (more[B_DIGEST] == sub(raw, KEPT_BYTES - 7, KEPT_BYTES) and more[B_STATUS] == nil)) then
      local key = sub(raw, 1, KEY_BYTES)
      steady = steadies[at][key]
      if steady == nil then
        steady = steady_of(st, settings, profiles[at], raw)
        steadies[at][key] = steady
      end
    end
    if steady and #raw > FIXED_BYTES then
      local gap = t - read('>I6', raw, KEPT_BYTES + 1)
      local said = report
      if not report or status_events then
        said = sub(raw, FIXED_BYTES + 1, FIXED_BYTES + read('>I2', raw, FIXED_BYTES - 1))
      end
      if gap < steady[2] and (said == report or not report) then
        records[mid] = sub(raw, 1, KEPT_BYTES) .. last_seen .. sub(raw, KEPT_BYTES + 11, FIXED_BYTES - 2)
          .. write('>I4I2', gap, #said) .. said .. daemon
        steady[1][worker] = now
        interval, grace = steady[3], steady[4]
      end
    end
    if not interval then
      outcome, interval, grace = apply(st, settings, profiles[at], worker, raw, report, more)
    end
    if grace and (not least or grace < least) then
      least = grace
    end
    local last = #runs
    if last > 0 and outcome == runs[last - 2] and interval == runs[last - 1] then
      runs[last] = runs[last] + 1
    else
      runs[last + 1], runs[last + 2], runs[last + 3] = outcome, interval, 1
    end
    if #moves >= MOVES_PER_CALL then
      break
    end
  end
  commit(st)
  return { t, runs, moves, least or 0 }
end)

-- fail ----------------------------------------------------------------------------------------------
-- The failure report of an unknown worker: registers the worker as failed. ARGV[1]: as of `disconnect`. ARGV[2]:
--   settings, as of `beat`. ARGV[3]: before, see is_late. Result: {t, outcome, moves, run_number}, or {t, LATE}.
--   Outcomes: STORED, the refusals of a beat, or REFUSED when the worker is known by now.
-- Events: failed. Does not run while the store is full: quotas bound what it adds, and a beat would be refused too.
register('fail', {}, function(st, args)
  local a, settings = cmsgpack.unpack(args[1]), cmsgpack.unpack(args[2])
  if is_late(st, args[3]) then
    return { st.t, LATE }
  end
  local w, environment = load_worker(st, a[1], a[2]), a[10]
  local outcome = w.rec and REFUSED or judge(st, settings, { [P_ALLOWED] = a[5] }, w, environment, 0)
  local run = run_number()
  if outcome ~= STORED then
    return { st.t, outcome, st.moves, run }
  end
  local rec, to = begin(st, w), MOVE[''][a[3]]
  local interval, grace = effective(settings, environment, rec)
  rec[R_STATE], rec[R_DAEMON] = to.to, settings[S_DAEMON]
  rec[R_COHORT] = cohort_for(st, w.tenant, environment, interval, grace, false)
  w.cohort = cohort(st, rec[R_COHORT])
  enrol(st, w, environment)
  place(st, w)
  record(st, w, {
    kind = to.event, new = to.to, due = st.t, since = st.t, reason = a[6], exit_code = a[7], message = a[8],
  })
  save(st, w)
  commit(st)
  return { st.t, STORED, st.moves, run }
end)
