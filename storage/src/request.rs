//! What a store is asked and what it answers.

use bytes::{Bytes, BytesMut};

use crate::error::{ReadError, StorageError};
use crate::record::{Batch, BatchHeader};
use crate::units::{LeaderEpoch, Lsn, Offset, PartitionId};

/// A batch to append. The log copies its bytes once and stamps the copy.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The log, known by [`crate::Store::create_log`].
    pub partition: PartitionId,
    /// Offset of the first record: the log's end, or above it after an accepted loss.
    pub base_offset: Offset,
    /// Stamped into the batch.
    pub leader_epoch: LeaderEpoch,
    /// Stamped as the batch's time, milliseconds since the Unix epoch; `None` keeps the
    /// producer's timestamps.
    pub append_time_ms: Option<i64>,
    /// The checked batch.
    pub batch: Batch<'a>,
}

/// Pairs a read with its answer. Chosen by the caller, unique while the read is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadTicket(pub u64);

/// Asks for batches of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Names the answer if it has to wait.
    pub ticket: ReadTicket,
    /// The log.
    pub partition: PartitionId,
    /// The first batch is the one that contains this offset, or the next one above a gap.
    pub from: Offset,
    /// No batch at or above it; at most the durable end.
    pub end: Offset,
    /// Bytes to return at most, except that one batch always goes.
    pub bytes_max: usize,
}

/// Asks for a place in a log by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRequest {
    /// Names the answer if it has to wait.
    pub ticket: ReadTicket,
    /// The log.
    pub partition: PartitionId,
    /// What is looked for.
    pub point: TimePoint,
    /// No batch that ends at or below it.
    pub from: Offset,
    /// No batch at or above it; at most the durable end.
    pub end: Offset,
}

/// A place in a log by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimePoint {
    /// The first batch whose max timestamp is at least so many milliseconds since the Unix epoch.
    AtLeast(i64),
    /// The first batch with the largest max timestamp.
    Max,
}

/// Whole batches, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Each slice is one batch.
    pub batches: Vec<Bytes>,
}

impl Records {
    /// Bytes of all batches.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }

    /// Copies all batches into memory of their own, so that they keep none of what they were read
    /// from.
    pub(crate) fn unpin(&mut self) {
        let mut own = BytesMut::with_capacity(self.bytes());
        for batch in &mut self.batches {
            own.extend_from_slice(batch);
            *batch = own.split().freeze();
        }
    }
}

/// The answer to a read, now or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Answered from memory.
    Ready(Result<Records, ReadError>),
    /// The disk is asked; [`crate::Store::poll_read`] gives the answer under the ticket.
    Pending,
}

/// What a store being opened finds, in the order in which it is to be applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Replayed<'a> {
    /// The engine's newest settled snapshot; first, if there is one.
    Snapshot {
        /// It has the effect of every entry that ends at or below this address.
        as_of: Lsn,
        /// As the engine gave it.
        bytes: &'a [u8],
    },
    /// A batch of the log.
    Batch {
        /// Address after its entry.
        lsn: Lsn,
        /// Its log.
        partition: PartitionId,
        /// Its fixed fields.
        header: BatchHeader,
        /// All of it.
        bytes: &'a [u8],
    },
    /// A change of the engine's state.
    State {
        /// Address after its entry.
        lsn: Lsn,
        /// The engine's key.
        key: u64,
        /// As the engine gave it.
        bytes: &'a [u8],
    },
    /// Records below an offset were deleted.
    LogStart {
        /// Address after its entry.
        lsn: Lsn,
        /// The log.
        partition: PartitionId,
        /// First offset kept.
        offset: Offset,
    },
    /// The operator gave up a damaged range, now or at an earlier start. Logs with data in it miss
    /// their end: their offsets jump and their leader epoch rises. Told again at every start until
    /// the log is settled beyond it.
    LossAccepted {
        /// First lost address.
        from: Lsn,
        /// End of the lost range, exclusive.
        to: Lsn,
    },
}

/// What a running store tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A settle pass begins: give [`crate::Store::provide_snapshot`] the engine's whole state.
    WantsSnapshot,
    /// Retention moved the start of a log.
    LogStartMoved {
        /// The log.
        partition: PartitionId,
        /// First offset kept.
        offset: Offset,
    },
    /// Nothing more is acknowledged; the process must end. Comes once.
    Poisoned(StorageError),
    /// The disk came down to its reserve, or has room again.
    DiskFull(bool),
    /// The log below this address is settled.
    Settled {
        /// End of what packs hold.
        settled_lsn: Lsn,
    },
    /// Stored data turned out damaged when it was read.
    Damaged {
        /// The log it was read for.
        partition: PartitionId,
        /// Where.
        error: ReadError,
    },
}
