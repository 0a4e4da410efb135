//! Idempotent producers of a whole shard in the order of their last use: who is forgotten first.
//!
//! A client can make up any number of producer ids, as with Kafka, which takes an id that no broker
//! ever gave away: it may be from a cluster's earlier life, and clients keep theirs for ever. So
//! what bounds them is not who they are but how many a shard remembers.
//!
//! Budget: 262,144 producers, the default of `producers_max`, cost about 100 MiB of memory in a
//! shard (400 bytes each, order and all) and 12 to 38 MiB of each snapshot (47 to 147 bytes each).

use std::collections::BTreeMap;

use millrace_storage::units::{BootTime, PartitionId};

use super::producers::{Place, Producers};

/// The order. A producer counts once for each partition that it writes to.
#[derive(Debug, Default)]
pub(crate) struct UseOrder {
    /// Longest idle first. Each place is its producer's, and no other producer has one.
    places: BTreeMap<Place, Used>,
    /// The last place given. Monotone.
    last: Place,
}

/// A producer of a partition, and when it was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) partition: PartitionId,
    pub(crate) producer: i64,
    pub(crate) at: BootTime,
}

impl UseOrder {
    /// A producer was used at `at`: now it is the last to be forgotten.
    pub(crate) fn renew(
        &mut self,
        partition: PartitionId,
        producers: &mut Producers,
        producer: i64,
        at: BootTime,
    ) {
        let Some(place) = producers.place_mut(producer) else {
            return; // Not idempotent.
        };
        if *place == Place::default() || *place != self.last {
            self.places.remove(place);
            self.last = Place(self.last.0 + 1);
            *place = self.last;
        }
        let used = Used {
            partition,
            producer,
            at,
        };
        self.places.insert(*place, used);
    }

    /// Takes in the producers of partitions, in the order that an earlier life left them in, all
    /// used at `at`.
    pub(crate) fn adopt<'a>(
        &mut self,
        partitions: impl Iterator<Item = (PartitionId, &'a mut Producers)>,
        at: BootTime,
    ) {
        let with_partition = |(partition, producers): (PartitionId, &'a mut Producers)| {
            let places = producers.places_mut();
            places.map(move |(producer, place)| (partition, producer, place))
        };
        let mut found: Vec<_> = partitions.flat_map(with_partition).collect();
        found.sort_unstable_by_key(|(partition, producer, place)| (**place, *partition, *producer));
        for (partition, producer, place) in found {
            self.last = Place(self.last.0 + 1);
            *place = self.last;
            let used = Used {
                partition,
                producer,
                at,
            };
            self.places.insert(*place, used);
        }
    }

    /// A partition is gone, and its producers with it.
    pub(crate) fn drop_all(&mut self, producers: &Producers) {
        for place in producers.places() {
            self.places.remove(&place);
        }
    }

    /// The producer that was not used for longest.
    pub(crate) fn first(&self) -> Option<Used> {
        self.places.values().next().copied()
    }

    /// Takes that producer out of the order; its partition must forget it.
    pub(crate) fn pop(&mut self) -> Option<Used> {
        self.places.pop_first().map(|(_, used)| used)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::producers::tests::known;

    const A: PartitionId = PartitionId(1);
    const B: PartitionId = PartitionId(2);

    fn drain(order: &mut UseOrder) -> Vec<(u32, i64)> {
        let next = || order.pop().map(|used| (used.partition.0, used.producer));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn whoever_was_not_used_for_longest_comes_first() {
        let (mut a, mut b) = (known(&[7, 8]), known(&[7]));
        let mut order = UseOrder::default();
        order.renew(A, &mut a, 7, BootTime(1));
        order.renew(B, &mut b, 7, BootTime(2));
        order.renew(A, &mut a, 8, BootTime(3));
        order.renew(A, &mut a, 7, BootTime(4));
        order.renew(A, &mut a, 7, BootTime(5));
        order.renew(A, &mut a, -1, BootTime(6));
        assert_eq!(order.len(), 3);
        assert_eq!(order.first().map(|used| used.at), Some(BootTime(2)));
        assert_eq!(drain(&mut order), [(2, 7), (1, 8), (1, 7)]);
    }

    #[test]
    fn a_partition_comes_with_its_order_and_goes_whole() {
        let (mut a, mut b) = (known(&[1, 2, 3]), known(&[1]));
        let mut before = UseOrder::default();
        for id in [2, 3, 1] {
            before.renew(A, &mut a, id, BootTime(1));
        }
        let mut order = UseOrder::default();
        order.renew(B, &mut b, 1, BootTime(1));
        order.adopt([(A, &mut a)].into_iter(), BootTime(9));
        assert_eq!(order.len(), 4);
        order.drop_all(&b);
        assert_eq!(order.first().map(|used| used.at), Some(BootTime(9)));
        assert_eq!(drain(&mut order), [(1, 2), (1, 3), (1, 1)]);
    }
}
