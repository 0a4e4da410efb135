//! Durable bytes: the write-ahead log of one shard, its packs and segments, and their recovery.
//!
//! This crate decides what is written where and when it counts as durable; it performs no I/O
//! itself. [`disk`] is the seam to whoever does, [`Store`] the way in.

pub mod block;
mod blocking;
pub mod buf;
mod codec;
mod cold;
mod commit;
pub mod config;
mod crc;
pub mod disk;
pub mod entry;
pub mod error;
pub mod index;
pub mod inspect;
mod log_index;
pub mod manifest;
mod merge;
pub mod pack;
mod packs;
mod reads;
pub mod record;
mod recovery;
mod request;
mod retention;
pub mod section;
mod settle;
mod slots;
mod space;
mod store;
mod tail_cache;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod units;
mod wal;

pub use cold::ColdCounters;
pub use commit::{CommitCounters, GroupDone};
#[cfg(any(test, feature = "testing"))]
pub use config::SeededBug;
pub use config::{CommitBackend, LossRange, StoreConfig};
pub use log_index::{LogConfig, LogStatus};
pub use merge::MergeCounters;
pub use reads::ReadCounters;
pub use request::{
    Append, ReadOutcome, ReadRequest, ReadTicket, Records, Replayed, StoreEvent, TimePoint,
    TimeRequest,
};
pub use settle::SettleCounters;
pub use store::{Exported, Store, StoreCounters, Tenancy};
