//! What a manifest says, and the edits that change it.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::FileName;
use crate::units::{BrokerId, FilePosition, Generation, LifeId, Lsn, Offset, PackId, PartitionId};

/// Everything that a shard's files mean together: references only, no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestState {
    /// The oldest life of a WAL file that recovery reads.
    pub chain_start: ChainStart,
    /// Every log entry below this address is settled: its live part is in `packs`. Rises only.
    pub settled_lsn: Lsn,
    /// The live packs and segments.
    pub packs: BTreeMap<PackId, PackEntry>,
    /// The newest engine snapshot that is in a pack.
    pub snapshot: Option<SnapshotRef>,
    /// Above every id ever committed here. Rises only.
    pub next_pack: PackId,
    /// First offset that each log still has, where that was ever moved. Each rises only.
    pub log_starts: BTreeMap<PartitionId, Offset>,
    /// Whose directory it is; `None` until the first start of a broker on it is through.
    pub owner: Option<BrokerId>,
    /// Format of the file that holds this state.
    pub format: u32,
}

/// Names one life of one WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainStart {
    /// The N of `wal-N`.
    pub slot: u32,
    /// Which use of that slot.
    pub life: LifeId,
    /// That life's checksum seed.
    pub generation: Generation,
}

/// One live pack or segment: what its file must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// `pack-ID` or `segment-ID`, of the id that the entry is filed under.
    pub file: FileName,
    /// Length of the file.
    pub bytes: u64,
    /// Where its directory begins.
    pub footer: FilePosition,
    /// Length of the directory, without padding.
    pub footer_bytes: u32,
    /// CRC-32C of the directory.
    pub footer_checksum: u32,
    /// Numbers of the sections that are dead: their bytes may be gone.
    pub dropped: BTreeSet<u32>,
    /// Another shard's directory may have a hard link to the file: no hole may be punched into it.
    pub shared: bool,
}

/// The section that holds the engine's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRef {
    /// The pack.
    pub pack: PackId,
    /// Number of the section in it.
    pub section: u32,
    /// The snapshot has the effect of every log entry that ends at or below this address.
    pub as_of: Lsn,
}

/// One atomic change of a [`ManifestState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestEdit {
    /// A settle pass is in its packs: the log below `settled_lsn` is not needed any more.
    Settled {
        /// New [`ManifestState::settled_lsn`].
        settled_lsn: Lsn,
        /// New [`ManifestState::chain_start`].
        chain_start: ChainStart,
        /// What the pass wrote; their ids are new.
        packs: Vec<(PackId, PackEntry)>,
        /// A newer snapshot, in one of `packs`; `None` keeps the present one.
        snapshot: Option<SnapshotRef>,
        /// Log starts that the settled part of the log had moved, or that kept some of it out of
        /// `packs`.
        log_starts: Vec<(PartitionId, Offset)>,
    },
    /// Sections are dead: from now on their bytes may go.
    SectionsDropped {
        /// Their pack.
        pack: PackId,
        /// Their numbers.
        sections: Vec<u32>,
    },
    /// A whole pack is dead: from now on its file may go. It does not hold the live snapshot.
    PackDropped {
        /// The pack.
        pack: PackId,
    },
    /// The files are about to be linked into other shards' directories.
    PacksShared {
        /// Their ids.
        packs: Vec<PackId>,
    },
    /// Files linked in from another shard, whose partitions are at home here now.
    PacksAdopted {
        /// Their new ids and entries.
        packs: Vec<(PackId, PackEntry)>,
    },
    /// Logs begin later than before.
    LogStarts(Vec<(PartitionId, Offset)>),
    /// Logs are gone with all that was said of them.
    LogsRemoved(Vec<PartitionId>),
    /// The directory is this broker's, for good.
    Owned(BrokerId),
    /// Packs were rewritten into others with the same live content.
    Merged {
        /// The sources.
        removed: Vec<PackId>,
        /// What holds their live content now; their ids are new.
        added: Vec<(PackId, PackEntry)>,
        /// Where the live snapshot went, when a source held it.
        snapshot: Option<SnapshotRef>,
    },
}

impl ManifestState {
    /// The log was durable up to here, whatever its blocks say: a pass waits for that before it
    /// commits a snapshot. The end of a block lies there or above.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        let as_of = self.snapshot.map_or(Lsn(0), |snapshot| snapshot.as_of);
        self.settled_lsn.max(as_of.page_ceil())
    }

    /// The state of a store that has settled nothing yet.
    #[must_use]
    pub fn new(chain_start: ChainStart) -> Self {
        Self {
            chain_start,
            settled_lsn: Lsn(0),
            packs: BTreeMap::new(),
            snapshot: None,
            next_pack: PackId(1),
            log_starts: BTreeMap::new(),
            owner: None,
            format: super::format::FORMAT,
        }
    }

    /// Makes `edit`'s change, or says why it does not fit this state (which may then be half
    /// changed: the caller gives it up).
    pub(super) fn apply(&mut self, edit: ManifestEdit) -> Result<(), &'static str> {
        match edit {
            ManifestEdit::Settled {
                settled_lsn,
                chain_start,
                packs,
                snapshot,
                log_starts,
            } => {
                if settled_lsn < self.settled_lsn {
                    return Err("the settled address goes back");
                }
                self.settled_lsn = settled_lsn;
                self.chain_start = chain_start;
                self.add_packs(packs)?;
                self.raise_starts(log_starts);
                self.move_snapshot(snapshot)
            }
            ManifestEdit::SectionsDropped { pack, sections } => {
                let entry = self.packs.get_mut(&pack).ok_or(UNKNOWN_PACK)?;
                entry.dropped.extend(sections);
                Ok(())
            }
            ManifestEdit::PackDropped { pack } => {
                self.packs.remove(&pack).ok_or(UNKNOWN_PACK)?;
                self.check_snapshot()
            }
            ManifestEdit::PacksShared { packs } => {
                for pack in packs {
                    self.packs.get_mut(&pack).ok_or(UNKNOWN_PACK)?.shared = true;
                }
                Ok(())
            }
            ManifestEdit::PacksAdopted { packs } => self.add_packs(packs),
            ManifestEdit::LogStarts(log_starts) => {
                self.raise_starts(log_starts);
                Ok(())
            }
            ManifestEdit::LogsRemoved(partitions) => {
                for partition in partitions {
                    self.log_starts.remove(&partition);
                }
                Ok(())
            }
            ManifestEdit::Owned(owner) => {
                if self.owner.is_some_and(|known| known != owner) {
                    return Err("the owner changes");
                }
                self.owner = Some(owner);
                Ok(())
            }
            ManifestEdit::Merged {
                removed,
                added,
                snapshot,
            } => {
                for pack in removed {
                    self.packs.remove(&pack).ok_or(UNKNOWN_PACK)?;
                }
                self.add_packs(added)?;
                self.move_snapshot(snapshot)
            }
        }
    }

    /// Takes packs under ids of their own.
    fn add_packs(&mut self, packs: Vec<(PackId, PackEntry)>) -> Result<(), &'static str> {
        for (pack, entry) in packs {
            let above = pack.0.checked_add(1).ok_or("a pack's id is the last one")?;
            self.next_pack = self.next_pack.max(PackId(above));
            // Passes end in any order, so an id may be committed after a higher one.
            if self.packs.insert(pack, entry).is_some() {
                return Err("a pack's id is taken");
            }
        }
        Ok(())
    }

    fn raise_starts(&mut self, log_starts: Vec<(PartitionId, Offset)>) {
        for (partition, start) in log_starts {
            let known = self.log_starts.entry(partition).or_insert(start);
            *known = start.max(*known);
        }
    }

    fn move_snapshot(&mut self, snapshot: Option<SnapshotRef>) -> Result<(), &'static str> {
        if let Some(new) = snapshot {
            if self.snapshot.is_some_and(|old| new.as_of < old.as_of) {
                return Err("the snapshot goes back");
            }
            self.snapshot = Some(new);
        }
        self.check_snapshot()
    }

    pub(super) fn check_snapshot(&self) -> Result<(), &'static str> {
        match self.snapshot {
            Some(snapshot) if !self.packs.contains_key(&snapshot.pack) => {
                Err("the snapshot's pack is not there")
            }
            _ => Ok(()),
        }
    }
}

const UNKNOWN_PACK: &str = "an edit names a pack that is not there";
