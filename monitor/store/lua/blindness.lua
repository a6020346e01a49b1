-- Blindness ---------------------------------------------------------------------------------------
-- When nobody could have accepted a beat, and what that does to deadlines; monitor/blindness.py says why.

-- The id of this run of the server: another one has been started, or has taken over, since.
local function run_id()
  return string.match(call('INFO', 'server'), 'run_id:(%w+)')
end

-- What is known of a daemon's pulses: {newest, begin and end of its newest gap beside others (0: none), ended (1|0),
-- first, begin and newest moment of its newest spell of being behind (0: none)}.
local PULSES = '>I6I6I6BI6I6I6'
local function pulses_of(packed)
  return packed and { read(PULSES, packed .. string.rep('\0', 37 - #packed)) } or nil
end

-- Those of the daemon that took a worker's last beat: asked for once in a call, of which many may be about its workers.
local function pulses_by(st, daemon)
  st.pulses = st.pulses or {}
  if st.pulses[daemon] == nil then
    st.pulses[daemon] = pulses_of(call('HGET', st.p, daemon)) or false
  end
  return st.pulses[daemon]
end

-- {windows = {begin, end}*, oldest first; newest = newest pulse or nil; now = whether t is in a window, the last, that
-- no pulse has ended yet}. Without any pulse ever there is nothing to go by, and nothing is blind.
local function blindness(st)
  local found = st.blindness
  if not found then
    local known = call('HMGET', st.m, 'pulse', 'run')
    found = { windows = unpacked(call('GET', st.w)) or {}, newest = tonumber(known[1]), run = run_id() }
    found.restarted = known[2] and known[2] ~= found.run
    if found.newest and (found.restarted or st.t - found.newest > GAP_MS) then
      found.windows[#found.windows + 1] = { found.newest, st.t }
      found.now = true
    end
    st.blindness = found
  end
  return found
end

-- The moment to which blind windows move a deadline, and how many would have moved it and were too many.
local function credited(st, due, allowance, interval)
  local short, uncredited = 0, 0
  for _, window in ipairs(blindness(st).windows) do
    local from, till = window[1], window[2]
    if due <= from then
      break
    end
    if till + allowance > due then
      if till - from >= interval then
        due = till + allowance
      elseif short < SHORT_CREDITS then
        short, due = short + 1, till + allowance
      else
        uncredited = uncredited + 1
      end
    end
  end
  return due, uncredited
end

-- The latest deadline that has passed at t, whatever the windows: what is later has been moved past t. One number for
-- all workers of an interval and grace, since a later deadline is never moved to before an earlier one.
local function cutoff(st, allowance, interval)
  local windows = blindness(st).windows
  if #windows == 0 or windows[#windows][2] + allowance <= st.t then
    return st.t
  end
  st.cutoff = st.cutoff or {}
  local key = allowance .. ':' .. interval
  if not st.cutoff[key] then
    local low, high = windows[1][1], st.t -- what was due by the first begin is moved by nothing
    if credited(st, high, allowance, interval) <= st.t then
      low = high
    end
    while high - low > 1 do
      local middle = math.floor((low + high) / 2)
      if credited(st, middle, allowance, interval) <= st.t then
        low = middle
      else
        high = middle
      end
    end
    st.cutoff[key] = low
  end
  return st.cutoff[key]
end

-- The moment before which everything is older than span, blind time left out: what the monitor has not seen does not age.
local function age_cut(st, span)
  local cut, windows = st.t - span, blindness(st).windows
  for k = #windows, 1, -1 do
    if windows[k][2] <= cut then
      break
    end
    cut = cut - (windows[k][2] - windows[k][1])
  end
  return cut
end

-- What the monitor missed of [from, t): {ms, end of the last, windows, uncredited}, or false for nothing.
local function missed(st, from, uncredited)
  local ms, till, count = 0, 0, 0
  for _, window in ipairs(blindness(st).windows) do
    if window[2] > from then
      ms, till, count = ms + window[2] - math.max(window[1], from), window[2], count + 1
    end
  end
  return count > 0 and { ms, till, count, uncredited }
end

-- Whether another daemon than this one was there before a window and after it.
local function is_bridged(st, window, daemon)
  local all = call('HGETALL', st.p)
  for k = 1, #all, 2 do
    local known = pulses_of(all[k + 1])
    if all[k] ~= daemon and known[5] <= window[1] and known[1] >= window[2] then
      return true
    end
  end
  return false
end

-- The gap in which the daemon that took a worker's last beat was away while others were there: begin and end, or nil.
local function gap_of(st, daemon, last_seen)
  local blind = blindness(st)
  local own = blind.newest and pulses_by(st, daemon)
  local from, till
  if own and (blind.newest - own[1] > GAP_MS or (own[4] == 1 and blind.newest > own[1])) then
    from, till = own[1], st.t
  elseif own and own[3] > last_seen then
    from, till = own[2], own[3]
  end
  for _, window in ipairs(from and blind.windows or {}) do
    if from < till and window[1] <= from + GAP_MS and window[2] > from then
      -- There were no others then, and the window says all there is to say. What is beyond it is another gap of this
      -- daemon, if others were there before and after: if not, it may just have been started again, under another name.
      if till - window[2] <= GAP_MS or not is_bridged(st, window, daemon) then
        return nil
      end
      from = window[2]
    end
  end
  return from, till
end

-- When the daemon that took a worker's last beat was behind with beats last: begin and end, or nil. Its workers can't be
-- told from dead ones for as long as it says so, whoever else is there. One that is over counts if it was no shorter than
-- the interval, and none below the length at which a gap shows: hiccups must not hide deaths.
local function spell_of(st, daemon, interval)
  local own = pulses_by(st, daemon)
  if own and own[7] > 0 then
    local goes_on = own[1] < own[7] and st.t - own[7] <= BEHIND_MS
    local ended = goes_on and st.t or own[7]
    if ended - own[6] > (goes_on and GAP_MS or math.max(GAP_MS, interval - 1)) then
      return own[6], ended
    end
  end
end

-- Adds a window, and keeps their number and age bounded.
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

-- Whether another daemon is there; and daemons that have been gone for longest are forgotten, all but the newest.
local function others_alive(st, gone)
  local all, alive, dead = call('HGETALL', st.p), false, {}
  for k = 1, #all, 2 do
    local known = pulses_of(all[k + 1])
    if known[4] == 0 and st.t - known[1] <= GAP_MS then
      alive = true
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

-- pulse -------------------------------------------------------------------------------------------
-- A daemon says that it accepts beats. Not allowed on a full store, which takes none either.
-- ARGV: daemon; '0', '1' when it accepts none from now on, '2' when beats have come that it is behind with: then it is no
-- pulse, and only that is noted.
-- Result: {t, skew in ms, {begin, end, cause} of the newest blind window or {}, blind windows so far, their length in ms}.
-- Whoever sent the pulse that ended a window may have given up on it: so all are told of the newest. Events: none.
local BEHIND = '2'
local function pulse(keys, args)
  local daemon, ends = args[1], args[2]
  local st = open(keys)
  local blind = blindness(st)
  local newest, windows, own, gone = blind.newest, blind.windows, pulses_of(call('HGET', st.p, daemon)), {}
  local sums = call('HMGET', st.m, 'blind', 'blind_ms')
  local count, ms = tonumber(sums[1]) or 0, tonumber(sums[2]) or 0
  local cause = nil
  if ends == BEHIND then
    if own then
      local goes_on = own[7] > 0 and st.t - own[7] <= BEHIND_MS
      local from = goes_on and own[6] or own[1]
      commit_time(st)
      call('HSET', st.p, daemon, write(PULSES, own[1], own[2], own[3], own[4], own[5], from, st.t))
    end
    return { st.t, st.skew, windows[blind.now and #windows - 1 or #windows] or {}, count, ms }
  end
  if blind.now then
    table.remove(windows)
    cause = blind.restarted and STORE_RESTARTED or NO_PULSE
  end
  if not own then
    local alone = not others_alive(st, gone)
    if newest and alone then
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
    -- Time that a step back has left ahead of the server's clock runs slower until they meet.
    -- What is counted are moments, so that it doesn't matter how many pulses there are between two of them.
    st.skew = st.skew - math.min(st.skew, math.floor(st.t / SLEW) - math.floor(newest / SLEW))
  end
  call('HSET', st.m, 'last', st.now, 'skew', int(st.skew), 'pulse', st.now)
  if not newest or blind.restarted then
    call('HSET', st.m, 'run', blind.run)
  end
  call('HSET', st.p, daemon, write(PULSES, st.t, own[2], own[3], tonumber(ends), own[5], own[6], own[7]))
  call_with('HDEL', st.p, gone)
  if cause then
    call('SET', st.w, cmsgpack.pack(windows))
    call('HSET', st.m, 'blind', int(count), 'blind_ms', int(ms))
  end
  return { st.t, st.skew, windows[#windows] or {}, count, ms }
end

register('pulse', pulse, {}) -- a full store takes no beats: it is blind
