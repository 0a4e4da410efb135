//! Produce transcripts.

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ApiVersionsRequest, ProduceRequest, ProduceResponse};
use millrace_engine::event::Refusal;
use millrace_net::kafka::KafkaConfig;
use millrace_net::session::ProtocolSession;
use millrace_storage::record::BatchError;
use millrace_storage::units::{BootTime, Offset};

use crate::broker::{Broker, FIRST_TOPIC};
use crate::client::{Connection, NOW, batch, frame, reply, topic};

fn partition(index: i32, records: Option<Bytes>) -> PartitionProduceData {
    PartitionProduceData::default()
        .with_index(index)
        .with_records(records)
}

/// Partitions of topic `a`.
fn request(acks: i16, partitions: Vec<PartitionProduceData>) -> ProduceRequest {
    let data = TopicProduceData::default()
        .with_name(topic("a"))
        .with_topic_id(FIRST_TOPIC)
        .with_partition_data(partitions);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1000)
        .with_topic_data(vec![data])
}

fn connection() -> Connection {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    Connection::new(broker)
}

fn only(response: &ProduceResponse) -> &PartitionProduceResponse {
    assert_eq!(response.responses.len(), 1);
    assert_eq!(response.responses[0].partition_responses.len(), 1);
    &response.responses[0].partition_responses[0]
}

#[test]
fn every_served_version_appends_and_answers_the_offset() {
    for version in 3..=13 {
        for acks in [1, -1] {
            let mut connection = connection();
            for base in [0, 3] {
                let request = request(acks, vec![partition(1, Some(batch(3, 0)))]);
                let response = connection.ask(version, &request);
                assert_eq!(response.throttle_time_ms, 0);
                let answered = &response.responses[0];
                if version >= 13 {
                    assert_eq!(answered.topic_id, FIRST_TOPIC);
                } else {
                    assert_eq!(answered.name, topic("a"));
                }
                let answer = only(&response);
                assert_eq!((answer.index, answer.error_code), (1, 0));
                assert_eq!((answer.base_offset, answer.log_append_time_ms), (base, -1));
                let log_start = if version >= 5 { 0 } else { -1 };
                assert_eq!(answer.log_start_offset, log_start);
                assert_eq!(answer.error_message, None);
            }
        }
    }
}

#[test]
fn versions_0_to_2_are_refused_in_their_own_format() {
    // acks, timeout, one topic "a", one partition 0 with a null batch.
    let body = [
        0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
    ];
    for version in 0..=2_u8 {
        let mut input = vec![0, 0, 0, 35, 0, 0, 0, version, 0, 0, 0, 7, 0xff, 0xff];
        input.extend(body);
        let mut connection = connection();
        connection.input = input;
        connection.feed().expect("answered");
        let mut expected = vec![0, 0, 0, 7, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1];
        expected.extend([0, 0, 0, 0, 0, 35]);
        expected.extend((-1_i64).to_be_bytes());
        if version >= 2 {
            expected.extend((-1_i64).to_be_bytes());
        }
        if version >= 1 {
            expected.extend([0; 4]);
        }
        let out = connection.output();
        assert_eq!(&out[4..], expected, "version {version}");
        assert!(connection.broker.seen.is_empty());
    }
}

#[test]
fn the_golden_bytes_of_version_9() {
    let records = batch(1, 0);
    let mut body = vec![0, 0xff, 0xff, 0, 0, 0, 9, 2, 2, b'a', 2, 0, 0, 0, 1];
    body.push(u8::try_from(records.len() + 1).expect("short"));
    body.extend(&records);
    body.extend([0, 0, 0]);
    let mut input = vec![0, 0, 0, u8::try_from(body.len() + 11).expect("short")];
    input.extend([0, 0, 0, 9, 0, 0, 0, 7, 0xff, 0xff, 0]);
    input.extend(body);
    let mut connection = connection();
    connection.input = input;
    connection.feed().expect("a good request");
    connection.settle();
    let mut expected = vec![0, 0, 0, 7, 0, 2, 2, b'a', 2, 0, 0, 0, 1, 0, 0];
    expected.extend(0_i64.to_be_bytes());
    expected.extend((-1_i64).to_be_bytes());
    expected.extend(0_i64.to_be_bytes());
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let out = connection.output();
    assert_eq!(&out[4..], expected);
}

#[test]
fn partitions_fail_one_by_one() {
    let mut connection = connection();
    let mut two = batch(1, 0).to_vec();
    two.extend(batch(1, 0));
    let mut damaged = batch(2, 0).to_vec();
    *damaged.last_mut().expect("bytes") ^= 1;
    let partitions = vec![
        partition(0, Some(batch(2, 0))),
        partition(7, Some(batch(1, 0))),
        partition(-1, Some(batch(1, 0))),
        partition(1, Some(Bytes::from(two))),
        partition(1, Some(Bytes::from(damaged))),
        partition(1, Some(Bytes::new())),
        partition(1, None),
        partition(1, Some(batch(1, 4))),
    ];
    let other = TopicProduceData::default()
        .with_name(topic("nowhere"))
        .with_partition_data(vec![partition(0, Some(batch(1, 0)))]);
    let mut request = request(1, partitions);
    request.topic_data.push(other);
    let response = connection.ask(8, &request);
    let codes = |at: usize| -> Vec<i16> {
        let answers = response.responses[at].partition_responses.iter();
        answers.map(|answer| answer.error_code).collect()
    };
    assert_eq!(codes(0), [0, 3, 3, 87, 2, 87, 87, 0]);
    assert_eq!(codes(1), [3]);
    let message = &response.responses[0].partition_responses[3].error_message;
    let message = message.as_ref().expect("words for a refused batch");
    assert_eq!(message.as_str(), "bytes follow the batch");
    // zstd is only for versions whose consumers can be asked to know it.
    let zstd = crate::produce::request(1, vec![partition(0, Some(batch(1, 4)))]);
    assert_eq!(only(&connection.ask(6, &zstd)).error_code, 76);
    assert_eq!(only(&connection.ask(7, &zstd)).error_code, 0);
}

#[test]
fn acks_that_do_not_exist_are_refused_before_anything_is_stored() {
    for acks in [2, -2, i16::MAX, i16::MIN] {
        let mut connection = connection();
        let request = request(acks, vec![partition(0, Some(batch(1, 0)))]);
        assert_eq!(only(&connection.ask(9, &request)).error_code, 21);
        assert!(connection.broker.seen.is_empty());
    }
}

#[test]
fn acks_0_gets_no_reply_and_holds_its_place() {
    let mut connection = connection();
    let silent = request(0, vec![partition(0, Some(batch(1, 0)))]);
    connection.send(9, &silent);
    let correlation = connection.send(0, &ApiVersionsRequest::default());
    assert!(connection.output().is_empty(), "not durable yet");
    connection.settle();
    let mut out = Bytes::from(connection.output());
    reply::<ApiVersionsRequest>(0, correlation, &mut out);
    assert!(out.is_empty());
    // Where nothing can be said, a failure closes the connection.
    connection.broker.refuse_appends = Some(Refusal::DiskFull);
    connection.send(9, &silent);
    connection.settle();
    assert!(!connection.session.wants_input());
    assert!(
        connection
            .session
            .poll_timeout()
            .is_some_and(|at| at <= NOW.boot)
    );
    let reason = connection
        .session
        .handle_timeout(NOW)
        .expect_err("closes")
        .reason;
    assert!(reason.contains("StorageError"), "{reason}");
    assert!(connection.output().is_empty());
}

#[test]
fn refusals_of_the_log_have_kafkas_codes() {
    let refusals = [
        (Refusal::BadBatch(BatchError::Checksum), 2),
        (Refusal::BadBatch(BatchError::Magic(1)), 87),
        (Refusal::UnknownPartition, 3),
        (Refusal::Busy("memory.pending_append_bytes_max"), 7),
        (Refusal::OutcomeUnknown, 7),
        (Refusal::InvalidTimestamp, 32),
        (Refusal::NoTransaction, 48),
        (Refusal::DiskFull, 56),
        (
            Refusal::UnknownProducer {
                log_start: Offset(7),
            },
            59,
        ),
        (Refusal::DuplicateSequence, 46),
        (Refusal::UnknownCodec(5), 76),
    ];
    for (refusal, code) in refusals {
        let mut connection = connection();
        connection.broker.refuse_appends = Some(refusal);
        let request = request(1, vec![partition(0, Some(batch(1, 0)))]);
        assert_eq!(only(&connection.ask(9, &request)).error_code, code);
    }
}

/// The Java client begins anew only when it knows where the log starts.
#[test]
fn an_unknown_producer_is_told_where_the_log_starts() {
    let mut connection = connection();
    connection.broker.refuse_appends = Some(Refusal::UnknownProducer {
        log_start: Offset(7),
    });
    for version in 5..=12 {
        let request = request(-1, vec![partition(0, Some(batch(1, 0)))]);
        let response = connection.ask(version, &request);
        let answer = only(&response);
        assert_eq!(answer.error_code, 59);
        assert_eq!(answer.base_offset, -1);
        assert_eq!(answer.log_start_offset, 7, "version {version}");
    }
}

#[test]
fn a_reply_waits_for_every_partition_and_for_the_replies_before_it() {
    let mut connection = connection();
    let both = vec![
        partition(0, Some(batch(1, 0))),
        partition(1, Some(batch(1, 0))),
    ];
    let first = connection.send(9, &request(1, both));
    let second = connection.send(9, &request(1, vec![partition(0, Some(batch(1, 0)))]));
    // The second request's append and half of the first's are durable.
    for index in [2, 0] {
        let (sequence, outcome) = connection.broker.outcomes.remove(index).expect("three");
        let broker = &mut connection.broker;
        connection
            .session
            .handle_outcome(NOW, sequence, outcome, broker);
        assert!(connection.output().is_empty());
    }
    connection.settle();
    let mut out = Bytes::from(connection.output());
    reply::<ProduceRequest>(9, first, &mut out);
    reply::<ProduceRequest>(9, second, &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_full_log_leaves_requests_in_the_input() {
    let mut connection = connection();
    connection.broker.accepts_appends = false;
    connection.input = frame(9, 5, &request(1, vec![partition(0, Some(batch(1, 0)))]));
    let taken = connection.feed().expect("a good request");
    assert_eq!((taken.bytes, taken.need_bytes), (0, 0));
    assert!(
        connection.session.wants_input(),
        "the sink says when to try again"
    );
    connection.broker.accepts_appends = true;
    connection.feed().expect("a good request");
    connection.settle();
    let mut out = Bytes::from(connection.output());
    assert_eq!(only(&reply::<ProduceRequest>(9, 5, &mut out)).error_code, 0);
}

#[test]
fn a_full_pipeline_takes_no_more() {
    let config = KafkaConfig {
        pipeline_requests_max: 3,
        ..KafkaConfig::default()
    };
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    let mut connection = Connection::with_config(broker, config);
    let request = request(1, vec![partition(0, Some(batch(1, 0)))]);
    let one = frame(9, 1, &request);
    connection.input = one.repeat(5);
    connection.feed().expect("good requests");
    assert_eq!(connection.input.len(), 2 * one.len());
    assert!(!connection.session.wants_input());
    connection.settle();
    assert!(
        !connection.session.wants_input(),
        "replies that are not sent count too"
    );
    assert!(!connection.output().is_empty());
    assert!(connection.session.wants_input());
    connection.feed().expect("good requests");
    assert!(connection.input.is_empty());
}

#[test]
fn replies_that_nobody_takes_hold_requests_back() {
    let config = KafkaConfig {
        pipeline_reply_bytes_max: 300,
        ..KafkaConfig::default()
    };
    let mut connection = Connection::with_config(Broker::new(), config);
    let one = frame(0, 1, &ApiVersionsRequest::default());
    connection.input = one.repeat(5);
    connection.feed().expect("good requests");
    // Each reply has 266 bytes: the second goes past the limit.
    assert_eq!(connection.input.len(), 3 * one.len());
    assert!(!connection.session.wants_input());
    assert_eq!(connection.output().len(), 2 * 266);
    assert!(connection.session.wants_input());
    connection.feed().expect("good requests");
    assert_eq!(connection.input.len(), one.len());
}

#[test]
fn output_stops_after_the_reply_that_passes_the_limit() {
    let mut connection = connection();
    for _ in 0..3 {
        connection.send(0, &ApiVersionsRequest::default());
    }
    let mut out = Vec::new();
    connection.session.poll_output(&mut out, 1);
    let one = out.len();
    connection.session.poll_output(&mut out, one + 1);
    assert_eq!(out.len(), 2 * one);
    connection.session.poll_output(&mut out, usize::MAX);
    assert_eq!(out.len(), 3 * one);
}

/// A request's batches are all durable with the last of them, and the oldest request of an output
/// waits longest.
#[test]
fn an_output_knows_since_when_its_oldest_write_is_durable() {
    let mut connection = connection();
    // In this broker a batch becomes durable at the offset after it.
    let both = vec![
        partition(0, Some(batch(1, 0))),
        partition(1, Some(batch(3, 0))),
    ];
    connection.send(9, &request(-1, both.clone()));
    connection.settle();
    let mut out = Vec::new();
    let durable_at = connection.session.poll_output(&mut out, usize::MAX);
    assert_eq!(durable_at, Some(BootTime(3)));
    connection.send(9, &request(-1, both));
    connection.send(9, &request(-1, vec![partition(0, Some(batch(2, 0)))]));
    connection.send(0, &ApiVersionsRequest::default());
    connection.settle();
    let durable_at = connection.session.poll_output(&mut out, usize::MAX);
    assert_eq!(durable_at, Some(BootTime(4)), "not 6");
    // Nobody hears of this one.
    connection.send(9, &request(0, vec![partition(0, Some(batch(1, 0)))]));
    connection.settle();
    assert_eq!(connection.session.poll_output(&mut out, usize::MAX), None);
}
