//! Blocks in memory, in three stocks: recently written ones, because consumers at the tail read
//! them next; those that a settle pass has still to copy, so that it need not read them from a
//! disk which is busy with commits; and blocks read back, because many partitions share one block.
//!
//! The first and the last drop their oldest block first. The second takes no more when it is full:
//! passes begin with the oldest, so a stock that dropped those would never be of use. A durable
//! group's buffer is shared as it is when it is mostly full; a small group is copied out, so that a
//! page of records never holds a megabyte.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::buf::{AlignedBuf, BufferPool};
use crate::config::StoreConfig;
use crate::units::Lsn;

/// Blocks by their address; the key is the block's first LSN.
#[derive(Debug)]
pub(crate) struct TailCache {
    written: Stock,
    unsettled: Unsettled,
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

/// Blocks from some LSN on, until a pass has copied them.
#[derive(Debug)]
struct Unsettled {
    blocks: BTreeMap<Lsn, Cached>,
    /// Memory held.
    bytes: usize,
    bytes_max: usize,
}

#[derive(Clone, Debug)]
struct Cached {
    block: Bytes,
    /// Memory that the block holds: its own, or its whole buffer's.
    held_bytes: usize,
}

impl TailCache {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            written: Stock::new(config.tail_cache_bytes),
            unsettled: Unsettled {
                blocks: BTreeMap::new(),
                bytes: 0,
                bytes_max: config.unsettled_cache_bytes,
            },
            read: Stock::new(config.read_cache_bytes),
        }
    }

    /// Keeps a durable group, whose block is all that `buffer` shows.
    pub(crate) fn keep_written(&mut self, lsn: Lsn, buffer: AlignedBuf, pool: &BufferPool) {
        let buffer_bytes = buffer.capacity();
        let cached = if buffer.len() * 2 < buffer_bytes {
            let block = Bytes::copy_from_slice(&buffer);
            pool.give(buffer);
            Cached {
                held_bytes: block.len(),
                block,
            }
        } else {
            Cached {
                held_bytes: buffer_bytes,
                block: pool.share(buffer),
            }
        };
        self.unsettled.keep(lsn, &cached);
        self.written.keep(lsn, cached);
    }

    /// Keeps a durable block without entries, for passes alone: without it they would have to read
    /// from the disk between any two blocks of a quiet log.
    pub(crate) fn keep_seal(&mut self, lsn: Lsn, seal: &[u8]) {
        let block = Bytes::copy_from_slice(seal);
        let held_bytes = block.len();
        self.unsettled.keep(lsn, &Cached { block, held_bytes });
    }

    /// Passes have copied everything below `lsn`.
    pub(crate) fn settled_below(&mut self, lsn: Lsn) {
        self.unsettled.drop_below(lsn);
    }

    /// Keeps a block that a read brought back, checked.
    pub(crate) fn keep_read(&mut self, lsn: Lsn, block: Bytes) {
        let held_bytes = block.len();
        self.read.keep(lsn, Cached { block, held_bytes });
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Bytes> {
        let cached = self.written.blocks.get(&lsn);
        cached
            .or_else(|| self.unsettled.blocks.get(&lsn))
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

    fn keep(&mut self, lsn: Lsn, cached: Cached) {
        self.bytes += cached.held_bytes;
        let before = self.blocks.insert(lsn, cached);
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

impl Unsettled {
    fn keep(&mut self, lsn: Lsn, cached: &Cached) {
        if self.bytes + cached.held_bytes > self.bytes_max {
            return;
        }
        self.bytes += cached.held_bytes;
        let before = self.blocks.insert(lsn, cached.clone());
        assert!(before.is_none(), "a block becomes durable once");
    }

    fn drop_below(&mut self, lsn: Lsn) {
        let rest = self.blocks.split_off(&lsn);
        let dropped = std::mem::replace(&mut self.blocks, rest);
        let bytes: usize = dropped.values().map(|cached| cached.held_bytes).sum();
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_BYTES;

    fn cache(tail_cache_bytes: usize, unsettled_cache_bytes: usize) -> TailCache {
        TailCache::new(&StoreConfig {
            tail_cache_bytes,
            unsettled_cache_bytes,
            read_cache_bytes: PAGE_BYTES,
            ..StoreConfig::default()
        })
    }

    #[test]
    fn the_oldest_block_goes_first_and_small_ones_free_their_buffer() {
        let pool = BufferPool::new(8 * PAGE_BYTES, 2);
        let mut cache = cache(2 * PAGE_BYTES, 0);
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
        let mut cache = cache(2 * PAGE_BYTES, 0);
        cache.keep_written(Lsn(0), pool.take(), &pool);
        assert!(cache.get(Lsn(0)).is_none());
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn what_was_read_back_does_not_push_out_the_tail() {
        let mut cache = cache(PAGE_BYTES, 0);
        let page = Bytes::from(vec![0; PAGE_BYTES]);
        let pool = BufferPool::new(PAGE_BYTES, 1);
        cache.keep_written(Lsn(9), pool.take(), &pool);
        cache.keep_read(Lsn(1), page.clone());
        cache.keep_read(Lsn(2), page);
        assert!(cache.get(Lsn(9)).is_some());
        assert!(cache.get(Lsn(1)).is_none());
    }

    #[test]
    fn the_oldest_that_is_not_settled_stays_until_it_is() {
        let pool = BufferPool::new(PAGE_BYTES, 1);
        let mut cache = cache(PAGE_BYTES, 2 * PAGE_BYTES);
        for lsn in 0..4 {
            cache.keep_written(Lsn(lsn), pool.take(), &pool);
        }
        let kept = |cache: &TailCache| -> Vec<u64> {
            (0..5)
                .filter(|lsn| cache.get(Lsn(*lsn)).is_some())
                .collect()
        };
        assert_eq!(
            kept(&cache),
            [0, 1, 3],
            "the first two, and the newest for its readers"
        );
        cache.settled_below(Lsn(1));
        assert_eq!(kept(&cache), [1, 3]);
        cache.keep_written(Lsn(4), pool.take(), &pool);
        cache.settled_below(Lsn(3));
        assert_eq!(kept(&cache), [4], "room again, which the newest took");
        assert_eq!(cache.unsettled.bytes, PAGE_BYTES);
    }
}
