//! What the headers of all WAL files say, before any of them is believed.
//!
//! And which generations are the log's own. A page within a block's payload is what a client sent,
//! and may be the image of a block header with any numbers in it; only a generation, drawn at
//! random and told to nobody, cannot be guessed. So a block off the chain counts if its generation
//! stands where no payload ever does: in a whole file header, in the manifest, or in a file's first
//! block.

use std::collections::{BTreeMap, HashSet};

use crate::block::{BlockHeader, ChainPoint, FIRST_BLOCK, FileHeader, FileHeaderError, Seeding};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::disk::{FileName, Listing};
use crate::error::StorageError;
use crate::units::{FilePosition, Generation, LifeId, PAGE_BYTES, ShardId};

/// One WAL file as found.
#[derive(Debug)]
pub(super) struct SlotFile {
    pub(super) bytes: u64,
    /// `None`: blank, damaged, unreadable, or another file's.
    pub(super) header: Option<FileHeader>,
    /// The life of its first block, if that is whole.
    pub(super) first_life: Option<LifeId>,
    /// Nothing tells whose blocks it holds, unless its header does: the first is not whole.
    pub(super) is_nameless: bool,
}

/// Every WAL file, by slot.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) slots: BTreeMap<u32, SlotFile>,
    /// The log's own, each with its life.
    generations: HashSet<(Generation, LifeId)>,
    /// Every block counts, whoever wrote it.
    believes_all: bool,
}

impl Survey {
    pub(super) fn take(
        disk: &mut StartDisk<'_, '_>,
        shard: ShardId,
        listing: &Listing,
        seeding: Seeding,
    ) -> Result<Self, StorageError> {
        let (mut slots, mut generations) = (BTreeMap::new(), HashSet::new());
        for (file, bytes) in &listing.files {
            let FileName::Wal(slot) = *file else { continue };
            let header = read_header(disk, shard, slot)?;
            let first_page = read_page(disk, slot, FIRST_BLOCK)?;
            let first_page = first_page.unwrap_or_else(|| AlignedBuf::zeroed(PAGE_BYTES));
            let block = BlockHeader::decode(&first_page, seeding).ok();
            let block = block.map(|(block, _)| block);
            let block = block.filter(|b| b.shard == shard && b.position == FIRST_BLOCK);
            // Put where the first block was, by a disk that took one place for another.
            let misplaced = FileHeader::decode(&first_page).ok();
            let misplaced = misplaced.filter(|h| h.shard == shard && h.slot == slot);
            for header in header.iter().chain(&misplaced) {
                let before = header.predecessor;
                generations.insert((header.generation, header.life));
                generations.insert((before.generation, before.life));
            }
            generations.extend(block.map(|block| (block.generation, block.life)));
            let found = SlotFile {
                bytes: *bytes,
                header,
                first_life: block.map(|block| block.life),
                is_nameless: block.is_none() && misplaced.is_none(),
            };
            slots.insert(slot, found);
        }
        Ok(Self {
            slots,
            generations,
            believes_all: false,
        })
    }

    /// There is no manifest to say what the log was. To refuse because of what a client sent is
    /// better than to take a directory for a new one.
    pub(super) fn believe_all(&mut self) {
        self.believes_all = true;
    }

    /// The manifest names this one.
    pub(super) fn note_generation(&mut self, generation: Generation, life: LifeId) {
        self.generations.insert((generation, life));
    }

    /// Whether a block header found in `file` is one that the log wrote. In a file of which nothing
    /// tells whose blocks it holds, a life counts that could have come. So it does where the header
    /// is an earlier life's: the disk may have lost the write of a later one.
    pub(super) fn is_own(&self, file: &SlotFile, block: &BlockHeader) -> bool {
        let lives = self.slots.len() as u64;
        let may_be = block.life.0 <= self.life_max().0.saturating_add(lives);
        let is_later = file.header.is_none_or(|header| block.life > header.life);
        let is_known = self.generations.contains(&(block.generation, block.life));
        is_known || self.believes_all || file.is_nameless && is_later && may_be
    }

    /// The life that goes on from `point`. A recovery that was cut short and one that followed it
    /// may both name the same point; the later one copied all that counts.
    pub(super) fn successor(&self, point: &ChainPoint) -> Option<FileHeader> {
        self.headers()
            .filter(|header| header.predecessor == *point && header.first_lsn >= point.end_lsn)
            .max_by_key(|header| header.life)
            .copied()
    }

    /// The whole headers.
    pub(super) fn headers(&self) -> impl Iterator<Item = &FileHeader> {
        self.slots.values().filter_map(|file| file.header.as_ref())
    }

    /// The highest life that the log itself names.
    pub(super) fn life_max(&self) -> LifeId {
        let lives = self.generations.iter().map(|(_, life)| *life);
        lives.max().unwrap_or_default()
    }
}

/// A page of `wal-SLOT`; `None` where the file ends before or the disk cannot read it.
fn read_page(
    disk: &mut StartDisk<'_, '_>,
    slot: u32,
    position: FilePosition,
) -> Result<Option<AlignedBuf>, StorageError> {
    let file = FileName::Wal(slot);
    let (page, read) = disk.read(file, position, AlignedBuf::zeroed(PAGE_BYTES))?;
    Ok(Some(page).filter(|_| read == Some(PAGE_BYTES)))
}

/// The header in `wal-SLOT`, if it is whole and this file's. What cannot be read is judged like
/// what is damaged: by what the blocks say.
fn read_header(
    disk: &mut StartDisk<'_, '_>,
    shard: ShardId,
    slot: u32,
) -> Result<Option<FileHeader>, StorageError> {
    let file = FileName::Wal(slot);
    let position = FilePosition(0);
    let (page, read) = disk.read(file, position, AlignedBuf::zeroed(PAGE_BYTES))?;
    let bytes = match read {
        Some(0) => return Ok(None), // Created, and not preallocated yet.
        Some(bytes) => bytes,
        None => return Ok(None),
    };
    match FileHeader::decode(&page[..bytes]) {
        Ok(header) if header.shard == shard && header.slot == slot => Ok(Some(header)),
        // Files come to be in whole pages: whose blocks this one held can only be guessed.
        Err(FileHeaderError::Blank | FileHeaderError::Damaged) if bytes < PAGE_BYTES => {
            Err(StorageError::Corrupt {
                shard,
                file,
                position,
                found: "a log file cut short within its header",
            })
        }
        Ok(_) | Err(FileHeaderError::Blank | FileHeaderError::Damaged) => Ok(None),
        Err(FileHeaderError::Newer) => Err(StorageError::Corrupt {
            shard,
            file,
            position,
            found: "written by a newer version",
        }),
    }
}
