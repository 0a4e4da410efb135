//! Recently written blocks, kept in memory because consumers at the tail read them next, and a
//! smaller stock of blocks read back, because many partitions share one block.
//!
//! Each stock drops its oldest block first. A durable group's buffer is shared as it is when it is
//! mostly full; a small group is copied out, so that a page of records never holds a megabyte.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::buf::{AlignedBuf, BufferPool};
use crate::units::Lsn;

/// Blocks by their address; the key is the block's first LSN.
#[derive(Debug)]
pub(crate) struct TailCache {
    written: Stock,
    read: Stock,
}

#[derive(Debug)]
struct Stock {
    blocks: BTreeMap<Lsn, Cached>,
    /// Oldest first.
    order: VecDeque<Lsn>,
    /// Memory held.
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Cached {
    block: Bytes,
    /// Memory that the block holds: its own, or its whole buffer's.
    held_bytes: usize,
}

impl TailCache {
    pub(crate) fn new(written_bytes_max: usize, read_bytes_max: usize) -> Self {
        Self {
            written: Stock::new(written_bytes_max),
            read: Stock::new(read_bytes_max),
        }
    }

    /// Keeps a durable group, whose block is all that `buffer` shows.
    pub(crate) fn keep_written(&mut self, lsn: Lsn, buffer: AlignedBuf, pool: &BufferPool) {
        let held_bytes = buffer.capacity();
        if buffer.len() * 2 < held_bytes {
            let block = Bytes::copy_from_slice(&buffer);
            pool.give(buffer);
            self.written.keep(lsn, block.len(), block);
        } else {
            self.written.keep(lsn, held_bytes, pool.share(buffer));
        }
    }

    /// Keeps a block that a read brought back, checked.
    pub(crate) fn keep_read(&mut self, lsn: Lsn, block: Bytes) {
        self.read.keep(lsn, block.len(), block);
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Bytes> {
        let cached = self.written.blocks.get(&lsn);
        cached
            .or_else(|| self.read.blocks.get(&lsn))
            .map(|cached| &cached.block)
    }

    /// Memory held.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.written.bytes + self.read.bytes
    }
}

impl Stock {
    fn new(bytes_max: usize) -> Self {
        Self {
            blocks: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    fn keep(&mut self, lsn: Lsn, held_bytes: usize, block: Bytes) {
        let before = self.blocks.insert(lsn, Cached { block, held_bytes });
        self.bytes += held_bytes;
        match before {
            Some(before) => self.bytes -= before.held_bytes,
            None => self.order.push_back(lsn),
        }
        while self.bytes > self.bytes_max {
            let oldest = self.order.pop_front().expect("bytes are held by blocks");
            let dropped = self.blocks.remove(&oldest).expect("in order, so in stock");
            self.bytes -= dropped.held_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_BYTES;

    #[test]
    fn the_oldest_block_goes_first_and_small_ones_free_their_buffer() {
        let pool = BufferPool::new(8 * PAGE_BYTES, 2);
        let mut cache = TailCache::new(2 * PAGE_BYTES, PAGE_BYTES);
        for lsn in 0..3 {
            let mut buffer = pool.take();
            buffer.set_len(PAGE_BYTES);
            cache.keep_written(Lsn(lsn), buffer, &pool);
        }
        assert_eq!(cache.bytes(), 2 * PAGE_BYTES);
        assert!(cache.get(Lsn(0)).is_none());
        assert!(cache.get(Lsn(1)).is_some() && cache.get(Lsn(2)).is_some());
    }

    #[test]
    fn a_block_beyond_the_budget_is_not_kept() {
        let pool = BufferPool::new(8 * PAGE_BYTES, 2);
        let mut cache = TailCache::new(2 * PAGE_BYTES, PAGE_BYTES);
        cache.keep_written(Lsn(0), pool.take(), &pool);
        assert!(cache.get(Lsn(0)).is_none());
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn what_was_read_back_does_not_push_out_the_tail() {
        let mut cache = TailCache::new(PAGE_BYTES, PAGE_BYTES);
        let page = Bytes::from(vec![0; PAGE_BYTES]);
        let pool = BufferPool::new(PAGE_BYTES, 1);
        cache.keep_written(Lsn(9), pool.take(), &pool);
        cache.keep_read(Lsn(1), page.clone());
        cache.keep_read(Lsn(2), page);
        assert!(cache.get(Lsn(9)).is_some());
        assert!(cache.get(Lsn(1)).is_none());
    }
}
