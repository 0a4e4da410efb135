//! What a shard tells the control thread about itself: a snapshot, copied out, never shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_storage::units::{Offset, PartitionId, ShardId};

use crate::group::{CommittedOffset, GroupDescription};
use crate::stages::StageReport;

/// One shard's state at one moment.
#[derive(Clone, Debug, Default)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardId,
    /// The catalog epoch that it has.
    pub catalog_epoch: u64,
    /// Its partitions.
    pub partitions: Vec<PartitionReport>,
    /// Counters by name, each monotone since start unless its name ends in `_now`.
    pub counters: Vec<(&'static str, u64)>,
    /// Histograms of what work passes.
    pub stages: Vec<StageReport>,
}

/// One partition's state.
#[derive(Clone, Debug)]
pub struct PartitionReport {
    /// Which.
    pub partition: PartitionId,
    /// First offset held.
    pub log_start: Offset,
    /// First offset not yet readable.
    pub high_watermark: Offset,
    /// Bytes held.
    pub bytes: u64,
}

/// One group's state.
#[derive(Clone, Debug)]
pub struct GroupReport {
    /// Its name.
    pub group: Arc<str>,
    /// Members and where it stands.
    pub description: GroupDescription,
    /// How far it came.
    pub offsets: BTreeMap<PartitionId, CommittedOffset>,
}
