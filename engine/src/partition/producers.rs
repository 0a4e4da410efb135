//! Idempotent producers of one partition: a batch sent again is answered, not appended again.
//!
//! A producer numbers its records per partition. Of each producer the last five batches are
//! remembered, as many as Kafka's clients send ahead. The numbers are part of the batches, so they
//! are durable with the data; this state is built again from the log and its snapshots, and covers
//! appends that are not durable yet. A producer is forgotten when it was idle for long, or when the
//! shard remembers too many ([`UseOrder`](super::use_order::UseOrder)).

use std::collections::{BTreeMap, VecDeque};

use millrace_storage::record::{BatchError, BatchHeader};
use millrace_storage::units::{Lsn, Offset};

use crate::codec::{CodecError, Decoder, Encoder};
use crate::event::{ProducerListing, Refusal};

/// Batches remembered of each producer.
const BATCHES_REMEMBERED: usize = 5;

/// A batch that begins this many records or more behind what is expected is one ahead: sequences
/// begin anew after 2^31, and only half of them can be behind.
const BEHIND_END: u64 = 1 << 30;

/// What a batch is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The producer's next, or a batch of no idempotent producer.
    New,
    /// Appended before. It is durable once `lsn` is.
    Repeated(Remembered),
    /// Appended before all of the producer's that are remembered: its offset is not. It is durable
    /// once `lsn` is.
    Forgotten {
        /// Where the oldest that is remembered ends in the log.
        lsn: Lsn,
    },
    /// In the middle of the sequence of a producer that the partition does not know.
    Unknown,
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Sequence of its first record; not negative.
    first: i32,
    /// Sequence of its last record; less than `first` when the numbers began anew within it.
    last: i32,
    /// Offset of its first record.
    pub(crate) base_offset: Offset,
    /// The log's own stamp, if it set one.
    pub(crate) append_time_ms: Option<i64>,
    /// The largest timestamp that readers see in it, milliseconds since the Unix epoch; negative
    /// for none.
    max_timestamp_ms: i64,
    /// Where it ends in the log; 0 for one that a start found there.
    pub(crate) lsn: Lsn,
}

/// Where a producer stands in its shard's order of use. 0 is before the first place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(pub(crate) u64);

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    known: BTreeMap<i64, Producer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    /// The newest seen.
    epoch: i16,
    /// Records appended in this epoch, without a gap.
    records: u64,
    /// Oldest first; 1 to [`BATCHES_REMEMBERED`], all of this epoch, each following the one before.
    batches: VecDeque<Remembered>,
    /// Where it stands among the shard's.
    place: Place,
}

impl Producers {
    /// Judges a batch against what was appended before it.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<Verdict, Refusal> {
        if header.producer_id < 0 {
            return Ok(Verdict::New);
        }
        if header.producer_epoch < 0 || header.base_sequence < 0 {
            return Err(Refusal::BadBatch(BatchError::Counts));
        }
        let Some(producer) = self.known.get(&header.producer_id) else {
            // Taking a later batch here would put it before an earlier one that is still to be
            // retried. Its client begins anew, with a new epoch or a new id.
            return match header.base_sequence {
                0 => Ok(Verdict::New),
                _ => Ok(Verdict::Unknown),
            };
        };
        let (current, received) = (producer.epoch, header.producer_epoch);
        if received < current {
            return Err(Refusal::ProducerFenced { current, received });
        }
        if received > current {
            return match header.base_sequence {
                0 => Ok(Verdict::New),
                received => Err(Refusal::OutOfOrderSequence {
                    expected: 0,
                    received,
                }),
            };
        }
        producer.check_sequence(header)
    }

    /// Notes a batch that `check` found new, or that a start found in the log.
    pub(crate) fn record(
        &mut self,
        header: &BatchHeader,
        base_offset: Offset,
        append_time_ms: Option<i64>,
        lsn: Lsn,
    ) {
        if header.producer_id < 0 {
            return;
        }
        let batch = Remembered {
            first: header.base_sequence,
            last: sequence_after(header.base_sequence, header.last_offset_delta),
            base_offset,
            append_time_ms,
            max_timestamp_ms: append_time_ms.unwrap_or(header.max_timestamp_ms),
            lsn,
        };
        let epoch = header.producer_epoch;
        let fresh = |place| Producer {
            epoch,
            records: 0,
            batches: VecDeque::with_capacity(BATCHES_REMEMBERED),
            place,
        };
        let producer = self.known.entry(header.producer_id);
        let producer = producer.or_insert_with(|| fresh(Place::default()));
        if producer.epoch != epoch || producer.next() != Some(batch.first) {
            // A new epoch; or a start whose log begins in the middle of the producer's life.
            *producer = fresh(producer.place);
        }
        if producer.batches.len() == BATCHES_REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back(batch);
        producer.records += u64::from(header.last_offset_delta) + 1;
    }

    /// Forgets a producer.
    pub(crate) fn forget(&mut self, id: i64) {
        self.known.remove(&id);
    }

    /// Forgets all but the `max` that were used last.
    pub(crate) fn keep_last_used(&mut self, max: usize) {
        let excess = self.known.len().saturating_sub(max);
        for id in self.by_use().into_iter().take(excess) {
            self.known.remove(&id);
        }
    }

    /// All that are remembered, by id.
    pub(crate) fn list(&self) -> impl Iterator<Item = ProducerListing> + '_ {
        self.known.iter().map(|(id, producer)| {
            let last = producer.batches.back();
            let last = last.expect("a known producer has appended");
            ProducerListing {
                id: *id,
                epoch: producer.epoch,
                last_sequence: last.last,
                last_timestamp_ms: Some(last.max_timestamp_ms).filter(|ms| *ms >= 0),
            }
        })
    }

    /// Where a producer stands in the shard's order; `None` for one that is not remembered.
    pub(crate) fn place_mut(&mut self, id: i64) -> Option<&mut Place> {
        self.known.get_mut(&id).map(|producer| &mut producer.place)
    }

    /// Where all of them stand.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.known.values().map(|producer| producer.place)
    }

    /// Every id, and where it stands.
    pub(crate) fn places_mut(&mut self) -> impl Iterator<Item = (i64, &mut Place)> {
        let known = self.known.iter_mut();
        known.map(|(id, producer)| (*id, &mut producer.place))
    }

    /// The ids of all, those that were not used for longest first.
    fn by_use(&self) -> Vec<i64> {
        let mut ids: Vec<(Place, i64)> = self
            .known
            .iter()
            .map(|(id, producer)| (producer.place, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.count(self.known.len());
        for (id, producer) in &self.known {
            out.i64(*id);
            out.i16(producer.epoch);
            out.u64(producer.records);
            out.count(producer.batches.len());
            for batch in &producer.batches {
                out.i32(batch.first);
                out.i32(batch.last);
                out.u64(batch.base_offset.0);
                let (kind, ms) = batch.stamp();
                out.u8(kind);
                out.i64(ms);
            }
        }
    }

    /// Reads what `encode` wrote. Everything found is durable, and has no place in any order.
    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let count = input.count(22, "producers")?;
        let mut known = BTreeMap::new();
        for _ in 0..count {
            let id = input.i64("a producer's id")?;
            let producer = Producer::decode(input)?;
            known.insert(id, producer);
        }
        Ok(Self { known })
    }
}

/// A remembered batch has no timestamp, or it is not known.
const STAMP_NONE: u8 = 0;
/// Its timestamp is the log's own.
const STAMP_LOG: u8 = 1;
/// Its timestamp is the producer's.
const STAMP_PRODUCER: u8 = 2;

impl Remembered {
    /// Whose its timestamp is, and the timestamp, as a snapshot has them.
    fn stamp(&self) -> (u8, i64) {
        match self.append_time_ms {
            Some(ms) => (STAMP_LOG, ms),
            None if self.max_timestamp_ms >= 0 => (STAMP_PRODUCER, self.max_timestamp_ms),
            None => (STAMP_NONE, 0),
        }
    }
}

impl Producer {
    /// The sequence that its next batch begins with; `None` before its first.
    fn next(&self) -> Option<i32> {
        Some(sequence_after(self.batches.back()?.last, 1))
    }

    fn check_sequence(&self, header: &BatchHeader) -> Result<Verdict, Refusal> {
        let expected = self.next().expect("a known producer has appended");
        let (first, last) = (
            header.base_sequence,
            sequence_after(header.base_sequence, header.last_offset_delta),
        );
        if first == expected {
            return Ok(Verdict::New);
        }
        let same = |batch: &&Remembered| batch.first == first && batch.last == last;
        if let Some(batch) = self.batches.iter().find(same) {
            return Ok(Verdict::Repeated(*batch));
        }
        // Sequences run from 0 to i32::MAX and begin anew: how far behind is this one?
        let behind = i64::from(expected) - i64::from(first);
        let behind = behind.rem_euclid(1 << 31).unsigned_abs();
        let oldest = self.batches.front().expect("a known producer has appended");
        let remembered = i64::from(expected) - i64::from(oldest.first);
        let remembered = remembered.rem_euclid(1 << 31).unsigned_abs();
        let length = u64::from(header.last_offset_delta) + 1;
        let is_behind = behind <= self.records && behind < BEHIND_END;
        if is_behind && behind >= remembered + length {
            return Ok(Verdict::Forgotten { lsn: oldest.lsn });
        }
        Err(Refusal::OutOfOrderSequence {
            expected,
            received: first,
        })
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let epoch = input.i16("a producer's epoch")?;
        let records = input.u64("a producer's records")?;
        let count = input.count(25, "a producer's batches")?;
        if count == 0 || count > BATCHES_REMEMBERED {
            return Err(CodecError::Invalid(format!(
                "a producer with {count} batches"
            )));
        }
        let mut batches = VecDeque::with_capacity(BATCHES_REMEMBERED);
        for _ in 0..count {
            let (first, last) = (input.i32("a sequence")?, input.i32("a sequence")?);
            let base_offset = Offset(input.u64("a batch's offset")?);
            let kind = input.u8("a stamp's kind")?;
            let stamp_ms = input.i64("a stamp")?;
            batches.push_back(Remembered {
                first,
                last,
                base_offset,
                append_time_ms: (kind == STAMP_LOG).then_some(stamp_ms),
                max_timestamp_ms: if kind == STAMP_NONE { -1 } else { stamp_ms },
                lsn: Lsn(0),
            });
        }
        Ok(Self {
            epoch,
            records,
            batches,
            place: Place::default(),
        })
    }
}

/// The sequence `delta` records after `sequence`: from `i32::MAX` it goes on at 0.
fn sequence_after(sequence: i32, delta: u32) -> i32 {
    let sum = (i64::from(sequence) + i64::from(delta)) & i64::from(i32::MAX);
    i32::try_from(sum).expect("masked to 31 bits")
}

#[cfg(test)]
pub(super) mod tests;
