-- KEYS: the row, the shard's cutoffs
-- Returns the row, and the cutoffs of its user and of everyone.
local row = redis.call('HGETALL', KEYS[1])
for i = 1, #row, 2 do
  if row[i] == 'user' then
    local user = row[i + 1]
    local separator = string.find(user, '\0', 1, true)
    local everyone = (separator and string.sub(user, 1, separator - 1) or '') .. '\0\0'
    local cutoffs = redis.call('HMGET', KEYS[2], user, everyone)
    return {row, cutoffs[1], cutoffs[2]}
  end
end
return {row, false, false}
