#!lua name=lastseen_alerts_DIGEST
-- The delivery queue of one receiver.
--
-- DIGEST stands for a digest of this file: function names are global over libraries, and two
-- releases may run against one store.
--
-- KEYS[1] is the base of every function, "{la:<receiver>}"; all keys are made from it and share
-- its hash tag:
--   :q     ZSET   nid -> due, ms. Heads of their group keys only. A claimed one is due when its lease ends.
--   :n     HASH   nid -> msgpack {type, group key, created ms, attempts, first attempt ms or 0, lease token or 0}
--   :b     HASH   nid -> body
--   :k:<group key>  LIST of nids in order; the first is the head
--   :done  ZSET   nid -> when its outcome was recorded, ms
--   :dead  STREAM the dead letters
--   :m     HASH   lease -> the last lease token given out
-- Times are milliseconds of the store's clock, given by the caller. Every function reads and
-- validates what it needs before its first write: there is no rollback.

local TYPE, KEY, CREATED, ATTEMPTS, FIRST, TOKEN = 1, 2, 3, 4, 5, 6
local LIMIT = 100

local function fail(text)
  return redis.error_reply('ERR lastseen alerts: ' .. text)
end

local function int(n)
  return string.format('%d', n)
end

-- A whole number from 0 to 2^53, or nil.
local function number(text)
  local n = tonumber(text)
  if n and n >= 0 and n <= 9007199254740992 and n == math.floor(n) then
    return n
  end
  return nil
end

local function is_type(key, wanted)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == wanted
end

-- The name of a key that is not what it should be, or nil.
local function foreign(base)
  for _, pair in ipairs({{':q', 'zset'}, {':n', 'hash'}, {':b', 'hash'}, {':done', 'zset'}, {':dead', 'stream'}, {':m', 'hash'}}) do
    if not is_type(base .. pair[1], pair[2]) then
      return base .. pair[1]
    end
  end
  return nil
end

-- The record of a notification that is leased under `token`; or nil and why it is not.
local function leased(base, nid, token)
  local packed = redis.call('HGET', base .. ':n', nid)
  if not packed then
    return nil, 'gone'
  end
  local record = cmsgpack.unpack(packed)
  if record[TOKEN] ~= token then
    return nil, 'lease_lost'
  end
  return record, nil
end

-- Records an outcome: the notification leaves the queue, the next of its group key becomes due.
-- Then forgets at most `limit` outcomes older than `keep_ms`, never one of the newest `keep`.
local function close(base, nid, record, now, keep_ms, keep, limit)
  local list = base .. ':k:' .. record[KEY]
  redis.call('ZREM', base .. ':q', nid)
  redis.call('HDEL', base .. ':n', nid)
  redis.call('HDEL', base .. ':b', nid)
  redis.call('LREM', list, 1, nid)
  redis.call('ZADD', base .. ':done', int(now), nid)
  local head = redis.call('LINDEX', list, 0)
  if head then
    redis.call('ZADD', base .. ':q', 'NX', int(now), head)
  end
  local spare = redis.call('ZCARD', base .. ':done') - keep
  if spare > 0 and now > keep_ms then
    local old = redis.call('ZRANGE', base .. ':done', '-inf', int(now - keep_ms), 'BYSCORE', 'LIMIT', 0, math.min(spare, limit))
    if #old > 0 then
      redis.call('ZREM', base .. ':done', unpack(old))
    end
  end
end

local function add_dead(base, bound, nid, now, record, body, reason)
  redis.call('XADD', base .. ':dead', 'MAXLEN', '~', int(bound), '*',
    'nid', nid, 'type', record[TYPE], 'key', record[KEY], 'created_ms', int(record[CREATED]),
    'attempts', int(record[ATTEMPTS]), 'first_attempt_ms', int(record[FIRST]), 'dead_ms', int(now),
    'reason', reason, 'body', body)
end

-- put: queue notifications; one that is queued or has an outcome is left as it is.
-- ARGV: now ms, then at most 100 times nid, type, group key, created ms, body.
-- Result: how many were new.
local function put(keys, args)
  local base, now, count = keys[1], number(args[1]), (#args - 1) / 5
  if not now or count ~= math.floor(count) or count > LIMIT then
    return fail('put: arguments')
  end
  local wrong = foreign(base)
  if wrong then
    return fail('put: type of ' .. wrong)
  end
  local fresh, seen = {}, {}
  for i = 0, count - 1 do
    local nid, key, created = args[5 * i + 2], args[5 * i + 4], number(args[5 * i + 5])
    if not created then
      return fail('put: created of ' .. nid)
    end
    if not is_type(base .. ':k:' .. key, 'list') then
      return fail('put: type of ' .. base .. ':k:' .. key)
    end
    if not seen[nid] and redis.call('HEXISTS', base .. ':n', nid) == 0 and not redis.call('ZSCORE', base .. ':done', nid) then
      fresh[#fresh + 1] = {nid, args[5 * i + 3], key, created, args[5 * i + 6]}
    end
    seen[nid] = true
  end
  for _, item in ipairs(fresh) do
    local nid, kind, key, created, body = item[1], item[2], item[3], item[4], item[5]
    redis.call('HSET', base .. ':n', nid, cmsgpack.pack({kind, key, created, 0, 0, 0}))
    redis.call('HSET', base .. ':b', nid, body)
    if redis.call('RPUSH', base .. ':k:' .. key, nid) == 1 then
      redis.call('ZADD', base .. ':q', int(now), nid)
    end
  end
  return #fresh
end

-- claim: lease the notifications that are due, longest due first, and count an attempt for each.
-- ARGV: now ms, lease ms, limit (at most 100).
-- Result: 8 strings for each: nid, type, group key, body, created ms, attempts, first attempt ms, lease token.
local function claim(keys, args)
  local base, now, lease, limit = keys[1], number(args[1]), number(args[2]), number(args[3])
  if not now or not lease or not limit or limit < 1 or limit > LIMIT then
    return fail('claim: arguments')
  end
  local wrong = foreign(base)
  if wrong then
    return fail('claim: type of ' .. wrong)
  end
  local due = redis.call('ZRANGE', base .. ':q', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, int(limit))
  local found, orphans = {}, {}
  for _, nid in ipairs(due) do
    local packed, body = redis.call('HGET', base .. ':n', nid), redis.call('HGET', base .. ':b', nid)
    if packed and body then
      found[#found + 1] = {nid, cmsgpack.unpack(packed), body}
    else
      orphans[#orphans + 1] = nid -- without a record there is nothing to send; it must not block the others
    end
  end
  if #orphans > 0 then
    redis.call('ZREM', base .. ':q', unpack(orphans))
  end
  local result = {}
  for _, item in ipairs(found) do
    local nid, record, body = item[1], item[2], item[3]
    record[ATTEMPTS] = record[ATTEMPTS] + 1
    if record[FIRST] == 0 then
      record[FIRST] = now
    end
    record[TOKEN] = redis.call('HINCRBY', base .. ':m', 'lease', 1)
    redis.call('HSET', base .. ':n', nid, cmsgpack.pack(record))
    redis.call('ZADD', base .. ':q', int(now + lease), nid)
    for _, value in ipairs({nid, record[TYPE], record[KEY], body, int(record[CREATED]), int(record[ATTEMPTS]), int(record[FIRST]), int(record[TOKEN])}) do
      result[#result + 1] = value
    end
  end
  return result
end

-- complete: record that a notification was delivered.
-- ARGV: nid, lease token, now ms, how long outcomes are kept ms, how many are kept whatever their age, limit (at most 100).
-- Result: "done", or why nothing was done: "lease_lost", "gone".
local function complete(keys, args)
  local base, nid, token, now = keys[1], args[1], number(args[2]), number(args[3])
  local keep_ms, keep, limit = number(args[4]), number(args[5]), number(args[6])
  if not token or not now or not keep_ms or not keep or not limit or limit > LIMIT then
    return fail('complete: arguments')
  end
  local wrong = foreign(base)
  if wrong then
    return fail('complete: type of ' .. wrong)
  end
  local record, why = leased(base, nid, token)
  if not record then
    return why
  end
  close(base, nid, record, now, keep_ms, keep, limit)
  return 'done'
end

-- postpone: end a lease; the notification is due again later.
-- ARGV: nid, lease token, due ms, attempts to take back (0, or 1 when nothing was sent).
-- Result: as for complete.
local function postpone(keys, args)
  local base, nid, token, due, unsent = keys[1], args[1], number(args[2]), number(args[3]), number(args[4])
  if not token or not due or not unsent or unsent > 1 then
    return fail('postpone: arguments')
  end
  local wrong = foreign(base)
  if wrong then
    return fail('postpone: type of ' .. wrong)
  end
  local record, why = leased(base, nid, token)
  if not record then
    return why
  end
  record[ATTEMPTS] = math.max(0, record[ATTEMPTS] - unsent)
  if record[ATTEMPTS] == 0 then
    record[FIRST] = 0
  end
  record[TOKEN] = 0
  redis.call('HSET', base .. ':n', nid, cmsgpack.pack(record))
  redis.call('ZADD', base .. ':q', int(due), nid)
  return 'done'
end

-- bury: record that a notification is given up, as a dead letter.
-- ARGV: as for complete, then the bound of the dead letters, and the reason.
-- Result: as for complete.
local function bury(keys, args)
  local base, nid, token, now = keys[1], args[1], number(args[2]), number(args[3])
  local keep_ms, keep, limit, bound, reason = number(args[4]), number(args[5]), number(args[6]), number(args[7]), args[8]
  if not token or not now or not keep_ms or not keep or not limit or limit > LIMIT or not bound or not reason then
    return fail('bury: arguments')
  end
  local wrong = foreign(base)
  if wrong then
    return fail('bury: type of ' .. wrong)
  end
  local record, why = leased(base, nid, token)
  if not record then
    return why
  end
  add_dead(base, bound, nid, now, record, redis.call('HGET', base .. ':b', nid) or '', reason)
  close(base, nid, record, now, keep_ms, keep, limit)
  return 'done'
end

-- reject: record a dead letter for something that could not be queued, once per nid.
-- ARGV: nid, type, group key, now ms, the bound of the dead letters, reason, body.
-- Result: 1, or 0 when the nid is queued or has an outcome.
local function reject(keys, args)
  local base, nid, now, bound = keys[1], args[1], number(args[4]), number(args[5])
  if not now or not bound or not args[7] then
    return fail('reject: arguments')
  end
  local wrong = foreign(base)
  if wrong then
    return fail('reject: type of ' .. wrong)
  end
  if redis.call('HEXISTS', base .. ':n', nid) == 1 or redis.call('ZSCORE', base .. ':done', nid) then
    return 0
  end
  add_dead(base, bound, nid, now, {args[2], args[3], now, 0, 0, 0}, args[7], args[6])
  redis.call('ZADD', base .. ':done', int(now), nid)
  return 1
end

-- stats: the state of the queue.
-- ARGV: now ms.
-- Result: number queued, how long the longest due has been due in ms (0 when none is), number of dead letters.
local function stats(keys, args)
  local base, now = keys[1], number(args[1])
  if not now then
    return fail('stats: arguments')
  end
  local first, lag = redis.call('ZRANGE', base .. ':q', 0, 0, 'WITHSCORES'), 0
  if first[2] then
    lag = math.max(0, now - tonumber(first[2]))
  end
  return {redis.call('HLEN', base .. ':n'), lag, redis.call('XLEN', base .. ':dead')}
end

-- allow-oom: what only drains the queue must work on a full store, or it never recovers.
redis.register_function{function_name = 'la_put_DIGEST', callback = put}
redis.register_function{function_name = 'la_claim_DIGEST', callback = claim, flags = {'allow-oom'}}
redis.register_function{function_name = 'la_complete_DIGEST', callback = complete, flags = {'allow-oom'}}
redis.register_function{function_name = 'la_postpone_DIGEST', callback = postpone, flags = {'allow-oom'}}
redis.register_function{function_name = 'la_bury_DIGEST', callback = bury, flags = {'allow-oom'}}
redis.register_function{function_name = 'la_reject_DIGEST', callback = reject}
redis.register_function{function_name = 'la_stats_DIGEST', callback = stats, flags = {'no-writes'}}
