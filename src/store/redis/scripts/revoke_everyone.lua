-- KEYS: for each shard its feed, its cutoffs, its cutoff expiries, its session expiries
-- ARGV: the step, the scope, the revocation, its time, the channel, the feed's time to live, the cutoff of the last step,
-- the number of all shards
-- Returns the highest cutoff: with 'next' that which would be next, with 'raise' what it was raised to. 'publish' adds the
-- entries to the feeds; a server with all shards does so when it raises the cutoffs.
local step, scope, revocation, at, channel, feed_ttl, cutoff, shards = unpack(ARGV)
local highest = 0
for i = 1, #KEYS, 4 do
  if step == 'next' then
    highest = math.max(highest, next_cutoff(KEYS[i + 1], scope, server_time()))
  elseif step == 'raise' then
    local ttl = redis.call('PTTL', KEYS[i + 3])
    local raised = raise_cutoff(KEYS[i + 1], KEYS[i + 2], scope, tonumber(cutoff), revocation, ttl)
    highest = math.max(highest, tonumber(raised))
  end
end
if step == 'raise' then
  cutoff = text(highest)
end
if step == 'publish' or (step == 'raise' and #KEYS == 4 * tonumber(shards)) then
  for i = 1, #KEYS, 4 do
    publish(KEYS[i], channel, {'u:' .. cutoff .. ':' .. at .. '::' .. scope}, feed_ttl)
  end
end
return text(highest)
