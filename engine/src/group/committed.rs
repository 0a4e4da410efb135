//! The offsets that a group has committed, and how many bytes they are.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Deref;

use millrace_storage::units::PartitionId;

use super::request::CommittedOffset;
use super::state::memory_bytes;

/// Committed offsets by partition. Reading them is reading the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    by_partition: BTreeMap<PartitionId, CommittedOffset>,
    /// About how many bytes they take in memory: kept, for many groups are asked for it often.
    bytes: usize,
}

impl Committed {
    pub(crate) fn insert(&mut self, partition: PartitionId, offset: CommittedOffset) {
        self.bytes += memory_bytes(&offset.commit);
        if let Some(before) = self.by_partition.insert(partition, offset) {
            self.bytes -= memory_bytes(&before.commit);
        }
    }

    pub(crate) fn remove(&mut self, partition: PartitionId) {
        if let Some(before) = self.by_partition.remove(&partition) {
            self.bytes -= memory_bytes(&before.commit);
        }
    }

    /// Keeps the offsets of some partitions.
    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(PartitionId) -> bool) {
        let gone: Vec<PartitionId> = self.keys().copied().filter(|id| !keeps(*id)).collect();
        for partition in gone {
            self.remove(partition);
        }
    }

    /// Forgets the offsets of some partitions; whether there were any.
    pub(crate) fn forget(&mut self, gone: &BTreeSet<PartitionId>) -> bool {
        let before = self.len();
        if gone.len() < before {
            for partition in gone {
                self.remove(*partition);
            }
        } else {
            self.retain(|partition| !gone.contains(&partition));
        }
        self.len() < before
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Deref for Committed {
    type Target = BTreeMap<PartitionId, CommittedOffset>;

    fn deref(&self) -> &Self::Target {
        &self.by_partition
    }
}

impl IntoIterator for Committed {
    type Item = (PartitionId, CommittedOffset);
    type IntoIter = btree_map::IntoIter<PartitionId, CommittedOffset>;

    fn into_iter(self) -> Self::IntoIter {
        self.by_partition.into_iter()
    }
}

impl Extend<(PartitionId, CommittedOffset)> for Committed {
    fn extend<I: IntoIterator<Item = (PartitionId, CommittedOffset)>>(&mut self, offsets: I) {
        for (partition, offset) in offsets {
            self.insert(partition, offset);
        }
    }
}

impl FromIterator<(PartitionId, CommittedOffset)> for Committed {
    fn from_iter<I: IntoIterator<Item = (PartitionId, CommittedOffset)>>(offsets: I) -> Self {
        let mut all = Self::default();
        all.extend(offsets);
        all
    }
}
