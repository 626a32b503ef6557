-- Prepended to every script that reads a user's sessions or revokes something.

-- Returns the format and these fields of a row, or nothing if it does not exist. Rows in another format are an error.
local function read_row(key, ...)
  local values = redis.call('HMGET', key, 'v', ...)
  if values[1] == '1' then
    return values
  end
  if redis.call('EXISTS', key) == 1 then
    error('session written by another version of axum-refresh: ' .. key)
  end
end

-- Extends a key's time to live to at least this many milliseconds.
local function extend_ttl(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- Returns the ids of a user's sessions in the order of insertion, and a map from id to row key. A script may access
-- only the keys passed to it, so if there are sessions that the caller did not pass, the map is missing.
local function user_sessions(index, first_key, first_argument)
  local keys = {}
  for i = first_argument, #ARGV do
    keys[ARGV[i]] = KEYS[first_key + i - first_argument]
  end
  local ids = redis.call('ZRANGE', index, 0, -1)
  for _, id in ipairs(ids) do
    if not keys[id] then
      return ids
    end
  end
  return ids, keys
end

-- Marks a session as revoked that is not revoked yet.
local function mark_revoked(key, revocation)
  redis.call('HSET', key, 'revoked', revocation)
  redis.call('HINCRBY', key, 'version', 1)
end

-- Adds entries to the feed and notifies the nodes. An entry's score is the server's time; if the clock is behind, the
-- score of the last entry.
local function publish(feed, feed_expiries, channel, subjects, expires_at, ttl)
  if #subjects == 0 then
    return
  end
  local time = redis.call('TIME')
  local written_at = time[1] * 1000 + math.floor(time[2] / 1000)
  local last = redis.call('ZREVRANGE', feed, 0, 0, 'WITHSCORES')[2]
  if last and tonumber(last) > written_at then
    written_at = last
  end
  for _, subject in ipairs(subjects) do
    local entry = expires_at .. ':' .. subject
    redis.call('ZADD', feed, written_at, entry)
    redis.call('ZADD', feed_expiries, expires_at, entry)
  end
  extend_ttl(feed, ttl)
  extend_ttl(feed_expiries, ttl)
  -- May be forbidden by an ACL; the nodes then learn of the entries by polling.
  redis.pcall('PUBLISH', channel, '')
end

