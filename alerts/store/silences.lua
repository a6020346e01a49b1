-- Silences. KEYS[1] is "{la.silences}":
--   :s:<tenant>  HASH  id -> silence (opaque)
--   :a:<tenant>  ZSET  id -> end, ms, of silences that are not known to be over
--   :x:<tenant>  ZSET  id -> end, ms, of silences that are over
--   :v           HASH  tenant -> version, a text that differs after each change

-- Move silences that are over to `:x`, and delete the oldest there.
local function tidy(base, tenant, now, keep_ms, keep)
  local active, over = base .. ':a:' .. tenant, base .. ':x:' .. tenant
  local ended = redis.call('ZRANGE', active, '-inf', int(now), 'BYSCORE', 'WITHSCORES')
  for k = 1, #ended, 2 do
    redis.call('ZREM', active, ended[k])
    redis.call('ZADD', over, ended[k + 1], ended[k])
  end
  local old = spare(over, now, keep_ms, 0, keep, redis.call('ZCARD', over))
  in_parts('ZREM', over, old)
  in_parts('HDEL', base .. ':s:' .. tenant, old)
end

-- silences_add: add a silence.
-- ARGV: tenant, now, keep_ms, keep (maximum that are over), most (maximum of the others), id, end, silence.
-- Result: 1, or 0: there are `most` already. Adding the same silence again changes nothing.
register('silences_add', 'allow-oom', function(keys, args)
  local base, tenant, now, id = keys[1], args[1], tonumber(args[2]), args[6]
  if redis.call('HEXISTS', base .. ':s:' .. tenant, id) == 1 then
    return 1
  end
  tidy(base, tenant, now, tonumber(args[3]), tonumber(args[4]))
  if redis.call('ZCARD', base .. ':a:' .. tenant) >= tonumber(args[5]) then
    return 0
  end
  redis.call('HSET', base .. ':s:' .. tenant, id, args[8])
  redis.call('ZADD', base .. ':a:' .. tenant, args[7], id)
  redis.call('HSET', base .. ':v', tenant, id)
  return 1
end)

-- silences_end: ARGV: tenant, now, keep_ms, keep, id, the ended silence. Result: 1, or 0: the silence was over already.
register('silences_end', 'allow-oom', function(keys, args)
  local base, tenant, now, id = keys[1], args[1], tonumber(args[2]), args[5]
  tidy(base, tenant, now, tonumber(args[3]), tonumber(args[4]))
  if redis.call('ZREM', base .. ':a:' .. tenant, id) == 0 then
    return 0
  end
  redis.call('ZADD', base .. ':x:' .. tenant, int(now), id)
  redis.call('HSET', base .. ':s:' .. tenant, id, args[6])
  redis.call('HSET', base .. ':v', tenant, 'end ' .. id)
  return 1
end)

-- silences_of: silences of tenants that are not known to be over.
-- ARGV: {tenant, the caller's version or ''}*, at most 100. Result: for each {version, silences or false: unchanged}.
register('silences_of', 'no-writes', function(keys, args)
  local base, result = keys[1], {}
  for k = 1, #args, 2 do
    local tenant = args[k]
    local version, found = redis.call('HGET', base .. ':v', tenant) or '', false
    if version ~= args[k + 1] then
      found = {}
      for _, id in ipairs(redis.call('ZRANGE', base .. ':a:' .. tenant, 0, -1)) do
        found[#found + 1] = redis.call('HGET', base .. ':s:' .. tenant, id) or nil
      end
    end
    result[#result + 1] = { version, found }
  end
  return result
end)

-- silences_list: ARGV: tenant. Result: all its silences, unordered.
register('silences_list', 'no-writes', function(keys, args)
  return redis.call('HVALS', keys[1] .. ':s:' .. args[1])
end)

-- silences_get: ARGV: tenant, id. Result: the silence, or false.
register('silences_get', 'no-writes', function(keys, args)
  return redis.call('HGET', keys[1] .. ':s:' .. args[1], args[2])
end)
