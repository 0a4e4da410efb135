//! One partition as its home knows it: offsets, epochs, producers.
//!
//! Three offsets, in order: `log_start` (first held) <= `high_watermark` (first not yet readable)
//! <= `next` (first not yet given out). What lies between the last two is in the log but not
//! durable, and nobody may see it.

pub(crate) mod admit;
pub(crate) mod epochs;
pub(crate) mod producers;
pub(crate) mod use_order;

use millrace_storage::record::BatchHeader;
use millrace_storage::units::{LeaderEpoch, Lsn, Offset};

use crate::catalog::config::TopicSettings;
use crate::codec::{CodecError, Decoder, Encoder};
use crate::command::Isolation;
use crate::event::Refusal;
use epochs::EpochHistory;
use producers::Producers;

/// Offsets end here: Kafka's are signed.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// No partition is given more records in a millisecond, on average over its life.
const RECORDS_PER_MS_MAX: u64 = 1 << 20;

/// What a partition's home must not forget: rebuilt at a start from snapshot and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionState {
    /// Offset of the next batch. Monotone.
    next: Offset,
    /// Epochs that the log's records belong to.
    pub(crate) epochs: EpochHistory,
    /// Idempotent producers, appends that are not durable yet included.
    pub(crate) producers: Producers,
    /// The latest stamp of the log's own, milliseconds since the Unix epoch. Monotone: a wall clock
    /// set back does not make later records look older.
    stamp_ms: i64,
}

impl PartitionState {
    /// An empty partition's.
    pub(crate) fn new() -> Self {
        Self {
            next: Offset(0),
            epochs: EpochHistory::new(),
            producers: Producers::default(),
            stamp_ms: i64::MIN,
        }
    }

    /// Offset of the next batch.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// The stamp for a batch appended at `wall_ms`.
    pub(crate) fn stamp(&self, wall_ms: i64) -> i64 {
        self.stamp_ms.max(wall_ms)
    }

    /// Notes a batch given to the log at the partition's end.
    pub(crate) fn note_appended(
        &mut self,
        header: &BatchHeader,
        append_time_ms: Option<i64>,
        lsn: Lsn,
    ) -> Offset {
        let base_offset = self.next;
        self.next = base_offset + u64::from(header.last_offset_delta) + 1;
        assert!(self.next.0 <= OFFSET_MAX, "an offset fits Kafka's 63 bits");
        self.stamp_ms = append_time_ms.map_or(self.stamp_ms, |stamp| self.stamp_ms.max(stamp));
        self.producers
            .record(header, base_offset, append_time_ms, lsn);
        base_offset
    }

    /// Notes a batch that a start found in the log.
    pub(crate) fn note_replayed(&mut self, header: &BatchHeader) -> Result<(), CodecError> {
        if header.base_offset < self.next {
            return Err(CodecError::Invalid(format!(
                "offset {} is in the log twice",
                header.base_offset
            )));
        }
        self.epochs.observe(header.leader_epoch, header.base_offset);
        self.next = header.base_offset;
        let stamp = header.is_append_time().then_some(header.max_timestamp_ms);
        self.note_appended(header, stamp, Lsn(0));
        Ok(())
    }

    /// Records may have been lost at the end: goes on `offsets` later, in a new leader epoch, so
    /// that none of the lost offsets is used again.
    pub(crate) fn skip_lost(&mut self, offsets: u64) {
        self.next = Offset(self.next.0.saturating_add(offsets).min(OFFSET_MAX));
        self.epochs.raise(self.next);
    }

    /// Everything about the partition was lost, how much it was too: goes on at an offset and in a
    /// leader epoch that no earlier life can have come to. Both are taken from the clock, so that
    /// a second such loss goes beyond the first.
    pub(crate) fn begin_again(&mut self, wall_ms: i64) {
        let ms = wall_ms.max(0).cast_unsigned();
        let offset = ms.saturating_mul(RECORDS_PER_MS_MAX).min(OFFSET_MAX);
        let minutes = i32::try_from(ms / 60_000).unwrap_or(i32::MAX);
        self.reach(Offset(offset));
        self.epochs.observe(LeaderEpoch(minutes), self.next);
    }

    /// Goes on at `end` at least: the log holds so much.
    pub(crate) fn reach(&mut self, end: Offset) {
        self.next = self.next.max(end);
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.u64(self.next.0);
        out.i64(self.stamp_ms);
        self.epochs.encode(out);
        self.producers.encode(out);
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            next: Offset(input.u64("a partition's next offset")?),
            stamp_ms: input.i64("a partition's last stamp")?,
            epochs: EpochHistory::decode(input)?,
            producers: Producers::decode(input)?,
        })
    }
}

/// A partition at its home.
#[derive(Debug)]
pub(crate) struct Partition {
    /// The topic's settings in force.
    pub(crate) settings: TopicSettings,
    /// What survives a restart.
    pub(crate) state: PartitionState,
    /// First offset held. Monotone.
    log_start: Offset,
    /// Where the partition begins as the log's own entries say, those included that are not
    /// durable yet. Monotone. Retention may have moved the start beyond it.
    logged_start: Offset,
    /// First offset not yet readable. Monotone; risen only by the release of a waiter.
    high_watermark: Offset,
}

impl Partition {
    /// A partition of which everything in the log is durable.
    pub(crate) fn new(settings: TopicSettings, state: PartitionState, log_start: Offset) -> Self {
        let high_watermark = state.next();
        assert!(log_start <= high_watermark, "a log starts before its end");
        Self {
            settings,
            state,
            log_start,
            logged_start: log_start,
            high_watermark,
        }
    }

    /// First offset held.
    pub(crate) fn log_start(&self) -> Offset {
        self.log_start
    }

    /// First offset not yet readable by anyone.
    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// First offset that a reader of that isolation may not see: the one answer to the question.
    pub(crate) fn readable_end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::Uncommitted => self.high_watermark,
            Isolation::Committed => self.last_stable(),
        }
    }

    /// First offset of an open transaction, or the high watermark. Transactional batches are
    /// refused at their append, so no transaction is ever open.
    pub(crate) fn last_stable(&self) -> Offset {
        self.high_watermark
    }

    /// The leader epoch of the next append.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        self.state.epochs.current()
    }

    /// Records below `end` are durable.
    pub(crate) fn raise_high_watermark(&mut self, end: Offset) {
        assert!(
            end <= self.state.next(),
            "only what was appended is durable"
        );
        assert!(
            self.high_watermark <= end,
            "the high watermark moves forward"
        );
        self.high_watermark = end;
    }

    /// Whether the log says that the partition begins at `start` or later.
    pub(crate) fn is_start_logged(&self, start: Offset) -> bool {
        start <= self.logged_start
    }

    /// The log was given an entry which says that the partition begins at `start`.
    pub(crate) fn note_start_logged(&mut self, start: Offset) {
        assert!(self.logged_start < start, "an entry says something new");
        self.logged_start = start;
        self.raise_log_start(start);
    }

    /// The log holds nothing below `start` any more.
    pub(crate) fn raise_log_start(&mut self, start: Offset) {
        assert!(
            start <= self.high_watermark,
            "only what is durable is dropped"
        );
        self.log_start = self.log_start.max(start);
        self.state.epochs.trim(self.log_start);
    }

    /// Refuses a read that begins outside what the partition holds. The high watermark itself is
    /// inside: that is where a reader waits for more.
    pub(crate) fn check_offset(&self, from: Offset) -> Result<(), Refusal> {
        if from < self.log_start || from > self.high_watermark {
            return Err(Refusal::OffsetOutOfRange {
                first: self.log_start,
                next: self.high_watermark,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::config::{TopicDefaults, TopicOverrides};
    use crate::testing::BatchMaker;

    fn header(maker: &BatchMaker) -> BatchHeader {
        BatchHeader::parse(&maker.bytes()).expect("good")
    }

    fn partition() -> Partition {
        let settings =
            TopicSettings::resolve(&TopicOverrides::default(), &TopicDefaults::default());
        Partition::new(settings, PartitionState::new(), Offset(0))
    }

    #[test]
    fn offsets_are_dense_and_readable_only_when_durable() {
        let mut partition = partition();
        let three = header(&BatchMaker::new(3));
        for base in [0, 3] {
            let given = partition.state.note_appended(&three, None, Lsn(1));
            assert_eq!(given, Offset(base));
        }
        assert_eq!(partition.readable_end(Isolation::Uncommitted), Offset(0));
        partition.raise_high_watermark(Offset(3));
        assert_eq!(partition.readable_end(Isolation::Committed), Offset(3));
        assert_eq!(partition.check_offset(Offset(3)), Ok(()));
        assert!(partition.check_offset(Offset(4)).is_err());
        partition.raise_log_start(Offset(2));
        assert_eq!(
            partition.check_offset(Offset(1)),
            Err(Refusal::OffsetOutOfRange {
                first: Offset(2),
                next: Offset(3)
            })
        );
    }

    #[test]
    #[should_panic(expected = "only what was appended")]
    fn nothing_is_readable_that_was_not_appended() {
        partition().raise_high_watermark(Offset(1));
    }

    #[test]
    fn the_logs_stamp_does_not_follow_a_clock_set_back() {
        let mut state = PartitionState::new();
        let one = header(&BatchMaker::new(1));
        assert_eq!(state.stamp(-5), -5);
        state.note_appended(&one, Some(100), Lsn(1));
        assert_eq!(state.stamp(50), 100);
        assert_eq!(state.stamp(150), 150);
    }

    #[test]
    fn an_accepted_loss_jumps_and_raises_the_epoch() {
        let mut state = PartitionState::new();
        let one = header(&BatchMaker::new(1));
        state.note_appended(&one, None, Lsn(1));
        state.skip_lost(1_000);
        assert_eq!(state.next(), Offset(1_001));
        assert_eq!(state.epochs.current(), LeaderEpoch(1));
        let end = state.epochs.end_of(LeaderEpoch(0), state.next());
        assert_eq!(end, Some((LeaderEpoch(0), Offset(1_001))));
    }

    #[test]
    fn a_start_finds_the_state_that_appends_left() {
        let maker = BatchMaker::new(4).producer(7, 0, 0);
        let mut before = PartitionState::new();
        before.note_appended(&header(&maker), None, Lsn(9));
        let mut replayed = PartitionState::new();
        assert_eq!(replayed.note_replayed(&header(&maker)), Ok(()));
        assert!(replayed.note_replayed(&header(&maker)).is_err(), "twice");
        let mut out = Encoder::default();
        before.encode(&mut out);
        let bytes = out.into_bytes();
        let restored = PartitionState::decode(&mut Decoder::new(&bytes));
        assert_eq!(restored, Ok(replayed));
    }
}
