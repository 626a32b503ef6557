-- KEYS: the new row, the user's index, the shard's session expiries, its feed, its feed expiries, the known rows
-- ARGV: see below; then the fields of the new row, then the ids of the known rows
-- The session to replace, if any, is the first known row.
local row, index, expiries, feed, feed_expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, user, now, expires, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
-- An empty maximum means no session limit.
local max, refuse, idle_timeout = tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8])
local replacing, evicted, replaced = ARGV[9], ARGV[10], ARGV[11]
local channel, revocation_expires_at, feed_ttl = ARGV[12], ARGV[13], ARGV[14]
local first_known = 16 + tonumber(ARGV[15])

if redis.call('EXISTS', row) == 1 then
  return {'exists', {}}
end
-- A script that fails is not rolled back, so all rows are read before the first write.
local old = replacing ~= '' and read_row(KEYS[6], 'user', 'expires', 'revoked')
local victims = {}
if max then
  local ids, keys = user_sessions(index, 6, first_known)
  if not keys then
    return {'retry', ids}
  end
  local live = {}
  for seq, other in ipairs(ids) do
    local values = read_row(keys[other], 'created', 'expires', 'seen', 'revoked')
    if not values or values[5] then
      redis.call('ZREM', index, other)
    elseif other ~= replacing and now < tonumber(values[3]) and now - tonumber(values[4]) < idle_timeout then
      table.insert(live, {created = tonumber(values[2]), seq = seq, id = other, key = keys[other]})
    end
  end
  local excess = #live - (max - 1)
  if excess > 0 and refuse then
    return {'limit_reached', {}}
  end
  table.sort(live, function(a, b)
    if a.created == b.created then
      return a.seq < b.seq
    end
    return a.created < b.created
  end)
  for i = 1, excess do
    victims[i] = live[i]
  end
end

local revoked, subjects = {}, {}
local function add_revoked(other)
  table.insert(revoked, other)
  table.insert(subjects, 's:' .. other)
end
for _, victim in ipairs(victims) do
  mark_revoked(victim.key, evicted)
  redis.call('ZREM', index, victim.id)
  add_revoked(victim.id)
end
if old and old[2] == user and not old[4] then
  mark_revoked(KEYS[6], replaced)
  redis.call('ZREM', index, replacing)
  if now < tonumber(old[3]) then
    add_revoked(replacing)
  end
end

redis.call('HSET', row, unpack(ARGV, 16, first_known - 1))
redis.call('PEXPIRE', row, ttl)
local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', index, (tonumber(last) or 0) + 1, id)
extend_ttl(index, ttl)
redis.call('ZADD', expiries, expires, id .. user)
extend_ttl(expiries, ttl)
publish(feed, feed_expiries, channel, subjects, revocation_expires_at, feed_ttl)
return {'done', revoked}
