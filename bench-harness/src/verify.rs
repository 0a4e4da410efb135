//! Whether every acknowledged message came back once, whole and in order.
//!
//! The sending side keeps a [`Ledger`] per connection, the receiving side a [`Sighting`] per
//! thread; [`judge`] holds them against each other when both have ended.

use serde::{Deserialize, Serialize};

use crate::payload::Stamp;

/// The message numbers of one stream that a broker has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Sorted, not touching; ends exclusive.
    acknowledged: Vec<(u64, u64)>,
    /// Messages handed to the broker at all.
    pub(crate) sent: u64,
}

impl Ledger {
    /// Notes an acknowledgement; they come in the order of sending.
    pub(crate) fn acknowledge(&mut self, first: u64, count: u64) {
        match self.acknowledged.last_mut() {
            Some((_, end)) if *end == first => *end += count,
            last => {
                assert!(
                    last.is_none_or(|(_, end)| *end < first),
                    "replies come in order"
                );
                self.acknowledged.push((first, first + count));
            }
        }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
            .iter()
            .map(|(first, end)| end - first)
            .sum()
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.acknowledged
            .iter()
            .flat_map(|(first, end)| *first..*end)
    }
}

/// Message numbers seen, one bit each.
#[derive(Clone, Debug, Default)]
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Sets the bit; `false` if it was set before.
    fn insert(&mut self, number: u64) -> bool {
        let index = usize::try_from(number / 64).expect("64-bit targets only");
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        let mask = 1 << (number % 64);
        let fresh = self.words[index] & mask == 0;
        self.words[index] |= mask;
        fresh
    }

    fn contains(&self, number: u64) -> bool {
        let index = usize::try_from(number / 64).expect("64-bit targets only");
        self.words
            .get(index)
            .is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Adds the other's numbers; returns how many were in both.
    fn merge(&mut self, other: &Self) -> u64 {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        let mut both = 0;
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            both += u64::from((*word & other).count_ones());
            *word |= other;
        }
        both
    }
}

/// What the consumers of one thread have seen.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// By stream.
    seen: Vec<Bits>,
    /// Highest number so far plus one, by partition and stream.
    next_by_partition: Vec<Vec<u64>>,
    doubled: u64,
    reordered: u64,
    pub(crate) damaged: u64,
    pub(crate) foreign: u64,
}

impl Sighting {
    pub(crate) fn new(streams: u32) -> Self {
        let streams = usize::try_from(streams).expect("32 bits fit");
        Self {
            seen: vec![Bits::default(); streams],
            next_by_partition: Vec::new(),
            doubled: 0,
            reordered: 0,
            damaged: 0,
            foreign: 0,
        }
    }

    /// Notes a whole message of this run. `true` if it is the first of its number.
    pub(crate) fn see(&mut self, partition: u32, stamp: Stamp) -> bool {
        let stream = usize::try_from(stamp.stream).expect("32 bits fit");
        let Some(seen) = self.seen.get_mut(stream) else {
            self.damaged += 1;
            return false;
        };
        if !seen.insert(stamp.sequence) {
            self.doubled += 1;
            return false;
        }
        let partition = usize::try_from(partition).expect("32 bits fit");
        if self.next_by_partition.len() <= partition {
            self.next_by_partition.resize_with(partition + 1, Vec::new);
        }
        let streams = self.seen.len();
        let by_stream = &mut self.next_by_partition[partition];
        by_stream.resize(streams, 0);
        if stamp.sequence < by_stream[stream] {
            self.reordered += 1;
        } else {
            by_stream[stream] = stamp.sequence + 1;
        }
        true
    }

    /// Adds what another thread saw. A partition is read by one thread only, so no order is lost.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (seen, other) in self.seen.iter_mut().zip(&other.seen) {
            self.doubled += seen.merge(other);
        }
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.foreign += other.foreign;
    }
}

/// The verdict on a run, in messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Verdict {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) delivered: u64,
    /// Acknowledged and never delivered.
    pub(crate) lost: u64,
    /// Delivered again.
    pub(crate) doubled: u64,
    /// Delivered after a later one of the same connection and partition.
    pub(crate) reordered: u64,
    /// Delivered with other bytes than were sent.
    pub(crate) damaged: u64,
    /// Delivered though refused or never answered: allowed, a "no" may come too late.
    pub(crate) delivered_unacknowledged: u64,
    /// In the topic, but not of this run.
    pub(crate) foreign: u64,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.reordered == 0 && self.damaged == 0
    }
}

/// Holds what was acknowledged, by stream, against what every group has seen: a message that one
/// group missed is lost once.
pub(crate) fn judge(ledgers: &[Ledger], groups: &[Sighting]) -> Verdict {
    let mut verdict = Verdict {
        sent: ledgers.iter().map(|ledger| ledger.sent).sum(),
        acknowledged: ledgers.iter().map(Ledger::acknowledged).sum(),
        ..Verdict::default()
    };
    for sighting in groups {
        let group = judge_group(ledgers, sighting);
        verdict.delivered += group.delivered;
        verdict.lost += group.lost;
        verdict.doubled += group.doubled;
        verdict.reordered += group.reordered;
        verdict.damaged += group.damaged;
        verdict.delivered_unacknowledged += group.delivered_unacknowledged;
        verdict.foreign += group.foreign;
    }
    verdict
}

fn judge_group(ledgers: &[Ledger], sighting: &Sighting) -> Verdict {
    let mut verdict = Verdict {
        doubled: sighting.doubled,
        reordered: sighting.reordered,
        damaged: sighting.damaged,
        foreign: sighting.foreign,
        ..Verdict::default()
    };
    for (stream, ledger) in ledgers.iter().enumerate() {
        let Some(seen) = sighting.seen.get(stream) else {
            continue;
        };
        let lost = ledger
            .numbers()
            .filter(|number| !seen.contains(*number))
            .count();
        let lost = u64::try_from(lost).expect("64-bit targets only");
        verdict.delivered += seen.len();
        verdict.lost += lost;
        verdict.delivered_unacknowledged += seen.len() - (ledger.acknowledged() - lost);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(stream: u32, sequence: u64) -> Stamp {
        Stamp {
            run: 1,
            stream,
            sequence,
            due_ns: 0,
        }
    }

    fn ledger(acknowledged: &[(u64, u64)], sent: u64) -> Ledger {
        let mut ledger = Ledger {
            sent,
            ..Ledger::default()
        };
        acknowledged
            .iter()
            .for_each(|(first, count)| ledger.acknowledge(*first, *count));
        ledger
    }

    fn seen(messages: &[(u32, u32, u64)]) -> [Sighting; 1] {
        let mut sighting = Sighting::new(2);
        for (partition, stream, sequence) in messages {
            sighting.see(*partition, stamp(*stream, *sequence));
        }
        [sighting]
    }

    #[test]
    fn every_group_is_owed_every_message() {
        let ledgers = [ledger(&[(0, 2)], 2), Ledger::default()];
        let groups = [seen(&[(0, 0, 0), (0, 0, 1)]), seen(&[(0, 0, 1)])].concat();
        let verdict = judge(&ledgers, &groups);
        assert_eq!((verdict.acknowledged, verdict.delivered), (2, 3));
        assert_eq!((verdict.lost, verdict.doubled), (1, 0));
    }

    #[test]
    fn all_once_in_order_is_clean() {
        let ledgers = [ledger(&[(0, 2), (2, 1)], 3), ledger(&[(0, 1)], 1)];
        let verdict = judge(
            &ledgers,
            &seen(&[(0, 0, 0), (1, 0, 1), (0, 1, 0), (0, 0, 2)]),
        );
        assert!(verdict.is_clean());
        assert_eq!((verdict.acknowledged, verdict.delivered), (4, 4));
    }

    #[test]
    fn a_dropped_message_is_lost_only_if_it_was_acknowledged() {
        let ledgers = [ledger(&[(0, 2), (3, 2)], 5), Ledger::default()];
        let verdict = judge(&ledgers, &seen(&[(0, 0, 0), (0, 0, 2), (0, 0, 4)]));
        assert_eq!((verdict.lost, verdict.delivered_unacknowledged), (2, 1));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_doubled_message_is_found_within_and_across_threads() {
        let ledgers = [ledger(&[(0, 2)], 2), Ledger::default()];
        let mut left = seen(&[(0, 0, 0), (0, 0, 0)]);
        left[0].merge(&seen(&[(1, 0, 0), (1, 0, 1)])[0]);
        let verdict = judge(&ledgers, &left);
        assert_eq!((verdict.doubled, verdict.lost), (2, 0));
    }

    #[test]
    fn order_holds_per_connection_and_partition() {
        let ledgers = [ledger(&[(0, 4)], 4), ledger(&[(0, 1)], 1)];
        let verdict = judge(
            &ledgers,
            &seen(&[(0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 3)]),
        );
        assert_eq!(verdict.reordered, 0, "partitions and connections are apart");
        let verdict = judge(&ledgers, &seen(&[(0, 0, 1), (0, 0, 0), (0, 0, 2)]));
        assert_eq!(verdict.reordered, 1);
    }

    #[test]
    fn damage_spoils_a_run() {
        let mut sighting = seen(&[]);
        sighting[0].damaged = 1;
        assert!(!judge(&[Ledger::default()], &sighting).is_clean());
    }
}
