-- KEYS: the user's index, the shard's feed, its feed expiries, the known rows
-- ARGV: see below; then when the entries expire, the feed's time to live, the ids of the known rows
local index, feed, feed_expiries = KEYS[1], KEYS[2], KEYS[3]
local revocation, at, channel, except = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local ids, keys = user_sessions(index, 4, 7)
if not keys then
  return {'retry', ids}
end
-- A script that fails is not rolled back, so all rows are read before the first write.
local targets, live = {}, {}
for _, id in ipairs(ids) do
  if id ~= except then
    local row = read_row(keys[id], 'expires', 'revoked')
    if row and not row[3] then
      live[id] = at < tonumber(row[2])
    end
    table.insert(targets, id)
  end
end
local revoked, subjects = {}, {}
for _, id in ipairs(targets) do
  if live[id] ~= nil then
    mark_revoked(keys[id], revocation)
    table.insert(subjects, 's:' .. id)
    if live[id] then
      table.insert(revoked, id)
    end
  end
  redis.call('ZREM', index, id)
end
publish(feed, feed_expiries, channel, subjects, ARGV[5], ARGV[6])
return {'done', revoked}
