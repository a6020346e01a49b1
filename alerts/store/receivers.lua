-- The names of receivers. KEYS[1] is the base of shard 0, which has a SET of them.

-- receivers_add: record configured receivers. ARGV: names. Result: those that were recorded before.
register('receivers_add', 'allow-oom', function(keys, args)
  local earlier = redis.call('SMEMBERS', keys[1] .. 'receivers')
  in_parts('SADD', keys[1] .. 'receivers', args)
  return earlier
end)

-- receivers_remove: ARGV: name. Result: 1, or 0: it was not recorded.
register('receivers_remove', 'allow-oom', function(keys, args)
  return redis.call('SREM', keys[1] .. 'receivers', args[1])
end)
