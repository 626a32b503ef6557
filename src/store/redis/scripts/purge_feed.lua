-- KEYS: the shard's feed, its session expiries, its cutoffs, its cutoff expiries
-- ARGV: the time before which to purge, the maximum number of sessions, the maximum number of feed entries and of cutoffs,
-- how long an entry of the feed is kept
-- Removes old entries of the feed, and cutoffs that concern no session any more. Returns how many there were at most, and
-- the expired sessions for purge_sessions.lua.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local step = tonumber(ARGV[3])
local function text(number)
  return string.format('%.0f', number)
end
local old = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. text(now - tonumber(ARGV[4])))
if old > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, math.min(old, step) - 1)
end
local scopes = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', '(' .. text(now), 'LIMIT', 0, step)
for _, scope in ipairs(scopes) do
  redis.call('HDEL', KEYS[3], scope)
  redis.call('ZREM', KEYS[4], scope)
end
-- The caller's clock may be wrong: a session has to have expired by the server's clock too.
local before = ARGV[1]
if tonumber(before) > now then
  before = text(now)
end
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. before, 'LIMIT', 0, ARGV[2])
return {math.max(old, #scopes), expired}
