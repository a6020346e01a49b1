#!lua name=lastseen_mass_DIGEST
-- What is counted of environments in which workers die.
--
-- KEYS[1] is "{la.mass}", a HASH: environment -> msgpack {version, state (opaque)}.

-- mass_read: ARGV: environments, at most 100. Result: for each {version (0: there is none), state or false}.
local function mass_read(keys, args)
  if #args > 100 then
    return redis.error_reply('ERR lastseen alerts: mass_read: arguments')
  end
  local result = {}
  for k, name in ipairs(args) do
    local packed = redis.call('HGET', keys[1], name)
    local known = packed and cmsgpack.unpack(packed) or { 0, false }
    result[k] = { known[1], known[2] }
  end
  return result
end

-- mass_write: ARGV: environment, version that was read, state ('' to forget it).
-- Result: 1, or 0: somebody else has written since.
local function mass_write(keys, args)
  local packed = redis.call('HGET', keys[1], args[1])
  local version = packed and cmsgpack.unpack(packed)[1] or 0
  if version ~= tonumber(args[2]) then
    return 0
  end
  if args[3] == '' then
    redis.call('HDEL', keys[1], args[1])
  else
    redis.call('HSET', keys[1], args[1], cmsgpack.pack({ version + 1, args[3] }))
  end
  return 1
end

redis.register_function{function_name = 'la_mass_read_DIGEST', callback = mass_read, flags = {'no-writes'}}
redis.register_function{function_name = 'la_mass_write_DIGEST', callback = mass_write, flags = {'allow-oom'}}
