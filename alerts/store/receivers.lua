-- Receivers. KEYS[1] is the base of a partition or shard:
--   receivers      SET   names of receivers, in shard 0
--   receivers_due  ZSET  receiver -> when its first group here is due, ms; see groups.lua

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

-- stats: status of queues. ARGV: now ms, then receivers.
-- Result: for each {notifications in flight; lag ms: age of the notification longest in flight, or time since the group
--   longest due became due, whichever is longer, 0 without either; dead letters; groups; dead letters that are neither
--   over nor handled by an operator; why the receiver is disabled or false}.
register('stats', 'no-writes', function(keys, args)
  local now, result = tonumber(args[1]), {}
  for k = 2, #args do
    local base, lag = keys[1] .. 'to:' .. args[k] .. ':', 0
    for _, set in ipairs({ 'queue', 'open' }) do -- a group in retries is never due for long, hence open
      local first = redis.call('ZRANGE', base .. set, 0, 0, 'WITHSCORES')
      if first[2] then
        lag = math.max(lag, now - tonumber(first[2]))
      end
    end
    result[k - 1] = {
      redis.call('ZCARD', base .. 'open'), lag, redis.call('ZCARD', base .. 'dead'),
      redis.call('HLEN', base .. 'groups'), redis.call('ZCARD', base .. 'dead_open'),
      redis.call('HGET', base .. 'state', 'disabled'),
    }
  end
  return result
end)

-- queues: the queues in which a group is due at some time.
-- Result: for each {receiver, when its first group is due ms, dead letters as in stats}.
register('queues', 'no-writes', function(keys)
  local result, found = {}, redis.call('ZRANGE', keys[1] .. 'receivers_due', 0, -1, 'WITHSCORES')
  for k = 1, #found, 2 do
    local dead = redis.call('ZCARD', keys[1] .. 'to:' .. found[k] .. ':dead_open')
    result[#result + 1] = { found[k], tonumber(found[k + 1]), dead }
  end
  return result
end)
