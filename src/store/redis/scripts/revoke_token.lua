-- KEYS: the shard's feed, its feed expiries
-- ARGV: the channel, the token's id, when the entry expires, the feed's time to live
publish(KEYS[1], KEYS[2], ARGV[1], {'t:' .. ARGV[2]}, ARGV[3], ARGV[4])
