//! What a session asks of its shard. The words are neutral: every protocol says the same ones.

use millrace_storage::units::{BootTime, LeaderEpoch, Offset, PartitionId, ShardId};
use uuid::Uuid;

use crate::catalog::config::TopicOverrides;
use crate::group::GroupRequest;

/// Names a request for life: the one terminal event that ends it carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The shard whose connection asked.
    pub origin: ShardId,
    /// The connection on that shard.
    pub connection: ConnectionId,
    /// The connection's own count of its requests.
    pub sequence: u64,
}

/// A connection of one shard: a slot and how often it was reused, so that an event for a
/// connection that is gone never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Index into the shard's connection table.
    pub slot: u32,
    /// Lives of that slot before this one.
    pub life: u32,
}

impl ConnectionId {
    /// The control thread, which is not in the connection table.
    pub const CONTROL: Self = Self {
        slot: u32::MAX,
        life: 0,
    };
}

/// How far a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// To the high watermark.
    Uncommitted,
    /// To the last stable offset: nothing of an open transaction.
    Committed,
}

/// A request to a shard. Borrowed bytes are copied at most once, into the log.
#[derive(Debug)]
pub enum Command<'a> {
    /// Adds one record batch to a partition. Ends with `Appended` once it is durable.
    Append {
        /// Where to.
        partition: PartitionId,
        /// One Kafka record batch, format 2, unchecked.
        batch: &'a [u8],
    },
    /// Reads partitions, waiting until `bytes_min` are there. Ends with `Fetched`.
    Fetch(FetchRequest),
    /// Finds an offset. Ends with `OffsetFound`.
    FindOffset {
        /// Where.
        partition: PartitionId,
        /// Which.
        at: OffsetQuery,
        /// Bounds "latest" and the search by time.
        isolation: Isolation,
    },
    /// Where a leader epoch ended. Ends with `EpochEnd`.
    FindEpochEnd {
        /// Where.
        partition: PartitionId,
        /// The epoch asked for.
        epoch: LeaderEpoch,
    },
    /// Deletes the first records of a partition. Ends with `RecordsDeleted` once that is durable.
    DeleteRecords {
        /// Where.
        partition: PartitionId,
        /// First offset to keep; `None` keeps nothing that is readable now.
        keep_from: Option<Offset>,
    },
    /// The idempotent producers of a partition. Ends with `ProducersListed`.
    ListProducers {
        /// Where.
        partition: PartitionId,
    },
    /// What the partitions of one shard take on the disk. Ends with `LogsMeasured`.
    MeasureLogs {
        /// Which shard.
        home: ShardId,
    },
    /// Changes the catalog. Ends with `CatalogWritten` when the change is durable and every shard
    /// has it.
    WriteCatalog(CatalogRequest),
    /// Hands out a producer id. Ends with `ProducerIdAllocated`.
    AllocateProducerId,
    /// Asks something of a group. Ends with `Group`.
    Group(GroupRequest),
    /// Lists the groups of one shard. Ends with `GroupsListed`.
    ListGroups {
        /// Which shard.
        home: ShardId,
    },
    /// What this shard holds and has done, for the control thread. Ends with `Reported`.
    Report,
}

/// A read of several partitions that may live on several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// What to read, in the order of the answer. Bounded by the session.
    pub partitions: Vec<FetchPartition>,
    /// Answer as soon as this many record bytes are there; 0 answers at once.
    pub bytes_min: usize,
    /// Stop adding records here; the first batch found is returned whatever its size.
    pub bytes_max: usize,
    /// Answer with what is there at this time.
    pub deadline: BootTime,
    /// How far to read.
    pub isolation: Isolation,
}

/// One partition of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// Where.
    pub partition: PartitionId,
    /// First offset wanted.
    pub from: Offset,
    /// Bytes wanted of this partition, in whole batches.
    pub bytes_max: usize,
    /// The leader epoch that the reader believes in, if it says one.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Which offset a reader looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The first one held.
    Earliest,
    /// The one after the last readable one.
    Latest,
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first record stamped at or after this time, milliseconds since the Unix epoch.
    AtOrAfter(i64),
}

/// A change to the catalog; several items are judged one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogRequest {
    /// Creates topics.
    CreateTopics {
        /// The topics.
        topics: Vec<NewTopic>,
        /// Judge only.
        validate_only: bool,
    },
    /// Deletes topics with everything in them.
    DeleteTopics {
        /// The topics.
        topics: Vec<TopicRef>,
    },
    /// Adds partitions to topics.
    CreatePartitions {
        /// The topics.
        topics: Vec<Growth>,
        /// Judge only.
        validate_only: bool,
    },
    /// Sets or clears topic settings.
    AlterTopicConfigs {
        /// One entry a topic.
        topics: Vec<ConfigAlteration>,
        /// Judge only.
        validate_only: bool,
    },
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`; checked by the catalog.
    pub name: String,
    /// Count; `None` for the broker's default.
    pub partitions: Option<u32>,
    /// Homes of the partitions by index, one for each; empty: the broker chooses.
    pub homes: Vec<ShardId>,
    /// Settings that differ from the broker's, unparsed name and value.
    pub config: Vec<(String, Option<String>)>,
}

/// More partitions for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The topic.
    pub topic: String,
    /// Partitions that it shall have in all.
    pub total: u32,
    /// Homes of the new ones by index, one for each; empty: the broker chooses.
    pub homes: Vec<ShardId>,
}

/// How a client names a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(Uuid),
}

/// Changed settings of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigAlteration {
    /// The topic.
    pub topic: String,
    /// Settings by name, in order.
    pub changes: Vec<ConfigChange>,
}

/// What to do with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Set it.
    Set {
        /// Kafka's name of the setting, as `retention.ms`.
        name: String,
        /// Unparsed value.
        value: String,
    },
    /// Back to the broker's default.
    Reset {
        /// Kafka's name of the setting.
        name: String,
    },
    /// Adds to, or takes from, a list-valued setting.
    Amend {
        /// Kafka's name of the setting.
        name: String,
        /// Comma-separated values.
        values: String,
        /// Take away instead of adding.
        subtract: bool,
    },
    /// Everything not named is reset: the old AlterConfigs.
    ReplaceAll(TopicOverrides),
}
