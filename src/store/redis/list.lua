-- KEYS: the user's index, rows that are known; ARGV: the ids of these
local ids, keys = members(KEYS[1], 2, 1)
if not keys then
  return {'again', ids}
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
