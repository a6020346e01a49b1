-- The names of receivers. KEYS[1] is "la:receivers", a SET.

-- receivers_add: record configured receivers. ARGV: names. Result: those that were recorded before.
local function receivers_add(keys, args)
  local earlier = redis.call('SMEMBERS', keys[1])
  in_parts('SADD', keys[1], args)
  return earlier
end

-- receivers_remove: ARGV: name. Result: 1, or 0: it was not recorded.
local function receivers_remove(keys, args)
  return redis.call('SREM', keys[1], args[1])
end

register('receivers_add', receivers_add, { 'allow-oom' })
register('receivers_remove', receivers_remove, { 'allow-oom' })
