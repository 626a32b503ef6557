-- KEYS: in one or more shards, the sessions that belong to one at an identity provider
-- Returns their ids. Some may be gone.
local ids = {}
for _, key in ipairs(KEYS) do
  for _, id in ipairs(redis.call('SMEMBERS', key)) do
    table.insert(ids, id)
  end
end
return ids
