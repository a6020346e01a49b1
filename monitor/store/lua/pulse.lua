-- Adds a window, and keeps the number and the age of windows bounded.
local function remember(windows, from, till, cause)
  windows[#windows + 1] = { from, till, cause }
  while windows[1][2] + WINDOW_AGE_MS <= till do
    table.remove(windows, 1)
  end
  while #windows > WINDOWS_KEPT do
    local closest = 1
    for k = 2, #windows - 1 do
      if windows[k + 1][1] - windows[k][2] < windows[closest + 1][1] - windows[closest][2] then
        closest = k
      end
    end
    windows[closest][2] = windows[closest + 1][2]
    table.remove(windows, closest + 1)
  end
end

-- The other daemons that are there. Also adds to `gone` those that have been gone for longest; the newest are kept.
local function others_alive(st, daemon, gone)
  local all, alive, dead = call('HGETALL', st.keys.pulses), {}, {}
  for k = 1, #all, 2 do
    local known = pulses_of(all[k + 1])
    if all[k] == daemon then
      -- not one of the others
    elseif known[4] == 0 and st.t - known[1] <= GAP_MS then
      alive[#alive + 1] = all[k]
    else
      dead[#dead + 1] = { known[1], all[k] }
    end
  end
  table.sort(dead, function(a, b)
    return a[1] < b[1]
  end)
  for k = 1, #dead - DAEMONS_KEPT do
    gone[k] = dead[k][2]
  end
  return alive
end

-- Applies a daemon's bid for the lease of the partition; monitor/ownership.py says which daemon bids what. The last read
-- of a call. Result: {token (0: the daemon is not the owner), age in ms of the oldest event after the cursor (0: none),
-- time of the last full sweep}.
local function bid_for(st, daemon, bid)
  local held = call('HMGET', st.keys.router, 'owner', 'until', 'token', 'cursor')
  local mine, left, token = held[1] == daemon, (tonumber(held[2]) or 0) - st.t, tonumber(held[3]) or 0
  local first = call('XRANGE', st.keys.outbox, '(' .. (held[4] or '0-0'), '+', 'COUNT', 1)[1]
  local age = first and math.max(st.t - tonumber(string.match(first[1], '^%d+')), 1) or 0
  local may_take = left <= 0 and (bid == LEASE.OWN or bid == LEASE.SPARE and left <= -LEASE.SPARE_MS)
  local owns = mine and bid == LEASE.OWN or not mine and may_take
  if mine and not owns then
    commit_time(st)
    call('HSET', st.keys.router, 'owner', '', 'until', st.now)
  elseif owns and not (mine and left > LEASE.MS / 2) then -- an idle owner must not fill the append-only file
    commit_time(st)
    token = mine and token or token + 1
    call('HSET', st.keys.router, 'owner', daemon, 'until', int(st.t + LEASE.MS), 'token', int(token))
  end
  return { owns and token or 0, age, st.swept }
end

-- lease -------------------------------------------------------------------------------------------
-- A bid without a pulse: a full store takes no pulse, and its events are to be routed. ARGV: daemon, bid.
-- Result: {t, answer of bid_for}. Events: none.
register('lease', { 'allow-oom' }, function(st, args)
  return { st.t, bid_for(st, args[1], args[2]) }
end)

local BEHIND = '2'

-- pulse -------------------------------------------------------------------------------------------
-- A daemon's report that it accepts beats. Does not run on a full store, which takes no beats either, so it is blind.
-- ARGV: daemon; '0', or '1' when it accepts none from now on, or '2' when it is behind with beats: the call is then no
-- pulse, and only that is stored; its bid for the lease; '1' to name the other daemons that are there | '0'.
-- Result: {t, skew in ms, {begin, end, cause} of the newest blind window or {}, blind windows so far, their length in ms,
-- answer of bid_for, other daemons or {}}.
-- The newest window is in every answer: the sender of the pulse that ended it may have timed out. Events: none.
register('pulse', {}, function(st, args)
  local daemon, ends, asks = args[1], args[2], args[4] == '1'
  local blind = blindness(st)
  local newest, windows, own, gone = blind.newest, blind.windows, pulses_of(call('HGET', st.keys.pulses, daemon)), {}
  local sums = call('HMGET', st.keys.meta, 'blind', 'blind_ms')
  local count, ms = tonumber(sums[1]) or 0, tonumber(sums[2]) or 0
  local cause = nil
  local others = (asks or not own) and others_alive(st, daemon, gone) or {}
  local lease = bid_for(st, daemon, args[3])
  if ends == BEHIND then
    if own then
      local is_ongoing = own[7] > 0 and st.t - own[7] <= BEHIND_MS
      local from = is_ongoing and own[6] or own[1]
      commit_time(st)
      call('HSET', st.keys.pulses, daemon, write(PULSES, own[1], own[2], own[3], own[4], own[5], from, st.t))
    end
    return { st.t, st.skew, windows[blind.now and #windows - 1 or #windows] or {}, count, ms, lease, others }
  end
  if blind.now then
    table.remove(windows)
    cause = blind.restarted and STORE_RESTARTED or NO_PULSE
  end
  if not own then
    if newest and #others == 0 then
      cause = cause or DAEMON_STARTED
    end
    own = { st.t, 0, 0, 0, st.t, 0, 0 }
  elseif newest - own[1] > GAP_MS then
    own[2], own[3] = own[1], st.t
  end
  if cause then
    remember(windows, newest, st.t, cause)
    count, ms = count + 1, ms + st.t - newest
  end
  if newest and not cause and st.skew > 0 then
    -- After a step back of the server's clock time runs slower until it meets that clock again. The skew shrinks by the
    -- multiples of SLEW between two pulses, so that the number of pulses does not matter.
    st.skew = st.skew - math.min(st.skew, math.floor(st.t / SLEW) - math.floor(newest / SLEW))
  end
  call('HSET', st.keys.meta, 'last', st.now, 'skew', int(st.skew), 'pulse', st.now)
  if not newest or blind.restarted then
    call('HSET', st.keys.meta, 'run', blind.run)
  end
  call('HSET', st.keys.pulses, daemon, write(PULSES, st.t, own[2], own[3], tonumber(ends), own[5], own[6], own[7]))
  call_with('HDEL', st.keys.pulses, gone)
  if cause then
    call('SET', st.keys.windows, cmsgpack.pack(windows))
    call('HSET', st.keys.meta, 'blind', int(count), 'blind_ms', int(ms))
  end
  return { st.t, st.skew, windows[#windows] or {}, count, ms, lease, others }
end)
