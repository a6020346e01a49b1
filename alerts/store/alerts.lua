--[[ The function library of the alerts: the only writer of their data.

This file has the shared code. A line `-- include: NAME` is replaced by the file of that name beside it. A `do` block
around includes keeps their local names apart. The line above this comment is generated: PREFIX, the library's name with
a digest of its source.

Each function gets one key, its base key, and derives all others from it, with the same hash tag. Times are milliseconds
of the store's clock, given by the caller. The callers are the Python files beside this one, of the same release, so the
arguments are not checked. Every function reads and validates what it needs before its first write: there is no rollback.
]]

local LIMIT, PAGE, CHUNK = 100, 500, 1000

-- Each function is registered at the end of its file. Flags: no-writes for functions that only read; allow-oom for all
-- others. The path from an event to a delivered notification must work on a full store. Otherwise the events that fill
-- the store could never be delivered and trimmed. Operators, too, need acknowledgements and silences most while the
-- store is full. A full store accepts no beats, so the events recorded before bound what the alerts can add.
local function register(name, callback, flags)
  redis.register_function({ function_name = PREFIX .. name, callback = callback, flags = flags })
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

do
-- include: groups.lua

-- include: reading.lua
end

do
-- include: incidents.lua
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
