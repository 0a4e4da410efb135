//! Shards at work.
