-- Revocations -----------------------------------------------------------------------------------------
-- Revoked tokens, in partition 0 only. The list is only stored here: the daemons check tokens.

-- revoke --------------------------------------------------------------------------------------------
-- Revokes tokens from now on. ARGV: tenant, claim, value, limit of a tenant, limit of all tenants.
-- Result: {t, outcome, run_number}: STORED, or REFUSED when a limit is reached. Events: none.
-- Runs while the store is full, which must not keep a stolen token valid.
register('revoke', { 'allow-oom' }, function(st, args)
  local run = run_number()
  local field, count = 'r' .. args[2] .. #args[1] .. ':' .. args[1] .. args[3], 'n' .. args[1]
  local known = call('HMGET', st.keys.revocations, field, count)
  if not known[1] then
    if (tonumber(known[2]) or 0) >= tonumber(args[4]) or call('HLEN', st.keys.revocations) >= tonumber(args[5]) then
      return { st.t, REFUSED, run }
    end
    call('HINCRBY', st.keys.revocations, count, 1)
  end
  commit_time(st)
  local revision = st.now .. '-' .. call('HINCRBY', st.keys.revocations, '#', 1)
  call('HSET', st.keys.revocations, field, cmsgpack.pack({ args[1], args[2], args[3], st.t }), '!', revision)
  return { st.t, STORED, run }
end)

-- revoked -------------------------------------------------------------------------------------------
-- All revocations, if they have changed. ARGV[1]: the revision that the caller knows, or ''. Result: {t, revision ('' for
-- none), packed {tenant, claim, value, since}*}; no revocations if the revision is known. Events: none.
register('revoked', { 'no-writes' }, function(st, args)
  local revision, found = call('HGET', st.keys.revocations, '!') or '', {}
  if revision ~= args[1] then
    local all = call('HGETALL', st.keys.revocations)
    for k = 1, #all, 2 do
      if sub(all[k], 1, 1) == 'r' then
        found[#found + 1] = all[k + 1]
      end
    end
  end
  return { st.t, revision, found }
end)
