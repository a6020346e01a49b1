local function fail(text)
  return redis.error_reply('ERR lastseen alerts: ' .. text)
end

local function int(n)
  return string.format('%d', n)
end
