-- KEYS: for each shard its feed, its cutoffs, its cutoff expiries, its session expiries
-- ARGV: the scope, the revocation, its time, the channel, the feed's time to live, the least cutoff
-- Returns the highest cutoff. Without a least cutoff, returns the one that would be next and writes nothing.
local scope, revocation, at, channel, feed_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local highest = 0
for i = 1, #KEYS, 4 do
  if ARGV[6] == '' then
    highest = math.max(highest, next_cutoff(KEYS[i + 1], scope, server_time()))
  else
    local ttl = redis.call('PTTL', KEYS[i + 3])
    local cutoff = raise_cutoff(KEYS[i + 1], KEYS[i + 2], scope, tonumber(ARGV[6]), revocation, ttl)
    publish(KEYS[i], channel, {'u:' .. cutoff .. ':' .. at .. ':' .. scope}, feed_ttl)
    highest = math.max(highest, tonumber(cutoff))
  end
end
return text(highest)
