//! Topics named by id: Produce 13, Fetch from 13 on, OffsetCommit 10 and OffsetFetch 10.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
    ProduceResponse,
};
use millrace_engine::catalog::change::Operation;
use millrace_engine::event::Refusal;
use millrace_engine::group::{CommittedOffset, GroupAnswer, GroupAsk, GroupRefusal, NewOffset};
use millrace_net::session::ProtocolSession;
use millrace_storage::units::{LeaderEpoch, Offset, PartitionId};
use uuid::Uuid;

use crate::broker::{Broker, FIRST_TOPIC};
use crate::client::{Connection, batch};
use crate::samples::groups as samples;
use crate::samples::groups::UNKNOWN_TOPIC;

/// A topic of two partitions.
fn connection() -> Connection {
    let mut broker = Broker::new();
    assert_eq!(broker.add_topic("a", 2), FIRST_TOPIC);
    Connection::new(broker)
}

/// Deletes the topic and creates it anew, empty. Returns its id by now.
fn recreate(connection: &mut Connection) -> Uuid {
    let deleted = Operation::TopicDeleted { id: FIRST_TOPIC };
    connection.broker.apply(vec![deleted]);
    connection.broker.add_topic("a", 2)
}

fn produce(acks: i16, asked: &[(Uuid, i32)]) -> ProduceRequest {
    let topics = asked.iter().map(|(id, index)| {
        let data = PartitionProduceData::default()
            .with_index(*index)
            .with_records(Some(batch(1, 0)));
        TopicProduceData::default()
            .with_topic_id(*id)
            .with_partition_data(vec![data])
    });
    ProduceRequest::default()
        .with_acks(acks)
        .with_topic_data(topics.collect())
}

/// Id, index and code of every partition answered.
fn produced(response: &ProduceResponse) -> Vec<(Uuid, i32, i16)> {
    let topics = response.responses.iter();
    let answers = topics.flat_map(|topic| {
        let partitions = topic.partition_responses.iter();
        partitions.map(|answer| (topic.topic_id, answer.index, answer.error_code))
    });
    answers.collect()
}

#[test]
fn the_golden_bytes_of_produce_13() {
    let records = batch(1, 0);
    let mut body = vec![0, 0xff, 0xff, 0, 0, 0, 9, 2];
    body.extend(FIRST_TOPIC.as_bytes());
    body.extend([2, 0, 0, 0, 1]);
    body.push(u8::try_from(records.len() + 1).expect("short"));
    body.extend(&records);
    body.extend([0, 0, 0]);
    let mut connection = connection();
    connection.input = vec![0, 0, 0, u8::try_from(body.len() + 11).expect("short")];
    connection
        .input
        .extend([0, 0, 0, 13, 0, 0, 0, 7, 0xff, 0xff, 0]);
    connection.input.extend(body);
    connection.feed().expect("a good request");
    connection.settle();
    let mut expected = vec![0, 0, 0, 7, 0, 2];
    expected.extend(FIRST_TOPIC.as_bytes());
    expected.extend([2, 0, 0, 0, 1, 0, 0]);
    expected.extend(0_i64.to_be_bytes());
    expected.extend((-1_i64).to_be_bytes());
    expected.extend(0_i64.to_be_bytes());
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let out = connection.output();
    assert_eq!(&out[4..], expected);
}

#[test]
fn produce_tells_an_unknown_id_from_an_unknown_partition() {
    let mut connection = connection();
    let asked = [
        (UNKNOWN_TOPIC, 0),
        (FIRST_TOPIC, 1),
        (FIRST_TOPIC, 2),
        (FIRST_TOPIC, -1),
        (Uuid::nil(), 0),
    ];
    let response = connection.ask(13, &produce(1, &asked));
    let codes = [100, 0, 3, 3, 100];
    let told = asked.iter().zip(codes);
    let told: Vec<_> = told.map(|((id, at), code)| (*id, *at, code)).collect();
    assert_eq!(produced(&response), told);
    assert_eq!(connection.broker.seen, ["append"]);
    // Where nothing can be said, the connection closes.
    connection.send(13, &produce(0, &[(FIRST_TOPIC, 0)]));
    connection.settle();
    assert!(connection.session.wants_input());
    connection.input = crate::client::frame(13, 1, &produce(0, &[(UNKNOWN_TOPIC, 0)]));
    let reason = connection.feed().expect_err("closes").reason;
    assert!(reason.contains("UnknownTopicId"), "{reason}");
}

#[test]
fn a_topic_that_was_created_again_is_not_taken_for_the_old_one() {
    let mut connection = connection();
    let new = recreate(&mut connection);
    let response = connection.ask(13, &produce(-1, &[(FIRST_TOPIC, 0), (new, 0)]));
    assert_eq!(
        produced(&response),
        [(FIRST_TOPIC, 0, 100), (new, 0, 0)],
        "the name is the same"
    );
}

#[test]
fn a_topic_that_goes_while_records_are_under_way_is_an_unknown_id() {
    for refusal in [Refusal::UnknownPartition, Refusal::UnknownTopic] {
        let mut connection = connection();
        connection.broker.refuse_appends = Some(refusal);
        let by_id = produce(1, &[(FIRST_TOPIC, 0)]);
        assert_eq!(produced(&connection.ask(13, &by_id))[0].2, 100);
        let mut by_name = by_id;
        by_name.topic_data[0].name = crate::client::topic("a");
        assert_eq!(produced(&connection.ask(12, &by_name))[0].2, 3);
    }
}

fn wanted(index: i32, from: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(index)
        .with_fetch_offset(from)
        .with_partition_max_bytes(1 << 20)
}

fn fetch(session: (i32, i32), topics: Vec<(Uuid, FetchPartition)>) -> FetchRequest {
    let topics = topics.into_iter().map(|(id, partition)| {
        FetchTopic::default()
            .with_topic(crate::client::topic("a"))
            .with_topic_id(id)
            .with_partitions(vec![partition])
    });
    FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_session_id(session.0)
        .with_session_epoch(session.1)
        .with_topics(topics.collect())
}

fn forget(mut request: FetchRequest, id: Uuid, index: i32) -> FetchRequest {
    let forgotten = ForgottenTopic::default()
        .with_topic_id(id)
        .with_partitions(vec![index]);
    request.forgotten_topics_data.push(forgotten);
    request
}

/// Id, index, code and whether there are records, of every partition answered.
fn fetched(response: &FetchResponse) -> Vec<(Uuid, i32, i16, bool)> {
    let topics = response.responses.iter();
    let answers = topics.flat_map(|topic| {
        topic.partitions.iter().map(|answer| {
            let has_records = answer
                .records
                .as_ref()
                .is_some_and(|bytes| !bytes.is_empty());
            let index = answer.partition_index;
            (topic.topic_id, index, answer.error_code, has_records)
        })
    });
    answers.collect()
}

/// A Fetch of partition 1 from offset 0, without waiting; tagged fields as a newest follower's.
fn fetch_body(version: u8) -> Vec<u8> {
    let mut body = vec![0xff; if version <= 14 { 4 } else { 0 }];
    body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    body.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 2]);
    body.extend(FIRST_TOPIC.as_bytes());
    body.extend([2, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    body.extend(0_i64.to_be_bytes());
    body.extend([0xff; 12]);
    body.extend([0, 1, 0, 0]);
    let directory = [&[0, 16], &UNKNOWN_TOPIC.as_bytes()[..]].concat();
    match version {
        17 => body.extend([&[1], &*directory].concat()),
        18 => body.extend([&[2], &*directory, &[1, 8], &[0; 8]].concat()),
        _ => body.push(0),
    }
    // The topic's end, nothing forgotten, an empty rack.
    body.extend([0, 1, 1]);
    match version {
        15.. => body.extend([1, 1, 13, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0]),
        _ => body.push(0),
    }
    body
}

#[test]
fn the_golden_bytes_of_fetches_by_id() {
    for version in 13..=18 {
        let body = fetch_body(version);
        let mut connection = connection();
        let appended = connection.broker.append(PartitionId(1), &batch(1, 0));
        appended.expect("a good batch");
        connection.input = vec![0, 0, 0, u8::try_from(body.len() + 11).expect("short")];
        connection
            .input
            .extend([0, 1, 0, version, 0, 0, 0, 7, 0xff, 0xff, 0]);
        connection.input.extend(body);
        connection.feed().expect("a good request");
        connection.settle();
        let mut expected = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        expected.extend(FIRST_TOPIC.as_bytes());
        expected.extend([2, 0, 0, 0, 1, 0, 0]);
        for offset in [1_i64, 1, 0] {
            expected.extend(offset.to_be_bytes());
        }
        expected.extend([0, 0xff, 0xff, 0xff, 0xff]);
        expected.push(u8::try_from(batch(1, 0).len() + 1).expect("short"));
        expected.extend(batch(1, 0));
        expected.extend([0, 0, 0]);
        let out = connection.output();
        assert_eq!(&out[4..], expected, "version {version}");
    }
}

#[test]
fn fetch_tells_an_unknown_id_from_an_unknown_partition() {
    for version in 13..=18 {
        let mut connection = connection();
        let asked = vec![
            (UNKNOWN_TOPIC, wanted(0, 0)),
            (FIRST_TOPIC, wanted(0, 0)),
            (FIRST_TOPIC, wanted(2, 0)),
            (Uuid::nil(), wanted(0, 0)),
        ];
        let response = connection.ask(version, &fetch((0, -1), asked));
        let expected = [
            (UNKNOWN_TOPIC, 0, 100, false),
            (FIRST_TOPIC, 0, 0, false),
            (FIRST_TOPIC, 2, 3, false),
            (Uuid::nil(), 0, 100, false),
        ];
        assert_eq!(
            (response.error_code, &*fetched(&response)),
            (0, &expected[..])
        );
    }
}

#[test]
fn a_topic_that_goes_while_a_fetch_waits_is_an_unknown_id() {
    for (version, code) in [(12, 3), (13, 100)] {
        let mut connection = connection();
        let waiting = fetch((0, -1), vec![(FIRST_TOPIC, wanted(0, 0))])
            .with_max_wait_ms(1000)
            .with_min_bytes(1);
        let correlation = connection.send(version, &waiting);
        assert_eq!(connection.broker.parked.len(), 1);
        recreate(&mut connection);
        connection.broker.expire_fetches();
        connection.settle();
        let mut out = Bytes::from(connection.output());
        let response = crate::client::reply::<FetchRequest>(version, correlation, &mut out);
        assert_eq!(fetched(&response)[0].2, code, "version {version}");
    }
}

#[test]
fn a_session_by_id_stays_with_the_topic_that_it_was_opened_for() {
    let mut connection = connection();
    let topics = vec![(FIRST_TOPIC, wanted(0, 0)), (FIRST_TOPIC, wanted(1, 0))];
    let id = connection.ask(17, &fetch((0, 0), topics)).session_id;
    assert!(id > 0);
    let new = recreate(&mut connection);
    let appended = connection.broker.append(PartitionId(2), &batch(1, 0));
    appended.expect("a good batch");
    let gone = [(FIRST_TOPIC, 0, 100, false), (FIRST_TOPIC, 1, 100, false)];
    for epoch in 1..3 {
        let response = connection.ask(17, &fetch((id, epoch), vec![]));
        assert_eq!((response.error_code, response.session_id), (0, id));
        assert_eq!(fetched(&response), gone, "an error is told every time");
    }
    // The client has looked again: it takes the new topic's partition for the old one's.
    let replaced = fetch((id, 3), vec![(new, wanted(0, 0))]);
    let replaced = forget(replaced, FIRST_TOPIC, 0);
    let response = connection.ask(17, &replaced);
    assert_eq!(
        fetched(&response),
        [(new, 0, 0, true), (FIRST_TOPIC, 1, 100, false)]
    );
    let response = connection.ask(17, &forget(fetch((id, 4), vec![]), FIRST_TOPIC, 1));
    assert_eq!(fetched(&response), [(new, 0, 0, true)]);
    assert_eq!(connection.session.remembered_partitions(), 1);
}

#[test]
fn a_session_goes_on_with_what_its_topics_were_named_by() {
    for (opened, other) in [(12, 13), (12, 18), (13, 12), (18, 7)] {
        let mut connection = connection();
        let all = || vec![(FIRST_TOPIC, wanted(0, 0))];
        let id = connection.ask(opened, &fetch((0, 0), all())).session_id;
        let response = connection.ask(other, &fetch((id, 2), all()));
        assert_eq!(response.error_code, 71, "out of step before all else");
        let response = connection.ask(other, &fetch((id, 1), all()));
        assert_eq!((response.error_code, response.session_id), (106, 0));
        assert!(response.responses.is_empty());
        // It is as it was.
        let response = connection.ask(opened, &fetch((id, 1), all()));
        assert_eq!((response.error_code, response.session_id), (0, id));
        // A session of the other kind replaces it.
        let response = connection.ask(other, &fetch((id, 0), all()));
        assert_eq!(response.error_code, 0);
        assert!(response.session_id > 0);
        let next = fetch((response.session_id, 1), vec![]);
        assert_eq!(connection.ask(other, &next).error_code, 0);
    }
}

#[test]
fn offsets_are_committed_by_id() {
    let not_found = || Err(Refusal::Group(GroupRefusal::NotFound));
    let committed = Ok(GroupAnswer::OffsetsCommitted(vec![Ok(()), Ok(())]));
    for (answer, code) in [(committed, 0), (not_found(), 69)] {
        let mut connection = connection();
        connection.broker.group_answers.push_back(answer);
        let bytes = samples::commit_by_id();
        let response = connection.ask_bytes::<OffsetCommitRequest>(10, &bytes);
        let [first, unknown] = response.topics.as_slice() else {
            panic!("{response:?}");
        };
        assert_eq!(
            (first.topic_id, unknown.topic_id),
            (FIRST_TOPIC, UNKNOWN_TOPIC)
        );
        let codes = first.partitions.iter().chain(&unknown.partitions);
        let codes: Vec<_> = codes
            .map(|one| (one.partition_index, one.error_code))
            .collect();
        assert_eq!(codes, [(0, code), (1, code), (0, 100)]);
        let GroupAsk::Commit(commit) = connection.broker.asked_of_groups.remove(0).ask else {
            panic!("a commit");
        };
        assert_eq!(
            (commit.membership.generation, &*commit.membership.member),
            (3, "m")
        );
        assert_eq!(
            (commit.membership.instance, commit.retention_ms),
            (None, None)
        );
        let [first, second] = commit.offsets.as_slice() else {
            panic!("one is of no topic");
        };
        assert_eq!((first.0, first.1.offset), (PartitionId(0), Offset(40)));
        assert_eq!((second.0, second.1.offset), (PartitionId(1), Offset(41)));
        assert_eq!((first.1.leader_epoch, &*second.1.metadata), (None, "words"));
    }
}

#[test]
fn a_commit_for_topics_that_are_gone_asks_nobody() {
    let mut connection = connection();
    recreate(&mut connection);
    let bytes = samples::commit_by_id();
    let response = connection.ask_bytes::<OffsetCommitRequest>(10, &bytes);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let codes: Vec<i16> = partitions.map(|one| one.error_code).collect();
    assert_eq!(codes, [100, 100, 100]);
    assert!(connection.broker.asked_of_groups.is_empty());
}

#[test]
fn offsets_are_told_by_id() {
    let committed = |offset| {
        let commit = NewOffset {
            offset: Offset(offset),
            leader_epoch: Some(LeaderEpoch(2)),
            metadata: Arc::from("words"),
        };
        Some(CommittedOffset {
            commit,
            committed_ms: 1,
            expires_ms: None,
        })
    };
    let some = vec![(PartitionId(0), committed(7)), (PartitionId(1), None)];
    // A partition that is gone is not told.
    let all = vec![
        (PartitionId(1), committed(9)),
        (PartitionId(77), committed(1)),
    ];
    let answers = [some, all].map(|offsets| Ok(GroupAnswer::Offsets(offsets)));
    let mut connection = connection();
    connection.broker.group_answers.extend(answers);
    let bytes = samples::fetch_by_id();
    let response = connection.ask_bytes::<OffsetFetchRequest>(10, &bytes);
    let told = response.groups.iter().flat_map(|group| {
        group.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|one| {
                let words = one.metadata.as_ref().expect("never null").to_string();
                let (at, offset) = (one.partition_index, one.committed_offset);
                (topic.topic_id, at, offset, words, one.error_code)
            })
        })
    });
    let words = || "words".to_owned();
    let expected = [
        (FIRST_TOPIC, 0, 7, words(), 0),
        (FIRST_TOPIC, 1, -1, String::new(), 0),
        (UNKNOWN_TOPIC, 0, -1, String::new(), 100),
        (FIRST_TOPIC, 1, 9, words(), 0),
    ];
    assert!(told.eq(expected));
    let wanted = vec![PartitionId(0), PartitionId(1)];
    let asked = &connection.broker.asked_of_groups;
    assert_eq!(asked[0].ask, GroupAsk::FetchOffsets(Some(wanted)));
    assert_eq!(asked[1].ask, GroupAsk::FetchOffsets(None));
    assert_eq!((&*asked[0].group, &*asked[1].group), ("g", "h"));
}
