//! What a session costs: produce from bytes to command to reply, fetch from outcome to bytes, and
//! any other request: the walk over its bytes, its decoding by the message crate, and both with the
//! commands and the reply. The log behind it does nothing, so these are the protocol's own costs.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use millrace_engine::catalog::change::{CatalogChange, Operation};
use millrace_engine::catalog::config::TopicOverrides;
use millrace_engine::catalog::{Catalog, CatalogEpoch, PartitionHome};
use millrace_engine::command::Command;
use millrace_engine::event::{Appended, Fetched, FetchedPartition, FoundOffset, Outcome};
use millrace_net::kafka::{KafkaConfig, Session, fuzz};
use millrace_net::session::{
    ClusterView, CommandSink, ConnectionAddresses, Node, ProtocolSession, Refused,
};
use millrace_storage::units::{BootTime, LeaderEpoch, Now, Offset, PartitionId, ShardId};
use uuid::Uuid;

const NOW: Now = Now {
    boot: BootTime(1),
    wall_ms: 1_700_000_000_000,
};

/// The id of topic `a`.
const TOPIC_ID: Uuid = Uuid::from_u128(1);

/// Takes every command and looks at none.
struct Void {
    catalog: Catalog,
    cluster: ClusterView,
    submitted: Vec<u64>,
}

impl Void {
    /// One topic `a` with one partition.
    fn new() -> Self {
        let partition = PartitionHome {
            id: PartitionId(0),
            home: ShardId(0),
            leader_epoch: LeaderEpoch(0),
        };
        let created = Operation::TopicCreated {
            id: TOPIC_ID,
            name: Arc::from("a"),
            partitions: vec![partition],
            overrides: TopicOverrides::default(),
        };
        let mut catalog = Catalog::default();
        let change = CatalogChange {
            epoch: CatalogEpoch(1),
            operations: vec![Operation::PartitionIdsUsed { next: 1 }, created],
        };
        catalog.apply(&change).expect("the first change");
        let node = Node {
            id: 1,
            shard: None,
            host: None,
            port: 9092,
        };
        Self {
            catalog,
            cluster: ClusterView {
                cluster_id: "bench".to_owned(),
                nodes: vec![node],
                own: 0,
            },
            submitted: Vec::new(),
        }
    }
}

impl CommandSink for Void {
    fn submit(&mut self, _now: Now, sequence: u64, command: Command<'_>) {
        black_box(command);
        self.submitted.push(sequence);
    }

    fn cancel(&mut self, _sequence: u64) {}

    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn cluster(&self) -> &ClusterView {
        &self.cluster
    }

    fn addresses(&self) -> ConnectionAddresses {
        let local = SocketAddr::from(([127, 0, 0, 1], 9092));
        ConnectionAddresses { peer: local, local }
    }

    fn accepts_appends(&self) -> bool {
        true
    }

    fn accepts_questions(&self) -> bool {
        true
    }

    fn note_refusal(&mut self, _now: Now, _what: Refused) -> Option<u64> {
        None
    }

    fn remembered_partitions_left(&self) -> usize {
        usize::MAX
    }
}

/// A frame: length, header version 1 without a client id, body.
fn frame(key: u8, version: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 10).expect("small");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend([0, key, 0, version, 0, 0, 0, 7, 0xff, 0xff]);
    frame.extend(body);
    frame
}

/// A frame of a flexible version, whose header has no tagged fields.
fn flexible_frame(key: u8, version: u8, body: &[u8]) -> Vec<u8> {
    frame(key, version, &[&[0], body].concat())
}

/// Produce 8 to partition 0 of topic `a`, acks -1.
fn produce_frame(batch_bytes: usize) -> Vec<u8> {
    let mut body = vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9];
    body.extend([0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend(u32::try_from(batch_bytes).expect("small").to_be_bytes());
    body.resize(body.len() + batch_bytes, 2);
    frame(0, 8, &body)
}

/// Fetch 4 of partition 0 of topic `a`.
fn fetch_frame() -> Vec<u8> {
    let mut body = vec![
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0, 0, 0, 1, 0x7f, 0, 0, 0, 0,
    ];
    body.extend([0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0]);
    frame(1, 4, &body)
}

/// Produce 13 to partition 0 of the topic of that id, acks -1.
fn produce_frame_by_id(batch_bytes: usize) -> Vec<u8> {
    let mut body = vec![0, 0xff, 0xff, 0, 0, 0, 9, 2];
    body.extend(TOPIC_ID.as_bytes());
    body.extend([2, 0, 0, 0, 0]);
    let mut length = batch_bytes + 1;
    while length >= 0x80 {
        body.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    body.push(u8::try_from(length).expect("seven bits"));
    body.resize(body.len() + batch_bytes, 2);
    body.extend([0, 0, 0]);
    flexible_frame(0, 13, &body)
}

/// Fetch 13 of partition 0 of the topic of that id, outside of any session.
fn fetch_frame_by_id() -> Vec<u8> {
    let mut body = vec![
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0, 0, 0, 1, 0x7f, 0, 0, 0, 0,
    ];
    body.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 2]); // No session; one topic.
    body.extend(TOPIC_ID.as_bytes());
    body.extend([2, 0, 0, 0, 0, 0, 0, 0, 0]); // Partition 0, leader epoch 0.
    body.extend([0; 8]); // From offset 0.
    body.extend([0xff; 12]); // No epoch was read, and nothing is known of the start.
    body.extend([0x7f, 0, 0, 0, 0, 0]);
    body.extend([1, 1, 0]); // Nothing forgotten, no rack.
    flexible_frame(1, 13, &body)
}

/// A session that is past its first request.
fn session(sink: &mut Void) -> Session {
    let mut session = Session::new(Arc::new(KafkaConfig::default()));
    let versions = frame(18, 0, &[]);
    session
        .handle_input(NOW, &versions, sink)
        .expect("a good request");
    session
}

/// Serves one request whose commands all end with `outcome`.
fn serve(
    session: &mut Session,
    sink: &mut Void,
    request: &[u8],
    outcome: &Outcome,
    out: &mut Vec<u8>,
) {
    session
        .handle_input(NOW, black_box(request), sink)
        .expect("a good request");
    while let Some(sequence) = sink.submitted.pop() {
        session.handle_outcome(NOW, sequence, Ok(outcome.clone()), sink);
    }
    out.clear();
    session.poll_output(out, usize::MAX);
}

/// Measures a session that serves `request`; the bytes of its last reply.
fn served(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    request: &[u8],
    outcome: &Outcome,
) -> Vec<u8> {
    let mut sink = Void::new();
    let mut session = session(&mut sink);
    let mut out = Vec::new();
    group.bench_function(name, |bencher| {
        bencher.iter(|| serve(&mut session, &mut sink, request, outcome, &mut out));
    });
    out
}

fn produce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kafka produce");
    let outcome = Outcome::Appended(Appended {
        base_offset: Offset(1),
        append_time_ms: None,
        log_start: Offset(0),
        durable_at: BootTime(0),
    });
    for bytes in [1 << 10, 64 << 10, 1 << 20] {
        let requests = [
            (format!("{bytes} B"), produce_frame(bytes)),
            (format!("{bytes} B by topic id"), produce_frame_by_id(bytes)),
        ];
        for (name, request) in requests {
            group.throughput(Throughput::Bytes(bytes as u64));
            assert!(!served(&mut group, name, &request, &outcome).is_empty());
        }
    }
    group.finish();
}

fn fetch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kafka fetch");
    for bytes in [1 << 10, 64 << 10, 1 << 20] {
        let fetched = Fetched {
            high_watermark: Offset(9),
            last_stable: Offset(9),
            log_start: Offset(0),
            batches: vec![Bytes::from(vec![0; bytes])],
            has_more: false,
        };
        let outcome = Outcome::Fetched(vec![FetchedPartition {
            partition: PartitionId(0),
            result: Ok(fetched),
        }]);
        let requests = [
            (format!("{bytes} B"), fetch_frame()),
            (format!("{bytes} B by topic id"), fetch_frame_by_id()),
        ];
        for (name, request) in requests {
            group.throughput(Throughput::Bytes(bytes as u64));
            assert!(served(&mut group, name, &request, &outcome).len() > bytes);
        }
    }
    group.finish();
}

/// ListOffsets 7: the latest offset of partition 0 of topic `a`, asked for so many times.
fn list_offsets(partitions: usize) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("a")))
        .with_partitions(vec![partition; partitions]);
    ListOffsetsRequest::default().with_topics(vec![topic])
}

fn decode(criterion: &mut Criterion) {
    const VERSION: u8 = 7;
    let mut group = criterion.benchmark_group("kafka list offsets");
    let outcome = Outcome::OffsetFound(Some(FoundOffset {
        offset: Offset(9),
        timestamp_ms: None,
        leader_epoch: LeaderEpoch(0),
    }));
    for partitions in [1, 100, 4_000] {
        let mut body = Vec::new();
        list_offsets(partitions)
            .encode(&mut body, i16::from(VERSION))
            .expect("a body");
        group.throughput(Throughput::Elements(partitions as u64));
        let walked = [&[2, VERSION], &body[..]].concat();
        group.bench_function(format!("walk {partitions}"), |bencher| {
            bencher.iter(|| fuzz::walker(black_box(&walked)));
        });
        group.bench_function(format!("decode {partitions}"), |bencher| {
            bencher.iter(|| {
                let mut body = Bytes::copy_from_slice(black_box(&body));
                ListOffsetsRequest::decode(&mut body, i16::from(VERSION)).expect("a body")
            });
        });
        // Flexible requests end their header with tagged fields.
        let request = frame(2, VERSION, &[&[0], &body[..]].concat());
        let name = format!("serve {partitions}");
        assert!(served(&mut group, name, &request, &outcome).len() > partitions * 8);
    }
    group.finish();
}

criterion_group!(benches, produce, fetch, decode);
criterion_main!(benches);
