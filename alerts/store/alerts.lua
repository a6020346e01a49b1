--[[ The function library of the alerts: the only writer of their data.

This file has the shared code. A line `-- include: NAME` is replaced by the file of that name beside it. A `do` block
around includes keeps their local names apart. The line above this comment is generated: PREFIX, the library's name with
a digest of its source.

Each function gets two keys of one hash tag: its base, from which it derives all others, and the tag's anchor, which always
exists (see lastseen.lua). In a tag that is not founded it answers NOTFOUNDED. Times are milliseconds
of the store's clock, given by the caller. The callers are the Python files beside this one, of the same release, so of
the arguments only the lengths of lists are checked. Every function reads and validates what it needs before its first
write: there is no rollback.
]]

local LIMIT, PAGE, CHUNK = 100, 500, 1000

-- Register a function. Flags: no-writes for functions that only read; allow-oom for all others. The path from an event to
-- a delivered notification must work on a full store. Otherwise the events that fill the store could never be delivered
-- and trimmed. Operators, too, need acknowledgements and silences most while the store is full. A full store accepts no
-- beats, so the events recorded before bound what the alerts can add.
local function register(name, flag, callback)
  redis.register_function({
    function_name = PREFIX .. name, flags = { flag },
    callback = function(keys, args)
      if redis.call('EXISTS', keys[2]) == 0 then
        return redis.error_reply('NOTFOUNDED ' .. keys[2])
      end
      return callback(keys, args)
    end,
  })
end

local function fail(text)
  return redis.error_reply('ERR lastseen alerts: ' .. text)
end

local function int(n)
  return string.format('%d', n)
end

-- Run a command with a list of arguments of any length, in bounded parts.
local function in_parts(command, key, list)
  for from = 1, #list, CHUNK do
    redis.call(command, key, unpack(list, from, math.min(from + CHUNK - 1, #list)))
  end
end

-- Unpack a list that a function goes through: of at most LIMIT entries, so that the store is never blocked for long.
local function bounded(packed)
  local list = cmsgpack.unpack(packed)
  assert(#list <= LIMIT, 'lastseen alerts: a list is too long')
  return list
end

-- The msgpack value of a hash field, or nil.
local function stored(key, field)
  local packed = redis.call('HGET', key, field)
  return packed and cmsgpack.unpack(packed) or nil
end

-- The oldest entries of a sorted set, to be deleted: those older than `age_ms` except the newest `keep`, and those
-- beyond the newest `most`. At most `limit`.
local function spare(set, now, age_ms, keep, most, limit)
  local count, old = redis.call('ZCARD', set), {}
  if count > keep and now > age_ms then
    local aged = math.min(count - keep, limit)
    old = redis.call('ZRANGE', set, '-inf', int(now - age_ms), 'BYSCORE', 'LIMIT', 0, int(aged))
  end
  local beyond = math.min(count - most, limit)
  return #old < beyond and redis.call('ZRANGE', set, 0, int(beyond - 1)) or old
end

do
-- include: groups.lua

-- include: reading.lua

-- include: incidents.lua

-- include: routing.lua
end

do
-- include: silences.lua
end

do
-- include: mass_failures.lua
end

do
-- include: receivers.lua
end
