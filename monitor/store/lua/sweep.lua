-- sweep ---------------------------------------------------------------------------------------------
-- Expires the due members of a set, and removes the others from the set, so that later sweeps do not meet them. Result:
-- how many were removed: their record does not match or is unreadable, or the cohort is gone.
local function expire_members(st, cohort_id, members, set)
  local g, misfits = cohort(st, cohort_id), 0
  local loaded = g and load_workers(st, g[C_TENANT], members) or {}
  for k, worker in ipairs(members) do
    local w = loaded[k]
    if w and w.rec and w.rec[R_COHORT] == cohort_id and expire_if_due(st, w) then
      save(st, w)
    elseif not set[cohort_id] or set[cohort_id][worker] == nil then -- else this call has already handled it
      set_in(set, cohort_id, worker, false)
      misfits = misfits + 1
    end
  end
  return misfits
end

-- The first score above cut in a set, or false.
local function first_above(key, cut)
  local first = call('ZRANGE', key, '(' .. cut, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  return first[2] and tonumber(first[2]) or false
end

-- Expires workers whose deadline, or the end of whose announced absence or refused beats, is at or before t. ARGV: limit
-- of cohorts read and of workers moved; a worker may make two transitions.
-- Result: {t, more (0|1), moves, damaged: members dropped because their record does not match, blind (0|1)}. While the
-- monitor is blind nothing expires: it can't know. Any number of sweepers may run: each worker moves once. Events: stale,
-- rejected, stopped.
register('sweep', { 'allow-oom' }, function(st, args)
  local left = tonumber(args[1])
  local more, damaged = false, 0
  -- Deadlines first: they are before the absences of the same workers.
  for _, kind in ipairs({
    { st.keys.bounds_alive, 'alive:', st.alive, st.due },
    { st.keys.bounds_absent, 'absent:', st.absent, st.first_back },
    { st.keys.bounds_refused, 'refused:', st.refused, st.first_end },
  }) do
    local due = left > 0 and call('ZRANGE', kind[1], '-inf', st.now, 'BYSCORE', 'LIMIT', 0, left) or {}
    if #due > 0 and blindness(st).now then
      return { st.t, 0, {}, 0, 1 }
    end
    more = more or #due == left
    for _, name in ipairs(due) do
      local cohort_id = tonumber(name)
      local g = cohort(st, cohort_id)
      local key = st.base .. kind[2] .. name
      local interval = g and g[C_INTERVAL] or 0 -- a deleted cohort has no workers
      local allowance = g and interval + g[C_GRACE] or 0
      -- From the score to the due time: the scores of alive workers are anchors.
      local lead = kind[1] == st.keys.bounds_alive and allowance or 0
      local cut = int(cutoff(st, allowance, interval) - lead)
      local found = left > 0 and call('ZRANGE', key, '-inf', cut, 'BYSCORE', 'LIMIT', 0, left, 'WITHSCORES') or {}
      local overdue, scores = {}, {}
      for k = 1, #found, 2 do
        overdue[#overdue + 1], scores[found[k]] = found[k], found[k + 1]
      end
      if kind[1] == st.keys.bounds_alive then
        st.scores[cohort_id] = scores
      end
      damaged = damaged + expire_members(st, cohort_id, overdue, kind[3])
      left = left - #overdue
      if left <= 0 then
        more = true
        break
      end
      local first, anchored = first_above(key, cut), kind[1] == st.keys.bounds_alive and st.anchored[cohort_id]
      first = first and anchored and math.min(first, anchored) or first or anchored
      st.changing = true
      kind[4][cohort_id] = first and credited(st, first + lead, allowance, interval) or false
    end
  end
  commit(st)
  if not more then
    call('HSET', st.keys.meta, 'swept', st.now)
  end
  return { st.t, more and 1 or 0, st.moves, damaged, 0 }
end)

-- purge ---------------------------------------------------------------------------------------------
-- Forgets workers that have not been alive for longer than retention. Retention begins when an announced absence or
-- refused beats end, and stands still while the monitor is blind. A worker that is not missed yet is not forgotten.
-- ARGV: limit, retention in ms, reason.
-- Result: {t, more (0|1), moves}. Events: forgotten, and before it stale for an absence that had ended.
register('purge', { 'allow-oom' }, function(st, args)
  local left, retention, reason = tonumber(args[1]), tonumber(args[2]), args[3]
  local cut = age_cut(st, retention)
  local due = call('ZRANGE', st.keys.bounds_down, '-inf', int(cut), 'BYSCORE', 'LIMIT', 0, left)
  local more = #due == left
  for _, name in ipairs(due) do
    local cohort_id = tonumber(name)
    local key = st.base .. 'down:' .. name
    local tenant = cohort(st, cohort_id)[C_TENANT]
    local old = left > 0 and call('ZRANGE', key, '-inf', int(cut), 'BYSCORE', 'LIMIT', 0, left) or {}
    for k, w in ipairs(load_workers(st, tenant, old)) do
      if w.rec and w.rec[R_COHORT] == cohort_id and w.rec[R_STATE] ~= ALIVE then
        local changed, since = expire_if_due(st, w), missed_since(st, w)
        if since <= cut then
          erase(st, w, reason)
        else
          set_end(st.down, st.least, w, since)
          if changed then
            save(st, w)
          end
        end
      else
        set_in(st.down, cohort_id, old[k], false)
      end
    end
    left = left - #old
    if left <= 0 then
      more = true
      break
    end
    st.changing = true
    st.oldest[cohort_id] = first_above(key, int(cut))
  end
  commit(st)
  return { st.t, more and 1 or 0, st.moves }
end)
