//! The chain of WAL files: which lives hold which addresses, where the next block goes, and when
//! the log rolls to the next slot.
//!
//! Blocks lie back to back in a file, so within one life `position - 4096 == lsn - first_lsn`. The
//! last page of each file is left for a seal.

use std::collections::VecDeque;

use crate::block::{BlockHeader, ChainPoint, FIRST_BLOCK, FileHeader};
use crate::config::{SeededBug, StoreConfig};
use crate::disk::DiskOp;
use crate::slots::Slots;
use crate::units::{FilePosition, Generation, LifeId, Lsn, PAGE_BYTES, ShardId};

/// One life of one WAL file that holds, or will hold, a part of the log.
#[derive(Clone, Debug)]
pub(crate) struct WalFile {
    pub(crate) slot: u32,
    pub(crate) life: LifeId,
    pub(crate) generation: Generation,
    /// Address of the first block.
    pub(crate) first_lsn: Lsn,
    /// Address after the last block placed here.
    pub(crate) end_lsn: Lsn,
    /// Where each block starts, in pages from the first block on; ascending.
    blocks: Vec<u32>,
    /// The header's write returned, and with it everything before it in the log.
    pub(crate) header_durable: bool,
}

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    pub(crate) slot: u32,
    pub(crate) life: LifeId,
    pub(crate) generation: Generation,
    pub(crate) first_lsn: Lsn,
    pub(crate) position: FilePosition,
    pub(crate) block_bytes: usize,
}

impl WalFile {
    pub(crate) fn new(header: &FileHeader) -> Self {
        Self {
            slot: header.slot,
            life: header.life,
            generation: header.generation,
            first_lsn: header.first_lsn,
            end_lsn: header.first_lsn,
            blocks: Vec::new(),
            header_durable: false,
        }
    }

    /// Where the next block goes.
    pub(crate) fn next_position(&self) -> FilePosition {
        FilePosition(FIRST_BLOCK.0 + (self.end_lsn - self.first_lsn))
    }

    /// Notes a block at the end of the file.
    pub(crate) fn push_block(&mut self, block_bytes: u64) {
        let pages = (self.end_lsn - self.first_lsn) / PAGE_BYTES as u64;
        self.blocks
            .push(u32::try_from(pages).expect("a WAL file has fewer than 2^32 pages"));
        self.end_lsn = self.end_lsn + block_bytes;
    }

    /// Forgets the blocks at and above `lsn`, a block boundary.
    pub(crate) fn cut(&mut self, lsn: Lsn) {
        if lsn >= self.end_lsn {
            return;
        }
        let bytes = lsn.0.saturating_sub(self.first_lsn.0);
        let keep = self
            .blocks
            .partition_point(|page| u64::from(*page) * (PAGE_BYTES as u64) < bytes);
        self.blocks.truncate(keep);
        self.end_lsn = lsn.max(self.first_lsn);
    }

    /// The block that starts at `lsn`.
    pub(crate) fn place(&self, lsn: Lsn) -> Option<BlockPlace> {
        if lsn < self.first_lsn || lsn >= self.end_lsn {
            return None;
        }
        let offset = lsn - self.first_lsn;
        let page = u32::try_from(offset / PAGE_BYTES as u64).ok()?;
        let index = self.blocks.binary_search(&page).ok()?;
        let end = match self.blocks.get(index + 1) {
            Some(next) => u64::from(*next) * PAGE_BYTES as u64,
            None => self.end_lsn - self.first_lsn,
        };
        Some(BlockPlace {
            slot: self.slot,
            life: self.life,
            generation: self.generation,
            first_lsn: lsn,
            position: FilePosition(FIRST_BLOCK.0 + offset),
            block_bytes: usize::try_from(end - offset).ok()?,
        })
    }

    /// Addresses of the blocks, ascending.
    pub(crate) fn block_lsns(&self) -> impl Iterator<Item = Lsn> + '_ {
        let first = self.first_lsn;
        self.blocks
            .iter()
            .map(move |page| first + u64::from(*page) * PAGE_BYTES as u64)
    }
}

impl BlockPlace {
    /// Whether `header` is the one that was written here in this life.
    pub(crate) fn is(&self, header: &BlockHeader, shard: ShardId) -> bool {
        header.generation == self.generation
            && header.life == self.life
            && header.position == self.position
            && header.first_lsn == self.first_lsn
            && header.block_bytes as usize == self.block_bytes
            && header.shard == shard
    }
}

/// The live chain.
#[derive(Debug)]
pub(crate) struct Wal {
    shard: ShardId,
    pub(crate) slots: Slots,
    /// Full files that are not settled yet, oldest first.
    closed: VecDeque<WalFile>,
    current: WalFile,
    /// The last block's header checksum, 0 before the first.
    pub(crate) prev_header_crc: u32,
    /// The highest life ever seen.
    life_last: LifeId,
    generations: Generations,
    ignore_pins: bool,
}

/// Whether an append may use the slot that is kept free for the next recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserve {
    Kept,
    Used,
}

/// Draws generations: unlike any other life's, so nothing old passes for new.
#[derive(Clone, Debug)]
pub(crate) struct Generations {
    seed: u64,
}

impl Generations {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self { seed: config.seed }
    }

    /// The generation of `life`: the start's random seed and the life's number, mixed by
    /// SplitMix64's finaliser, a bijection; lives are never reused, so neither are these.
    pub(crate) fn draw(&self, life: LifeId) -> Generation {
        let mut x = self
            .seed
            .wrapping_add(life.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Generation(x ^ (x >> 31))
    }
}

impl Wal {
    /// The chain as recovery left it: `current` is new and empty or holds the re-persisted tail.
    pub(crate) fn new(
        config: &StoreConfig,
        slots: Slots,
        closed: VecDeque<WalFile>,
        current: WalFile,
        prev_header_crc: u32,
    ) -> Self {
        assert!(current.header_durable, "recovery wrote the header");
        Self {
            shard: config.shard,
            slots,
            closed,
            life_last: current.life,
            current,
            prev_header_crc,
            generations: Generations::new(config),
            ignore_pins: config.bug(SeededBug::ReadFromRecycledFile),
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn current(&self) -> &WalFile {
        &self.current
    }

    /// Full files that are not settled yet, oldest first.
    pub(crate) fn closed(&self) -> &VecDeque<WalFile> {
        &self.closed
    }

    /// Bytes of the current file that blocks may still take; a seal may take one page more.
    pub(crate) fn room(&self) -> u64 {
        self.room_for_seal().saturating_sub(PAGE_BYTES as u64)
    }

    /// Bytes of the current file that a seal may take.
    pub(crate) fn room_for_seal(&self) -> u64 {
        self.slots.bytes_of(self.current.slot) - self.current.next_position().0
    }

    /// Whether another file can be put into use. One slot stays free for the next recovery unless
    /// `reserve` says otherwise: recovery can make one, but not on a full disk.
    pub(crate) fn can_roll(&self, reserve: Reserve) -> bool {
        let kept = match reserve {
            Reserve::Kept => 1,
            Reserve::Used => 0,
        };
        self.slots.free() > kept
    }

    /// Whether a file is needed soon and none can be put into use.
    pub(crate) fn is_pressed(&self) -> bool {
        let bytes = self.slots.bytes_of(self.current.slot);
        !self.can_roll(Reserve::Kept) && self.room_for_seal() < bytes / 2
    }

    /// Places a block of `block_bytes` at the end of the current file.
    pub(crate) fn place(&mut self, block_bytes: u64) -> BlockPlace {
        assert!(block_bytes <= self.room_for_seal(), "the block fits");
        let lsn = self.current.end_lsn;
        self.current.push_block(block_bytes);
        self.current.place(lsn).expect("just placed")
    }

    /// Closes the current file and puts the next slot into use; returns the header to write.
    pub(crate) fn roll(&mut self) -> FileHeader {
        assert!(
            self.current.end_lsn > self.current.first_lsn,
            "a file that is followed holds a block: the chain names a successor by one"
        );
        let slot = self.slots.take().expect("can_roll was asked");
        self.life_last = LifeId(self.life_last.0 + 1);
        let header = FileHeader {
            shard: self.shard,
            slot,
            life: self.life_last,
            generation: self.generations.draw(self.life_last),
            first_lsn: self.current.end_lsn,
            predecessor: self.point(),
            file_bytes: self.slots.bytes_of(slot),
        };
        let next = WalFile::new(&header);
        let full = std::mem::replace(&mut self.current, next);
        self.closed.push_back(full);
        header
    }

    /// The end of the chain.
    fn point(&self) -> ChainPoint {
        ChainPoint {
            slot: self.current.slot,
            life: self.current.life,
            generation: self.current.generation,
            end_lsn: self.current.end_lsn,
            header_crc: self.prev_header_crc,
        }
    }

    /// The header of `life` is durable.
    pub(crate) fn header_is_durable(&mut self, life: LifeId) {
        let file = if self.current.life == life {
            &mut self.current
        } else {
            // Headers complete in order, long before a file is settled.
            let found = self.closed.iter_mut().rev().find(|file| file.life == life);
            found.expect("the file is on the chain")
        };
        file.header_durable = true;
    }

    /// The place of the block that starts at `lsn`, if it is still in the WAL.
    pub(crate) fn find(&self, lsn: Lsn) -> Option<BlockPlace> {
        if lsn >= self.current.first_lsn {
            return self.current.place(lsn);
        }
        let after = self.closed.partition_point(|file| file.first_lsn <= lsn);
        self.closed.get(after.checked_sub(1)?)?.place(lsn)
    }

    /// The places of the block that starts at `lsn` and of those behind it in its file, durable
    /// and up to `bytes_max` in all; the first one whatever its size.
    pub(crate) fn stretch(&self, lsn: Lsn, bytes_max: usize, durable: Lsn) -> Vec<BlockPlace> {
        let mut places = Vec::new();
        let mut bytes = 0;
        let mut next = lsn;
        while let Some(place) = self.find(next) {
            bytes += place.block_bytes;
            next = place.first_lsn + place.block_bytes as u64;
            let goes_on = places.last().is_none_or(|last: &BlockPlace| {
                last.life == place.life && bytes <= bytes_max && next <= durable
            });
            if !goes_on {
                break;
            }
            places.push(place);
        }
        places
    }

    /// The chain begins at `life` from now on (a manifest edit says so durably): earlier files are
    /// released.
    pub(crate) fn release_before(&mut self, life: LifeId, ops: &mut VecDeque<DiskOp>) {
        assert!(life <= self.current.life, "the chain begins on the chain");
        while self.closed.front().is_some_and(|file| file.life < life) {
            let file = self.closed.pop_front().expect("just seen");
            self.slots.release(file.slot, ops);
            if self.ignore_pins {
                self.slots.ignore_pins(file.slot);
            }
        }
    }
}
