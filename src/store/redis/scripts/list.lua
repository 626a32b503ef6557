-- KEYS: the user's index, the known rows
-- ARGV: the ids of the known rows
local ids, keys = user_sessions(KEYS[1], 2, 1)
if not keys then
  return {'retry', ids}
end
local rows = {}
for _, id in ipairs(ids) do
  if redis.call('EXISTS', keys[id]) == 0 or redis.call('HEXISTS', keys[id], 'revoked') == 1 then
    redis.call('ZREM', KEYS[1], id)
  else
    table.insert(rows, id)
    table.insert(rows, redis.call('HGETALL', keys[id]))
  end
end
return {'done', rows}
