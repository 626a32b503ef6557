-- KEYS: the feeds of one or more shards; ARGV: from which place on, and the cursor
-- Takes nothing away, but a server that has become a replica refuses it, and is found out.
local written = redis.pcall('ZREM', KEYS[1], '')
if type(written) == 'table' and string.find(written.err, 'READONLY') then
  return written
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from = ARGV[1]
if now < tonumber(ARGV[2]) then
  -- The clock is behind the cursor: another server answers now, and its places are others.
  from = '-inf'
end
local entries = {}
for _, feed in ipairs(KEYS) do
  for _, text in ipairs(redis.call('ZRANGEBYSCORE', feed, from, '+inf', 'WITHSCORES')) do
    table.insert(entries, text)
  end
end
return {now, entries}
