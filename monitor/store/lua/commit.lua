-- Commit ------------------------------------------------------------------------------------------

-- Writes the changes to the sets of one kind. Result: the names of the sets with new members.
local function commit_sets(sets, prefix)
  local grown = {}
  for name, set in pairs(sets) do
    local out, into, n = {}, {}, 0
    for worker, score in pairs(set) do
      if score then
        into[n + 1], into[n + 2] = score, worker
        n = n + 2
      else
        out[#out + 1] = worker
      end
    end
    call_with('ZREM', prefix .. name, out)
    if call_with('ZADD', prefix .. name, into) > 0 then
      grown[#grown + 1] = name
    end
  end
  return grown
end

local function commit_tenants(st)
  for tenant, known in pairs(st.tenants) do
    local key = st.base .. 'tenant:' .. tenant
    if known.changed and known.n == 0 and not known.quota then
      call('DEL', key)
    elseif known.changed then
      local fields, gone = { 'n', known.n, 'v', known.v, 'b', int(known.b) }, {}
      for environment, workers in pairs(known.workers_in) do
        if workers > 0 then
          fields[#fields + 1] = 'e' .. environment
          fields[#fields + 1] = workers
        else
          gone[#gone + 1] = 'e' .. environment
        end
      end
      call_with('HSET', key, fields)
      call_with('HDEL', key, gone)
    end
  end
end

-- Writes the values of fields, or (false) removes the fields. Result: the removed ones.
local function commit_fields(key, fields)
  local into, out, n = {}, {}, 0
  for field, value in pairs(fields) do
    if value then
      into[n + 1], into[n + 2] = field, value
      n = n + 2
    else
      out[#out + 1] = field
    end
  end
  call_with('HSET', key, into)
  call_with('HDEL', key, out)
  return out
end

-- Writes the events, and the data beside the records.
local function commit_facts(st)
  local added = {}
  for _, event in ipairs(st.events) do
    local id, tenant = st.now .. '-*', event[3]
    call('XADD', st.keys.outbox, id, 'event', event[1], 'gaps', event[2])
    call('XADD', st.base .. 'history:' .. tenant, id, 'event', event[1], 'gaps', event[2])
    added[tenant] = (added[tenant] or 0) + 1
  end
  for tenant, n in pairs(added) do
    call('ZINCRBY', st.keys.history_lengths, n, tenant)
    call('ZADD', st.keys.history_began, 'NX', st.now, tenant)
    call('HINCRBY', st.keys.meta, 'events', n)
  end
  for mid, packed in pairs(st.cold) do
    call('HSET', st.keys.cold, mid, packed)
  end
  local past = {}
  for mid, list in pairs(st.past) do
    past[#past + 1] = mid
    past[#past + 1] = cmsgpack.pack(list)
  end
  call_with('HSET', st.keys.transitions, past)
  commit_fields(st.keys.rejections, st.rejected)
end

local function commit_cohorts(st)
  for _, new_cohorts in ipairs(st.new_cohorts) do
    local key, cohort_id = new_cohorts[1], new_cohorts[2]
    call('HSET', st.keys.meta, 'cohort_id', cohort_id)
    call('HSET', st.keys.cohorts, key, cohort_id, cohort_id, cmsgpack.pack(st.cohorts[cohort_id]))
    call('ZADD', st.keys.cohort_ids, cohort_id, cohort_id)
    call('ZADD', st.keys.cohort_ids .. ':' .. st.cohorts[cohort_id][C_TENANT], cohort_id, cohort_id)
  end
  for key, bounds in pairs({
    [st.keys.bounds_alive] = st.due, [st.keys.bounds_down] = st.oldest,
    [st.keys.bounds_absent] = st.first_back, [st.keys.bounds_refused] = st.first_end,
  }) do
    for cohort_id, bound in pairs(bounds) do
      if bound then
        call('ZADD', key, int(bound), cohort_id)
      else
        call('ZREM', key, cohort_id)
      end
    end
  end
end

-- Deletes cohorts that are empty now.
local function commit_drops(st)
  for cohort_id in pairs(st.left) do
    if call('EXISTS', st.base .. 'alive:' .. cohort_id, st.base .. 'down:' .. cohort_id) == 0 then
      local g = cohort(st, cohort_id)
      local name = cohort_key(g[C_TENANT], g[C_ENVIRONMENT], g[C_INTERVAL], g[C_GRACE], g[C_AFTER_STOP])
      call('HDEL', st.keys.cohorts, name, cohort_id)
      for _, key in ipairs({
        st.keys.cohort_ids, st.keys.cohort_ids .. ':' .. g[C_TENANT],
        st.keys.bounds_alive, st.keys.bounds_down, st.keys.bounds_absent, st.keys.bounds_refused,
      }) do
        call('ZREM', key, cohort_id)
      end
      call('UNLINK', st.base .. 'absent:' .. cohort_id, st.base .. 'refused:' .. cohort_id)
    end
  end
end

-- Writes all changes of the call. No function writes before it, and it reads nothing that could be damaged.
local function commit(st)
  commit_time(st)
  if st.changing then
    commit_facts(st)
    commit_cohorts(st)
  end
  local erased = commit_fields(st.keys.records, st.records)
  call_with('HDEL', st.keys.cold, erased)
  call_with('HDEL', st.keys.transitions, erased)
  for _, cohort_id in ipairs(commit_sets(st.alive, st.base .. 'alive:')) do
    local g = cohort(st, cohort_id)
    call('ZADD', st.keys.bounds_alive, 'LT', int(st.t + g[C_INTERVAL] + g[C_GRACE]), cohort_id)
  end
  if not st.changing then
    return
  end
  commit_sets(st.down, st.base .. 'down:')
  commit_sets(st.absent, st.base .. 'absent:')
  commit_sets(st.refused, st.base .. 'refused:')
  for key, bounds in pairs({
    [st.keys.bounds_down] = st.least, [st.keys.bounds_absent] = st.soonest, [st.keys.bounds_refused] = st.ending,
  }) do
    for cohort_id, bound in pairs(bounds) do
      call('ZADD', key, 'LT', int(bound), cohort_id)
    end
  end
  commit_sets(st.names, st.base .. 'names:')
  for field, change in pairs(st.counts) do
    if change ~= 0 and call('HINCRBY', st.keys.down_counts, field, change) == 0 then
      call('HDEL', st.keys.down_counts, field)
    end
  end
  commit_tenants(st)
  commit_drops(st)
  if st.erased_any then
    call('HSET', st.keys.meta, 'erased', int(st.erased))
  end
end
