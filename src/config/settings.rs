//! The one table of what can be set: names, types, defaults, ranges and what each is for.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use millrace_storage::manifest::LOGS_MAX;

use super::value::{self, CoreList, Raw, SizeLimit, Value, WalSync};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Kafka's numbers end here.
const I64_MAX: u64 = i64::MAX.unsigned_abs();

/// A table of the file.
pub(super) struct Section {
    /// Its header, as `listeners.kafka`.
    pub(super) path: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) fields: &'static [Field],
}

/// A key of a table.
pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) range: Option<RangeInclusive<u64>>,
    pub(super) set: fn(&mut Config, &Raw) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

macro_rules! range {
    () => {
        None
    };
    ($range:expr) => {
        Some($range)
    };
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        [$path:literal] $section:ident: $type:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $kind:ty = $default:expr $(, $range:expr)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $type {
                $($(#[doc = $doc])+ pub $key: $kind,)+
            }

            impl Default for $type {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }
        )+

        /// Everything that can be set, resolved.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Config {
            $($(#[doc = $section_doc])+ pub $section: $type,)+
        }

        pub(super) static SECTIONS: &[Section] = &[$(
            Section {
                path: $path,
                doc: &[$($section_doc),+],
                fields: &[$(
                    Field {
                        key: stringify!($key),
                        doc: &[$($doc),+],
                        range: range!($($range)?),
                        set: |config, raw| {
                            config.$section.$key = value::read(raw, range!($($range)?))?;
                            Ok(())
                        },
                        show: |config| config.$section.$key.show(),
                    },
                )+],
            },
        )+];
    };
}

settings! {
    /// The process: where its data is and which cores it runs on.
    ["server"] server: Server {
        /// Directory of everything that is kept. Created when missing; one broker at a time.
        data_dir: PathBuf = PathBuf::from("millrace-data");
        /// Cores that run a shard each: "auto", a list as "0-3", or an array as [0, 2]. "auto"
        /// takes one hardware thread of every physical core that the process may use. Shards keep
        /// their data when this changes: a start with other cores hands partitions over first.
        cores: CoreList = CoreList::Auto;
        /// Keep each shard's thread on its core. Without it the numbers in `cores` only count the
        /// shards, and the kernel places their threads.
        pin: bool = true;
        /// How long an idle shard spins before it sleeps, microseconds, where three of four waits
        /// end within that time. Spinning answers faster and burns the core; 0 never spins.
        idle_spin_us: u64 = 20, 0..=3_600_000_000;
        /// The same while a commit is on its way to the disk, whose end a client waits for.
        commit_spin_us: u64 = 200, 0..=3_600_000_000;
        /// Threads for work that is too long for a shard's turn, as decompressing for a search.
        job_threads: u64 = 1, 1..=64;
        /// What is logged on standard error: a level (error, warn, info, debug, trace), or
        /// directives as "info,millrace_net=debug".
        log: String = "info".to_owned();
    }

    /// The Kafka protocol's listener.
    ["listeners.kafka"] kafka: KafkaListener {
        /// Where it listens; port 0 picks a free one. There are no users and no TLS: an address
        /// other than loopback lets everyone on that network in.
        address: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9092));
        /// Present each shard as a broker node of its own: shard i listens on the port + i, and
        /// clients connect straight to the core that owns a partition.
        node_per_core: bool = false;
        /// Host that clients are told to connect to; empty: the address they came in on.
        advertised_host: String = String::new();
        /// Port that clients are told to connect to (node i: this + i); 0: the one listened on.
        advertised_port: u64 = 0, 0..=65_535;
        /// Largest request, bytes: only Produce may reach it.
        request_bytes_max: u64 = 100 * MIB, 64 * KIB..=GIB;
        /// Largest request other than Produce, bytes.
        control_request_bytes_max: u64 = 4 * MIB, 64 * KIB..=GIB;
        /// Largest first request of a connection other than Produce and Fetch, bytes.
        first_request_bytes_max: u64 = 64 * KIB, 4 * KIB..=GIB;
        /// Array items and tagged fields of one request, all together.
        request_items_max: u64 = 50_000, 100..=10_000_000;
        /// Requests of one connection whose replies are not sent yet.
        pipeline_requests_max: u64 = 64, 1..=65_536;
        /// Commands of one connection that its shard has not answered yet.
        pipeline_commands_max: u64 = 4_096, 1..=1_000_000;
        /// Bytes of one connection's replies that wait to be sent, past which no request is taken.
        pipeline_reply_bytes_max: u64 = MIB, 1..=GIB;
        /// Bytes of one reply other than a fetch's; a request for more closes the connection.
        reply_bytes_max: u64 = 64 * MIB, MIB..=GIB;
        /// Record bytes of one fetch, whatever the client asks for.
        fetch_bytes_max: u64 = 55 * MIB, MIB..=GIB;
        /// Longest wait of a fetch, milliseconds, whatever the client asks for.
        fetch_wait_ms_max: u64 = 60_000, 0..=3_600_000;
        /// Take any replication factor and any `min.insync.replicas` as 1, instead of refusing what
        /// one broker cannot do.
        replication_factor_clamp: bool = false;
    }

    /// The write-ahead log; all of it per shard.
    ["wal"] wal: Wal {
        /// Size of one log file, bytes; a multiple of 4096.
        file_bytes: u64 = 64 * MIB, MIB..=4 * GIB;
        /// Log files. Together they bound what may wait to be settled into packs. Half of them are
        /// made ahead while the disk has room for all.
        files: u64 = 8, 3..=1_024;
        /// Memory of one commit group, bytes; a multiple of 4096. A larger batch is a group of its
        /// own, in memory of its own.
        commit_buffer_bytes: u64 = MIB + 4 * KIB, 64 * KIB..=64 * MIB;
        /// Commit groups that may be on their way to the disk at once.
        groups_in_flight_max: u64 = 4, 1..=4;
        /// Groups that are closed and not durable yet, bytes; past it producers wait.
        commit_queue_bytes_max: u64 = 32 * MIB, MIB..=4 * GIB;
        /// How a group is made durable: "dsync" (one write with RWF_DSYNC) or "linked-fdatasync".
        sync: WalSync = WalSync::Dsync;
        /// Largest record batch taken from a producer, bytes.
        batch_bytes_max: u64 = 16 * MIB, 128 * KIB..=256 * MIB;
    }

    /// Moving old log data into packs and segments; all of it per shard.
    ["settle"] settle: Settle {
        /// A partition with this many bytes in one pass gets a segment file of its own, bytes.
        segment_bytes_min: u64 = 32 * MIB, MIB..=4 * GIB;
        /// Closed log files that may wait before a pass begins.
        files_max: u64 = 1, 0..=1_024;
        /// Data in the log is settled when it is this old, milliseconds.
        after_ms: u64 = 60_000, 100..=604_800_000;
        /// How often retention is applied, milliseconds.
        retention_check_ms: u64 = 5_000, 100..=86_400_000;
    }

    /// Space on the file system that holds the data directory.
    ["disk"] disk: Disk {
        /// Space held back so that deletes, retention and a restart work on a full disk, bytes per
        /// shard; at least twice `wal.file_bytes` and 4 MiB. Less is taken on a small file system.
        reserve_bytes: u64 = 160 * MIB, MIB..=64 * GIB;
        /// Producers are refused while less than this is free, bytes; less on a small one.
        low_bytes: u64 = 256 * MIB, 0..=64 * GIB;
        /// Room for edits in a shard's manifest, bytes; half of it used asks for a rewrite.
        manifest_bytes_max: u64 = MIB, 64 * KIB..=64 * MIB;
    }

    /// Memory budgets; all of them per shard.
    ["memory"] memory: Memory {
        /// Recent batches kept for consumers that read near the end, bytes.
        tail_cache_bytes: u64 = 64 * MIB, MIB..=64 * GIB;
        /// Log blocks kept until they are settled, bytes; settling reads the others from the disk.
        /// Up to one log file's worth of freed memory waits for the next blocks, and a pass that is
        /// behind holds up to two files that it has read.
        unsettled_cache_bytes: u64 = 512 * MIB, 0..=64 * GIB;
        /// Log blocks read back for consumers that are behind, bytes.
        read_cache_bytes: u64 = 16 * MIB, MIB..=64 * GIB;
        /// Requests that are being received, bytes over all connections. While others wait for it,
        /// a request that arrives slower than 1 MiB/s for five seconds ends its connection.
        assembly_bytes_max: u64 = 128 * MIB, MIB..=64 * GIB;
        /// Replies that are being sent, bytes over all connections; one reply may exceed it. When
        /// it is spent, the slowest reader is disconnected after five seconds.
        sending_bytes_max: u64 = 256 * MIB, MIB..=64 * GIB;
        /// Answers that are being read or wait to be sent, bytes over all connections; one answer,
        /// and one batch of each fetch, may exceed it. When it is spent, fetches wait and other
        /// questions stay in the socket; after five seconds somebody who holds it is disconnected.
        answer_bytes_max: u64 = 256 * MIB, MIB..=64 * GIB;
        /// Buffers that the kernel receives into, each of 16 KiB; a power of two.
        receive_buffers: u64 = 1_024, 16..=32_768;
        /// Batches held while the log has no free file, bytes.
        pending_append_bytes_max: u64 = 64 * MIB, MIB..=64 * GIB;
        /// Batches that a shard has given to others and that are not appended yet, bytes.
        mesh_append_bytes_max: u64 = 256 * MIB, MIB..=64 * GIB;
        /// Batches in which a shard is looking for offsets by time, bytes; one batch may exceed it.
        /// When it is spent, further searches wait for their turn.
        lookup_bytes_max: u64 = 128 * MIB, MIB..=64 * GIB;
    }

    /// Topics that do not say otherwise. The names are those of Kafka's topic settings.
    ["topics"] topics: TopicDefaults {
        /// Create a topic when a producer or consumer first asks for it.
        auto_create: bool = true;
        /// Topics that may come into being that way.
        auto_create_max: u64 = 1_000, 0..=1_000_000;
        /// Partitions of a topic that is created without a count.
        partitions: u64 = 1, 1..=1_000_000;
        /// Records are kept at least this long, milliseconds; -1: for ever.
        retention_ms: SizeLimit = SizeLimit(Some(7 * 24 * 60 * 60 * 1_000)), 0..=I64_MAX;
        /// A partition is kept at about this size, bytes; -1: no bound.
        retention_bytes: SizeLimit = SizeLimit(None), 0..=I64_MAX;
        /// Largest record batch of a topic, bytes.
        max_message_bytes: u64 = MIB + 12, 1..=256 * MIB;
        /// Stamp records when they arrive (LogAppendTime) instead of keeping their producers' time.
        log_append_time: bool = false;
    }

    /// Groups of consumers. Kafka's names of the settings are in brackets.
    ["groups"] groups: Groups {
        /// How long the first rebalance of an empty group waits for more members, milliseconds
        /// [group.initial.rebalance.delay.ms]. Kafka's default is 3000, its quickstart sets 0.
        initial_rebalance_delay_ms: u64 = 500, 0..=60_000;
        /// Shortest session timeout of a member, milliseconds [group.min.session.timeout.ms].
        session_timeout_ms_min: u64 = 6_000, 1..=3_600_000;
        /// Longest session timeout of a member, milliseconds [group.max.session.timeout.ms].
        session_timeout_ms_max: u64 = 1_800_000, 1..=86_400_000;
        /// Members of one group [group.max.size].
        members_max: u64 = 10_000, 1..=1_000_000;
        /// Groups per shard.
        groups_max: u64 = 100_000, 1..=10_000_000;
        /// Subscriptions, assignments and committed offsets, bytes per shard.
        bytes_max: u64 = 256 * MIB, MIB..=64 * GIB;
        /// Longest metadata of a committed offset, bytes [offset.metadata.max.bytes].
        offset_metadata_bytes_max: u64 = 4_096, 0..=32_767;
        /// How long a group without members keeps its offsets, milliseconds; -1: for ever
        /// [offsets.retention.minutes].
        offsets_retention_ms: SizeLimit = SizeLimit(Some(7 * 24 * 60 * 60 * 1_000));
    }

    /// Bounds. What reaches one is refused or waits; nothing grows without one.
    ["limits"] limits: Limits {
        /// Connections per shard.
        connections_max: u64 = 4_096, 1..=1_000_000;
        /// Connections per shard from one address.
        connections_per_address_max: u64 = 4_096, 1..=1_000_000;
        /// A connection without a request for this long is closed, milliseconds.
        idle_timeout_ms: u64 = 600_000, 1_000..=86_400_000;
        /// A new connection must complete its first request within this, milliseconds, plus the
        /// time for what has arrived of it at `rate_bytes_per_s_min`.
        handshake_timeout_ms: u64 = 10_000, 100..=3_600_000;
        /// A request that has begun must be whole, and a reply taken, after this, milliseconds,
        /// plus the time for its bytes at `rate_bytes_per_s_min`.
        transfer_timeout_ms: u64 = 30_000, 100..=3_600_000;
        /// A clean stop waits so long for clients to take their replies, milliseconds. A second
        /// SIGTERM or SIGINT ends it at once.
        stop_timeout_ms: u64 = 5_000, 0..=3_600_000;
        /// The slowest peer that is put up with, bytes a second.
        rate_bytes_per_s_min: u64 = 16 * KIB, 1..=GIB;
        /// Replies that wait for a slow client, bytes per connection, before reading from it stops.
        send_bytes_max: u64 = MIB, 64 * KIB..=GIB;
        /// Files that a shard keeps open, its log files among them.
        files_open_max: u64 = 512, 16..=1_000_000;
        /// Topics.
        topics_max: u64 = 10_000, 1..=1_000_000;
        /// Partitions. Each costs about 1 KiB in its home and 100 bytes in every other shard.
        partitions_max: u64 = 20_000, 1..=LOGS_MAX;
        /// Partitions in one fetch.
        fetch_partitions_max: u64 = 20_000, 1..=1_000_000;
        /// Fetches of one shard's connections under way or parked.
        fetches_max: u64 = 65_536, 1..=16_777_216;
        /// Partitions of all fetches of one shard's connections, about 400 bytes each.
        fetched_partitions_max: u64 = 2_000_000, 1_000..=100_000_000;
        /// Partitions of all fetch sessions of one shard's connections, about 200 bytes each; past
        /// it clients are served without a session.
        remembered_partitions_max: u64 = 1_000_000, 0..=100_000_000;
        /// Requests of one shard's connections without an answer yet, but for fetches and those
        /// that wait for members of a group.
        requests_max: u64 = 262_144, 1..=16_777_216;
        /// Appends of one shard that are not durable yet.
        waiters_max: u64 = 262_144, 1..=16_777_216;
        /// Catalog requests waiting for their turn.
        catalog_queue_max: u64 = 1_024, 1..=1_000_000;
        /// Idempotent producers that a shard remembers, each once for every partition that it
        /// writes to, about 400 bytes each. A new one beyond it takes the place of the one that was
        /// not used for longest.
        producers_max: u64 = 262_144, 1..=16_777_216;
        /// An idempotent producer is forgotten after this long without an append, milliseconds.
        producer_expiry_ms: u64 = 86_400_000, 1_000..=31_536_000_000;
        /// Searches for an offset by time under way in one shard; more wait for their turn. Each
        /// counts as `wal.batch_bytes_max` in `memory.lookup_bytes_max` until its batch is found.
        lookups_max: u64 = 1_024, 1..=1_000_000;
        /// Requests to one other shard without an answer yet, but for those that wait for members
        /// of a group.
        mesh_requests_max: u64 = 65_536, 1..=1_000_000;
        /// Slots of each ring between two shards; a power of two.
        mesh_ring_slots: u64 = 1_024, 2..=1_048_576;
    }
}
