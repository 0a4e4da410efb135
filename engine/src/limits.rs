//! Every bound of the engine, by name, with its unit, default and range; and the broker's defaults.

use crate::catalog::config::TopicDefaults;

/// What an engine is told before it starts. The same for every shard of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Bounds of memory and work.
    pub limits: Limits,
    /// What a topic's settings are where it does not set its own.
    pub topic_defaults: TopicDefaults,
    /// Partitions of a topic that is created without saying how many; 1 to `partitions_max`.
    /// Default 1.
    pub default_partitions: u32,
    /// How groups of consumers are kept.
    pub groups: GroupSettings,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            topic_defaults: TopicDefaults::default(),
            default_partitions: 1,
            groups: GroupSettings::default(),
        }
    }
}

/// How groups of consumers are kept. Kafka's names of the settings are in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// Groups homed at one shard. Default 100,000; 1 and up. More are refused.
    pub groups_max: usize,
    /// Members of one group [`group.max.size`]. Default 10,000; 1 and up.
    pub members_max: usize,
    /// Bytes of groups, members and committed offsets in one shard, with all their words. What
    /// adds nothing is served beyond it. Default 256 MiB.
    pub bytes_max: usize,
    /// How long the first rebalance of an empty group waits for more members, milliseconds
    /// [`group.initial.rebalance.delay.ms`]. Default 500.
    pub initial_rebalance_delay_ms: u64,
    /// Shortest session timeout, milliseconds [`group.min.session.timeout.ms`]. Default 6,000.
    pub session_timeout_ms_min: u64,
    /// Longest one, milliseconds [`group.max.session.timeout.ms`]. Default 1,800,000.
    pub session_timeout_ms_max: u64,
    /// Longest metadata of a committed offset, bytes [`offset.metadata.max.bytes`]. Default 4,096.
    pub offset_metadata_bytes_max: usize,
    /// How long a group without members keeps its offsets, milliseconds
    /// [`offsets.retention.minutes`]; `None`: for ever. Default 7 days.
    pub offsets_retention_ms: Option<u64>,
    /// Largest entry of the log, bytes: set by the shard, as its store tells.
    pub entry_bytes_max: usize,
    /// A planted bug that the harness must find.
    #[cfg(any(test, feature = "testing"))]
    pub seeded_bug: Option<SeededBug>,
}

/// Bugs that the test harness plants to show that it would see them. Without the feature
/// `testing` none can be chosen and each check is a constant `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "testing")), allow(dead_code, unreachable_pub))]
pub enum SeededBug {
    /// A commit is taken whatever generation its member is in.
    CommitOfAnyGeneration,
    /// A commit is answered before it is durable.
    CommitBeforeDurable,
}

impl GroupSettings {
    /// Whether the harness planted `bug`.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn bug(&self, bug: SeededBug) -> bool {
        self.seeded_bug == Some(bug)
    }

    /// No bug is planted outside the harness.
    #[cfg(not(any(test, feature = "testing")))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn bug(&self, _bug: SeededBug) -> bool {
        false
    }
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            groups_max: 100_000,
            members_max: 10_000,
            bytes_max: 256 << 20,
            initial_rebalance_delay_ms: 500,
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: Some(7 * 24 * 60 * 60 * 1_000),
            entry_bytes_max: usize::MAX,
            #[cfg(any(test, feature = "testing"))]
            seeded_bug: None,
        }
    }
}

/// The engine's named bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Topics in the broker. Default 10,000; 1 and up.
    pub topics_max: u32,
    /// Partitions in the broker. Default 20,000; 1 and up. Each costs about 1 KiB in its home and
    /// 100 bytes in every other shard.
    pub partitions_max: u32,
    /// Partitions in one fetch. Default 20,000; 1 and up. More is refused as busy.
    pub fetch_partitions_max: usize,
    /// Fetches of one shard's connections under way or parked. Default 65,536; 1 and up.
    pub fetches_max: usize,
    /// Requests of one shard's connections without an answer yet, but for fetches and those that
    /// wait for members of a group. Default 262,144; 1 and up.
    pub requests_max: usize,
    /// Appends of one shard that are not durable yet. Default 262,144; 1 and up.
    pub waiters_max: usize,
    /// Bytes of batches that a shard holds while its log has no free file. Default 64 MiB; at
    /// least one batch is held whatever its size.
    pub pending_append_bytes_max: usize,
    /// Catalog requests waiting in the catalog's writer. Default 1,024; 1 and up.
    pub catalog_queue_max: usize,
    /// Idempotent producers that a shard remembers, each once for every partition that it writes
    /// to. Default 262,144; 1 and up. About 400 bytes each, and up to 147 bytes in every snapshot.
    /// A new one beyond it takes the place of the one that was not used for longest.
    pub producers_max: usize,
    /// An idempotent producer is forgotten after this long without an append. Milliseconds,
    /// default one day; 1,000 and up. A restart begins the period anew.
    pub producer_expiry_ms: u64,
    /// Searches for an offset by time under way in one shard; more wait. Default 1,024; 1 and up.
    pub lookups_max: usize,
    /// Bytes of batches that those searches hold, each of which a job looks into. Default 128 MiB;
    /// one batch may exceed it. Past it more wait.
    pub lookup_bytes_max: usize,
    /// Requests to one other shard without an answer yet, but for those that wait for members of a
    /// group. Default 65,536; 1 and up. Bounds what waits for room in a full ring.
    pub mesh_requests_max: usize,
    /// Bytes of batches that a shard has given to others and that are not appended yet. Default
    /// 256 MiB; more than the largest request.
    pub mesh_append_bytes_max: usize,
    /// Bytes of answers that fetches of this shard's connections are reading, or that sessions have
    /// not sent. Default 256 MiB; one batch may exceed it. Past it reads wait.
    pub answer_bytes_max: usize,
    /// Partitions of all fetches of one shard's connections under way or parked. Default
    /// 2,000,000; 1 and up. About 400 bytes each.
    pub fetched_partitions_max: usize,
    /// Slots of each ring between two shards. Default 1,024; a power of two, 2 and up.
    pub mesh_ring_slots: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topics_max: 10_000,
            partitions_max: 20_000,
            fetch_partitions_max: 20_000,
            fetches_max: 65_536,
            requests_max: 262_144,
            waiters_max: 262_144,
            pending_append_bytes_max: 64 << 20,
            catalog_queue_max: 1_024,
            producers_max: 262_144,
            producer_expiry_ms: 24 * 60 * 60 * 1_000,
            lookups_max: 1_024,
            lookup_bytes_max: 128 << 20,
            mesh_requests_max: 65_536,
            mesh_append_bytes_max: 256 << 20,
            answer_bytes_max: 256 << 20,
            fetched_partitions_max: 2_000_000,
            mesh_ring_slots: 1_024,
        }
    }
}

/// Records that a batch may declare for each of its bytes. A real batch stays far below it: even
/// empty records that compress perfectly come to a few hundred. With this bound the bytes of a lost
/// range of the log tell how many offsets can have been in it, so that none is used twice.
pub(crate) const RECORDS_PER_BYTE_MAX: u64 = 1_024;

/// The least that an entry of the log must be able to hold, bytes: the longest change of a group.
pub const ENTRY_BYTES_MIN: usize = 128 << 10;

/// Producer ids handed to a shard at a time. Ids of a block that a restart cuts short are skipped.
pub(crate) const PRODUCER_ID_BLOCK: i64 = 1_000;

/// Bytes of records that a search may look through when a batch is decompressed for it. Kafka's
/// largest request is 100 MiB; a batch within it that unpacks to more than this is answered as
/// unreadable by time.
pub const SEARCH_BYTES_MAX: usize = 128 << 20;
