-- KEYS: the user's index, the shard's feed, its feed by due time, rows that are known; ARGV: .., the ids of these
local index, feed, due = KEYS[1], KEYS[2], KEYS[3]
local revocation, at, channel, except = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local ids, keys = members(index, 4, 7)
if not keys then
  return {'again', ids}
end
-- All rows are read before one is written: what fails half-way stays done.
local over, live = {}, {}
for _, id in ipairs(ids) do
  if id ~= except then
    local row = read(keys[id], 'expires', 'revoked')
    if row and not row[3] then
      live[id] = at < tonumber(row[2])
    end
    table.insert(over, id)
  end
end
local ended, entries = {}, {}
for _, id in ipairs(over) do
  if live[id] ~= nil then
    finish(keys[id], revocation)
    table.insert(entries, 's:' .. id)
    if live[id] then
      table.insert(ended, id)
    end
  end
  redis.call('ZREM', index, id)
end
announce(feed, due, channel, entries, ARGV[5], ARGV[6])
return {'done', ended}
