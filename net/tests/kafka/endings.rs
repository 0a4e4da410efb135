//! What of a pipeline is answered when the connection is to end: at a request that breaks the
//! protocol, at a reply that cannot be made, and when the client has closed its side.

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    FetchRequest, FindCoordinatorRequest, MetadataRequest, ProduceRequest,
};
use millrace_engine::group::{CommittedOffset, GroupAnswer, NewOffset};
use millrace_net::kafka::KafkaConfig;
use millrace_net::session::{Owed, ProtocolSession};
use millrace_storage::units::{Offset, PartitionId};

use crate::broker::Broker;
use crate::client::{Connection, NOW, batch, frame_of_bytes, reply, topic};
use crate::samples::groups;

/// Replies may be this long, bytes.
const REPLY_BYTES_MAX: usize = 4096;

fn connection() -> Connection {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    let config = KafkaConfig {
        reply_bytes_max: REPLY_BYTES_MAX,
        ..KafkaConfig::default()
    };
    Connection::with_config(broker, config)
}

fn produce() -> ProduceRequest {
    let partition = PartitionProduceData::default().with_records(Some(batch(1, 0)));
    let data = TopicProduceData::default()
        .with_name(topic("a"))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_topic_data(vec![data])
}

fn long_poll() -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(1000);
    let wanted = FetchTopic::default()
        .with_topic(topic("a"))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(60_000)
        .with_min_bytes(1)
        .with_max_bytes(1000)
        .with_session_epoch(-1)
        .with_topics(vec![wanted])
}

/// The next outcome comes.
fn end_one(connection: &mut Connection) {
    let (sequence, outcome) = connection.broker.outcomes.pop_front().expect("one is out");
    let session = &mut connection.session;
    session.handle_outcome(NOW, sequence, outcome, &mut connection.broker);
}

#[test]
fn a_request_before_one_that_cannot_be_understood_is_answered() {
    let mut connection = connection();
    let produced = connection.send(9, &produce());
    let mut unknown = frame_of_bytes::<MetadataRequest>(12, produced + 1, &[]);
    unknown[7] = 99;
    connection.input.extend(unknown);
    let violation = connection.feed().expect_err("no such version");
    assert!(violation.reason.contains("99"), "{violation}");
    assert_eq!(connection.session.owed(), Owed::Work);
    assert!(connection.output().is_empty());
    end_one(&mut connection);
    assert_eq!(connection.session.owed(), Owed::Nothing);
    let mut out = Bytes::from(connection.output());
    let stored = reply::<ProduceRequest>(9, produced, &mut out);
    assert_eq!(stored.responses[0].partition_responses[0].error_code, 0);
    assert!(out.is_empty());
}

#[test]
fn nothing_passes_a_reply_that_cannot_be_made() {
    let mut connection = connection();
    let long = CommittedOffset {
        commit: NewOffset {
            offset: Offset(4),
            leader_epoch: None,
            metadata: "m".repeat(REPLY_BYTES_MAX).into(),
        },
        committed_ms: 1,
        expires_ms: None,
    };
    let answer = GroupAnswer::Offsets(vec![(PartitionId(0), Some(long)), (PartitionId(1), None)]);
    connection.broker.group_answers.push_back(Ok(answer));
    let produced = connection.send(9, &produce());
    connection.send(5, &groups::fetch(5));
    connection.send(2, &FindCoordinatorRequest::default());
    // The produce request is the last to end.
    connection.broker.outcomes.rotate_left(1);
    end_one(&mut connection);
    let failed = connection.session.handle_timeout(NOW);
    let reason = failed.expect_err("the connection must close").reason;
    assert!(reason.contains("reply_bytes_max"), "{reason}");
    assert!(!connection.session.wants_input());
    assert_eq!(connection.session.owed(), Owed::Work);
    end_one(&mut connection);
    assert_eq!(connection.session.owed(), Owed::Nothing);
    let mut out = Bytes::from(connection.output());
    reply::<ProduceRequest>(9, produced, &mut out);
    assert!(out.is_empty(), "nothing follows what is missing");
}

#[test]
fn a_client_that_closed_its_side_is_owed_what_no_other_client_must_bring_about() {
    let mut connection = connection();
    assert_eq!(connection.session.owed(), Owed::Nothing);
    connection.send(4, &long_poll());
    assert_eq!(connection.session.owed(), Owed::Records);
    // Its reply stands behind that of the fetch, and is awaited.
    connection.send(2, &FindCoordinatorRequest::default());
    assert_eq!(connection.session.owed(), Owed::Work);
    connection.broker.expire_fetches();
    connection.settle();
    assert_eq!(connection.session.owed(), Owed::Nothing);
    connection.output();

    // A member that waits for others, and what stands behind it.
    connection.send(9, &produce());
    connection.send(5, &groups::join(5));
    connection.send(0, &groups::heartbeat(0));
    assert_eq!(connection.session.owed(), Owed::Work);
    end_one(&mut connection);
    assert_eq!(connection.session.owed(), Owed::Nothing);
}
