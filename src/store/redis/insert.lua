-- KEYS: the new row, the user's index, the shard's expiries, its feed, its feed by due time, rows that are known
local row, index, expiries, feed, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, user, now, expires, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
-- No cap: an empty string.
local max, refuses, idle = tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8])
local replacing, evicted, replaced = ARGV[9], ARGV[10], ARGV[11]
local channel, over, feed_ttl = ARGV[12], ARGV[13], ARGV[14]
local first_known = 16 + tonumber(ARGV[15])

if redis.call('EXISTS', row) == 1 then
  return {'exists', {}}
end
-- All rows are read before one is written: what fails half-way stays done.
-- The one to be replaced is the first of those that are known.
local old = replacing ~= '' and read(KEYS[6], 'user', 'expires', 'revoked')
local victims = {}
if max then
  local ids, keys = members(index, 6, first_known)
  if not keys then
    return {'again', ids}
  end
  local live = {}
  for place, other in ipairs(ids) do
    local values = read(keys[other], 'created', 'expires', 'seen', 'revoked')
    if not values or values[5] then
      redis.call('ZREM', index, other)
    elseif other ~= replacing and now < tonumber(values[3]) and now - tonumber(values[4]) < idle then
      table.insert(live, {created = tonumber(values[2]), place = place, id = other, key = keys[other]})
    end
  end
  local excess = #live - (max - 1)
  if excess > 0 and refuses then
    return {'full', {}}
  end
  table.sort(live, function(a, b)
    if a.created == b.created then
      return a.place < b.place
    end
    return a.created < b.created
  end)
  for i = 1, excess do
    victims[i] = live[i]
  end
end

local ended, entries = {}, {}
local function ends(other)
  table.insert(ended, other)
  table.insert(entries, 's:' .. other)
end
for _, victim in ipairs(victims) do
  finish(victim.key, evicted)
  redis.call('ZREM', index, victim.id)
  ends(victim.id)
end
if old and old[2] == user and not old[4] then
  finish(KEYS[6], replaced)
  redis.call('ZREM', index, replacing)
  if now < tonumber(old[3]) then
    ends(replacing)
  end
end

redis.call('HSET', row, unpack(ARGV, 16, first_known - 1))
redis.call('PEXPIRE', row, ttl)
local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', index, (tonumber(last) or 0) + 1, id)
keep(index, ttl)
redis.call('ZADD', expiries, expires, id .. user)
keep(expiries, ttl)
announce(feed, due, channel, entries, over, feed_ttl)
return {'done', ended}
