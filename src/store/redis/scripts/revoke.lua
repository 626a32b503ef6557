-- KEYS: the row, the shard's feed, its feed expiries
-- ARGV: the revocation, its time, the channel, the id, when the entry expires, the feed's time to live
-- Returns 1 if the session was live.
-- A session that does not exist enters the feed too: its access tokens may still be in use.
local row = read_row(KEYS[1], 'expires', 'revoked')
local live = 0
if row and not row[3] then
  mark_revoked(KEYS[1], ARGV[1])
  if tonumber(ARGV[2]) < tonumber(row[2]) then
    live = 1
  end
end
publish(KEYS[2], KEYS[3], ARGV[3], {'s:' .. ARGV[4]}, ARGV[5], ARGV[6])
return live
