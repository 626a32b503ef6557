-- KEYS: the shard's feed
-- ARGV: the channel, the token's id, the feed's time to live
publish(KEYS[1], ARGV[1], {'t:' .. ARGV[2]}, ARGV[3])
