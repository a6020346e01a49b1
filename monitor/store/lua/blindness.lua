-- Blindness ---------------------------------------------------------------------------------------
-- Spans in which no beat could be accepted, and their effect on deadlines; monitor/blindness.py explains it.

-- The ID of this run of the server. It changes when the server restarts, or after a failover.
local function run_id()
  return string.match(call('INFO', 'server'), 'run_id:(%w+)')
end

-- The run ID as a number. Two answers with the same number come from the same run of the same server.
local function run_number()
  return tonumber(string.sub(run_id(), 1, 8), 16)
end

-- Unpacks a daemon's pulses: {newest, begin and end of its newest gap (0: none), ended (1|0), first, begin and newest
-- moment of its newest lag (0: none)}.
local PULSES = '>I6I6I6BI6I6I6'
local function pulses_of(packed)
  return packed and { read(PULSES, packed .. string.rep('\0', 37 - #packed)) } or nil
end

-- The pulses of the daemon that took a worker's last beat. Cached: many workers of a call may have the same daemon.
local function pulses_by(st, daemon)
  st.pulses = st.pulses or {}
  if st.pulses[daemon] == nil then
    st.pulses[daemon] = pulses_of(call('HGET', st.keys.pulses, daemon)) or false
  end
  return st.pulses[daemon]
end

-- {windows = {begin, end}*, oldest first; newest = newest pulse or nil; now = whether t is in a window that no pulse has
-- ended yet, which is then the last}. Before the first pulse ever nothing is known, and nothing is blind.
local function blindness(st)
  local found = st.blindness
  if not found then
    local known = call('HMGET', st.keys.meta, 'pulse', 'run')
    found = { windows = unpacked(call('GET', st.keys.windows)) or {}, newest = tonumber(known[1]), run = run_id() }
    found.restarted = known[2] and known[2] ~= found.run
    if found.newest and (found.restarted or st.t - found.newest > GAP_MS) then
      found.windows[#found.windows + 1] = { found.newest, st.t }
      found.now = true
    end
    st.blindness = found
  end
  return found
end

-- The deadline after credits, and the number of windows that were not credited because of SHORT_CREDITS.
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

-- The latest deadline, before credits, that has passed at t: any later one is open, or was moved past t. One number for
-- all workers of an interval and grace, since credits keep the order of deadlines.
local function cutoff(st, allowance, interval)
  local windows = blindness(st).windows
  if #windows == 0 or windows[#windows][2] + allowance <= st.t then
    return st.t
  end
  st.cutoff = st.cutoff or {}
  local key = allowance .. ':' .. interval
  if not st.cutoff[key] then
    local low, high = windows[1][1], st.t -- no window moves a deadline at or before the first begin
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

-- The moment before which everything is older than span, blind time left out: in a window nothing ages.
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

-- The monitor's blind time within [from, t): {ms, end of the last window, windows, uncredited}, or false for none.
local function missed(st, from, uncredited)
  local ms, till, count = 0, 0, 0
  for _, window in ipairs(blindness(st).windows) do
    if window[2] > from then
      ms, till, count = ms + window[2] - math.max(window[1], from), window[2], count + 1
    end
  end
  return count > 0 and { ms, till, count, uncredited }
end

-- Whether another daemon was there both before and after a window.
local function is_bridged(st, window, daemon)
  local all = call('HGETALL', st.keys.pulses)
  for k = 1, #all, 2 do
    local known = pulses_of(all[k + 1])
    if all[k] ~= daemon and known[5] <= window[1] and known[1] >= window[2] then
      return true
    end
  end
  return false
end

-- The gap of the daemon that took a worker's last beat: begin and end, or nil.
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
      -- No other daemon was there then, so the window already covers it. The time after the window is a new gap of this
      -- daemon only if others were there before and after the window. If not, the daemon may just have been restarted
      -- under another name.
      if till - window[2] <= GAP_MS or not is_bridged(st, window, daemon) then
        return nil
      end
      from = window[2]
    end
  end
  return from, till
end

-- The newest lag of the daemon that took a worker's last beat: begin and end, or nil. While the lag
-- lasts, the daemon's workers can't be distinguished from dead ones, whichever other daemons are there. A lag counts if
-- it is longer than GAP_MS; one that is over must also be no shorter than the interval: hiccups must not hide deaths.
local function lag_of(st, daemon, interval)
  local own = pulses_by(st, daemon)
  if own and own[7] > 0 then
    local is_ongoing = own[1] < own[7] and st.t - own[7] <= BEHIND_MS
    local ended = is_ongoing and st.t or own[7]
    if ended - own[6] > (is_ongoing and GAP_MS or math.max(GAP_MS, interval - 1)) then
      return own[6], ended
    end
  end
end
