-- KEYS: the row, the shard's feed, its cutoffs
-- ARGV: the revocation, its time, the channel, the id, the feed's time to live
-- Returns 1 if the session was live.
-- A session that does not exist enters the feed too: its access tokens may still be in use.
local row = read_row(KEYS[1], 'expires', 'revoked', 'user', 'uc', 'ec')
local live = 0
if row and not row[3] then
  local user_cutoff, everyone_cutoff = cutoffs_of(KEYS[3], row[4])
  -- Revoked by a cutoff, it keeps that reason.
  if not is_before(row[5], user_cutoff) and not is_before(row[6], everyone_cutoff) then
    mark_revoked(KEYS[1], ARGV[1])
    if tonumber(ARGV[2]) < tonumber(row[2]) then
      live = 1
    end
  end
end
publish(KEYS[2], ARGV[3], {'s:' .. ARGV[4]}, ARGV[5])
return live
