-- KEYS: the user's index, the shard's cutoffs, the known rows
-- ARGV: the user, the maximum number of sessions, how many of the newest in the index to read, the ids of the known rows
local user, limit, window = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local keys = known_rows(3, 4)
local ids, sessions, total = newest_sessions(KEYS[1], window, keys, cutoffs_of(KEYS[2], user))
if not sessions then
  return {'retry', ids}
end
if #sessions < limit and #sessions < total then
  -- Revoked sessions were removed from the index, so the next try reads others.
  return {'retry', redis.call('ZREVRANGE', KEYS[1], 0, window - 1)}
end
table.sort(sessions, newest_first)
local rows = {}
for i = 1, math.min(limit, #sessions) do
  table.insert(rows, sessions[i].id)
  table.insert(rows, redis.call('HGETALL', sessions[i].key))
end
return {'done', rows}
