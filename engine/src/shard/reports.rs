//! What a shard tells about itself.

use super::Shard;
use crate::event::LogSizes;
use crate::report::{PartitionReport, ShardReport};

/// What a shard did since it began to serve; each only rises, but for what ends in `_now`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: u64,
    pub(super) refusals: u64,
    pub(super) appended_batches: u64,
    pub(super) appended_bytes: u64,
    pub(super) repeated_batches: u64,
    /// Producers forgotten for want of room.
    pub(super) evicted_producers: u64,
    pub(super) parked_fetches: u64,
    pub(super) pending_reads: u64,
    pub(super) damaged_reads: u64,
    pub(super) mesh_sent: u64,
    pub(super) mesh_received: u64,
    pub(super) snapshots: u64,
    pub(super) snapshot_bytes: u64,
    /// The disk is at its reserve: batches are refused.
    pub(super) disk_full_now: bool,
}

impl Shard {
    /// The shard's state at this moment.
    pub(super) fn report(&self) -> ShardReport {
        ShardReport {
            shard: self.id,
            catalog_epoch: self.catalog.epoch().0,
            partitions: self.partition_reports(),
            counters: self.counter_list(),
            stages: self.stages.report(),
        }
    }

    fn partition_reports(&self) -> Vec<PartitionReport> {
        let partitions = self.partitions.iter();
        let report = partitions.map(|(id, partition)| PartitionReport {
            partition: *id,
            log_start: partition.log_start(),
            high_watermark: partition.high_watermark(),
            bytes: self.store.log(*id).map_or(0, |log| log.bytes),
        });
        report.collect()
    }

    /// What the partitions homed here take on the disk.
    pub(super) fn log_sizes(&self) -> LogSizes {
        let partitions = self.partitions.keys();
        let bytes = |id| self.store.log(id).map_or(0, |log| log.bytes);
        LogSizes {
            partitions: partitions.map(|id| (*id, bytes(*id))).collect(),
            space: self.store.disk_space(),
        }
    }

    fn counter_list(&self) -> Vec<(&'static str, u64)> {
        let own = &self.counters;
        let mut list = vec![
            ("requests", own.requests),
            ("refusals", own.refusals),
            ("appended_batches", own.appended_batches),
            ("appended_bytes", own.appended_bytes),
            ("repeated_batches", own.repeated_batches),
            ("evicted_producers", own.evicted_producers),
            ("parked_fetches", own.parked_fetches),
            ("pending_reads", own.pending_reads),
            ("damaged_reads", own.damaged_reads),
            ("mesh_sent", own.mesh_sent),
            ("mesh_received", own.mesh_received),
            ("snapshots", own.snapshots),
            ("snapshot_bytes", own.snapshot_bytes),
        ];
        let now = [
            ("requests_now", self.requests.len()),
            ("waiters_now", self.waiters.len()),
            ("pending_appends_now", self.pending.len()),
            ("fetches_now", self.gathers.len()),
            ("fetched_partitions_now", self.fetched_partitions),
            ("answer_bytes_now", self.answers.used()),
            ("watches_now", self.watches.len()),
            ("home_reads_now", self.reads.len()),
            ("lookups_now", self.lookups.len()),
            ("lookups_waiting_now", self.lookups.waiting()),
            ("producers_now", self.producers.len()),
            ("groups_now", self.groups.len()),
            ("group_bytes_now", self.groups.bytes()),
        ];
        list.extend(now.map(|(name, count)| (name, count as u64)));
        list.push(("disk_full_now", u64::from(own.disk_full_now)));
        list.extend(self.store_counters());
        list
    }
}

impl Shard {
    fn store_counters(&self) -> [(&'static str, u64); 18] {
        let store = self.store.counters();
        [
            ("log_accepted_bytes", store.accepted_bytes),
            ("log_groups", store.commit.groups),
            ("log_group_bytes", store.commit.group_bytes),
            ("log_entries", store.commit.entries),
            ("log_seals", store.commit.seals),
            ("log_rolls", store.commit.rolls),
            ("settle_passes", store.settle.passes),
            ("settle_passes_discarded", store.settle.discarded),
            ("settled_log_bytes", store.settle.wal_bytes),
            ("settled_pack_bytes", store.settle.pack_bytes),
            ("merges", store.merge.merges),
            ("merged_pack_bytes", store.merge.pack_bytes),
            ("returned_bytes", store.returned_bytes),
            ("cached_reads", store.reads.cached),
            ("cold_reads", store.reads.cold),
            ("cold_read_blocks", store.reads.blocks),
            ("cold_read_bytes", store.reads.block_bytes),
            ("damaged_blocks", store.reads.damaged),
        ]
    }
}
