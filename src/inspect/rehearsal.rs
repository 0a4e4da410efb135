//! A start on an overlay: the real recovery, and the catalog and partitions that it leads to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use millrace_engine::Shard;
use millrace_engine::command::{Command, ConnectionId, RequestId};
use millrace_engine::event::Outcome;
use millrace_engine::limits::EngineConfig;
use millrace_engine::report::PartitionReport;
use millrace_engine::start::{OpenError, ShardDirectory, StartConfig, open_all};
use millrace_net::uring::sys;
use millrace_storage::StoreConfig;
use millrace_storage::units::{BrokerId, Now, PartitionId, ShardId};

use super::overlay::Overlay;

/// A shorter file of the log was cut: a store makes none.
const FILE_BYTES_MIN: u64 = 64 << 10;

/// Opens every shard and describes what a broker would serve. The broker is `owner`, if the data
/// directory says so.
pub(super) fn rehearse(
    overlay: &Overlay,
    shards: &[ShardId],
    owner: Option<BrokerId>,
) -> Result<String, OpenError> {
    let last = shards.last().expect("a data directory has shards");
    let config = StartConfig {
        // As many as there are directories: nothing is handed over to other homes.
        shards: last.0.saturating_add(1),
        engine: EngineConfig::default(),
        store: store_config(overlay),
        owner,
        accept_loss: Vec::new(),
        seed: 0,
    };
    let now = sys::now();
    // A start makes those that are missing; whether they may be is its business.
    let directories = (0..=last.0).map(ShardId).map(|shard| ShardDirectory {
        shard,
        disk: Box::new(overlay.disk(shard)),
    });
    let mut opened = open_all(&config, now, directories.collect())?;
    let held = opened.iter_mut().flat_map(|shard| partitions(now, shard));
    let held: BTreeMap<PartitionId, PartitionReport> =
        held.map(|report| (report.partition, report)).collect();
    Ok(describe(&opened[0], &held))
}

/// Files of the length that the broker makes: how much a lost one may have held is told by that.
fn store_config(overlay: &Overlay) -> StoreConfig {
    let usual = StoreConfig::default();
    let made = overlay
        .wal_file_bytes()
        .filter(|made| *made >= FILE_BYTES_MIN);
    let wal_file_bytes = made.unwrap_or(usual.wal_file_bytes);
    let largest = usize::try_from(wal_file_bytes / 4).unwrap_or(usize::MAX);
    StoreConfig {
        wal_file_bytes,
        batch_bytes_max: usual.batch_bytes_max.min(largest),
        ..usual
    }
}

fn partitions(now: Now, shard: &mut Shard) -> Vec<PartitionReport> {
    let request = RequestId {
        origin: shard.id(),
        connection: ConnectionId::CONTROL,
        sequence: 0,
    };
    shard.submit(now, request, Command::Report);
    match shard.poll_event().map(|event| event.outcome) {
        Some(Ok(Outcome::Reported(report))) => report.partitions,
        other => unreachable!("a report is answered at once: {other:?}"),
    }
}

fn describe(shard: &Shard, held: &BTreeMap<PartitionId, PartitionReport>) -> String {
    let catalog = shard.catalog();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "catalog  cluster {}, {} changes, {} topics",
        catalog.cluster_id(),
        catalog.epoch().0,
        catalog.topics().count()
    );
    for topic in catalog.topics() {
        let _ = writeln!(out, "  {}  {}", topic.name, topic.id);
        for (name, value) in topic.overrides.iter() {
            let _ = writeln!(out, "    {name}={value}");
        }
        for (index, partition) in topic.partitions.iter().enumerate() {
            let Some(report) = held.get(&partition.id) else {
                continue;
            };
            let _ = writeln!(
                out,
                "    partition {index} ({}) in shard {}: offsets {} to {}, {} bytes",
                partition.id, partition.home, report.log_start, report.high_watermark, report.bytes
            );
        }
    }
    out
}
