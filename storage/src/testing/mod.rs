//! A simulated file system to run stores on, and the randomness to drive it. Tests only.
//!
//! [`SimDisk`] is another driver of the disk seam: it takes [`crate::disk::DiskOp`]s, performs them
//! on memory, and can stop at any point. It keeps apart what the running machine reads and what a
//! power cut leaves, per 512-byte sector and per directory entry, so forgetting a sync shows. All
//! that is random comes from [`Dice`]: one seed replays a run exactly.

mod dice;
mod directory;
mod disk;
mod faults;
mod inode;
mod stop;
mod trace;

pub use dice::{Dice, Stream};
pub use disk::SimDisk;
pub use faults::{Fault, FaultCounts, FaultRates, Lasting, PlannedFault};
pub use stop::Survival;

#[cfg(test)]
mod tests;
