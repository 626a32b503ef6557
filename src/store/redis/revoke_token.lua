-- KEYS: the shard's feed, its feed by due time
announce(KEYS[1], KEYS[2], ARGV[1], {'t:' .. ARGV[2]}, ARGV[3], ARGV[4])
