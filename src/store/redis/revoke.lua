-- KEYS: the row, the shard's feed, its feed by due time
-- A session that the server does not have, or has no more, enters the feed too: access tokens of it may be out.
local row = read(KEYS[1], 'expires', 'revoked')
local live = 0
if row and not row[3] then
  finish(KEYS[1], ARGV[1])
  if tonumber(ARGV[2]) < tonumber(row[2]) then
    live = 1
  end
end
announce(KEYS[2], KEYS[3], ARGV[3], {'s:' .. ARGV[4]}, ARGV[5], ARGV[6])
return live
