-- Workers -----------------------------------------------------------------------------------------

-- A report is "<tasks> <bytes of status>:<status>", then "=<task>" unless the task is null.
local function report_of(status, tasks, task)
  return tasks .. ' ' .. #status .. ':' .. status .. (task and '=' .. task or '')
end

-- status, tasks (decimal text), task or nil
local function reported(report)
  local tasks, bytes, at = string.match(report, '^(%-?%d+) (%d+):()')
  local after = at + tonumber(bytes)
  return sub(report, at, after - 1), tasks, #report >= after and sub(report, after + 1) or nil
end

-- Decodes a record; nil if it is unreadable.
local function decode(raw)
  if #raw < FIXED_BYTES or #raw < FIXED_BYTES + read('>I2', raw, FIXED_BYTES - 1) then
    return nil
  end
  local rec = { read(RECORD, raw) }
  if rec[R_VERSION] ~= RECORD_VERSION then
    return nil
  end
  rec[R_DAEMON] = sub(raw, rec[R_DAEMON]) -- unpacking has left the end of the fixed part there
  return rec
end

local function encode(rec)
  return write(
    RECORD, rec[1], rec[2], rec[3], rec[4], rec[5], rec[6], rec[7], rec[8], rec[9], rec[10], rec[11], rec[12],
    #rec[R_REPORT], rec[R_REPORT]
  ) .. rec[R_DAEMON]
end

-- raw: the stored record if the caller has read it, false for none.
local function load_worker(st, tenant, worker, raw)
  st.changing = true
  local mid = mid_of(tenant, worker)
  local changed = st.records[mid]
  if changed ~= nil then
    raw = changed
  elseif raw == nil then
    raw = call('HGET', st.keys.records, mid)
  end
  local w = { mid = mid, tenant = tenant, worker = worker }
  if raw then
    w.rec = decode(raw)
    w.cohort = w.rec and cohort(st, w.rec[R_COHORT])
    -- A damaged record must not block the other workers of a batch or of a sweep.
    w.damaged = not w.cohort
    if w.damaged then
      w.rec = nil
    end
  end
  return w
end

-- Loads several workers of one tenant, with the data for their transitions. The caller bounds their number.
local function load_workers(st, tenant, workers)
  local mids, loaded = {}, {}
  for k, worker in ipairs(workers) do
    mids[k] = mid_of(tenant, worker)
  end
  if #mids > 0 then
    local raws, pasts = call('HMGET', st.keys.records, spread(mids)), call('HMGET', st.keys.transitions, spread(mids))
    local refusals = call('HMGET', st.keys.rejections, spread(mids))
    for k, worker in ipairs(workers) do
      loaded[k] = load_worker(st, tenant, worker, raws[k])
      st.packed_past[mids[k]], st.packed_rejected[mids[k]] = pasts[k], refusals[k]
    end
  end
  return loaded
end

local function save(st, w)
  st.records[w.mid] = encode(w.rec)
end

local function cold_of(st, w)
  if w.cold == nil then
    local packed = w.rec and w.rec[R_DIGEST] ~= NO_DIGEST and (st.cold[w.mid] or call('HGET', st.keys.cold, w.mid))
    w.cold_bytes = packed and #packed or 0
    w.cold = packed and cmsgpack.unpack(packed) or { '{}', '', false, false, false, false, false }
  end
  return w.cold
end

-- The approximate size of a worker without its cold parts: its record, and its ID in each set.
local function bytes_of(worker)
  return 300 + 4 * #worker
end

local function past_of(st, mid)
  local past = st.past[mid]
  if not past then
    local packed = st.packed_past[mid]
    if packed == nil then
      packed = call('HGET', st.keys.transitions, mid)
    end
    past = packed and cmsgpack.unpack(packed) or {}
    st.past[mid] = past
  end
  return past
end

-- Notes a member's new score in a sorted set (as text), or (false) its removal.
local function set_in(sets, name, worker, score)
  local set = sets[name]
  if not set then
    set = {}
    sets[name] = set
  end
  set[worker] = score
end

-- The end that a worker has in one of its cohort's sets, or nil. may: whether it can have one; else it is not looked up.
local function end_of(sets, prefix, w, may)
  local cohort_id = w.rec[R_COHORT]
  local noted = sets[cohort_id] and sets[cohort_id][w.worker]
  if noted == nil and may then
    noted = call('ZSCORE', prefix .. cohort_id, w.worker)
  end
  return noted and tonumber(noted) or nil
end

-- Notes that end, and the least one of the cohort; nil removes it.
local function set_end(sets, least, w, ends)
  local cohort_id = w.rec[R_COHORT]
  set_in(sets, cohort_id, w.worker, ends and int(ends) or false)
  if ends then
    least[cohort_id] = math.min(least[cohort_id] or ends, ends)
  end
end

-- The end of a worker's announced absence, or nil. Only a stopped worker and a straggler can have one.
local function absence_of(st, w)
  local state = w.rec[R_STATE]
  local may = MOVE[state][RETURN_OVERDUE] or (state == ALIVE and w.cohort[C_AFTER_STOP])
  return end_of(st.absent, st.base .. 'absent:', w, may)
end

-- Notes the end of a worker's announced absence; nil: none announced.
local function set_absence(st, w, back)
  set_end(st.absent, st.soonest, w, back)
end

-- When the refused beats of a stale worker will have ended, or nil for none.
local function refusals_of(st, w)
  return end_of(st.refused, st.base .. 'refused:', w, MOVE[w.rec[R_STATE]][REJECTIONS_ENDED])
end

-- Notes when the refused beats of a stale worker will have ended; nil: none any more.
local function set_refusals(st, w, ends)
  set_end(st.refused, st.ending, w, ends)
end

-- How long refused beats keep a stale worker from counting as silent, except for refusals by our fault. The worker
-- became stale at its deadline, interval + grace after the anchor.
local function refusals_limit(w)
  return w.rec[R_SINCE] + (REJECTED_INTERVALS - 1) * w.cohort[C_INTERVAL]
end

-- The worker's newest refused beat, {reason, t, subject}, if no beat was accepted since; or nil.
local function rejected_of(st, w)
  local packed = st.rejected[w.mid]
  if packed == nil then
    packed = st.packed_rejected[w.mid]
  end
  if packed == nil then
    packed = call('HGET', st.keys.rejections, w.mid)
  end
  local found = packed and unpacked(packed)
  return found and found[2] > w.rec[R_LAST_SEEN] and found or nil
end

-- The anchor of an alive worker.
local function anchor_of(st, w)
  local cohort_id = w.rec[R_COHORT]
  local noted = st.alive[cohort_id] and st.alive[cohort_id][w.worker]
  if noted == nil then
    noted = st.scores[cohort_id] and st.scores[cohort_id][w.worker]
      or call('ZSCORE', st.base .. 'alive:' .. cohort_id, w.worker)
  end
  return math.max(tonumber(noted or 0), w.rec[R_LAST_SEEN])
end

-- Adds a worker that is not alive to down:, with a score at which purge finds it: not before it is missed.
local function place_down(st, w)
  local since = absence_of(st, w) or refusals_of(st, w) or w.rec[R_SINCE]
  set_end(st.down, st.least, w, since)
end

-- Adds a worker to the sets that its record requires. An alive worker has sent a beat in this very call.
local function place(st, w)
  local rec = w.rec
  local cohort_id, state = rec[R_COHORT], rec[R_STATE]
  if state == ALIVE then
    set_in(st.alive, cohort_id, w.worker, st.now)
  else
    place_down(st, w)
    st.counts[cohort_id .. ':' .. state] = (st.counts[cohort_id .. ':' .. state] or 0) + 1
  end
end

-- Removes a worker from the sets that (state, cohort_id) required.
local function displace(st, w, state, cohort_id)
  if state == ALIVE then
    set_in(st.alive, cohort_id, w.worker, false)
  else
    set_in(st.down, cohort_id, w.worker, false)
    st.counts[cohort_id .. ':' .. state] = (st.counts[cohort_id .. ':' .. state] or 0) - 1
    if MOVE[state][REJECTIONS_ENDED] then
      set_in(st.refused, cohort_id, w.worker, false)
    end
  end
end

-- The measured gaps, oldest first.
local function gaps_of(rec)
  local gaps = rec[R_GAPS]
  local at = 1
  while sub(gaps, at, at + 3) == NO_GAP do
    at = at + 4
  end
  return sub(gaps, at)
end

-- Records one event of a worker in its present state, and notes it for the answer.
-- change: {kind, old, new (states or nil), due, since, reason, old_status, exit_code, message, missed, rejected}
local function record(st, w, change)
  local rec, g = w.rec, w.cohort
  rec[R_SEQ] = rec[R_SEQ] + 1
  local meta, cut = '{}', false
  if change.new then
    local cold = cold_of(st, w)
    meta, cut = cold[X_META], cold[X_EVENT_CUT]
    if cold[X_EVENT_META] ~= '' then
      meta = cold[X_EVENT_META]
    end
  end
  local status, tasks, task = reported(rec[R_REPORT])
  local generation, seq, seen = rec[R_GENERATION], rec[R_SEQ], rec[R_LAST_SEEN]
  st.events[#st.events + 1] = {
    cmsgpack.pack({
      change.kind, w.tenant, w.worker, g[C_ENVIRONMENT], generation, seq,
      change.old and WORD[change.old] or false, change.new and WORD[change.new] or false, change.reason,
      change.due, st.t, seen, change.since, g[C_INTERVAL], g[C_GRACE],
      status, tasks, task or false, meta, cut or false, change.old_status or false, change.exit_code or false,
      change.message or false, change.missed or false, change.rejected or false,
    }),
    gaps_of(rec), w.tenant,
  }
  if change.kind ~= MOVE[''][BEAT].event and change.new and change.kind ~= STATUS_CHANGED then
    local past = past_of(st, w.mid)
    while #past >= TRANSITIONS_KEPT do
      table.remove(past, 1)
    end
    past[#past + 1] = { change.kind, seq, change.due, st.t, change.reason }
  end
  st.moves[#st.moves + 1] = {
    change.kind, w.tenant, w.worker, g[C_ENVIRONMENT], generation, seq, change.due, st.t, seen, change.reason,
  }
end

-- Applies a trigger that the table allows: moves a worker between the sets, and records the event.
-- The caller saves the record.
local function move(st, w, trigger, change)
  local rec = w.rec
  local to = MOVE[rec[R_STATE]][trigger]
  local state, cohort_id = rec[R_STATE], rec[R_COHORT]
  change.kind, change.old, change.new, change.since = to.event, state, to.to, rec[R_SINCE]
  rec[R_STATE], rec[R_SINCE] = to.to, change.due
  -- Remove first, then add: for two states that are not alive both use the same set.
  displace(st, w, state, cohort_id)
  place(st, w)
  record(st, w, change)
end

-- The anchor and the deadline of an alive worker, and the number of uncredited windows. If the deadline has passed, time
-- lost by the daemon that took the worker's last beat moves the anchor, since it is our fault:
-- a gap: once per beat, and by no more than the allowance;
-- a lag: as long as it lasts. A lag shorter than the interval so far counts once per beat too: otherwise such lags
-- would hide a death that always comes due in one of them.
local function deadline_of(st, w)
  local rec, interval = w.rec, w.cohort[C_INTERVAL]
  local allowance, anchor = interval + w.cohort[C_GRACE], anchor_of(st, w)
  local due, uncredited = credited(st, anchor + allowance, allowance, interval)
  if st.t < due then
    return anchor, due, uncredited
  end
  -- No gap or lag counts twice. One that began after the anchor counts only if the anchor is that of a beat, of a
  -- beat refused by our fault, or of a lag. One that began before it may have lasted on since the anchor was moved.
  local own = pulses_by(st, rec[R_DAEMON])
  local rejected = anchor ~= rec[R_LAST_SEEN] and rejected_of(st, w)
  local is_first = anchor == rec[R_LAST_SEEN] or (rejected and rejected[2] == anchor)
  local begun, ended = lag_of(st, rec[R_DAEMON], interval)
  if begun and begun < due and ended > anchor and (ended - begun >= interval or is_first or begun <= anchor) then
    anchor, is_first = ended, true
    due, uncredited = credited(st, anchor + allowance, allowance, interval)
  end
  if st.t >= due then
    local from, till = gap_of(st, rec[R_DAEMON], rec[R_LAST_SEEN])
    is_first = is_first or (own and anchor == own[7])
    if from and from < due and (is_first or from <= anchor) then
      anchor = math.max(anchor, math.min(till, from + allowance))
      due, uncredited = credited(st, anchor + allowance, allowance, interval)
    end
  end
  return anchor, due, uncredited
end

-- Notes that a worker's announced absence ends no earlier than its deadline, which was moved to `due`: if a beat had
-- come instead, the absence could not end before that.
local function delay_absence(st, w, due)
  local back = absence_of(st, w)
  if back and back < due then
    set_absence(st, w, due)
  end
end

-- Notes a later anchor of an alive worker.
local function set_anchor(st, w, anchor)
  set_in(st.alive, w.rec[R_COHORT], w.worker, int(anchor))
  delay_absence(st, w, anchor + w.cohort[C_INTERVAL] + w.cohort[C_GRACE])
end

-- Applies an alive worker's missed deadline, if it has passed. Result: whether the worker's place has changed.
local function expire_alive(st, w)
  local rec = w.rec
  local allowance = w.cohort[C_INTERVAL] + w.cohort[C_GRACE]
  if st.t < rec[R_LAST_SEEN] + allowance then
    return false -- credits, gaps and lags would only move it later
  end
  local cohort_id, was = rec[R_COHORT], anchor_of(st, w)
  local anchor, due, uncredited = deadline_of(st, w)
  if st.t < due then
    if anchor > was then
      set_anchor(st, w, anchor)
      st.anchored[cohort_id] = math.min(st.anchored[cohort_id] or anchor, anchor)
    end
    return anchor > was
  end
  local rejected = rejected_of(st, w)
  -- As of the deadline, not of now: the result must not depend on the time of the sweep.
  local alive = rejected and credited(st, rejected[2] + allowance, allowance, w.cohort[C_INTERVAL]) > due
  local trigger = w.cohort[C_AFTER_STOP] and DEADLINE_AFTER_STOP or alive and DEADLINE_REJECTED or DEADLINE
  rec[R_LEFT] = 0
  move(st, w, trigger, {
    due = due, reason = alive and rejected[1] or 'deadline passed', rejected = rejected,
    missed = missed(st, rec[R_LAST_SEEN], uncredited),
  })
  if trigger == DEADLINE_REJECTED then
    set_refusals(st, w, math.min(rejected[2] + allowance, refusals_limit(w)))
    place_down(st, w)
  end
  return true
end

-- Applies `trigger` to a worker that is not alive, if the noted moment has passed. `set` notes that it has ended.
local function expire_noted(st, w, noted, set, trigger, reason)
  local allowance = w.cohort[C_INTERVAL] + w.cohort[C_GRACE]
  local due, uncredited = noted, 0
  if noted and st.t >= noted then
    due, uncredited = credited(st, noted, allowance, w.cohort[C_INTERVAL])
  end
  if not due or st.t < due then
    return false
  end
  w.rec[R_LEFT] = 0
  set(st, w, nil)
  move(st, w, trigger, {
    due = due, reason = reason, rejected = rejected_of(st, w), missed = missed(st, w.rec[R_LAST_SEEN], uncredited),
  })
  return true
end

-- Applies every transition that is due now: missed deadline, missed return, end of rejected beats. A sweep and the
-- worker's own next beat both call it, so the result does not depend on the time of a sweep. A straggler's absence ends
-- after the deadline of its beat, see apply. Result: whether the worker has changed.
local function expire_if_due(st, w)
  local changed = w.rec[R_STATE] == ALIVE and expire_alive(st, w)
  if MOVE[w.rec[R_STATE]][RETURN_OVERDUE] then
    changed = expire_noted(st, w, absence_of(st, w), set_absence, RETURN_OVERDUE, 'did not return as planned') or changed
  end
  if MOVE[w.rec[R_STATE]][REJECTIONS_ENDED] then
    local ends, rejected = refusals_of(st, w), rejected_of(st, w)
    local more = ends and ends >= refusals_limit(w) and rejected[2] + w.cohort[C_INTERVAL] + w.cohort[C_GRACE] > ends
    local reason = more and STILL_REJECTED or 'rejected beats ended'
    changed = expire_noted(st, w, ends, set_refusals, REJECTIONS_ENDED, reason) or changed
  end
  return changed
end

-- When a worker that is not alive became, or will become, missed. Blind windows move that moment too, so it may be later
-- than the worker's score in down:.
local function missed_since(st, w)
  local noted, interval = absence_of(st, w) or refusals_of(st, w), w.cohort[C_INTERVAL]
  return noted and credited(st, noted, interval + w.cohort[C_GRACE], interval) or w.rec[R_SINCE]
end

-- Ends a worker's generation. Its past events stay in the history; the last one has no metadata.
local function erase(st, w, reason)
  local rec = w.rec
  local cohort_id, state = rec[R_COHORT], rec[R_STATE]
  local to = MOVE[state][FORGET]
  record(st, w, { kind = to.event, old = state, due = st.t, since = rec[R_SINCE], reason = reason })
  displace(st, w, state, cohort_id)
  set_absence(st, w, nil)
  st.records[w.mid] = false
  st.rejected[w.mid] = false
  st.left[cohort_id] = true
  set_in(st.names, w.tenant, w.worker, false)
  count_in(st, w.tenant, w.cohort[C_ENVIRONMENT], -1)
  local known = tenant_of(st, w.tenant)
  known.n = known.n - 1
  known.b = math.max(0, known.b - bytes_of(w.worker) - call('HSTRLEN', st.keys.cold, w.mid))
  st.erased = math.max(st.erased, st.t, rec[R_GENERATION])
  st.erased_any = true
end
