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
    local key = st.base .. 't:' .. tenant
    if known.changed and known.n == 0 then
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
    call('XADD', st.e, id, 'event', event[1], 'gaps', event[2])
    call('XADD', st.e .. ':' .. tenant, id, 'event', event[1], 'gaps', event[2])
    added[tenant] = (added[tenant] or 0) + 1
  end
  for tenant, n in pairs(added) do
    call('ZINCRBY', st.base .. 'lengths', n, tenant)
    call('ZADD', st.base .. 'began', 'NX', st.now, tenant)
    call('HINCRBY', st.m, 'events', n)
  end
  for mid, packed in pairs(st.cold) do
    call('HSET', st.x, mid, packed)
  end
  local past = {}
  for mid, list in pairs(st.past) do
    past[#past + 1] = mid
    past[#past + 1] = cmsgpack.pack(list)
  end
  call_with('HSET', st.y, past)
  commit_fields(st.j, st.rejected)
end

local function commit_cohorts(st)
  for _, new_cohorts in ipairs(st.new_cohorts) do
    local key, cohort_id = new_cohorts[1], new_cohorts[2]
    call('HSET', st.m, 'gid', cohort_id)
    call('HSET', st.g, key, cohort_id, cohort_id, cmsgpack.pack(st.cohorts[cohort_id]))
    call('ZADD', st.a, cohort_id, cohort_id)
    call('ZADD', st.a .. ':' .. st.cohorts[cohort_id][C_TENANT], cohort_id, cohort_id)
  end
  for key, bounds in pairs({ [st.h] = st.due, [st.q] = st.oldest, [st.b] = st.first_back, [st.k] = st.first_end }) do
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
    if call('EXISTS', st.base .. 's:' .. cohort_id, st.base .. 'd:' .. cohort_id) == 0 then
      local g = cohort(st, cohort_id)
      call('HDEL', st.g, cohort_key(g[C_TENANT], g[C_ENVIRONMENT], g[C_INTERVAL], g[C_GRACE], g[C_AFTER_STOP]), cohort_id)
      for _, key in ipairs({ st.a, st.a .. ':' .. g[C_TENANT], st.h, st.q, st.b, st.k }) do
        call('ZREM', key, cohort_id)
      end
      call('UNLINK', st.b .. ':' .. cohort_id, st.k .. ':' .. cohort_id)
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
  local erased = commit_fields(st.r, st.records)
  call_with('HDEL', st.x, erased)
  call_with('HDEL', st.y, erased)
  for _, cohort_id in ipairs(commit_sets(st.alive, st.base .. 's:')) do
    local g = cohort(st, cohort_id)
    call('ZADD', st.h, 'LT', int(st.t + g[C_INTERVAL] + g[C_GRACE]), cohort_id)
  end
  if not st.changing then
    return
  end
  commit_sets(st.down, st.base .. 'd:')
  commit_sets(st.absent, st.base .. 'b:')
  commit_sets(st.refused, st.base .. 'k:')
  for key, bounds in pairs({ [st.q] = st.least, [st.b] = st.soonest, [st.k] = st.ending }) do
    for cohort_id, bound in pairs(bounds) do
      call('ZADD', key, 'LT', int(bound), cohort_id)
    end
  end
  commit_sets(st.names, st.base .. 'i:')
  for field, change in pairs(st.counts) do
    if change ~= 0 and call('HINCRBY', st.c, field, change) == 0 then
      call('HDEL', st.c, field)
    end
  end
  commit_tenants(st)
  commit_drops(st)
  if st.erased_any then
    call('HSET', st.m, 'erased', int(st.erased))
  end
end
