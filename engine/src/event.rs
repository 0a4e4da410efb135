//! What a shard answers. One request, one terminal event.

use bytes::Bytes;
use millrace_storage::disk::DiskSpace;
use millrace_storage::record::BatchError;
use millrace_storage::units::{BootTime, LeaderEpoch, Offset, PartitionId};
use uuid::Uuid;

use crate::catalog::config::TopicOverrides;
use crate::command::RequestId;
use crate::group::{GroupAnswer, GroupListing, GroupRefusal};
use crate::report::ShardReport;

/// The end of a request.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which request.
    pub request: RequestId,
    /// What became of it.
    pub outcome: Result<Outcome, Refusal>,
}

/// A request served.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A batch is durable.
    Appended(Appended),
    /// A fetch, in the order of the request.
    Fetched(Vec<FetchedPartition>),
    /// An offset; `None` when no record fits the query.
    OffsetFound(Option<FoundOffset>),
    /// The largest leader epoch at or below the one asked for, and the offset after its last
    /// record; `None` when the one asked for has not begun.
    EpochEnd(Option<(LeaderEpoch, Offset)>),
    /// Records were deleted, durably: the first offset that the partition holds.
    RecordsDeleted(Offset),
    /// The idempotent producers of a partition, by id.
    ProducersListed(Vec<ProducerListing>),
    /// What a shard's partitions take on the disk.
    LogsMeasured(LogSizes),
    /// A catalog change: one result an item, in order. The change is durable and everywhere.
    CatalogWritten(Vec<Result<CatalogAnswer, Refusal>>),
    /// A producer id never given out before; its epoch is 0.
    ProducerIdAllocated(i64),
    /// A group's answer.
    Group(GroupAnswer),
    /// The groups of a shard, by name.
    GroupsListed(Vec<GroupListing>),
    /// The shard's state, for the control thread.
    Reported(Box<ShardReport>),
}

impl Outcome {
    /// Memory of a list that nobody knew the length of, with its words, about; 0 of everything
    /// else.
    #[must_use]
    pub fn list_bytes(&self) -> usize {
        match self {
            Self::ProducersListed(list) => size_of_val(list.as_slice()),
            Self::LogsMeasured(sizes) => size_of_val(sizes.partitions.as_slice()),
            Self::GroupsListed(list) => list.iter().map(GroupListing::bytes).sum(),
            Self::Group(answer) => answer.list_bytes(),
            _ => 0,
        }
    }
}

/// A durable batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record. A repeated idempotent batch answers with its first life's.
    pub base_offset: Offset,
    /// The log's own stamp where the topic asks for it, milliseconds since the Unix epoch.
    pub append_time_ms: Option<i64>,
    /// First offset held by the partition.
    pub log_start: Offset,
    /// When it became durable, by the clock that all shards share; of a batch that was durable when
    /// it was repeated, when it was repeated.
    pub durable_at: BootTime,
}

/// One partition of a fetch.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    /// Which.
    pub partition: PartitionId,
    /// What it held, or why nothing can be had.
    pub result: Result<Fetched, Refusal>,
}

/// What a partition held.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// First offset not yet readable.
    pub high_watermark: Offset,
    /// First offset that a committed reader may not see.
    pub last_stable: Offset,
    /// First offset held.
    pub log_start: Offset,
    /// Whole batches in offset order, as their producers sent them.
    pub batches: Vec<Bytes>,
    /// Whether batches behind these were readable too.
    pub has_more: bool,
}

/// An offset with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: Offset,
    /// Its record's timestamp; `None` for earliest and latest.
    pub timestamp_ms: Option<i64>,
    /// The partition's leader epoch.
    pub leader_epoch: LeaderEpoch,
}

/// An idempotent producer as a partition remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerListing {
    /// Its id.
    pub id: i64,
    /// The newest epoch seen.
    pub epoch: i16,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Largest timestamp of its last batch, milliseconds since the Unix epoch; `None` for a batch
    /// without one.
    pub last_timestamp_ms: Option<i64>,
}

/// What the partitions of one shard take on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSizes {
    /// Each partition homed there with the bytes of its batches, ascending.
    pub partitions: Vec<(PartitionId, u64)>,
    /// The file system's room as the shard heard of it last; `None` before the first time.
    pub space: Option<DiskSpace>,
}

/// What a catalog change made of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogAnswer {
    /// The topic's name.
    pub name: String,
    /// The topic's id.
    pub id: Uuid,
    /// Partitions it has now.
    pub partitions: u32,
    /// Settings that differ from the broker's.
    pub overrides: TopicOverrides,
}

/// Why a request cannot be served: an ordinary outcome. Each protocol answers every variant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No topic of that name or id.
    #[error("unknown topic")]
    UnknownTopic,
    /// The topic has no such partition, or it was just deleted.
    #[error("unknown partition")]
    UnknownPartition,
    /// Outside what the partition holds.
    #[error("offset out of range: the partition holds {first} up to {next}, exclusive")]
    OffsetOutOfRange {
        /// First offset held.
        first: Offset,
        /// The next offset to be written.
        next: Offset,
    },
    /// The reader's leader epoch is older than the partition's.
    #[error("the leader epoch is {current} by now")]
    FencedLeaderEpoch {
        /// The partition's.
        current: LeaderEpoch,
    },
    /// The reader's leader epoch is newer than the partition's.
    #[error("the leader epoch is only {current}")]
    UnknownLeaderEpoch {
        /// The partition's.
        current: LeaderEpoch,
    },
    /// Not a good batch.
    #[error("{0}")]
    BadBatch(BatchError),
    /// A codec that does not exist.
    #[error("unknown compression codec {0}")]
    UnknownCodec(u8),
    /// Above the topic's or the broker's limit.
    #[error("a batch of {bytes} bytes exceeds the limit of {bytes_max}")]
    BatchTooLarge {
        /// The batch's size.
        bytes: usize,
        /// The limit in force.
        bytes_max: usize,
    },
    /// A timestamp that is too far off, or missing.
    #[error("a record's timestamp is out of the accepted range")]
    InvalidTimestamp,
    /// A sequence that leaves a gap.
    #[error("out of order sequence: expected {expected}, received {received}")]
    OutOfOrderSequence {
        /// Next sequence of that producer.
        expected: i32,
        /// What came.
        received: i32,
    },
    /// The batch is older than the last five of its producer. It is durable.
    #[error("the batch was appended before and its offset is no longer remembered")]
    DuplicateSequence,
    /// An idempotent producer that this partition does not know, in the middle of its sequence.
    #[error("the producer is unknown here and its batch is not its first")]
    UnknownProducer {
        /// First offset that the partition holds: Kafka's clients ask what was lost before they
        /// begin anew.
        log_start: Offset,
    },
    /// A newer instance of the producer took over.
    #[error("producer epoch {received} is older than {current}")]
    ProducerFenced {
        /// The epoch in force.
        current: i16,
        /// What came.
        received: i16,
    },
    /// A transactional or control batch: no transaction is open.
    #[error("no transaction is open for that batch")]
    NoTransaction,
    /// The disk is full: consuming and deleting work on.
    #[error("the disk is full; free space or lower retention, then retry")]
    DiskFull,
    /// A queue inside the broker is full: try again.
    #[error("the broker is busy: {0} is reached; retry")]
    Busy(&'static str),
    /// The log failed with the request under way: it may or may not be stored.
    #[error("the outcome is unknown: the log failed with the request under way")]
    OutcomeUnknown,
    /// What the disk returned is not what was written.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The topic exists.
    #[error("topic {0} exists already")]
    TopicExists(String),
    /// A name that is not allowed.
    #[error("invalid topic name: {0}")]
    InvalidTopicName(String),
    /// A partition count that is not allowed.
    #[error("{0}")]
    InvalidPartitions(String),
    /// Homes for new partitions that cannot be had.
    #[error("{0}")]
    InvalidPlacement(String),
    /// A setting that does not exist or a value out of its range.
    #[error("{0}")]
    InvalidConfig(String),
    /// The same item twice in one request.
    #[error("{0} is named twice in the request")]
    Duplicate(String),
    /// A named limit of the configuration.
    #[error("limit {limit} = {max} is reached; raise it in the configuration")]
    LimitReached {
        /// Name in the configuration.
        limit: &'static str,
        /// Its value.
        max: u64,
    },
    /// A group's own reasons.
    #[error("{0}")]
    Group(GroupRefusal),
    /// The operation is not allowed to this principal, or to anyone.
    #[error("not allowed: {0}")]
    Denied(String),
}
