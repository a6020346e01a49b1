-- Mass failures: recent deaths per environment.
--
-- KEYS[1] is the base of a shard. `failures` is a HASH: environment -> msgpack {version, state (opaque)}; `failures_written` a ZSET:
-- environment -> when its state was written, ms of the store's clock, given by the caller.

-- mass_read: ARGV: environment. Result: {version (0: no state), state or false}.
register('mass_read', 'no-writes', function(keys, args)
  return stored(keys[1] .. 'failures', args[1]) or { 0, false }
end)

-- mass_write: ARGV: environment, version that was read, state ('' to delete it), now, keep_ms. States older than
-- keep_ms are obsolete and are deleted, a few per call. Result: 1, or 0: another process has written since.
register('mass_write', 'allow-oom', function(keys, args)
  local failures, at = keys[1] .. 'failures', keys[1] .. 'failures_written'
  local version = (stored(failures, args[1]) or { 0 })[1]
  if version ~= tonumber(args[2]) then
    return 0
  end
  if args[3] == '' then
    redis.call('HDEL', failures, args[1])
    redis.call('ZREM', at, args[1])
  else
    redis.call('HSET', failures, args[1], cmsgpack.pack({ version + 1, args[3] }))
    redis.call('ZADD', at, args[4], args[1])
  end
  local before = int(tonumber(args[4]) - tonumber(args[5]))
  for _, name in ipairs(redis.call('ZRANGE', at, '-inf', before, 'BYSCORE', 'LIMIT', 0, 4)) do
    redis.call('HDEL', failures, name)
    redis.call('ZREM', at, name)
  end
  return 1
end)
