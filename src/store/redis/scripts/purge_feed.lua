-- KEYS: the shard's feed, its feed expiries, its session expiries
-- ARGV: the time before which to purge, the maximum number of sessions, the maximum number of feed entries
-- Removes expired entries of the feed. Returns how many, and the expired sessions for purge_sessions.lua.
local entries = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[3])
for _, entry in ipairs(entries) do
  redis.call('ZREM', KEYS[1], entry)
  redis.call('ZREM', KEYS[2], entry)
end
return {#entries, redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])}
