//! Questions to a store that runs: order of acknowledgement, reads, poison.

use super::*;
use crate::record::Batch;
use crate::record::tests::hello;
use crate::testing::SimDisk;
use crate::units::{LeaderEpoch, ShardId};

pub(crate) const SHARD: ShardId = ShardId(0);
pub(crate) const LOG: PartitionId = PartitionId(7);

pub(crate) fn now(ms: u64) -> Now {
    Now {
        boot: BootTime(ms * 1_000_000),
        wall_ms: 1_700_000_000_000,
    }
}

/// A store of small files, so that every boundary is met often.
pub(crate) fn small() -> StoreConfig {
    StoreConfig {
        wal_file_bytes: 64 << 10,
        wal_files: 6,
        commit_buffer_bytes: 16 << 10,
        batch_bytes_max: 32 << 10,
        tail_cache_bytes: 32 << 10,
        read_cache_bytes: 64 << 10,
        ..StoreConfig::default()
    }
}

/// A batch of one record that is told from every other by its timestamp; `bytes` in all.
pub(crate) fn batch(id: u64, bytes: usize) -> Vec<u8> {
    let mut batch = hello();
    batch.resize(bytes.max(batch.len()), 0xa5);
    let length = i32::try_from(batch.len() - 12).expect("small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    for at in [27, 35] {
        batch[at..at + 8].copy_from_slice(&id.to_be_bytes());
    }
    let sum = record::checksum(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    batch
}

fn open(disk: &mut SimDisk) -> Store {
    Store::open(small(), now(0), &mut *disk.blocking(SHARD), &mut |_| {}).expect("opens")
}

/// Carries operations until none is left.
fn settle_disk(store: &mut Store, disk: &mut SimDisk, at: Now) {
    loop {
        while let Some(op) = store.poll_disk() {
            disk.submit(SHARD, op);
        }
        let Some((_, done)) = disk.complete_one() else {
            return;
        };
        store.handle_disk(at, done);
    }
}

fn append(store: &mut Store, offset: u64) -> Lsn {
    let bytes = hello();
    let append = Append {
        partition: LOG,
        base_offset: Offset(offset),
        leader_epoch: LeaderEpoch(0),
        append_time_ms: None,
        batch: Batch::check(&bytes).expect("good"),
    };
    store.append(now(0), append).expect("taken")
}

fn request(from: u64, end: u64) -> ReadRequest {
    ReadRequest {
        ticket: ReadTicket(1),
        partition: LOG,
        from: Offset(from),
        end: Offset(end),
        bytes_max: 1 << 20,
    }
}

fn offsets(records: &Records) -> Vec<u64> {
    let header = |batch: &bytes::Bytes| BatchHeader::parse(batch).expect("a batch").base_offset.0;
    records.batches.iter().map(header).collect()
}

#[test]
fn what_is_durable_is_read_from_memory() {
    let mut disk = SimDisk::new(1);
    let mut store = open(&mut disk);
    store.create_log(LOG, LogConfig::default());
    let end = (0..3).map(|offset| append(&mut store, offset)).last();
    let end = end.expect("three");
    assert!(store.durable_lsn() < end, "nothing was written yet");
    store.close_group(now(0));
    settle_disk(&mut store, &mut disk, now(0));
    assert!(store.durable_lsn() >= end);
    let ReadOutcome::Ready(Ok(records)) = store.read(now(0), request(1, 3)) else {
        panic!("the block is in memory");
    };
    assert_eq!(offsets(&records), [1, 2]);
}
