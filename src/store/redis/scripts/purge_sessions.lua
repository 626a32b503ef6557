-- KEYS: the shard's session expiries, then for each session its row and its user's index
-- ARGV: for each session, its entry in the session expiries and its id
-- Returns how many sessions were purged.
local purged = 0
for i = 1, #ARGV / 2 do
  redis.call('DEL', KEYS[2 * i])
  redis.call('ZREM', KEYS[2 * i + 1], ARGV[2 * i])
  purged = purged + redis.call('ZREM', KEYS[1], ARGV[2 * i - 1])
end
return purged
