//! How a simulated machine stops, and what the next one finds on its disk.

use std::collections::BTreeMap;

use super::dice::{Dice, Stream};
use super::directory::InodeId;
use super::disk::{InFlight, SimDisk};
use super::faults::Faults;
use super::inode::{ChangeId, Inode};
use crate::disk::DiskOp;

/// What a power cut leaves of everything that was not durable: completed writes without a sync,
/// directory changes, and operations in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// The oldest changes, one of them in part.
    Prefix,
    /// Each change whole, in part or not, whatever its age.
    Random,
    /// Of the operations in flight those whose bit is set, in the order of submission; nothing
    /// else.
    InFlight(u64),
    /// Of the sectors, lengths and directory entries those whose bit is set (the 65th shares the
    /// first one's), in a fixed order.
    Parts(u64),
}

/// What becomes of one change under [`Survival::Random`].
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Whole,
    Torn,
}

impl SimDisk {
    /// The disk as the machine finds it that starts after a power cut now. `seed` draws what
    /// survives, and drives the new disk's own streams.
    #[must_use]
    pub fn after_power_cut(&self, survival: Survival, seed: u64) -> Self {
        let mut next = self.fork(seed);
        let first_in_flight = next.next_change + 1;
        for in_flight in &self.in_flight {
            let change = next.change();
            next.leave_traces(in_flight, change);
        }
        let changes_end = next.next_change + 1;
        let mut survives = Judge::new(survival, seed, first_in_flight, changes_end);
        let mut survives = |change: ChangeId| survives.decide(change);
        for inode in next.inodes.values_mut() {
            *inode = inode.after_power_cut(&mut survives);
        }
        for directory in next.directories.values_mut() {
            *directory = directory.after_power_cut(&mut survives);
        }
        next.forget_unreachable();
        next
    }

    /// The disk after the process was killed and the machine ran on: all that was completed is
    /// there to read, durable or not, and each operation in flight happened or did not.
    #[must_use]
    pub fn after_kill(&self, seed: u64) -> Self {
        let mut next = self.fork(seed);
        let mut dice = Dice::new(seed, Stream::PowerCut);
        for in_flight in &self.in_flight {
            let change = next.change();
            if dice.coin() {
                next.leave_traces(in_flight, change);
            }
        }
        next
    }

    /// A machine like this one with the same content, nothing in flight and no faults planned.
    fn fork(&self, seed: u64) -> Self {
        let mut counts = self.counts;
        counts.stops += 1;
        Self {
            directories: self.directories.clone(),
            inodes: self.inodes.clone(),
            in_flight: Vec::new(),
            ops_started: 0,
            next_inode: self.next_inode,
            next_change: self.next_change,
            power_off_at: None,
            is_off: false,
            capacity_bytes: self.capacity_bytes,
            faults: Faults::none(seed),
            counts,
            order: Dice::new(seed, Stream::DiskOrder),
            trace: self.trace.clone(),
        }
    }

    /// Enters what an operation in flight would do as an un-synced change.
    fn leave_traces(&mut self, in_flight: &InFlight, change: ChangeId) {
        let shard = in_flight.shard;
        let inode = in_flight.inode;
        match &in_flight.op {
            DiskOp::Write {
                position, buffer, ..
            } => {
                if let Some(inode) = inode.and_then(|inode| self.inodes.get_mut(&inode)) {
                    inode.write(change, position.0, buffer);
                }
            }
            DiskOp::PunchHole {
                position, bytes, ..
            } => {
                if let Some(inode) = inode.and_then(|inode| self.inodes.get_mut(&inode)) {
                    inode.punch(change, position.0, *bytes);
                }
            }
            DiskOp::Create { file, bytes, .. } => {
                if self.directory(shard).get(*file).is_none() {
                    let inode = InodeId(self.next_inode);
                    self.next_inode += 1;
                    self.inodes
                        .insert(inode, Inode::preallocated(change, *bytes));
                    self.directory(shard)
                        .change(change, vec![(*file, Some(inode))]);
                }
            }
            DiskOp::Rename { from, to, .. } => {
                if let Some(inode) = self.directory(shard).get(*from) {
                    let edit = vec![(*from, None), (*to, Some(inode))];
                    self.directory(shard).change(change, edit);
                }
            }
            DiskOp::Link {
                from_shard,
                from,
                to,
                ..
            } => {
                if let Some(inode) = self.directory(*from_shard).get(*from) {
                    self.directory(shard)
                        .change(change, vec![(*to, Some(inode))]);
                }
            }
            DiskOp::Remove { file, .. } => {
                if self.directory(shard).get(*file).is_some() {
                    self.directory(shard).change(change, vec![(*file, None)]);
                }
            }
            DiskOp::Read { .. }
            | DiskOp::Sync { .. }
            | DiskOp::SyncDirectory { .. }
            | DiskOp::List { .. }
            | DiskOp::Space { .. } => {}
        }
    }
}

/// Decides what survives.
struct Judge {
    survival: Survival,
    dice: Dice,
    /// The first change that stands for an operation in flight.
    first_in_flight: u64,
    /// Under [`Survival::Prefix`] the change that is torn: older ones survive.
    torn: u64,
    /// Under [`Survival::Random`] what was drawn so far.
    fates: BTreeMap<ChangeId, Fate>,
    /// Under [`Survival::Parts`] how many parts were judged so far.
    parts: u32,
}

impl Judge {
    fn new(survival: Survival, seed: u64, first_in_flight: u64, changes_end: u64) -> Self {
        let mut dice = Dice::new(seed, Stream::PowerCut);
        // Most changes are durable long since: cut among the youngest, or the cut rarely matters.
        let youngest = changes_end.saturating_sub(16);
        let torn = dice.between(youngest, changes_end);
        Self {
            survival,
            dice,
            first_in_flight,
            torn,
            fates: BTreeMap::new(),
            parts: 0,
        }
    }

    fn decide(&mut self, change: ChangeId) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Prefix => match change.0.cmp(&self.torn) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => self.dice.coin(),
                std::cmp::Ordering::Greater => false,
            },
            Survival::Random => self.draw(change),
            Survival::InFlight(mask) => {
                let index = change.0.checked_sub(self.first_in_flight);
                index.is_some_and(|index| mask.checked_shr(index as u32).unwrap_or(0) & 1 == 1)
            }
            Survival::Parts(mask) => {
                let bit = self.parts % u64::BITS;
                self.parts += 1;
                mask >> bit & 1 == 1
            }
        }
    }

    fn draw(&mut self, change: ChangeId) -> bool {
        let dice = &mut self.dice;
        let fate = *self
            .fates
            .entry(change)
            .or_insert_with(|| *dice.pick(&[Fate::Lost, Fate::Whole, Fate::Torn]));
        match fate {
            Fate::Lost => false,
            Fate::Whole => true,
            Fate::Torn => self.dice.coin(),
        }
    }
}
