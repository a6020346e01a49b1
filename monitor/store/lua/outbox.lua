-- Writes the time, even if unchanged: when this write is durable, all writes before it are.
local function mark(st)
  commit_time(st)
  call('HSET', st.keys.meta, 'last', st.now)
end

-- confirm -------------------------------------------------------------------------------------------
-- Writes only the time, to be confirmed. Result: {t, run_number}.
register('confirm', { 'allow-oom' }, function(st)
  local run = run_number()
  mark(st)
  return { st.t, run }
end)

-- claim ---------------------------------------------------------------------------------------------
-- Reads events after the router's cursor. ARGV: token, limit, '1' to write the time, so that a confirmation of this call
-- is one of the events | '0'.
-- Result: {t, 1 | 0 (another daemon has the lease by now), events}.
register('claim', { 'allow-oom' }, function(st, args)
  local held = call('HMGET', st.keys.router, 'token', 'cursor')
  if held[1] ~= args[1] then
    return { st.t, 0, {} }
  end
  local events = call('XRANGE', st.keys.outbox, '(' .. (held[2] or '0-0'), '+', 'COUNT', args[2])
  if args[3] == '1' then
    mark(st)
  end
  return { st.t, 1, events }
end)

-- trim ----------------------------------------------------------------------------------------------
-- Drops events of one tenant's history: those older than keep, blind time left out; or, while the histories hold more
-- than most, the oldest events of the longest one, down to an equal share. ARGV: keep in ms, most, limit per call.
-- Result: {t, dropped}.
register('trim', { 'allow-oom' }, function(st, args)
  local keep, most, limit = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local lengths, began = st.keys.history_lengths, st.keys.history_began
  local old = '(' .. int(age_cut(st, keep))
  local tenant, spare = call('ZRANGE', began, '-inf', old, 'BYSCORE', 'LIMIT', 0, 1)[1], 0
  if tenant then
    spare = #call('XRANGE', st.base .. 'history:' .. tenant, '-', old .. '-0', 'COUNT', limit)
  else
    local over = (tonumber(call('HGET', st.keys.meta, 'events')) or 0) - most
    if over <= 0 then
      return { st.t, 0 }
    end
    local longest = call('ZRANGE', lengths, 0, 0, 'REV', 'WITHSCORES')
    tenant = longest[1]
    spare = math.min(over, limit, tonumber(longest[2]) - math.floor(most / call('ZCARD', lengths)))
  end
  local history = st.base .. 'history:' .. tenant
  local left = math.max(call('XLEN', history) - spare, 0)
  commit_time(st)
  local dropped = call('XTRIM', history, 'MAXLEN', left)
  call('HINCRBY', st.keys.meta, 'events', -dropped)
  if left > 0 then
    call('ZADD', lengths, left, tenant)
    call('ZADD', began, string.match(call('XRANGE', history, '-', '+', 'COUNT', 1)[1][1], '^%d+'), tenant)
  else
    call('DEL', history)
    call('ZREM', lengths, tenant)
    call('ZREM', began, tenant)
  end
  return { st.t, dropped }
end)
