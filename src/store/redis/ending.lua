-- What comes before every script that looks at the sessions of a user, or ends something.

-- What a row says; nothing where there is none. A row of another format is not guessed at.
local function read(key, ...)
  local values = redis.call('HMGET', key, 'v', ...)
  if values[1] == '1' then
    return values
  end
  if redis.call('EXISTS', key) == 1 then
    error('a session in a format of another version: ' .. key)
  end
end

-- Lets a key live for at least so many milliseconds more.
local function keep(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- The sessions of a user in the order in which they were inserted, and the keys of their rows. A script may touch no
-- key that it was not told of: where there are sessions that the caller did not know, there is no second answer.
local function members(index, first_key, first_argument)
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

-- Ends a session that has not been ended before.
local function finish(key, revocation)
  redis.call('HSET', key, 'revoked', revocation)
  redis.call('HINCRBY', key, 'version', 1)
end

-- Enters what has ended into the feed and wakes who follows it. An entry's place is the server's time; on a server
-- whose clock is behind, the place of the last entry.
local function announce(feed, due, channel, ended, over, ttl)
  if #ended == 0 then
    return
  end
  local time = redis.call('TIME')
  local place = time[1] * 1000 + math.floor(time[2] / 1000)
  local last = redis.call('ZREVRANGE', feed, 0, 0, 'WITHSCORES')[2]
  if last and tonumber(last) > place then
    place = last
  end
  for _, what in ipairs(ended) do
    local entry = over .. ':' .. what
    redis.call('ZADD', feed, place, entry)
    redis.call('ZADD', due, over, entry)
  end
  keep(feed, ttl)
  keep(due, ttl)
  -- A server that does not let us publish is polled.
  redis.pcall('PUBLISH', channel, '')
end

