//! Durable bytes: the write-ahead log of one shard, its packs and segments, and their recovery.
//!
//! This crate decides what is written where and when it counts as durable; it performs no I/O
//! itself. [`disk`] is the seam to whoever does.

pub mod buf;
mod codec;
pub mod disk;
pub mod error;
pub mod manifest;
pub mod record;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod units;
