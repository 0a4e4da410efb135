//! What a produced byte costs in storage: validating a batch, and encoding it into the log.
//!
//! The disk is a function that completes at once, so the figures are the processor's part alone.
//! Run with `cargo bench -p millrace-storage`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millrace_storage::disk::{DiskDone, DiskOp, DiskOutcome, DiskSpace, Listing};
use millrace_storage::record::{BATCH_HEADER_BYTES, Batch, checksum};
use millrace_storage::units::{BootTime, LeaderEpoch, Now, Offset, PartitionId};
use millrace_storage::{Append, LogConfig, Store, StoreConfig};

/// A batch of one record whose whole size is `bytes`. Its records are never looked into.
fn batch_of(bytes: usize) -> Vec<u8> {
    let mut batch = vec![0x5a; bytes];
    batch[..BATCH_HEADER_BYTES].fill(0);
    let length = i32::try_from(bytes - 12).expect("a batch is small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&1_i32.to_be_bytes());
    let sum = checksum(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    batch
}

fn now() -> Now {
    Now {
        boot: BootTime(0),
        wall_ms: 1_700_000_000_000,
    }
}

/// Does nothing, successfully. Reads return zeros, as of an empty directory.
fn complete(op: DiskOp) -> DiskDone {
    let token = op.token();
    let (buffer, outcome) = match op {
        DiskOp::Write { buffer, .. } => (Some(buffer), DiskOutcome::Done),
        DiskOp::Read { mut buffer, .. } => {
            buffer.fill(0);
            (Some(buffer), DiskOutcome::Done)
        }
        DiskOp::List { .. } => (None, DiskOutcome::Listed(Listing::default())),
        DiskOp::Space { .. } => {
            let space = DiskSpace {
                available_bytes: 1 << 40,
                total_bytes: 1 << 40,
            };
            (None, DiskOutcome::Space(space))
        }
        _ => (None, DiskOutcome::Done),
    };
    DiskDone {
        token,
        buffer,
        result: Ok(outcome),
    }
}

/// A store whose log never fills within one measurement: the caller opens another in time.
fn open() -> Store {
    let config = StoreConfig {
        wal_file_bytes: 1 << 30,
        wal_files: 8,
        ..StoreConfig::default()
    };
    let mut store = Store::open(config, now(), &mut complete, &mut |_| {}).expect("an empty store");
    store.create_log(PartitionId(1), LogConfig::default());
    store
}

fn validate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("validate a batch");
    for bytes in [1 << 10, 64 << 10, 1 << 20] {
        let batch = batch_of(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                Batch::check(black_box(&batch))
                    .expect("good")
                    .header()
                    .records
            });
        });
    }
    group.finish();
}

/// Appends one group's worth, closes the group and takes its completion.
fn append_group(store: &mut Store, batch: Batch<'_>, count: usize, next: &mut u64) {
    for _ in 0..count {
        let append = Append {
            partition: PartitionId(1),
            base_offset: Offset(*next),
            leader_epoch: LeaderEpoch(0),
            append_time_ms: None,
            batch,
        };
        *next += 1;
        store.append(now(), append).expect("room");
    }
    store.close_group(now());
    while let Some(op) = store.poll_disk() {
        store.handle_disk(now(), complete(op));
    }
}

fn encode(criterion: &mut Criterion) {
    /// Well below the log's size.
    const BYTES_PER_STORE: usize = 2 << 30;
    let mut group = criterion.benchmark_group("append a group of 960 KiB");
    for bytes in [1 << 10, 64 << 10] {
        let batch = batch_of(bytes);
        let batch = Batch::check(&batch).expect("good");
        let count = (960 << 10) / bytes;
        group.throughput(Throughput::Bytes((count * bytes) as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            let (mut store, mut next) = (open(), 0);
            bencher.iter(|| {
                append_group(&mut store, batch, count, &mut next);
                if usize::try_from(next).expect("few batches") * bytes > BYTES_PER_STORE {
                    (store, next) = (open(), 0);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, validate, encode);
criterion_main!(benches);
