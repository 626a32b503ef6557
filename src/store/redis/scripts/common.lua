-- Prepended to every script that reads a user's sessions or revokes something.

-- How long a cutoff is kept at least, in milliseconds: a day.
local MIN_CUTOFF_TTL = 86400000

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

-- Lua would write large numbers with an exponent.
local function text(number)
  return string.format('%.0f', number)
end

-- The server's time in milliseconds.
local function server_time()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Extends a key's time to live to at least this many milliseconds.
local function extend_ttl(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- Returns a map from id to row key of the sessions that the caller has passed. A script may access only the keys passed
-- to it: if it needs others, it returns 'retry' and their ids.
local function known_rows(first_key, first_argument)
  local keys = {}
  for i = first_argument, #ARGV do
    keys[ARGV[i]] = KEYS[first_key + i - first_argument]
  end
  return keys
end

local function all_known(ids, keys)
  for _, id in ipairs(ids) do
    if not keys[id] then
      return false
    end
  end
  return true
end

-- The scope of everyone in the realm of a user, as the function `everyone` of the store module.
local function everyone(user)
  local separator = string.find(user, '\0', 1, true)
  return (separator and string.sub(user, 1, separator - 1) or '') .. '\0\0'
end

local function cutoff_number(value)
  return value and tonumber(string.match(value, '^%d+')) or 0
end

-- Returns the cutoffs of a user and of everyone, 0 if there is none.
local function cutoffs_of(cutoffs, user)
  local values = redis.call('HMGET', cutoffs, user, everyone(user))
  return cutoff_number(values[1]), cutoff_number(values[2])
end

-- Whether a cutoff has risen since a session with this field was inserted.
local function is_before(field, cutoff)
  return (tonumber(field or '') or 0) < cutoff
end

-- The next cutoff of a scope: higher than the last one, and if possible than one that was purged.
local function next_cutoff(cutoffs, scope, least)
  return math.max(cutoff_number(redis.call('HGET', cutoffs, scope)) + 1, least)
end

-- Raises the cutoff of a scope, and returns it as text. It is kept while there can be a row that it concerns: `ttl` is
-- the time to live of a key that lives as long as the last of them. An earlier cutoff may concern rows that live longer.
local function raise_cutoff(cutoffs, cutoff_expiries, scope, least, revocation, ttl)
  local now = server_time()
  local cutoff = text(next_cutoff(cutoffs, scope, math.max(least, now)))
  local last = tonumber(redis.call('ZSCORE', cutoff_expiries, scope) or 0)
  local left = math.max(ttl + 1000, MIN_CUTOFF_TTL, last - now)
  redis.call('HSET', cutoffs, scope, cutoff .. ':' .. revocation)
  redis.call('ZADD', cutoff_expiries, text(now + left), scope)
  extend_ttl(cutoffs, text(left + 1000))
  extend_ttl(cutoff_expiries, text(left + 1000))
  return cutoff
end

-- Replaces the index of a user by these sessions, given as ids with their scores. However large the old one is, the
-- server frees it in the background.
local function replace_index(index, sessions)
  local ttl = redis.call('PTTL', index)
  redis.call('UNLINK', index)
  for _, session in ipairs(sessions) do
    redis.call('ZADD', index, session.score, session.id)
  end
  if #sessions > 0 and ttl > 0 then
    redis.call('PEXPIRE', index, text(ttl))
  end
end

-- Reads the rows of the newest `window` sessions of a user's index; returns them newest first, without those that are
-- revoked or gone, which it removes from the index. Returns nothing but the ids if the caller has not passed all of them.
--
-- Sessions are in the index in the order of insertion, and so are the cutoffs of everyone as of the insert. If one was
-- revoked with everyone, so were all before it, and they are removed without reading them.
local function newest_sessions(index, window, keys, user_cutoff, everyone_cutoff)
  local pairs_ = redis.call('ZREVRANGE', index, 0, window - 1, 'WITHSCORES')
  local ids = {}
  for i = 1, #pairs_, 2 do
    table.insert(ids, pairs_[i])
  end
  if not all_known(ids, keys) then
    return ids
  end
  local sessions, dead, rest_is_dead = {}, {}, false
  for i, id in ipairs(ids) do
    local row = read_row(keys[id], 'created', 'expires', 'seen', 'revoked', 'uc', 'ec', 'idle', 'acting')
    if row and is_before(row[7], everyone_cutoff) then
      rest_is_dead = true
      break
    elseif not row or row[5] or is_before(row[6], user_cutoff) then
      table.insert(dead, id)
    else
      table.insert(sessions, {
        id = id, key = keys[id], score = pairs_[2 * i], rank = i,
        created = tonumber(row[2]), expires = tonumber(row[3]), seen = tonumber(row[4]),
        idle = tonumber(row[8] or ''), is_acting = row[9] == '1',
      })
    end
  end
  if rest_is_dead then
    replace_index(index, sessions)
  else
    for _, id in ipairs(dead) do
      redis.call('ZREM', index, id)
    end
  end
  return ids, sessions, redis.call('ZCARD', index)
end

-- Orders sessions by login, the newest first; those of one millisecond in the order of insertion.
local function newest_first(a, b)
  if a.created == b.created then
    return a.rank < b.rank
  end
  return a.created > b.created
end

-- Marks a session as revoked that is not revoked yet.
local function mark_revoked(key, revocation)
  redis.call('HSET', key, 'revoked', revocation)
  redis.call('HINCRBY', key, 'version', 1)
end

-- Adds entries to the feed and notifies the nodes. An entry's score is the server's time; if the clock is behind, the
-- score of the last entry.
local function publish(feed, channel, subjects, ttl)
  if #subjects == 0 then
    return
  end
  local written_at = text(server_time())
  local last = redis.call('ZREVRANGE', feed, 0, 0, 'WITHSCORES')[2]
  if last and tonumber(last) > tonumber(written_at) then
    written_at = last
  end
  for _, subject in ipairs(subjects) do
    redis.call('ZADD', feed, written_at, subject)
  end
  extend_ttl(feed, ttl)
  -- May be forbidden by an ACL; the nodes then learn of the entries by polling.
  redis.pcall('PUBLISH', channel, '')
end

