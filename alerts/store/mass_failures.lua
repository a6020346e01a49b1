-- Mass failures of environments whose workers are in several partitions. KEYS[1] is the base of a shard.
--   failure:<environment>  HASH  partition -> its deaths (opaque); "id", "until" of the declared failure. Expires

-- failure_join: note the deaths of a partition. ARGV: environment, partition, deaths or '' for none, keep_ms.
-- Result: {incident id or false, ms until which further deaths are part of it or false, deaths of each other partition}.
register('failure_join', 'allow-oom', function(keys, args)
  local key, others = keys[1] .. 'failure:' .. args[1], {}
  if args[3] == '' then
    redis.call('HDEL', key, args[2])
  else
    redis.call('HSET', key, args[2], args[3])
  end
  redis.call('PEXPIRE', key, args[4])
  local all = redis.call('HGETALL', key)
  for k = 1, #all, 2 do
    if all[k] ~= args[2] and all[k] ~= 'id' and all[k] ~= 'until' then
      others[#others + 1] = all[k + 1]
    end
  end
  local declared = redis.call('HMGET', key, 'id', 'until')
  return { declared[1], declared[2] and tonumber(declared[2]), others }
end)

-- failure_declare: declare a failure, or prolong the declared one. ARGV: environment, now, until, id for a new failure.
-- Result: the id of the failure.
register('failure_declare', 'allow-oom', function(keys, args)
  local key = keys[1] .. 'failure:' .. args[1]
  local declared = redis.call('HMGET', key, 'id', 'until')
  local lasts = declared[2] and tonumber(declared[2]) > tonumber(args[2])
  local id = lasts and declared[1] or args[4]
  local till = lasts and math.max(tonumber(declared[2]), tonumber(args[3])) or tonumber(args[3])
  redis.call('HSET', key, 'id', id, 'until', int(till))
  return id
end)
