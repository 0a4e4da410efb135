//! Gives the bytes of dead sections and packs back to the file system.
//!
//! The order is the crash story:
//! 1. The manifest says durably that the bytes are dead. A crash before that finds them whole.
//! 2. No read holds the pack: a reader that began earlier still gets what it was promised.
//! 3. Holes are punched, whole files removed. A crash before that leaves bytes behind: a dead
//!    section's go with its pack, a dead pack is a file that no manifest names, which the next
//!    start removes.

use std::collections::{BTreeMap, VecDeque};

use super::Packs;
use crate::disk::{DiskDone, DiskOp, DiskToken, DiskTokens};
use crate::manifest::EditTicket;
use crate::units::PackId;

/// The tag of the clean-up's tokens.
pub(crate) const PACKS_TAG: u8 = 33;
/// Operations on their way at most: the file system journals them, and commits wait behind.
const IN_FLIGHT_MAX: usize = 2;

/// Bytes to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waste {
    Section(PackId, u32),
    Pack(PackId),
}

/// What is to be given back, and how far each is.
#[derive(Debug)]
pub(crate) struct Cleanup {
    tokens: DiskTokens,
    /// In an edit that was not submitted yet.
    planned: Vec<Waste>,
    /// In an edit that is not durable yet.
    waiting: BTreeMap<EditTicket, Vec<Waste>>,
    /// Dead durably; waits for its readers.
    due: VecDeque<Waste>,
    in_flight: BTreeMap<DiskToken, Waste>,
    /// Bytes given back.
    pub(crate) returned_bytes: u64,
}

impl Cleanup {
    pub(super) fn new() -> Self {
        Self {
            tokens: DiskTokens::new(PACKS_TAG),
            planned: Vec::new(),
            waiting: BTreeMap::new(),
            due: VecDeque::new(),
            in_flight: BTreeMap::new(),
            returned_bytes: 0,
        }
    }

    pub(super) fn plan_removal(&mut self, pack: PackId) {
        self.planned.push(Waste::Pack(pack));
    }

    pub(super) fn plan_holes(&mut self, pack: PackId, sections: &[u32]) {
        let holes = sections.iter().map(|number| Waste::Section(pack, *number));
        self.planned.extend(holes);
    }

    pub(super) fn wait_for(&mut self, ticket: EditTicket) {
        let planned = std::mem::take(&mut self.planned);
        self.waiting.entry(ticket).or_default().extend(planned);
    }

    /// The manifest says already that the pack is gone.
    pub(super) fn remove_now(&mut self, pack: PackId) {
        self.due.push_back(Waste::Pack(pack));
    }

    /// The manifest's edit under `ticket` is durable.
    pub(crate) fn handle_edit(&mut self, ticket: EditTicket) {
        self.due
            .extend(self.waiting.remove(&ticket).unwrap_or_default());
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn is_in_flight(&self, pack: PackId) -> bool {
        let mut wastes = self.in_flight.values();
        wastes.any(|waste| matches!(waste, Waste::Section(id, _) if *id == pack))
    }
}

impl Packs {
    /// Issues what is due and not held by a read.
    pub(crate) fn clean(&mut self, ops: &mut VecDeque<DiskOp>) {
        let mut later = VecDeque::new();
        while self.cleanup.in_flight.len() < IN_FLIGHT_MAX {
            let Some(waste) = self.cleanup.due.pop_front() else {
                break;
            };
            let (Waste::Section(id, _) | Waste::Pack(id)) = waste;
            let Some(pack) = self.packs.get(&id) else {
                continue; // The whole pack went first.
            };
            let is_removal = matches!(waste, Waste::Pack(_));
            if pack.is_held() || is_removal && self.cleanup.is_in_flight(id) {
                later.push_back(waste);
                continue;
            }
            let token = self.cleanup.tokens.issue();
            let file = pack.file;
            match waste {
                Waste::Pack(_) => ops.push_back(DiskOp::Remove { token, file }),
                Waste::Section(_, number) => {
                    let (position, bytes) = pack.extent(number).expect("a dead section was there");
                    ops.push_back(DiskOp::PunchHole {
                        token,
                        file,
                        position,
                        bytes,
                    });
                }
            }
            self.cleanup.in_flight.insert(token, waste);
        }
        later.append(&mut self.cleanup.due);
        self.cleanup.due = later;
    }

    /// Takes a completion. A failure costs space, nothing else: the manifest has the last word.
    pub(crate) fn handle_cleanup(&mut self, done: &DiskDone) {
        let waste = self.cleanup.in_flight.remove(&done.token);
        let waste = waste.expect("a completion belongs to an operation");
        let (Waste::Section(id, _) | Waste::Pack(id)) = waste;
        let pack = &self.packs[&id];
        if let Err(error) = &done.result {
            let (shard, file) = (self.shard, pack.file);
            tracing::warn!(%shard, %file, %error, "dead bytes could not be given back");
        }
        match waste {
            Waste::Section(_, number) => {
                let (_, bytes) = pack.extent(number).expect("a dead section was there");
                self.cleanup.returned_bytes += bytes;
            }
            Waste::Pack(_) => {
                self.cleanup.returned_bytes += pack.bytes;
                self.packs.remove(&id);
            }
        }
    }
}
