//! What the headers of all WAL files say, before any of them is believed.

use std::collections::BTreeMap;

use crate::block::{ChainPoint, FileHeader, FileHeaderError};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::disk::{DiskError, FileName, Listing};
use crate::error::StorageError;
use crate::units::{FilePosition, LifeId, PAGE_BYTES, ShardId};

/// One WAL file as found.
#[derive(Debug)]
pub(super) struct SlotFile {
    pub(super) bytes: u64,
    /// `None`: blank, damaged, unreadable, or another file's.
    pub(super) header: Option<FileHeader>,
}

/// Every WAL file, by slot.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) slots: BTreeMap<u32, SlotFile>,
}

impl Survey {
    pub(super) fn take(
        disk: &mut StartDisk<'_, '_>,
        shard: ShardId,
        listing: &Listing,
    ) -> Result<Self, StorageError> {
        let mut slots = BTreeMap::new();
        for (file, bytes) in &listing.files {
            let FileName::Wal(slot) = *file else { continue };
            let header = read_header(disk, shard, slot)?;
            let bytes = *bytes;
            slots.insert(slot, SlotFile { bytes, header });
        }
        Ok(Self { slots })
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

    /// The highest life that a whole header names.
    pub(super) fn life_max(&self) -> LifeId {
        let lives = self.headers().map(|header| header.life);
        lives.max().unwrap_or_default()
    }
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
    let (page, result) = disk.read(file, position, AlignedBuf::zeroed(PAGE_BYTES));
    let bytes = match result {
        Ok(0) => return Ok(None), // Created, and not preallocated yet.
        Ok(bytes) => bytes,
        Err(DiskError::Crashed) => return Err(disk.error(Some(file), DiskError::Crashed)),
        Err(_) => return Ok(None),
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
