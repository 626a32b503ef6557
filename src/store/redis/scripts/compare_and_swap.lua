-- KEYS: the row, the shard's feed, its cutoffs
-- ARGV: the expected version, the next one, the fields below, the last client or an empty text; then, if revoked: the revocation, the channel, the id,
-- the feed's time to live
-- Returns 1 if the row was written.
-- Lua would round large numbers, so they are compared and written as strings.
local old = read_row(KEYS[1], 'version', 'seen', 'ack', 'user', 'uc', 'ec', 'last')
if not old or old[2] ~= ARGV[1] then
  return 0
end
local user_cutoff, everyone_cutoff = cutoffs_of(KEYS[3], old[5])
if is_before(old[6], user_cutoff) or is_before(old[7], everyone_cutoff) then
  return 0
end
local seen, ack = ARGV[8], ARGV[9]
if tonumber(old[3]) > tonumber(seen) then
  seen = old[3]
end
if tonumber(old[4]) > tonumber(ack) then
  ack = old[4]
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'generation', ARGV[3], 'parent', ARGV[4], 'rotated', ARGV[5],
  'recoveries', ARGV[6], 'claims', ARGV[7], 'seen', seen, 'ack', ack)
if ARGV[10] ~= (old[8] or '') then
  if ARGV[10] == '' then
    redis.call('HDEL', KEYS[1], 'last')
  else
    redis.call('HSET', KEYS[1], 'last', ARGV[10])
  end
end
if ARGV[11] then
  redis.call('HSET', KEYS[1], 'revoked', ARGV[11])
  publish(KEYS[2], ARGV[12], {'s:' .. ARGV[13]}, ARGV[14])
end
return 1
