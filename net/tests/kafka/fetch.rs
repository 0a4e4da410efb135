//! Fetch transcripts: versions, long poll, and fetch sessions.

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, FetchResponse, ListOffsetsRequest,
    OffsetForLeaderEpochRequest,
};
use millrace_engine::catalog::change::Operation;
use millrace_net::session::{Gate, ProtocolSession};
use millrace_storage::units::PartitionId;

use crate::broker::{Broker, FIRST_TOPIC};
use crate::client::{Connection, batch, frame, reply, topic};

/// Topic `a` with two partitions; partition 0 holds one batch of three records.
fn connection() -> Connection {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    broker
        .append(PartitionId(0), &batch(3, 0))
        .expect("a good batch");
    Connection::new(broker)
}

fn wanted(index: i32, from: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(index)
        .with_fetch_offset(from)
        .with_partition_max_bytes(1 << 20)
}

/// Asks for partitions of topic `a` without waiting.
fn request(session: (i32, i32), partitions: Vec<FetchPartition>) -> FetchRequest {
    let mut request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_session_id(session.0)
        .with_session_epoch(session.1);
    if !partitions.is_empty() {
        let topic = FetchTopic::default()
            .with_topic(topic("a"))
            .with_topic_id(FIRST_TOPIC)
            .with_partitions(partitions);
        request.topics = vec![topic];
    }
    request
}

/// Without a session.
const NO_SESSION: (i32, i32) = (0, -1);

/// Index, error code and record bytes of every partition answered.
fn answers(response: &FetchResponse) -> Vec<(i32, i16, usize)> {
    let topics = response.responses.iter();
    let partitions = topics.flat_map(|topic| &topic.partitions);
    partitions
        .map(|answer| {
            let records = answer.records.as_ref().expect("empty, not null");
            (answer.partition_index, answer.error_code, records.len())
        })
        .collect()
}

#[test]
fn every_version_returns_the_bytes_that_are_stored() {
    for version in 4..=18 {
        let mut connection = connection();
        let response = connection.ask(version, &request(NO_SESSION, vec![wanted(0, 0)]));
        let answered = &response.responses[0];
        if version >= 13 {
            assert_eq!(answered.topic_id, FIRST_TOPIC);
        } else {
            assert_eq!(answered.topic, topic("a"));
        }
        assert_eq!((response.error_code, response.session_id), (0, 0));
        let answer = &response.responses[0].partitions[0];
        assert_eq!((answer.partition_index, answer.error_code), (0, 0));
        assert_eq!((answer.high_watermark, answer.last_stable_offset), (3, 3));
        let log_start = if version >= 5 { 0 } else { -1 };
        assert_eq!(answer.log_start_offset, log_start);
        assert_eq!(answer.aborted_transactions, None);
        assert_eq!(answer.records, Some(batch(3, 0)));
        let committed = request(NO_SESSION, vec![wanted(0, 0)]).with_isolation_level(1);
        let response = connection.ask(version, &committed);
        let answer = &response.responses[0].partitions[0];
        assert_eq!(answer.aborted_transactions, Some(vec![]));
    }
}

#[test]
fn several_batches_leave_as_one_run_of_bytes() {
    let mut connection = connection();
    connection
        .broker
        .append(PartitionId(0), &batch(2, 0))
        .expect("a good batch");
    let response = connection.ask(11, &request(NO_SESSION, vec![wanted(1, 0), wanted(0, 0)]));
    let bytes = batch(3, 0).len() + batch(2, 0).len();
    assert_eq!(answers(&response), [(1, 0, 0), (0, 0, bytes)]);
    let records = response.responses[0].partitions[1].records.clone();
    let second = records.expect("records").split_off(batch(3, 0).len());
    assert_eq!(second[..8], 3_i64.to_be_bytes());
}

#[test]
fn partitions_fail_one_by_one_and_at_once() {
    let mut connection = connection();
    let partitions = vec![
        wanted(0, 4),
        wanted(0, -5),
        wanted(9, 0),
        wanted(-1, 0),
        wanted(0, 0),
    ];
    let waiting = request(NO_SESSION, partitions)
        .with_max_wait_ms(10_000)
        .with_min_bytes(1 << 19);
    let response = connection.ask(12, &waiting);
    let bytes = batch(3, 0).len();
    let expected = [(0, 1, 0), (0, 1, 0), (9, 3, 0), (-1, 3, 0), (0, 0, bytes)];
    assert_eq!(answers(&response), expected);
    let answer = &response.responses[0].partitions[0];
    assert_eq!((answer.high_watermark, answer.last_stable_offset), (-1, -1));
    assert_eq!(answer.log_start_offset, -1);
}

#[test]
fn zstd_is_kept_from_clients_that_do_not_know_it() {
    let mut connection = connection();
    connection
        .broker
        .append(PartitionId(1), &batch(1, 4))
        .expect("a good batch");
    let both = || request(NO_SESSION, vec![wanted(0, 0), wanted(1, 0)]);
    let codes = |response: FetchResponse| -> Vec<i16> {
        answers(&response).iter().map(|answer| answer.1).collect()
    };
    assert_eq!(codes(connection.ask(9, &both())), [0, 76]);
    assert_eq!(codes(connection.ask(10, &both())), [0, 0]);
}

#[test]
fn a_long_poll_ends_with_records_or_with_its_time() {
    let mut connection = connection();
    let tail = request(NO_SESSION, vec![wanted(0, 3), wanted(1, 0)])
        .with_max_wait_ms(500)
        .with_min_bytes(1);
    let first = connection.send(12, &tail);
    connection.settle();
    assert!(connection.output().is_empty());
    // Other requests are taken meanwhile, another fetch is not.
    let second = connection.send(0, &ApiVersionsRequest::default());
    assert!(connection.session.wants_input());
    connection.input = frame(12, 900, &tail);
    connection.feed().expect("a good request");
    assert!(!connection.input.is_empty() && !connection.session.wants_input());
    connection
        .broker
        .append(PartitionId(1), &batch(1, 0))
        .expect("a good batch");
    connection.settle();
    assert!(connection.input.is_empty(), "its turn has come");
    let mut out = Bytes::from(connection.output());
    let response = reply::<FetchRequest>(12, first, &mut out);
    assert_eq!(answers(&response), [(0, 0, 0), (1, 0, batch(1, 0).len())]);
    reply::<ApiVersionsRequest>(0, second, &mut out);
    // The same partitions again: partition 1 has records at once.
    let response = reply::<FetchRequest>(12, 900, &mut out);
    assert_eq!(answers(&response)[1].2, batch(1, 0).len());
    let idle = request(NO_SESSION, vec![wanted(0, 3)])
        .with_max_wait_ms(500)
        .with_min_bytes(1);
    let last = connection.send(12, &idle);
    connection.broker.expire_fetches();
    connection.settle();
    let mut out = Bytes::from(connection.output());
    assert_eq!(
        answers(&reply::<FetchRequest>(12, last, &mut out)),
        [(0, 0, 0)]
    );
}

#[test]
fn waits_and_sizes_are_cut_to_the_brokers_limits() {
    let mut connection = connection();
    let greedy = request(NO_SESSION, vec![wanted(0, 3)])
        .with_max_wait_ms(i32::MAX)
        .with_min_bytes(i32::MAX)
        .with_max_bytes(i32::MAX);
    connection.send(12, &greedy);
    let (_, parked) = &connection.broker.parked[0];
    assert_eq!(parked.bytes_max, 55 << 20);
    assert_eq!(parked.bytes_min, 55 << 20);
    assert_eq!(parked.deadline, crate::client::NOW.boot.after_ms(60_000));
    let negative = request(NO_SESSION, vec![wanted(0, 3)])
        .with_max_wait_ms(-1)
        .with_min_bytes(-1)
        .with_max_bytes(-1);
    connection.broker.expire_fetches();
    connection.settle();
    connection.output();
    assert_eq!(answers(&connection.ask(12, &negative)), [(0, 0, 0)]);
}

#[test]
fn a_session_answers_only_what_is_new() {
    for version in 7..=18 {
        let mut connection = connection();
        let all = vec![wanted(0, 0), wanted(1, 0)];
        let opened = connection.ask(version, &request((0, 0), all));
        let id = opened.session_id;
        assert!(id > 0);
        let bytes = batch(3, 0).len();
        assert_eq!(answers(&opened), [(0, 0, bytes), (1, 0, 0)]);
        // Only what changed is said: partition 0 was read to its end.
        let next = connection.ask(version, &request((id, 1), vec![wanted(0, 3)]));
        assert_eq!((next.error_code, next.session_id), (0, id));
        assert_eq!(answers(&next), []);
        connection
            .broker
            .append(PartitionId(1), &batch(1, 0))
            .expect("a good batch");
        let next = connection.ask(version, &request((id, 2), vec![]));
        assert_eq!(answers(&next), [(1, 0, batch(1, 0).len())]);
        // Forget partition 1; a record in it is no news any more.
        let forgotten = ForgottenTopic::default()
            .with_topic(topic("a"))
            .with_topic_id(FIRST_TOPIC)
            .with_partitions(vec![1]);
        let forget = request((id, 3), vec![]).with_forgotten_topics_data(vec![forgotten]);
        assert_eq!(answers(&connection.ask(version, &forget)), []);
        // The end of the session.
        let ended = connection.ask(version, &request((id, -1), vec![wanted(0, 0)]));
        assert_eq!((ended.session_id, answers(&ended).len()), (0, 1));
        let lost = connection.ask(version, &request((id, 4), vec![]));
        assert_eq!((lost.error_code, lost.session_id), (70, 0));
    }
}

#[test]
fn a_request_out_of_step_leaves_the_session_as_it_is() {
    let mut connection = connection();
    let id = connection
        .ask(12, &request((0, 0), vec![wanted(0, 3)]))
        .session_id;
    assert_eq!(connection.ask(12, &request((id, 5), vec![])).error_code, 71);
    assert_eq!(
        connection.ask(12, &request((id + 1, 1), vec![])).error_code,
        70
    );
    assert_eq!(connection.ask(12, &request((id, 1), vec![])).error_code, 0);
    // A new one replaces it.
    let other = connection
        .ask(12, &request((id, 0), vec![wanted(1, 0)]))
        .session_id;
    assert!(other > 0);
    assert_eq!(
        connection.ask(12, &request((other, 1), vec![])).error_code,
        0
    );
}

#[test]
fn a_session_whose_last_partition_is_forgotten_is_over() {
    let mut connection = connection();
    let id = connection
        .ask(12, &request((0, 0), vec![wanted(0, 3)]))
        .session_id;
    let forgotten = ForgottenTopic::default()
        .with_topic(topic("a"))
        .with_partitions(vec![0]);
    let forget = request((id, 1), vec![]).with_forgotten_topics_data(vec![forgotten]);
    assert_eq!(connection.ask(12, &forget).session_id, 0);
    assert_eq!(connection.ask(12, &request((id, 2), vec![])).error_code, 70);
}

#[test]
fn a_session_follows_topics_that_go_and_come_back() {
    let mut connection = connection();
    let opened = connection.ask(12, &request((0, 0), vec![wanted(1, 0)]));
    let id = opened.session_id;
    let topic_id = connection.broker.catalog.topic("a").expect("there").id;
    connection
        .broker
        .apply(vec![Operation::TopicDeleted { id: topic_id }]);
    for epoch in 1..3 {
        let gone = connection.ask(12, &request((id, epoch), vec![]));
        assert_eq!(answers(&gone), [(1, 3, 0)], "an error is told every time");
    }
    connection.broker.add_topic("a", 2);
    let back = connection.ask(12, &request((id, 3), vec![]));
    assert_eq!(answers(&back), [(1, 0, 0)]);
    let quiet = connection.ask(12, &request((id, 4), vec![]));
    assert_eq!(answers(&quiet), []);
}

#[test]
fn offsets_are_found_by_place_and_by_time() {
    for version in 1..=11 {
        let mut connection = connection();
        let ask = |connection: &mut Connection, index: i32, timestamp: i64| {
            let partition = ListOffsetsPartition::default()
                .with_partition_index(index)
                .with_timestamp(timestamp);
            let asked = ListOffsetsTopic::default()
                .with_name(topic("a"))
                .with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_topics(vec![asked]);
            let response = connection.ask(version, &request);
            let answer = &response.topics[0].partitions[0];
            (answer.error_code, answer.offset, answer.timestamp)
        };
        let since = |first: i16, found| {
            if version >= first {
                found
            } else {
                (35, -1, -1)
            }
        };
        assert_eq!(ask(&mut connection, 0, -1), (0, 3, -1));
        assert_eq!(ask(&mut connection, 0, -2), (0, 0, -1));
        assert_eq!(ask(&mut connection, 0, -3), since(7, (0, 2, 5000)));
        assert_eq!(ask(&mut connection, 1, -3), since(7, (0, -1, -1)));
        assert_eq!(ask(&mut connection, 0, -4), since(8, (0, 0, -1)));
        assert_eq!(ask(&mut connection, 0, -5), since(9, (0, 0, -1)));
        assert_eq!(ask(&mut connection, 0, -6), since(11, (0, 0, -1)));
        assert_eq!(ask(&mut connection, 0, -7), (42, -1, -1));
        assert_eq!(ask(&mut connection, 0, 4000), (0, 0, 4000));
        assert_eq!(ask(&mut connection, 0, 6000), (0, -1, -1));
        assert_eq!(ask(&mut connection, 2, -1), (3, -1, -1));
        assert_eq!(ask(&mut connection, -1, -1), (3, -1, -1));
    }
}

#[test]
fn a_partition_that_list_offsets_names_again_is_refused_once() {
    let of = |name, asked: &[(i32, i64)]| {
        let partitions = asked.iter().map(|(index, timestamp)| {
            ListOffsetsPartition::default()
                .with_partition_index(*index)
                .with_timestamp(*timestamp)
        });
        ListOffsetsTopic::default()
            .with_name(topic(name))
            .with_partitions(partitions.collect())
    };
    let asked = vec![
        of("a", &[(0, 0), (1, -1), (0, -1)]),
        of("none", &[(0, -1), (0, -1)]),
        of("a", &[(0, -3)]),
    ];
    let request = ListOffsetsRequest::default().with_topics(asked);
    for version in 1..=11 {
        let response = connection().ask(version, &request);
        let answers = response.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter();
            let answers = partitions.map(|found| (found.partition_index, found.error_code));
            (topic.name.as_str(), answers.collect::<Vec<_>>())
        });
        let expected = [
            ("a", vec![(0, 42), (1, 0)]),
            ("none", vec![(0, 42)]),
            ("a", vec![]),
        ];
        assert_eq!(answers.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn leader_epochs_are_compared_and_their_ends_found() {
    for version in 2..=4 {
        let mut connection = connection();
        let ask = |connection: &mut Connection, index: i32, current: i32, epoch: i32| {
            let partition = OffsetForLeaderPartition::default()
                .with_partition(index)
                .with_current_leader_epoch(current)
                .with_leader_epoch(epoch);
            let asked = OffsetForLeaderTopic::default()
                .with_topic(topic("a"))
                .with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![asked]);
            let response = connection.ask(version, &request);
            let answer = &response.topics[0].partitions[0];
            assert_eq!(answer.partition, index);
            (answer.error_code, answer.leader_epoch, answer.end_offset)
        };
        assert_eq!(ask(&mut connection, 0, 0, 0), (0, 0, 3));
        assert_eq!(ask(&mut connection, 0, -1, 0), (0, 0, 3));
        assert_eq!(ask(&mut connection, 0, 1, 0), (75, -1, -1));
        assert_eq!(ask(&mut connection, 0, 0, -1), (0, -1, -1));
        assert_eq!(ask(&mut connection, 0, 0, 1), (0, -1, -1), "not begun");
        assert_eq!(ask(&mut connection, 5, 0, 0), (3, -1, -1));
    }
}

#[test]
fn who_finds_no_room_for_a_session_is_served_without_one() {
    let mut connection = connection();
    connection.broker.remembered_partitions_left = 1;
    let both = vec![wanted(0, 0), wanted(1, 0)];
    let response = connection.ask(11, &request((0, 0), both.clone()));
    assert_eq!((response.error_code, response.session_id), (0, 0));
    assert_eq!(answers(&response).len(), 2);
    assert_eq!(connection.session.remembered_partitions(), 0);
    // One that is there cannot grow past it either, and its client begins anew.
    let response = connection.ask(11, &request((0, 0), vec![wanted(0, 0)]));
    assert!(response.session_id > 0);
    assert_eq!(connection.session.remembered_partitions(), 1);
    let response = connection.ask(11, &request((response.session_id, 1), both));
    assert_eq!(response.error_code, 70);
    assert_eq!(connection.session.remembered_partitions(), 0);
}

#[test]
fn questions_wait_while_there_is_no_memory_for_answers() {
    let mut connection = connection();
    connection.broker.accepts_questions = false;
    let offsets = ListOffsetsRequest::default();
    connection.send(1, &offsets);
    assert!(!connection.input.is_empty());
    assert!(
        connection.session.wants_input(),
        "the sink says when to go on"
    );
    // A log that takes nothing makes no difference to a question, nor to half a length.
    connection.broker.accepts_appends = false;
    let taken = connection.feed().expect("a good request");
    assert_eq!(taken.waits_for, Some(Gate::Questions));
    connection.broker.accepts_questions = true;
    connection.input.extend([0, 0]);
    let taken = connection.feed().expect("a good request");
    assert_eq!((taken.need_bytes, taken.waits_for), (0, None));
    assert_eq!(connection.input.split_off(0), [0, 0]);
    assert!(connection.input.is_empty());
    assert!(connection.session.held_bytes() > 0);
    assert!(!connection.output().is_empty());
    assert_eq!(connection.session.held_bytes(), 0);
}
