-- KEYS: the shard's expiries, then for each session its row and its user's index; ARGV: for each, its entry among the
-- expiries and its id
local purged = 0
for i = 1, #ARGV / 2 do
  redis.call('DEL', KEYS[2 * i])
  redis.call('ZREM', KEYS[2 * i + 1], ARGV[2 * i])
  purged = purged + redis.call('ZREM', KEYS[1], ARGV[2 * i - 1])
end
return purged
