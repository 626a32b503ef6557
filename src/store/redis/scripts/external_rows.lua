-- KEYS: for each session that belongs to one at an identity provider, the key that it is a member of, and its row
-- ARGV: for each session, its id
-- Returns the ids of those that have a row. The others are removed from the members.
local found = {}
for i, id in ipairs(ARGV) do
  if redis.call('EXISTS', KEYS[2 * i]) == 1 then
    table.insert(found, id)
  else
    redis.call('SREM', KEYS[2 * i - 1], id)
  end
end
return found
