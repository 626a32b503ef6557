-- KEYS: rows
-- ARGV: for each row, when the session was last seen and the generation that the client acknowledged
for i, key in ipairs(KEYS) do
  local row = redis.call('HMGET', key, 'seen', 'ack')
  if row[1] and row[2] then
    if tonumber(ARGV[2 * i - 1]) > tonumber(row[1]) then
      redis.call('HSET', key, 'seen', ARGV[2 * i - 1])
    end
    if tonumber(ARGV[2 * i]) > tonumber(row[2]) then
      redis.call('HSET', key, 'ack', ARGV[2 * i])
    end
  end
end
