-- KEYS: the new row, the user's index, the shard's session expiries, its feed, its cutoffs, its cutoff expiries, the
-- known rows; then, if the session belongs to one at an identity provider, the set of those that do
-- ARGV: see below; then the fields of the new row, then the ids of the known rows
-- The session to replace, if any, is the first known row.
-- Returns the status, session ids, the cutoff that has risen (or an empty text), and how many sessions were revoked.
local row, index, expiries, feed, cutoffs, cutoff_expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, user, now, expires, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
-- An empty maximum means no session limit.
local max, refuse, idle_timeout, window = tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8]), tonumber(ARGV[9])
local replacing, evicted, replaced = ARGV[10], ARGV[11], ARGV[12]
local channel, feed_ttl, max_marked, max_examined = ARGV[13], ARGV[14], tonumber(ARGV[15]), tonumber(ARGV[16])
local external = ARGV[17] == '1' and KEYS[#KEYS]
local first_known = 19 + tonumber(ARGV[18])

if redis.call('EXISTS', row) == 1 then
  return {'exists', {}, '', '0'}
end
-- A script that fails is not rolled back, so all rows are read before the first write.
local user_cutoff, everyone_cutoff = cutoffs_of(cutoffs, user)
local old = replacing ~= '' and read_row(KEYS[7], 'user', 'expires', 'revoked', 'uc', 'ec')
if old and (old[2] ~= user or old[4] or is_before(old[5], user_cutoff) or is_before(old[6], everyone_cutoff)) then
  old = nil
end
local victims, staying, count, raises = {}, {}, 0, false
if max then
  local keys = known_rows(7, first_known)
  local ids, sessions, total = newest_sessions(index, window, keys, user_cutoff, everyone_cutoff)
  if not sessions then
    return {'retry', ids, '', '0'}
  end
  local live = {}
  for _, session in ipairs(sessions) do
    local idle_for = now - session.seen
    session.is_live = now < session.expires and idle_for < idle_timeout and (not session.idle or idle_for < session.idle)
    -- Those in which somebody acts for the user neither count nor make room.
    if session.id ~= replacing and session.is_live and not session.is_acting then
      table.insert(live, session)
    end
  end
  -- The order of insertion is nearly that of the logins, so the newest logins are in the window: it has room for 400
  -- sessions that were inserted meanwhile.
  local is_all = #sessions == total
  local excess = #live - (max - 1)
  if excess > 0 and refuse then
    return {'limit_reached', {}, '', '0'}
  end
  if not is_all and (excess < 0 or refuse) and window < max_examined then
    -- Whether there is room depends on sessions further back.
    return {'wider', {}, '', '0'}
  end
  table.sort(live, newest_first)
  local is_victim = {}
  -- The oldest first.
  for i = #live, max, -1 do
    table.insert(victims, live[i])
    is_victim[live[i].id] = true
  end
  -- Whoever is further back is beyond the limit only if the newer ones reach it.
  raises = (not is_all and not refuse and excess >= 0) or #victims > max_marked
  if raises then
    for _, session in ipairs(sessions) do
      -- Idle ones go as well, or the next login would have to read them again.
      if session.is_live and not is_victim[session.id] and session.id ~= replacing then
        table.insert(staying, session)
      end
    end
    count = #victims
    if not is_all then
      count = total - #staying
      if old and redis.call('ZSCORE', index, replacing) then
        count = count - 1
      end
    end
  end
end

local revoked, subjects, cutoff = {}, {}, ''
local function add_revoked(other)
  table.insert(revoked, other)
  table.insert(subjects, 's:' .. other)
  count = count + 1
end
if raises then
  -- They are too many to mark each: those that stay move to a new cutoff.
  cutoff = raise_cutoff(cutoffs, cutoff_expiries, user, 0, evicted, redis.call('PTTL', index))
  user_cutoff = cutoff
  for _, session in ipairs(staying) do
    redis.call('HSET', session.key, 'uc', cutoff)
  end
  replace_index(index, staying)
  table.insert(subjects, 'u:' .. cutoff .. ':' .. ARGV[3] .. ':newest:' .. user)
else
  for _, victim in ipairs(victims) do
    mark_revoked(victim.key, evicted)
    redis.call('ZREM', index, victim.id)
    add_revoked(victim.id)
  end
end
if old then
  mark_revoked(KEYS[7], replaced)
  redis.call('ZREM', index, replacing)
  if now < tonumber(old[3]) then
    add_revoked(replacing)
  else
    -- A node with a leeway may still accept its access tokens.
    table.insert(subjects, 's:' .. replacing)
  end
end

redis.call('HSET', row, 'uc', text(user_cutoff), 'ec', text(everyone_cutoff), unpack(ARGV, 19, first_known - 1))
redis.call('PEXPIRE', row, ttl)
local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', index, (tonumber(last) or 0) + 1, id)
extend_ttl(index, ttl)
redis.call('ZADD', expiries, expires, id .. user)
extend_ttl(expiries, ttl)
if external then
  redis.call('SADD', external, id)
  extend_ttl(external, ttl)
end
publish(feed, channel, subjects, feed_ttl)
return {'done', revoked, cutoff, text(count)}
