-- KEYS: the feeds of one or more shards
-- ARGV: the score to read from, the cursor
-- Removes nothing, but fails on a server that has become a replica.
local written = redis.pcall('ZREM', KEYS[1], '')
if type(written) == 'table' and string.find(written.err, 'READONLY') then
  return written
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from = ARGV[1]
if now < tonumber(ARGV[2]) then
  -- The clock is behind the cursor: this is another server, whose scores differ.
  from = '-inf'
end
local entries = {}
for _, feed in ipairs(KEYS) do
  for _, text in ipairs(redis.call('ZRANGEBYSCORE', feed, from, '+inf', 'WITHSCORES')) do
    table.insert(entries, text)
  end
end
return {now, entries}
