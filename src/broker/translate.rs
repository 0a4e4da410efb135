//! From settings, which have names and units, to what each crate is told.

use millrace_engine::catalog::config::TopicDefaults;
use millrace_engine::limits::{EngineConfig, GroupSettings, Limits};
use millrace_net::connection::ConnectionLimits;
use millrace_net::kafka::KafkaConfig;
use millrace_net::uring::driver::DriverConfig;
use millrace_net::worker::{Door, WorkerConfig};
use millrace_storage::{CommitBackend, StoreConfig};

use crate::config::{Config, Groups, WalSync};

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
            producers_max: size(limits.producers_max),
            producer_expiry_ms: limits.producer_expiry_ms,
            lookups_max: size(limits.lookups_max),
            lookup_bytes_max: size(config.memory.lookup_bytes_max),
            mesh_requests_max: size(limits.mesh_requests_max),
            mesh_append_bytes_max: size(config.memory.mesh_append_bytes_max),
            answer_bytes_max: size(config.memory.answer_bytes_max),
            fetched_partitions_max: size(limits.fetched_partitions_max),
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
        groups: groups(&config.groups),
    }
}

fn groups(groups: &Groups) -> GroupSettings {
    GroupSettings {
        groups_max: size(groups.groups_max),
        members_max: size(groups.members_max),
        bytes_max: size(groups.bytes_max),
        initial_rebalance_delay_ms: groups.initial_rebalance_delay_ms,
        session_timeout_ms_min: groups.session_timeout_ms_min,
        session_timeout_ms_max: groups.session_timeout_ms_max,
        offset_metadata_bytes_max: size(groups.offset_metadata_bytes_max),
        offsets_retention_ms: groups.offsets_retention_ms.0,
        ..GroupSettings::default()
    }
}

/// All but the broker's settings as tools see them, which need more than their values.
pub(super) fn kafka(config: &Config) -> KafkaConfig {
    let listener = &config.kafka;
    KafkaConfig {
        request_bytes_max: size(listener.request_bytes_max),
        control_request_bytes_max: size(listener.control_request_bytes_max),
        first_request_bytes_max: size(listener.first_request_bytes_max),
        request_items_max: size(listener.request_items_max),
        pipeline_requests_max: size(listener.pipeline_requests_max),
        pipeline_commands_max: size(listener.pipeline_commands_max),
        pipeline_reply_bytes_max: size(listener.pipeline_reply_bytes_max),
        reply_bytes_max: size(listener.reply_bytes_max),
        fetch_bytes_max: size(listener.fetch_bytes_max),
        fetch_wait_ms_max: listener.fetch_wait_ms_max,
        fetch_partitions_max: size(config.limits.fetch_partitions_max),
        auto_create_topics: config.topics.auto_create,
        auto_create_topics_max: size(config.topics.auto_create_max),
        replication_factor_clamp: listener.replication_factor_clamp,
        data_directory: data_directory(config),
        topic_defaults: engine(config).topic_defaults,
        broker_settings: Vec::new(),
    }
}

/// Where everything lies, as tools show it: whoever sees it need not know where the broker began.
fn data_directory(config: &Config) -> String {
    let given = &config.server.data_dir;
    let absolute = std::path::absolute(given);
    absolute.as_ref().unwrap_or(given).display().to_string()
}

/// What all workers have in common.
pub(super) fn worker(config: &Config, doors: Vec<Door>) -> WorkerConfig {
    let limits = &config.limits;
    WorkerConfig {
        doors,
        connection: ConnectionLimits {
            handshake_ms_max: limits.handshake_timeout_ms,
            idle_ms_max: limits.idle_timeout_ms,
            transfer_ms_max: limits.transfer_timeout_ms,
            rate_bytes_per_s_min: limits.rate_bytes_per_s_min,
            send_bytes_max: size(limits.send_bytes_max),
            shared_buffer_bytes: DriverConfig::default().receive_buffer_bytes,
        },
        connections_max: size(limits.connections_max),
        connections_per_address_max: size(limits.connections_per_address_max),
        assembly_bytes_max: size(config.memory.assembly_bytes_max),
        sending_bytes_max: size(config.memory.sending_bytes_max),
        remembered_partitions_max: size(limits.remembered_partitions_max),
        stop_ms_max: limits.stop_timeout_ms,
    }
}

/// What all drivers have in common.
pub(super) fn driver(config: &Config) -> DriverConfig {
    DriverConfig {
        receive_buffers: u16::try_from(config.memory.receive_buffers)
            .expect("bounded by its range"),
        idle_spin_us: config.server.idle_spin_us,
        commit_spin_us: config.server.commit_spin_us,
        deals_connections: !config.kafka.node_per_core,
        wal_files: size(config.wal.files),
        ..DriverConfig::default()
    }
}

/// What all stores have in common.
pub(super) fn store(config: &Config) -> StoreConfig {
    StoreConfig {
        wal_file_bytes: config.wal.file_bytes,
        wal_files: count(config.wal.files),
        commit_buffer_bytes: size(config.wal.commit_buffer_bytes),
        groups_in_flight_max: size(config.wal.groups_in_flight_max),
        backend: match config.wal.sync {
            WalSync::Dsync => CommitBackend::Dsync,
            WalSync::LinkedFdatasync => CommitBackend::LinkedFdatasync,
        },
        batch_bytes_max: size(config.wal.batch_bytes_max),
        commit_queue_bytes_max: size(config.wal.commit_queue_bytes_max),
        tail_cache_bytes: size(config.memory.tail_cache_bytes),
        unsettled_cache_bytes: size(config.memory.unsettled_cache_bytes),
        read_cache_bytes: size(config.memory.read_cache_bytes),
        segment_bytes_min: config.settle.segment_bytes_min,
        settle_files_max: size(config.settle.files_max),
        settle_after_ms: config.settle.after_ms,
        retention_check_ms: config.settle.retention_check_ms,
        reserve_bytes: config.disk.reserve_bytes,
        disk_low_bytes: config.disk.low_bytes,
        manifest_bytes_max: config.disk.manifest_bytes_max,
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
        let told = kafka(&config);
        let expected = KafkaConfig {
            data_directory: told.data_directory.clone(),
            ..KafkaConfig::default()
        };
        assert_eq!(told, expected);
        let told = store(&config);
        assert_eq!(format!("{told:?}"), format!("{:?}", StoreConfig::default()));
        let told = worker(&config, Vec::new()).connection;
        assert_eq!(told, ConnectionLimits::default());
    }
}
