-- Orders about one worker -----------------------------------------------------------------------------
-- Disconnects, erasures, and refused beats as evidence of life.

-- Loads the worker of an order, and applies transitions that are due before it. Result: the worker; or nil, and the
-- answer to the order.
local function addressed(st, tenant, worker, allowed, before)
  if is_late(st, before) then
    return nil, { st.t, LATE }
  end
  local w = load_worker(st, tenant, worker)
  if not w.rec then
    return nil, { st.t, w.damaged and DAMAGED or UNKNOWN, st.moves }
  end
  if allowed and not contains(allowed, w.cohort[C_ENVIRONMENT]) then
    return nil, { st.t, NOT_ALLOWED, st.moves }
  end
  expire_if_due(st, w)
  return w
end

-- disconnect ----------------------------------------------------------------------------------------
-- A worker's disconnect. ARGV: msgpack {tenant, worker, trigger, clean (boolean), allowed|nil, reason, exit code|nil,
--   message|nil, back in ms|nil, environment of an unknown worker, for `fail`}; before, see is_late. Result: {t, outcome,
--   moves, run_number}, or {t, LATE}. Outcomes: STORED, REFUSED (the table has no such transition; nothing to do), and
--   without a run number UNKNOWN or NOT_ALLOWED. A clean disconnect of a stopped worker makes no transition, but
--   replaces its announced absence.
-- Events: stopped or failed, and before it stale or stopped for a moment that had passed.
register('disconnect', { 'allow-oom' }, function(st, args)
  local a = cmsgpack.unpack(args[1])
  local w, refusal = addressed(st, a[1], a[2], a[5], args[2])
  if not w then
    return refusal
  end
  local outcome, back, run = REFUSED, a[9] and st.t + a[9], run_number()
  if MOVE[w.rec[R_STATE]][a[3]] then
    outcome = STORED
    w.rec[R_LEFT] = a[4] and st.t or 0
    set_absence(st, w, back)
    move(st, w, a[3], { due = st.t, reason = a[6], exit_code = a[7], message = a[8] })
  elseif a[4] and MOVE[w.rec[R_STATE]][RETURN_OVERDUE] and (back or absence_of(st, w)) then
    outcome = STORED
    w.rec[R_LEFT] = back and st.t or w.rec[R_LEFT] -- an announcement is a disconnect of its own, with stragglers
    set_absence(st, w, back)
    place_down(st, w)
  end
  save(st, w)
  commit(st)
  return { st.t, outcome, st.moves, run }
end)

-- evidence ------------------------------------------------------------------------------------------
-- Stores refused beats as evidence of life. ARGV: msgpack list, at most 512 of {tenant, worker, allowed
-- environments|false, reason, ours (boolean: refused by our fault, so the anchor moves to t, and no absence ends before
-- the new deadline), subject}. Result: {t, known workers}. Evidence registers and revives no worker. A stale worker that
-- still sends beats stays rejected while they come, until its limit, which is moved only by our fault. Events: none.
-- Runs while the store is full: such beats are among those that a full store had no room for.
register('evidence', { 'allow-oom' }, function(st, args)
  local known = 0
  for _, row in ipairs(cmsgpack.unpack(args[1])) do
    local w = load_worker(st, row[1], row[2])
    if w.rec and (not row[3] or contains(row[3], w.cohort[C_ENVIRONMENT])) then
      known = known + 1
      st.rejected[w.mid] = cmsgpack.pack({ row[4], st.t, row[6] })
      local interval, ends = w.cohort[C_INTERVAL], refusals_of(st, w)
      local allowance = interval + w.cohort[C_GRACE]
      if ends and st.t < credited(st, ends, allowance, interval) then
        set_refusals(st, w, row[5] and st.t + allowance or math.max(ends, math.min(st.t + allowance, refusals_limit(w))))
        place_down(st, w)
      elseif row[5] and w.rec[R_STATE] == ALIVE then
        local _, due = deadline_of(st, w)
        if st.t < due then
          set_anchor(st, w, st.t)
        end
      elseif row[5] then
        local back = absence_of(st, w)
        if back and st.t < credited(st, back, allowance, interval) then
          delay_absence(st, w, st.t + allowance)
          place_down(st, w)
        end
      end
    end
  end
  commit(st)
  return { st.t, known }
end)

-- delete --------------------------------------------------------------------------------------------
-- Erases a worker. ARGV: msgpack {tenant, worker, allowed|nil, reason}; before, see is_late.
-- Result: {t, outcome, moves}, or {t, LATE}.
-- Events: forgotten, and before it stale or stopped for a deadline that had passed.
register('delete', { 'allow-oom' }, function(st, args)
  local a = cmsgpack.unpack(args[1])
  local w, refusal = addressed(st, a[1], a[2], a[3], args[2])
  if not w then
    return refusal
  end
  erase(st, w, a[4])
  commit(st)
  return { st.t, STORED, st.moves }
end)
