//! Bytes that no honest client sends: cut short, with lengths that cannot be, far too large.

use std::collections::BTreeMap;
use std::sync::Arc;

use allocation_counter::measure;
use bytes::Bytes;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, DescribeConfigsRequest, DescribeConfigsResponse, LeaveGroupRequest,
    MetadataRequest, MetadataResponse,
};
use kafka_protocol::protocol::Request;
use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;
use millrace_engine::event::Refusal;
use millrace_net::kafka::{KafkaConfig, Session};
use millrace_net::session::{
    ClusterView, CommandSink, ConnectionAddresses, ProtocolSession, ProtocolViolation, Refused,
    Taken,
};
use millrace_storage::units::Now;

use crate::broker::Broker;
use crate::client::{NOW, frame, reply, text, topic};
use crate::samples::{self, Sample};

/// Bytes that a session may allocate whatever comes: replies, tables, maps.
const ALLOCATED_BESIDE_INPUT_MAX: u64 = 128 << 10;

/// A broker that refuses everything, so that only the session's own memory is counted.
pub(crate) struct Wall {
    view: Broker,
    submitted: Vec<u64>,
}

impl Wall {
    pub(crate) fn new() -> Self {
        let mut view = Broker::new();
        view.add_topic("a", 2);
        Self {
            view,
            submitted: Vec::new(),
        }
    }
}

impl CommandSink for Wall {
    fn submit(&mut self, _now: Now, sequence: u64, _command: Command<'_>) {
        self.submitted.push(sequence);
    }

    fn cancel(&mut self, _sequence: u64) {}

    fn catalog(&self) -> &Catalog {
        self.view.catalog()
    }

    fn cluster(&self) -> &ClusterView {
        self.view.cluster()
    }

    fn addresses(&self) -> ConnectionAddresses {
        self.view.addresses()
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

/// What became of some input.
pub(crate) struct Served {
    pub(crate) result: Result<Taken, ProtocolViolation>,
    pub(crate) output: Vec<u8>,
    /// Most bytes that were allocated at one time.
    pub(crate) allocated_max: u64,
}

/// Feeds a new session until it takes no more, refuses every command, and collects the replies.
pub(crate) fn serve(input: &[u8]) -> Served {
    serve_with(KafkaConfig::default(), Wall::new(), input)
}

/// As [`serve`], by a broker of one's own.
fn serve_with(config: KafkaConfig, mut wall: Wall, input: &[u8]) -> Served {
    let config = Arc::new(config);
    let mut result = Ok(Taken::default());
    let mut output = Vec::new();
    let info = measure(|| {
        let mut session = Session::new(config);
        let mut at = 0;
        loop {
            result = session.handle_input(NOW, &input[at..], &mut wall);
            let Ok(taken) = &result else { break };
            at += taken.bytes;
            let submitted = std::mem::take(&mut wall.submitted);
            for sequence in &submitted {
                let refused = Err(Refusal::Busy("a limit of this test"));
                session.handle_outcome(NOW, *sequence, refused, &mut wall);
            }
            session.poll_output(&mut output, usize::MAX);
            if taken.bytes == 0 && submitted.is_empty() {
                break;
            }
        }
        if let Ok(taken) = &mut result {
            taken.bytes = at;
        }
    });
    Served {
        result,
        output,
        allocated_max: info.bytes_max,
    }
}

/// Serves hostile input and holds its memory against its size.
pub(crate) fn serve_within_bounds(input: &[u8]) -> Served {
    let served = serve(input);
    let max = 2 * input.len() as u64 + ALLOCATED_BESIDE_INPUT_MAX;
    let allocated = served.allocated_max;
    assert!(
        allocated <= max,
        "{allocated} bytes for {} of input",
        input.len()
    );
    served
}

fn refusal(input: &[u8]) -> String {
    serve_within_bounds(input)
        .result
        .expect_err("refused")
        .reason
}

/// A request of that API with a body that goes on for ever.
fn endless(key: u8, version: u8, length: i32) -> Vec<u8> {
    let mut input = length.to_be_bytes().to_vec();
    input.extend([0, key, 0, version, 0, 0, 0, 1]);
    input
}

#[test]
fn every_prefix_of_a_good_request_waits_for_the_rest() {
    for sample in samples::all() {
        let whole = sample.frame.len();
        for end in 0..whole {
            let served = serve_within_bounds(&sample.frame[..end]);
            let taken = served.result.expect("nothing is wrong yet");
            let need_bytes = match end {
                0..4 => 0,
                4..12 => 12,
                _ => whole,
            };
            let expected = Taken {
                need_bytes,
                ..Taken::default()
            };
            assert_eq!(taken, expected, "{} {}", sample.api, sample.version);
            assert!(served.output.is_empty());
        }
        let served = serve_within_bounds(&sample.frame);
        let taken = served.result.expect("a good request");
        assert_eq!(taken.bytes, whole, "{} {}", sample.api, sample.version);
        assert!(!served.output.is_empty());
    }
}

#[test]
fn every_field_may_hold_a_length_at_its_edge() {
    let edges: [&[u8]; 12] = [
        &[0xff; 4],
        &[0x80, 0, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0x7f, 0xff],
        &[0x80, 0x00],
        &[0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x80, 0x80, 0x80, 0x10],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x00],
    ];
    for sample in samples::all() {
        for at in 4..sample.frame.len() {
            for edge in edges {
                let mut input = sample.frame.clone();
                let end = (at + edge.len()).min(input.len());
                input[at..end].copy_from_slice(&edge[..end - at]);
                serve_within_bounds(&input);
            }
        }
    }
}

#[test]
fn a_body_cut_short_inside_its_frame_is_malformed() {
    for sample in samples::all() {
        // The shortest frame is the header alone; ends inside trailing fields count as short too.
        for end in 22..sample.frame.len() {
            let mut input = sample.frame[..end].to_vec();
            let length = u32::try_from(end - 4).expect("short");
            input[..4].copy_from_slice(&length.to_be_bytes());
            let served = serve_within_bounds(&input);
            assert!(
                served.result.is_err(),
                "{} {} {end}",
                sample.api,
                sample.version
            );
        }
    }
}

#[test]
fn lengths_of_requests_are_judged_before_their_bytes_are_there() {
    for length in [i32::MIN, -1, 0, 7, (100 << 20) + 1, i32::MAX] {
        let reason = refusal(&length.to_be_bytes());
        assert!(reason.contains("request_bytes_max"), "{reason}");
    }
    // A stranger's first request is short, unless the connection is for data from the start.
    for key in [3, 18] {
        let reason = refusal(&endless(key, 3, (64 << 10) + 1));
        assert!(reason.contains("first_request_bytes_max"), "{reason}");
    }
    for (key, length) in [(0, 100 << 20), (1, 4 << 20)] {
        let served = serve_within_bounds(&endless(key, 4, length));
        let need_bytes = length as usize + 4;
        assert_eq!(served.result.expect("it may come").need_bytes, need_bytes);
    }
    let reason = refusal(&endless(1, 4, (4 << 20) + 1));
    assert!(reason.contains("control_request_bytes_max"), "{reason}");
    let known = endless(18, 0, 10);
    let known = [&known[..], &[0xff, 0xff]].concat();
    let mut metadata = known.clone();
    metadata.extend(endless(3, 9, (4 << 20) + 1));
    let reason = refusal(&metadata);
    assert!(reason.contains("control_request_bytes_max"), "{reason}");
    let mut produce = known;
    produce.extend(endless(0, 9, 100 << 20));
    let served = serve_within_bounds(&produce);
    let need_bytes = (100 << 20) + 4;
    assert_eq!(served.result.expect("it may come").need_bytes, need_bytes);
}

#[test]
fn clients_of_other_protocols_are_told_so_in_the_log() {
    let reason = refusal(&[0x16, 0x03, 0x01, 0x02, 0x00]);
    assert!(reason.contains("TLS"), "{reason}");
    for text in ["GET / HTTP/1.1\r\n", "AMQP\0\0\x09\x01", "PING\r\n"] {
        let reason = refusal(text.as_bytes());
        assert!(reason.contains("text"), "{reason}");
    }
}

#[test]
fn items_are_limited_however_short_they_are() {
    let config = KafkaConfig::default();
    // Metadata 9 with topics of two bytes each: an empty name, no tagged fields.
    let metadata = |count: usize| {
        let varint = |mut value: usize| {
            let mut bytes = Vec::new();
            while value >= 0x80 {
                bytes.push((value & 0x7f) as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
            bytes
        };
        let mut body = varint(count + 1);
        body.extend([1, 0].repeat(count));
        body.extend([0, 0, 0, 0]);
        let length = i32::try_from(body.len() + 11).expect("short");
        let mut input = endless(18, 0, 10);
        input.extend([0xff, 0xff]);
        input.extend(endless(3, 9, length));
        input.extend([0xff, 0xff, 0]);
        input.extend(body);
        input
    };
    let most = serve(&metadata(config.request_items_max));
    most.result.expect("within the limit");
    // A bound of what the largest request costs: a few hundred bytes an item.
    let max = 512 * config.request_items_max as u64;
    assert!(most.allocated_max < max, "{} bytes", most.allocated_max);
    let reason = refusal(&metadata(config.request_items_max + 1));
    assert!(reason.contains("request_items_max"), "{reason}");
}

/// Bytes in a request that mean nothing, and how many a request that waits may keep.
const NOISE_BYTES: usize = 1 << 20;
const KEPT_BYTES_MAX: i64 = 32 << 10;

/// Puts a frame's length right.
fn framed(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(frame.len() - 4).expect("short");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Feeds a request whose commands do not end, and sends what is answered at once. Whether it was
/// taken, and how many bytes the session keeps.
fn keep(input: &[u8]) -> (bool, i64) {
    let config = Arc::new(KafkaConfig {
        first_request_bytes_max: 2 * NOISE_BYTES,
        ..KafkaConfig::default()
    });
    let mut wall = Wall::new();
    let mut session = Session::new(config);
    let mut is_taken = false;
    let info = measure(|| {
        is_taken = session.handle_input(NOW, input, &mut wall).is_ok();
        session.poll_output(&mut Vec::new(), usize::MAX);
    });
    (is_taken, info.bytes_current)
}

#[test]
fn a_request_that_waits_keeps_nothing_but_what_its_answer_tells() {
    let mut tagged = 0;
    for Sample {
        api,
        version,
        frame,
    } in samples::all()
    {
        let noise = vec![7; NOISE_BYTES];
        // Kafka ignores what follows a body.
        let (is_taken, kept) = keep(&framed([&frame[..], &noise].concat()));
        assert!(is_taken, "{api} {version}");
        assert!(kept <= KEPT_BYTES_MAX, "{api} {version}: {kept} bytes");
        // One tagged field where a flexible version ends with none.
        let fields = &frame[..frame.len() - 1];
        let one = [&[1, 99, 0x80, 0x80, 0x40], &noise[..]].concat();
        let (is_taken, kept) = keep(&framed([fields, &one].concat()));
        assert!(kept <= KEPT_BYTES_MAX, "{api} {version}: {kept} bytes");
        tagged += usize::from(is_taken);
    }
    assert!(tagged > 80, "{tagged}");
    let tags = BTreeMap::from([(99, Bytes::from(vec![7; NOISE_BYTES]))]);
    let member = MemberIdentity::default().with_unknown_tagged_fields(tags);
    let leave = LeaveGroupRequest::default().with_members(vec![member]);
    let (is_taken, kept) = keep(&frame(5, 1, &leave));
    assert!(is_taken && kept <= KEPT_BYTES_MAX, "{kept} bytes");
}

/// Partitions of the widest topic of a broker.
const WIDE_PARTITIONS: u32 = 10_000;
/// A request and its answer for one topic of that many partitions, and what making them takes.
const WIDE_BYTES_MAX: u64 = 48 << 20;

/// An empty handshake and then that request, to a broker with a wide topic.
fn serve_wide<R: Request>(config: KafkaConfig, version: i16, body: &R) -> Served {
    let mut wall = Wall::new();
    wall.view.add_topic("wide", WIDE_PARTITIONS);
    let hello = frame(0, 1, &ApiVersionsRequest::default());
    let mut input = hello.clone();
    input.extend(frame(version, 2, body));
    let mut served = serve_with(config, wall, &input);
    if let Some(length) = served.output.first_chunk() {
        let first = 4 + u32::from_be_bytes(*length) as usize;
        served.output.drain(..first);
    }
    served
}

fn metadata_of_wide(times: usize) -> MetadataRequest {
    let wide = MetadataRequestTopic::default().with_name(Some(topic("wide")));
    MetadataRequest::default().with_topics(Some(vec![wide; times]))
}

#[test]
fn a_wide_topic_named_many_times_is_answered_once() {
    let config = KafkaConfig::default();
    let request = metadata_of_wide(config.request_items_max);
    for version in [0, 9, 13] {
        let served = serve_wide(config.clone(), version, &request);
        served.result.expect("served");
        let allocated = served.allocated_max;
        assert!(allocated <= WIDE_BYTES_MAX, "{allocated} bytes");
        let mut output = served.output.into();
        let response: MetadataResponse = reply::<MetadataRequest>(version, 2, &mut output);
        let [wide] = response.topics.as_slice() else {
            panic!("{} topics", response.topics.len())
        };
        assert_eq!(wide.partitions.len(), WIDE_PARTITIONS as usize);
    }
}

#[test]
fn a_resource_named_many_times_is_described_once() {
    let config = KafkaConfig::default();
    let of = |keys: Option<&'static str>| {
        DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("wide"))
            .with_configuration_keys(keys.map(|key| vec![text(key)]))
    };
    let ask = |resources| {
        let request = DescribeConfigsRequest::default()
            .with_include_synonyms(true)
            .with_include_documentation(true)
            .with_resources(resources);
        let served = serve_wide(config.clone(), 4, &request);
        served.result.expect("served");
        let allocated = served.allocated_max;
        assert!(allocated <= WIDE_BYTES_MAX, "{allocated} bytes");
        let mut output = served.output.into();
        let response: DescribeConfigsResponse = reply::<DescribeConfigsRequest>(4, 2, &mut output);
        let results = response.results.into_iter();
        results
            .map(|described| described.configs.len())
            .collect::<Vec<_>>()
    };
    let all = ask(vec![of(None); config.request_items_max]);
    assert!(all.len() == 1 && all[0] >= 2, "{all:?}");
    // Other settings are another question.
    let [time, bytes] = ["retention.ms", "retention.bytes"].map(|key| of(Some(key)));
    let asked = vec![time.clone(), of(None), bytes, time, of(None)];
    assert_eq!(ask(asked), [1, all[0], 1]);
}

#[test]
fn a_reply_that_would_be_too_long_is_not_made() {
    let config = KafkaConfig {
        reply_bytes_max: 64 << 10,
        ..KafkaConfig::default()
    };
    let all = MetadataRequest::default().with_topics(None);
    for request in [metadata_of_wide(1), all] {
        let served = serve_wide(config.clone(), 9, &request);
        let reason = served.result.expect_err("too long").reason;
        assert!(reason.contains("kafka.reply_bytes_max = 65536"), "{reason}");
        let allocated = served.allocated_max;
        assert!(allocated <= ALLOCATED_BESIDE_INPUT_MAX, "{allocated} bytes");
    }
}
