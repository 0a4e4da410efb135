//! What must be true of a log, whatever happened to its machine.
//!
//! The oracle knows each entry that was ever handed to the log, in order. What a machine finds
//! after a stop must be a prefix of that: never less than was visible (acknowledged, or served by
//! an earlier machine), never anything else. Then every (partition, offset) keeps one value for
//! ever, offsets are dense, and an operation whose outcome nobody learned is there whole or not
//! at all.

use std::collections::BTreeMap;

use millrace_storage::units::{Lsn, Offset, PartitionId};

use crate::failure::{Checked, ensure};

/// Something appended to the log of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Records, as stored: stamped with offset and epoch.
    Batch {
        partition: PartitionId,
        base: Offset,
        next: Offset,
        bytes: Vec<u8>,
    },
    /// An event of the engine.
    State { key: u64, bytes: Vec<u8> },
    /// Records below `offset` were deleted.
    LogStart {
        partition: PartitionId,
        offset: Offset,
    },
}

/// What an engine would know after the entries so far: enough to tell any two histories apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineState {
    /// Entries that led here.
    pub(crate) entries: u64,
    /// Offset after the last record, by partition.
    pub(crate) next: BTreeMap<PartitionId, Offset>,
    /// Chained over all state events.
    pub(crate) state_hash: u64,
}

impl EngineState {
    pub(crate) fn apply(&mut self, entry: &Entry) {
        self.entries += 1;
        match entry {
            Entry::Batch {
                partition, next, ..
            } => {
                self.next.insert(*partition, *next);
            }
            Entry::State { key, bytes } => {
                self.state_hash =
                    self.state_hash.rotate_left(7) ^ key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for byte in bytes {
                    self.state_hash = self.state_hash.wrapping_mul(31) ^ u64::from(*byte);
                }
            }
            Entry::LogStart { .. } => {}
        }
    }

    /// As a snapshot's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.state_hash.to_le_bytes());
        for (partition, next) in &self.next {
            out.extend_from_slice(&u64::from(partition.0).to_le_bytes());
            out.extend_from_slice(&next.0.to_le_bytes());
        }
        out
    }

    /// What `encode` wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Checked<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        ensure!(
            rest.is_empty() && words.len() >= 2 && words.len().is_multiple_of(2),
            "a snapshot of {} bytes came back",
            bytes.len()
        );
        let word = |at: usize| u64::from_le_bytes(words[at]);
        let pairs = (2..words.len()).step_by(2);
        Ok(Self {
            entries: word(0),
            state_hash: word(1),
            next: pairs
                .map(|at| (PartitionId(word(at) as u32), Offset(word(at + 1))))
                .collect(),
        })
    }
}

/// Everything ever appended to one shard's log and not legitimately lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    /// In log order, with the LSN that the append returned.
    entries: Vec<(Lsn, Entry)>,
    /// The first so many were acknowledged, or found by a machine that served.
    visible: usize,
    state: EngineState,
    /// Up to where deletion was ever asked for. Whether a deletion took place that nobody was told
    /// of is open, as with any request without an answer.
    asked_starts: BTreeMap<PartitionId, Offset>,
    /// Machines that served so far.
    lives: u64,
}

impl Oracle {
    pub(crate) fn append(&mut self, lsn: Lsn, entry: Entry) -> Checked<()> {
        let last = self.entries.last().map_or(Lsn(0), |(lsn, _)| *lsn);
        ensure!(
            lsn >= last,
            "an append ended at LSN {lsn}, the one before it at {last}"
        );
        if let Entry::LogStart { partition, offset } = &entry {
            let asked = self.asked_starts.entry(*partition).or_default();
            *asked = (*asked).max(*offset);
        }
        self.state.apply(&entry);
        self.entries.push((lsn, entry));
        Ok(())
    }

    /// Everything up to `durable` counts as acknowledged from now on.
    pub(crate) fn acknowledge(&mut self, durable: Lsn) {
        while self
            .entries
            .get(self.visible)
            .is_some_and(|(lsn, _)| *lsn <= durable)
        {
            self.visible += 1;
        }
    }

    pub(crate) fn visible(&self) -> usize {
        self.visible
    }

    pub(crate) fn lives(&self) -> u64 {
        self.lives
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn state(&self) -> &EngineState {
        &self.state
    }

    /// The entry at `index` in log order.
    pub(crate) fn get(&self, index: usize) -> Option<&(Lsn, Entry)> {
        self.entries.get(index)
    }

    /// The offset after the partition's last record.
    pub(crate) fn next(&self, partition: PartitionId) -> Offset {
        self.state.next.get(&partition).copied().unwrap_or_default()
    }

    /// The visible offsets' end.
    pub(crate) fn visible_end(&self, partition: PartitionId) -> Offset {
        let batches = self.batches(partition, self.visible);
        batches.last().map_or(Offset(0), |(_, next, _)| next)
    }

    /// The batches of `partition` among the first `count` entries, ascending.
    pub(crate) fn batches(
        &self,
        partition: PartitionId,
        count: usize,
    ) -> impl Iterator<Item = (Offset, Offset, &[u8])> {
        self.entries[..count]
            .iter()
            .filter_map(move |(_, entry)| match entry {
                Entry::Batch {
                    partition: of,
                    base,
                    next,
                    bytes,
                } if *of == partition => Some((*base, *next, bytes.as_slice())),
                _ => None,
            })
    }

    /// Where records of `partition` begin after the first `count` entries.
    pub(crate) fn log_start(&self, partition: PartitionId, count: usize) -> Offset {
        let starts = self.entries[..count]
            .iter()
            .filter_map(|(_, entry)| match entry {
                Entry::LogStart {
                    partition: of,
                    offset,
                } if *of == partition => Some(*offset),
                _ => None,
            });
        starts.max().unwrap_or_default()
    }

    /// A machine started with this state, which came from a snapshot and what followed it.
    pub(crate) fn check_state(&self, found: &EngineState) -> Checked<usize> {
        let count = usize::try_from(found.entries).unwrap_or(usize::MAX);
        ensure!(
            count <= self.entries.len(),
            "{count} entries came back, only {} were written",
            self.entries.len()
        );
        ensure!(
            count >= self.visible,
            "{count} entries came back, but {} were visible",
            self.visible
        );
        let mut expected = EngineState::default();
        for (_, entry) in &self.entries[..count] {
            expected.apply(entry);
        }
        ensure!(
            *found == expected,
            "after {count} entries the state should be {expected:?}, not {found:?}"
        );
        Ok(count)
    }

    /// Where records of `partition` may begin at the latest.
    pub(crate) fn asked_start(&self, partition: PartitionId) -> Offset {
        self.asked_starts
            .get(&partition)
            .copied()
            .unwrap_or_default()
    }

    /// The machine serves with the first `count` entries: the others are gone for good, and these
    /// may be seen by anyone.
    pub(crate) fn resume(&mut self, count: usize) {
        self.entries.truncate(count);
        self.visible = count;
        self.lives += 1;
        self.state = EngineState::default();
        for (_, entry) in &self.entries {
            self.state.apply(entry);
        }
    }
}
