//! From settings, which have names and units, to what each crate is told.

use millrace_engine::catalog::config::TopicDefaults;
use millrace_engine::limits::{EngineConfig, Limits};
use millrace_net::kafka::{BrokerSetting, KafkaConfig};
use millrace_storage::units::ShardId;
use millrace_storage::{CommitBackend, StoreConfig};

use super::losses::AcceptedLosses;
use crate::config::{Config, SizeLimit, WalSync};

/// A count or size of this process: settings' ranges keep them far below `usize::MAX`.
pub(super) fn size(value: u64) -> usize {
    usize::try_from(value).expect("settings are bounded")
}

/// As [`size`].
pub(super) fn count(value: u64) -> u32 {
    u32::try_from(value).expect("settings are bounded")
}

pub(super) fn engine(config: &Config) -> EngineConfig {
    let limits = &config.limits;
    EngineConfig {
        limits: Limits {
            topics_max: count(limits.topics_max),
            partitions_max: count(limits.partitions_max),
            fetch_partitions_max: size(limits.fetch_partitions_max),
            fetches_max: size(limits.fetches_max),
            requests_max: size(limits.requests_max),
            waiters_max: size(limits.waiters_max),
            pending_append_bytes_max: size(config.memory.pending_append_bytes_max),
            catalog_queue_max: size(limits.catalog_queue_max),
            producers_per_partition_max: size(limits.producers_per_partition_max),
            producer_expiry_ms: limits.producer_expiry_ms,
            lookups_max: size(limits.lookups_max),
            mesh_requests_max: size(limits.mesh_requests_max),
            mesh_ring_slots: size(limits.mesh_ring_slots),
        },
        topic_defaults: TopicDefaults {
            message_bytes_max: size(config.topics.max_message_bytes),
            retention_ms: config.topics.retention_ms.0,
            retention_bytes: config.topics.retention_bytes.0,
            append_time: config.topics.log_append_time,
            ..TopicDefaults::default()
        },
        default_partitions: count(config.topics.partitions),
    }
}

pub(super) fn kafka(config: &Config) -> KafkaConfig {
    let listener = &config.kafka;
    KafkaConfig {
        request_bytes_max: size(listener.request_bytes_max),
        control_request_bytes_max: size(listener.control_request_bytes_max),
        first_request_bytes_max: size(listener.first_request_bytes_max),
        request_items_max: size(listener.request_items_max),
        pipeline_requests_max: size(listener.pipeline_requests_max),
        pipeline_commands_max: size(listener.pipeline_commands_max),
        fetch_bytes_max: size(listener.fetch_bytes_max),
        fetch_wait_ms_max: listener.fetch_wait_ms_max,
        fetch_partitions_max: size(config.limits.fetch_partitions_max),
        auto_create_topics: config.topics.auto_create,
        auto_create_topics_max: size(config.topics.auto_create_max),
        replication_factor_clamp: listener.replication_factor_clamp,
        topic_defaults: engine(config).topic_defaults,
        broker_settings: broker_settings(config),
    }
}

/// What Kafka's tools may ask of a broker's own settings.
fn broker_settings(config: &Config) -> Vec<BrokerSetting> {
    let unlimited = |limit: SizeLimit| limit.0.map_or("-1".to_owned(), |n| n.to_string());
    let topics = &config.topics;
    let settings = [
        ("auto.create.topics.enable", topics.auto_create.to_string()),
        ("num.partitions", topics.partitions.to_string()),
        ("log.retention.ms", unlimited(topics.retention_ms)),
        ("log.retention.bytes", unlimited(topics.retention_bytes)),
        ("message.max.bytes", topics.max_message_bytes.to_string()),
        (
            "socket.request.max.bytes",
            config.kafka.request_bytes_max.to_string(),
        ),
    ];
    let shown = settings
        .into_iter()
        .map(|(name, value)| BrokerSetting { name, value });
    shown.collect()
}

pub(super) fn store(
    config: &Config,
    shard: ShardId,
    losses: &AcceptedLosses,
    seed: u64,
) -> StoreConfig {
    StoreConfig {
        shard,
        wal_file_bytes: config.wal.file_bytes,
        wal_files: count(config.wal.files),
        commit_buffer_bytes: size(config.wal.commit_buffer_bytes),
        groups_in_flight_max: size(config.wal.groups_in_flight_max),
        backend: match config.wal.sync {
            WalSync::Dsync => CommitBackend::Dsync,
            WalSync::LinkedFdatasync => CommitBackend::LinkedFdatasync,
        },
        batch_bytes_max: size(config.wal.batch_bytes_max),
        tail_cache_bytes: size(config.memory.tail_cache_bytes),
        accept_loss: losses.of(shard),
        seed,
        ..StoreConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_said_once() {
        let config = Config::default();
        assert_eq!(engine(&config), EngineConfig::default());
        let mut told = kafka(&config);
        told.broker_settings.clear();
        assert_eq!(told, KafkaConfig::default());
        let told = store(&config, ShardId(0), &AcceptedLosses::default(), 0);
        let own = StoreConfig::default();
        assert_eq!(told.wal_file_bytes, own.wal_file_bytes);
        assert_eq!(told.wal_files, own.wal_files);
        assert_eq!(told.commit_buffer_bytes, own.commit_buffer_bytes);
        assert_eq!(told.groups_in_flight_max, own.groups_in_flight_max);
        assert_eq!(told.backend, own.backend);
        assert_eq!(told.batch_bytes_max, own.batch_bytes_max);
        assert_eq!(told.tail_cache_bytes, own.tail_cache_bytes);
    }
}
