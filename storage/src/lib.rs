//! Durable bytes: the write-ahead log of one shard, its packs and segments, and their recovery.
