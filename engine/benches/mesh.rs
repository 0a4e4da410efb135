//! What a hop between shards costs: in one thread the work alone, between two threads the way.
//!
//! `cargo bench -p millrace-engine --bench mesh`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_engine::GatherId;
use millrace_engine::command::{ConnectionId, RequestId};
use millrace_engine::mesh::port::mesh;
use millrace_engine::mesh::{MeshMessage, RemoteCommand};
use millrace_storage::units::{PartitionId, ShardId};

const RING_SLOTS: usize = 1_024;
const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// An append of a 1 KiB batch: its bytes are shared, so its size does not matter.
fn append(batch: &Bytes) -> MeshMessage {
    MeshMessage::Request {
        request: RequestId {
            origin: HERE,
            connection: ConnectionId::CONTROL,
            sequence: 1,
        },
        command: RemoteCommand::Append {
            partition: PartitionId(1),
            batch: batch.clone(),
        },
    }
}

/// Send, flush, receive, by one thread that plays both shards: the cost without the distance.
fn hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mesh");
    let batch = Bytes::from(vec![7; 1_024]);
    for messages in [1, 64] {
        let mut ports = mesh(2, RING_SLOTS);
        group.throughput(Throughput::Elements(messages));
        group.bench_function(format!("hop/{messages}_a_flush"), |bencher| {
            bencher.iter(|| {
                for _ in 0..messages {
                    ports[0].send(THERE, append(&batch));
                }
                ports[0].flush(|_| ());
                while let Some(message) = ports[1].receive() {
                    std::hint::black_box(message);
                }
            });
        });
    }
    group.finish();
}

/// A request to a shard that spins on another thread, and its reply.
fn round_trip(criterion: &mut Criterion) {
    let mut ports = mesh(2, RING_SLOTS);
    let mut there = ports.pop().expect("two ports");
    let mut here = ports.pop().expect("two ports");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let echo = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            if let Some((from, _)) = there.receive() {
                let gather = GatherId(0);
                there.send(from, MeshMessage::Woken { gather });
                there.flush(|_| ());
            } else {
                std::hint::spin_loop();
            }
        }
    });
    criterion.bench_function("mesh/round_trip_spinning", |bencher| {
        bencher.iter(|| {
            here.send(
                THERE,
                MeshMessage::Unwatch {
                    gather: GatherId(0),
                },
            );
            here.flush(|_| ());
            while here.receive().is_none() {
                std::hint::spin_loop();
            }
        });
    });
    stop.store(true, Ordering::Relaxed);
    echo.join().expect("the echo ran");
}

criterion_group!(benches, hop, round_trip);
criterion_main!(benches);
