//! Fetches that wait at the homes of their partitions for something to read.
//!
//! A watch is one fetch's interest in some partitions of this shard. It fires once, when enough
//! bytes became readable in them together, and is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use millrace_storage::units::{PartitionId, ShardId};

use crate::gather::GatherId;

/// A fetch of some shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Watcher {
    /// The shard that the fetch belongs to.
    pub(crate) origin: ShardId,
    /// The fetch there.
    pub(crate) gather: GatherId,
}

/// The watches of one shard.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// By fetch, each at most once.
    watches: BTreeMap<Watcher, Watch>,
    /// Who watches a partition. No empty sets; agrees with `watches`. Ordered, because thousands of
    /// readers may wait for one partition and leave one by one.
    by_partition: HashMap<PartitionId, BTreeSet<Watcher>>,
    /// Watches that fired, to be told.
    fired: VecDeque<Watcher>,
}

#[derive(Debug)]
struct Watch {
    partitions: Vec<PartitionId>,
    /// Bytes that have yet to become readable; positive.
    bytes_wanted: usize,
}

impl Watches {
    /// Begins a watch.
    pub(crate) fn add(
        &mut self,
        watcher: Watcher,
        partitions: Vec<PartitionId>,
        bytes_wanted: usize,
    ) {
        assert!(bytes_wanted > 0, "a fetch that has enough does not wait");
        for partition in &partitions {
            self.by_partition
                .entry(*partition)
                .or_default()
                .insert(watcher);
        }
        let watch = Watch {
            partitions,
            bytes_wanted,
        };
        let before = self.watches.insert(watcher, watch);
        assert!(before.is_none(), "a fetch watches a shard once");
    }

    /// `bytes` more can be read in `partition`.
    pub(crate) fn note_readable(&mut self, partition: PartitionId, bytes: usize) {
        let Some(watchers) = self.by_partition.get(&partition) else {
            return;
        };
        let mut enough = Vec::new();
        for watcher in watchers {
            let watch = self.watches.get_mut(watcher).expect("both sides agree");
            watch.bytes_wanted = watch.bytes_wanted.saturating_sub(bytes);
            if watch.bytes_wanted == 0 {
                enough.push(*watcher);
            }
        }
        for watcher in enough {
            self.fire(watcher);
        }
    }

    /// Something other than bytes happened to `partition`: it is gone, or was cut short.
    pub(crate) fn note_changed(&mut self, partition: PartitionId) {
        while let Some(watcher) = self.first_watcher(partition) {
            self.fire(watcher);
        }
    }

    fn first_watcher(&self, partition: PartitionId) -> Option<Watcher> {
        self.by_partition.get(&partition)?.first().copied()
    }

    /// Ends a watch and tells of it.
    pub(crate) fn fire(&mut self, watcher: Watcher) {
        if self.remove(watcher) {
            self.fired.push_back(watcher);
        }
    }

    /// Ends a watch without a word; whether there was one.
    pub(crate) fn remove(&mut self, watcher: Watcher) -> bool {
        let Some(watch) = self.watches.remove(&watcher) else {
            return false;
        };
        for partition in watch.partitions {
            if let Some(watchers) = self.by_partition.get_mut(&partition) {
                watchers.remove(&watcher);
                if watchers.is_empty() {
                    self.by_partition.remove(&partition);
                }
            }
        }
        true
    }

    /// The next watch that fired.
    pub(crate) fn poll_fired(&mut self) -> Option<Watcher> {
        self.fired.pop_front()
    }

    /// How many fetches watch.
    pub(crate) fn len(&self) -> usize {
        self.watches.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(gather: u64) -> Watcher {
        Watcher {
            origin: ShardId(1),
            gather: GatherId(gather),
        }
    }

    const P: PartitionId = PartitionId(1);
    const Q: PartitionId = PartitionId(2);

    #[test]
    fn a_watch_fires_once_when_enough_is_there() {
        let mut watches = Watches::default();
        watches.add(watcher(1), vec![P, Q], 10);
        watches.add(watcher(2), vec![P], 1);
        watches.note_readable(Q, 9);
        assert_eq!(watches.poll_fired(), None);
        watches.note_readable(P, 1);
        assert_eq!(watches.poll_fired(), Some(watcher(1)));
        assert_eq!(watches.poll_fired(), Some(watcher(2)));
        watches.note_readable(P, 100);
        assert_eq!(watches.poll_fired(), None);
        assert!(watches.by_partition.is_empty() && watches.len() == 0);
    }

    /// Quadratic, this would take minutes.
    #[test]
    fn very_many_watchers_of_one_partition_fire_at_once() {
        const WATCHERS: u64 = 200_000;
        let mut watches = Watches::default();
        for gather in 0..WATCHERS {
            watches.add(watcher(gather), vec![P], 1);
        }
        watches.note_readable(P, 1);
        for gather in 0..WATCHERS {
            assert_eq!(watches.poll_fired(), Some(watcher(gather)));
            watches.add(watcher(gather), vec![P], 1);
        }
        watches.note_changed(P);
        assert!(watches.len() == 0 && watches.by_partition.is_empty());
    }

    #[test]
    fn a_partition_that_is_gone_wakes_its_watchers() {
        let mut watches = Watches::default();
        watches.add(watcher(1), vec![P, Q], usize::MAX);
        watches.add(watcher(2), vec![Q], 1);
        watches.note_changed(P);
        assert_eq!(watches.poll_fired(), Some(watcher(1)));
        assert_eq!(watches.len(), 1);
    }

    #[test]
    fn a_watch_taken_back_says_nothing() {
        let mut watches = Watches::default();
        watches.add(watcher(1), vec![P, P], 3);
        assert!(watches.remove(watcher(1)));
        assert!(!watches.remove(watcher(1)));
        watches.note_readable(P, 5);
        watches.fire(watcher(1));
        assert_eq!(watches.poll_fired(), None);
    }

    #[test]
    fn a_partition_named_twice_fires_once() {
        let mut watches = Watches::default();
        watches.add(watcher(1), vec![P, P], 3);
        watches.note_readable(P, 5);
        assert_eq!(watches.poll_fired(), Some(watcher(1)));
        assert_eq!(watches.poll_fired(), None);
    }
}
