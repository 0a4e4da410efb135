//! What goes wrong on a simulated disk, and how often it did.

use super::dice::{Dice, Stream};
use crate::disk::{DiskOp, WriteSync};

/// How one operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; EIO.
    Error,
    /// Nothing is done, for want of a descriptor; EMFILE.
    Shortage,
    /// Nothing is done; ENOSPC. Only what takes space can fail so.
    NoSpace,
    /// A write reaches the medium in part, a random subset of its sectors; EIO.
    TornWrite,
    /// A write transfers fewer bytes than asked, in whole sectors. An fdatasync linked behind it
    /// is cancelled.
    ShortWrite,
    /// A sync (or a write with its own sync) fails as on Linux: EIO, the data stays readable,
    /// counts as clean, and will never reach the medium. A second sync succeeds.
    SyncInVain,
    /// A write reports success and leaves the old content in place.
    LostWrite,
    /// A write reports success and lands on the file's neighbouring page.
    MisdirectedWrite,
    /// A read returns one flipped bit; the medium is damaged there from now on.
    BitRot,
}

impl Fault {
    /// Whether `op` can fail in this way.
    #[must_use]
    pub fn fits(self, op: &DiskOp) -> bool {
        let is_write = matches!(op, DiskOp::Write { .. });
        match self {
            Self::Error | Self::Shortage => !matches!(op, DiskOp::Space { .. }),
            Self::NoSpace => is_write || matches!(op, DiskOp::Create { .. }),
            Self::TornWrite | Self::ShortWrite | Self::LostWrite | Self::MisdirectedWrite => {
                is_write
            }
            Self::SyncInVain => match op {
                DiskOp::Sync { .. } | DiskOp::SyncDirectory { .. } => true,
                DiskOp::Write { sync, .. } => *sync != WriteSync::None,
                _ => false,
            },
            Self::BitRot => matches!(op, DiskOp::Read { .. }),
        }
    }
}

/// How long a planned fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// The operation that it was planned for, or the first one after it that can fail so.
    Once,
    /// Every operation from then on that can fail so.
    Forever,
}

/// A fault planned for a certain operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    /// Number of the first operation that may fail, as [`super::SimDisk::ops_started`] counts.
    pub op: u64,
    /// How it fails.
    pub fault: Fault,
    /// For how long.
    pub lasting: Lasting,
}

/// Random faults: one operation in so many fails in that way; 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// [`Fault::Error`] of reads.
    pub read_error_one_in: u32,
    /// [`Fault::Error`] of everything but reads.
    pub error_one_in: u32,
    /// [`Fault::NoSpace`].
    pub no_space_one_in: u32,
    /// [`Fault::TornWrite`].
    pub torn_write_one_in: u32,
    /// [`Fault::ShortWrite`].
    pub short_write_one_in: u32,
    /// [`Fault::SyncInVain`].
    pub sync_in_vain_one_in: u32,
    /// [`Fault::LostWrite`].
    pub lost_write_one_in: u32,
    /// [`Fault::MisdirectedWrite`].
    pub misdirected_write_one_in: u32,
    /// [`Fault::BitRot`].
    pub bit_rot_one_in: u32,
}

impl FaultRates {
    fn draw(&self, op: &DiskOp, dice: &mut Dice) -> Option<Fault> {
        let is_read = matches!(op, DiskOp::Read { .. });
        let error = if is_read {
            self.read_error_one_in
        } else {
            self.error_one_in
        };
        let rates = [
            (Fault::Error, error),
            (Fault::NoSpace, self.no_space_one_in),
            (Fault::TornWrite, self.torn_write_one_in),
            (Fault::ShortWrite, self.short_write_one_in),
            (Fault::SyncInVain, self.sync_in_vain_one_in),
            (Fault::LostWrite, self.lost_write_one_in),
            (Fault::MisdirectedWrite, self.misdirected_write_one_in),
            (Fault::BitRot, self.bit_rot_one_in),
        ];
        let mut hits = rates
            .iter()
            .filter(|(fault, one_in)| fault.fits(op) && dice.one_in(*one_in));
        hits.next().map(|(fault, _)| *fault)
    }
}

/// How many operations failed in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Injected errors of any kind that were reported.
    pub reported: u64,
    /// Injected lies: lost and misdirected writes, rotten bits.
    pub silent: u64,
    /// Operations refused because the capacity was used up.
    pub out_of_space: u64,
    /// Power cuts and kills.
    pub stops: u64,
}

impl FaultCounts {
    /// Everything that went wrong.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.reported + self.silent + self.out_of_space + self.stops
    }

    pub(super) fn count(&mut self, fault: Fault) {
        match fault {
            Fault::LostWrite | Fault::MisdirectedWrite | Fault::BitRot => self.silent += 1,
            _ => self.reported += 1,
        }
    }
}

/// Decides for each operation whether it fails.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) planned: Vec<PlannedFault>,
    pub(super) rates: FaultRates,
    pub(super) dice: Dice,
}

impl Faults {
    pub(super) fn none(seed: u64) -> Self {
        Self {
            planned: Vec::new(),
            rates: FaultRates::default(),
            dice: Dice::new(seed, Stream::DiskFaults),
        }
    }

    /// The fault of operation number `number`, if it has one.
    pub(super) fn decide(&mut self, number: u64, op: &DiskOp) -> Option<Fault> {
        let due = |planned: &PlannedFault| planned.op <= number && planned.fault.fits(op);
        if let Some(at) = self.planned.iter().position(due) {
            let planned = self.planned[at];
            if planned.lasting == Lasting::Once {
                self.planned.swap_remove(at);
            }
            return Some(planned.fault);
        }
        self.rates.draw(op, &mut self.dice)
    }
}
