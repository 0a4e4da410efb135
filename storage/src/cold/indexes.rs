//! A bounded stock of sparse indexes, oldest out first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::index::SectionIndex;
use crate::packs::{Packs, SectionRef};

/// Indexes of sections that have one on disk.
#[derive(Debug)]
pub(super) struct Indexes {
    indexes: BTreeMap<SectionRef, Arc<SectionIndex>>,
    /// Oldest first.
    order: VecDeque<SectionRef>,
    bytes: usize,
    bytes_max: usize,
}

impl Indexes {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            indexes: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The section's index, if it is at hand or needs no reading.
    pub(super) fn get(&self, packs: &Packs, at: SectionRef) -> Option<Arc<SectionIndex>> {
        match self.indexes.get(&at) {
            Some(index) => Some(Arc::clone(index)),
            None => packs.section(at).single_chunk().map(Arc::new),
        }
    }

    pub(super) fn keep(&mut self, at: SectionRef, index: SectionIndex) {
        self.bytes += index.memory_bytes();
        if let Some(before) = self.indexes.insert(at, Arc::new(index)) {
            self.bytes -= before.memory_bytes();
        } else {
            self.order.push_back(at);
        }
        // The newest stays whatever its size: it is about to be used.
        while self.bytes > self.bytes_max && self.order.len() > 1 {
            let oldest = self.order.pop_front().expect("more than one");
            if let Some(index) = self.indexes.remove(&oldest) {
                self.bytes -= index.memory_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::IndexEntry;
    use crate::units::{Offset, PackId, ShardId};

    #[test]
    fn the_oldest_index_goes_first_and_the_newest_always_stays() {
        let packs = Packs::new(ShardId(0), PackId(1));
        let entry = IndexEntry {
            base_offset: Offset(0),
            position: 0,
            max_timestamp_ms: 0,
            checksum: 0,
        };
        let index = SectionIndex::single(entry, 10);
        let at = |number| SectionRef {
            pack: PackId(1),
            number,
        };
        let mut indexes = Indexes::new(2 * index.memory_bytes());
        for number in 0..3 {
            indexes.keep(at(number), index.clone());
        }
        indexes.keep(at(2), index.clone());
        assert_eq!(
            indexes.indexes.keys().copied().collect::<Vec<_>>(),
            [at(1), at(2)]
        );
        assert_eq!(indexes.bytes, 2 * index.memory_bytes());
        assert!(indexes.get(&packs, at(1)).is_some());
        let mut small = Indexes::new(0);
        small.keep(at(0), index.clone());
        assert!(small.get(&packs, at(0)).is_some());
    }
}
