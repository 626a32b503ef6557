-- KEYS: the user's index, the shard's feed, its cutoffs, its cutoff expiries, the known rows
-- ARGV: see below; then the ids of the known rows. The spared session, if any, is the first known row.
-- Returns 'done', the new cutoff and how many sessions were live; or 'retry' and the ids to pass; or 'wider'.
local index, feed, cutoffs, cutoff_expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local user, revocation, at, channel, feed_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local except, created_until, max_counted, window = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local keys = known_rows(5, 10)

-- A script that fails is not rolled back, so all rows are read before the first write.
local user_cutoff, everyone_cutoff = cutoffs_of(cutoffs, user)
local spared = {}
if except ~= '' then
  local row = read_row(keys[except], 'user', 'revoked', 'uc', 'ec')
  if row and row[2] == user and not row[3] and not is_before(row[4], user_cutoff)
    and not is_before(row[5], everyone_cutoff) then
    local score = redis.call('ZSCORE', index, except)
    table.insert(spared, {id = except, key = keys[except], score = score or 0, is_new = not score})
  end
end
local total = redis.call('ZCARD', index)
local read = window
if total <= max_counted then
  read = total
elseif not created_until then
  read = 0
end
local count = 0
if read > 0 then
  local ids, sessions, left = newest_sessions(index, read, keys, user_cutoff, everyone_cutoff)
  if not sessions then
    return {'retry', ids}
  end
  total = left
  local is_all = left == #sessions
  local last_later = 0
  for i, session in ipairs(sessions) do
    if session.id == except then
      -- Is among the spared already.
    elseif created_until and session.created > created_until then
      table.insert(spared, session)
      last_later = i
    elseif tonumber(at) < session.expires then
      count = count + 1
    end
  end
  -- The index is in the order of insertion, which is nearly that of the logins: after a hundred that are not later,
  -- there is none.
  if not is_all and created_until and #sessions - last_later < 100 then
    return {'wider', {}}
  end
  if not is_all then
    count = nil
  end
end
if read == 0 and total > 0 or not count then
  count = total
  for _, session in ipairs(spared) do
    if not session.is_new then
      count = count - 1
    end
  end
end

local cutoff = raise_cutoff(cutoffs, cutoff_expiries, user, 0, revocation, redis.call('PTTL', index))
for _, session in ipairs(spared) do
  redis.call('HSET', session.key, 'uc', cutoff)
end
replace_index(index, spared)
for _, session in ipairs(spared) do
  extend_ttl(index, redis.call('PTTL', session.key))
end
publish(feed, channel, {'u:' .. cutoff .. ':' .. at .. ':' .. except .. ':' .. user}, feed_ttl)
return {'done', {cutoff, text(count)}}
