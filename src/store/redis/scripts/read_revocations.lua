-- KEYS: the feeds of one or more shards
-- ARGV: the time to read from (empty for the start), the time of the cursor, the maximum age, the overlap, the maximum
-- number of entries per feed
-- Returns the server's time, the time to read from next (empty if everything was read) and the entries with their times.
-- Removes nothing, but fails on a server that has become a replica.
local written = redis.pcall('ZREM', KEYS[1], '')
if type(written) == 'table' and string.find(written.err, 'READONLY') then
  return written
end
local function text(number)
  return string.format('%.0f', number)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from, limit = now - tonumber(ARGV[3]), tonumber(ARGV[5])
-- Later entries may still appear before others of the last seconds, so these are never divided into pages.
local settled = now - tonumber(ARGV[4])
if now < tonumber(ARGV[2]) then
  -- The clock is behind the cursor: this is another server, whose scores differ. Everything is read, and at once: the
  -- cursor cannot go back, so it could not tell how far one has come.
  limit = nil
elseif ARGV[1] ~= '' then
  from = math.max(from, tonumber(ARGV[1]))
end
if from >= settled then
  limit = nil
end
local entries, next_from = {}, nil
for _, feed in ipairs(KEYS) do
  local page
  if limit then
    page = redis.call('ZRANGEBYSCORE', feed, text(from), '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
    if #page == 2 * limit then
      local last = page[#page]
      local after = tonumber(last) + 1
      if after <= settled then
        -- Continues after the last score of this page, all of which is read now.
        page = redis.call('ZRANGEBYSCORE', feed, text(from), last, 'WITHSCORES')
        next_from = math.min(next_from or after, after)
      else
        page = redis.call('ZRANGEBYSCORE', feed, text(from), '+inf', 'WITHSCORES')
      end
    end
  else
    page = redis.call('ZRANGEBYSCORE', feed, text(from), '+inf', 'WITHSCORES')
  end
  for _, value in ipairs(page) do
    table.insert(entries, value)
  end
end
return {now, next_from and text(next_from) or '', entries}
