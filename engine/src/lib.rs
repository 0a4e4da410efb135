//! What a broker means: partitions, the catalog, shards and the mesh between them.
//!
//! A [`command::Command`] goes in, one [`event::Event`] comes out. Everything is synchronous and
//! takes the time as an argument; threads, rings and files belong to the driver.

pub mod catalog;
pub mod codec;
pub mod command;
pub mod event;
mod gather;
pub mod group;
pub mod jobs;
pub mod limits;
pub mod mesh;
mod partition;
mod placement;
pub mod report;
pub mod search;
mod shard;
mod snapshot;
pub mod stages;
pub mod start;
#[cfg(test)]
mod testing;
mod waiters;
mod watches;

pub use gather::GatherId;
pub use shard::Shard;
