-- Silences. KEYS[1] is the base of a shard:
--   silences:<tenant>         HASH  id -> silence (opaque)
--   silences_active:<tenant>  ZSET  id -> end, ms, of silences that are not known to be over
--   silences_over:<tenant>    ZSET  id -> end, ms, of silences that are over
--   silences_versions         HASH  tenant -> version, a text that differs after each change

-- Move silences that are over to `over`, and delete the oldest there.
local function tidy(base, tenant, now, keep_ms, keep)
  local active, over = base .. 'silences_active:' .. tenant, base .. 'silences_over:' .. tenant
  local ended = redis.call('ZRANGE', active, '-inf', int(now), 'BYSCORE', 'WITHSCORES')
  for k = 1, #ended, 2 do
    redis.call('ZREM', active, ended[k])
    redis.call('ZADD', over, ended[k + 1], ended[k])
  end
  local old = spare(over, now, keep_ms, 0, keep, redis.call('ZCARD', over))
  in_parts('ZREM', over, old)
  in_parts('HDEL', base .. 'silences:' .. tenant, old)
end

-- silences_add: add a silence.
-- ARGV: tenant, now, keep_ms, keep (maximum that are over), most (maximum of the others), id, end, silence.
-- Result: 1, or 0: there are `most` already. Adding the same silence again changes nothing.
register('silences_add', 'allow-oom', function(keys, args)
  local base, tenant, now, id = keys[1], args[1], tonumber(args[2]), args[6]
  if redis.call('HEXISTS', base .. 'silences:' .. tenant, id) == 1 then
    return 1
  end
  tidy(base, tenant, now, tonumber(args[3]), tonumber(args[4]))
  if redis.call('ZCARD', base .. 'silences_active:' .. tenant) >= tonumber(args[5]) then
    return 0
  end
  redis.call('HSET', base .. 'silences:' .. tenant, id, args[8])
  redis.call('ZADD', base .. 'silences_active:' .. tenant, args[7], id)
  redis.call('HSET', base .. 'silences_versions', tenant, id)
  return 1
end)

-- silences_end: ARGV: tenant, now, keep_ms, keep, id, the ended silence. Result: 1, or 0: the silence was over already.
register('silences_end', 'allow-oom', function(keys, args)
  local base, tenant, now, id = keys[1], args[1], tonumber(args[2]), args[5]
  tidy(base, tenant, now, tonumber(args[3]), tonumber(args[4]))
  if redis.call('ZREM', base .. 'silences_active:' .. tenant, id) == 0 then
    return 0
  end
  redis.call('ZADD', base .. 'silences_over:' .. tenant, int(now), id)
  redis.call('HSET', base .. 'silences:' .. tenant, id, args[6])
  redis.call('HSET', base .. 'silences_versions', tenant, 'end ' .. id)
  return 1
end)

-- silences_of: silences of tenants that are not known to be over.
-- ARGV: {tenant, the caller's version or ''}*, at most 100. Result: for each {version, silences or false: unchanged}.
register('silences_of', 'no-writes', function(keys, args)
  local base, result = keys[1], {}
  for k = 1, #args, 2 do
    local tenant = args[k]
    local version, found = redis.call('HGET', base .. 'silences_versions', tenant) or '', false
    if version ~= args[k + 1] then
      found = {}
      for _, id in ipairs(redis.call('ZRANGE', base .. 'silences_active:' .. tenant, 0, -1)) do
        found[#found + 1] = redis.call('HGET', base .. 'silences:' .. tenant, id) or nil
      end
    end
    result[#result + 1] = { version, found }
  end
  return result
end)

-- silences_list: ARGV: tenant. Result: all its silences, unordered.
register('silences_list', 'no-writes', function(keys, args)
  return redis.call('HVALS', keys[1] .. 'silences:' .. args[1])
end)

-- silences_get: ARGV: tenant, id. Result: the silence, or false.
register('silences_get', 'no-writes', function(keys, args)
  return redis.call('HGET', keys[1] .. 'silences:' .. args[1], args[2])
end)
