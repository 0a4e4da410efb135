//! Follows the chain of blocks from where the manifest says it begins to its live end.
//!
//! A block belongs to the chain while its checksums match and it is what must come next: this
//! file's generation and life, its own position, the address after its predecessor's, and the
//! checksum of its predecessor's header. At every block boundary that a later life names as the
//! point where it goes on, the chain goes there, and what lies behind that point in the earlier
//! file was abandoned: it is never looked at again.

use super::reader::{FileReader, FoundBlock};
use super::survey::Survey;
use crate::block::{BlockHeader, ChainPoint, FIRST_BLOCK, FileHeader, Seeding};
use crate::blocking::StartDisk;
use crate::error::StorageError;
use crate::units::{FilePosition, LifeId, Lsn, ShardId};
use crate::wal::WalFile;

/// One life on the chain.
#[derive(Debug)]
pub(super) struct ChainFile {
    pub(super) header: FileHeader,
    /// Its accepted blocks.
    pub(super) file: WalFile,
    /// Header checksum of each accepted block.
    pub(super) crcs: Vec<u32>,
}

/// The accepted chain.
#[derive(Debug)]
pub(super) struct Chain {
    /// Never empty; the last one holds the live end.
    pub(super) files: Vec<ChainFile>,
    /// The highest durable LSN that an accepted block records.
    pub(super) recorded: Lsn,
    /// What stands at the live end instead of a block.
    pub(super) found: &'static str,
}

/// What happens on the way.
pub(super) enum Visit<'a> {
    Block {
        slot: u32,
        header: &'a BlockHeader,
        payload: &'a [u8],
    },
    /// The chain goes on, or begins, at a higher address: a loss that was accepted earlier.
    Jump { from: Lsn, to: Lsn },
}

impl ChainFile {
    fn new(header: FileHeader) -> Self {
        Self {
            header,
            file: WalFile::new(&header),
            crcs: Vec::new(),
        }
    }

    /// The point after the last accepted block; before the first, the point that this life itself
    /// goes on from.
    pub(super) fn end(&self) -> ChainPoint {
        match self.crcs.last() {
            None => self.header.predecessor,
            Some(crc) => self.point(self.file.end_lsn, *crc),
        }
    }

    fn point(&self, end_lsn: Lsn, header_crc: u32) -> ChainPoint {
        ChainPoint {
            slot: self.header.slot,
            life: self.header.life,
            generation: self.header.generation,
            end_lsn,
            header_crc,
        }
    }

    /// Keeps only the blocks below `lsn`, a block boundary.
    pub(super) fn cut(&mut self, lsn: Lsn) {
        self.file.cut(lsn);
        self.crcs.truncate(self.file.block_lsns().count());
    }

    /// Whether `block` is what comes next in this file.
    fn admits(&self, block: &FoundBlock<'_>, shard: ShardId, seeding: Seeding) -> bool {
        let header = &block.header;
        let is_next = header.shard == shard
            && header.position == self.file.next_position()
            && header.first_lsn == self.file.end_lsn;
        let prev_header_crc = self.end().header_crc;
        let is_this_life = header.generation == self.header.generation
            && header.life == self.header.life
            && header.prev_header_crc == prev_header_crc;
        is_next && (is_this_life || seeding == Seeding::Nothing)
    }
}

impl Chain {
    /// Where the chain ends.
    pub(super) fn end_lsn(&self) -> Lsn {
        self.last().file.end_lsn
    }

    pub(super) fn last(&self) -> &ChainFile {
        self.files.last().expect("a chain has a file")
    }

    /// Where the chain begins.
    pub(super) fn first_lsn(&self) -> Lsn {
        self.files
            .first()
            .expect("a chain has a file")
            .file
            .first_lsn
    }

    /// The point at `lsn`, if a block boundary or a file's beginning is there.
    pub(super) fn point_at(&self, lsn: Lsn) -> Option<ChainPoint> {
        if let Some(file) = self.files.iter().find(|f| f.file.first_lsn == lsn) {
            return Some(file.header.predecessor);
        }
        let after = self.files.partition_point(|f| f.file.first_lsn < lsn);
        let file = self.files.get(after.checked_sub(1)?)?;
        if lsn == file.file.end_lsn {
            return Some(file.end());
        }
        let next = file.file.block_lsns().position(|block| block == lsn)?;
        Some(file.point(lsn, *file.crcs.get(next.checked_sub(1)?)?))
    }

    /// The life that holds the live end.
    pub(super) fn last_life(&self) -> LifeId {
        self.last().header.life
    }

    /// Follows the chain from `start`, telling `visit` what is on it. All below `settled` was on
    /// it once: a chain that begins above lost its beginning, and the file that told of it is gone.
    pub(super) fn follow(
        disk: &mut StartDisk<'_, '_>,
        survey: &Survey,
        (start, settled, seeding): (FileHeader, Lsn, Seeding),
        visit: &mut dyn FnMut(Visit<'_>) -> Result<(), StorageError>,
    ) -> Result<Self, StorageError> {
        let first = survey.successor(&start.predecessor).unwrap_or(start);
        let mut chain = Self {
            files: Vec::new(),
            recorded: Lsn(0),
            found: "",
        };
        if first.first_lsn > settled {
            visit(Visit::Jump {
                from: settled,
                to: first.first_lsn,
            })?;
        }
        let mut next = Some(first);
        while let Some(header) = next {
            if let Some(before) = chain.files.last() {
                let (from, to) = (before.file.end_lsn, header.first_lsn);
                if to > from {
                    visit(Visit::Jump { from, to })?;
                    // The jump was committed after all below it was found durable.
                    chain.recorded = chain.recorded.max(to);
                }
                assert!(header.life > chain.last_life(), "lives only rise");
            }
            chain.files.push(ChainFile::new(header));
            next = chain.follow_file(disk, survey, seeding, visit)?;
        }
        Ok(chain)
    }

    /// Follows the last file to where a successor goes on, or to the live end.
    fn follow_file(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        survey: &Survey,
        seeding: Seeding,
        visit: &mut dyn FnMut(Visit<'_>) -> Result<(), StorageError>,
    ) -> Result<Option<FileHeader>, StorageError> {
        let file = self.files.last_mut().expect("just pushed");
        let shard = file.header.shard;
        let bytes = survey.slots[&file.header.slot].bytes;
        let mut reader = FileReader::new(file.header.slot, bytes, seeding);
        loop {
            if !file.crcs.is_empty()
                && let Some(successor) = survey.successor(&file.end())
                && successor.life > file.header.life
            {
                return Ok(Some(successor));
            }
            let block = match reader.block(disk, file.file.next_position())? {
                Ok(block) if file.admits(&block, shard, seeding) => block,
                Ok(_) => {
                    self.found = "a block of another place or time";
                    return Ok(None);
                }
                Err(found) => {
                    self.found = found;
                    return Ok(None);
                }
            };
            visit(Visit::Block {
                slot: file.header.slot,
                header: &block.header,
                payload: block.payload,
            })?;
            self.recorded = self.recorded.max(block.header.durable_lsn);
            file.file.push_block(u64::from(block.header.block_bytes));
            file.crcs.push(block.header_crc);
        }
    }

    /// Where the live end is.
    pub(super) fn end_position(&self) -> FilePosition {
        self.last().file.next_position().max(FIRST_BLOCK)
    }
}
