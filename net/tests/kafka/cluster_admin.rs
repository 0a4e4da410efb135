//! What administrators ask of a cluster: deletions of records, what there is and what it takes, and
//! what this broker has none of.

use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::{
    BrokerId, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, ElectLeadersRequest, ListConfigResourcesRequest,
    ListConfigResourcesResponse,
};
use millrace_engine::event::ProducerListing;
use millrace_net::kafka::KafkaConfig;
use millrace_storage::disk::DiskSpace;
use millrace_storage::units::PartitionId;

use crate::broker::Broker;
use crate::client::{Connection, batch, text, topic};
use crate::samples::admin;

/// A broker with two partitions of one topic, four records in each.
fn with_records() -> Broker {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    for partition in [0, 1] {
        for _ in 0..2 {
            let appended = broker.append(PartitionId(partition), &batch(2, 0));
            assert!(appended.is_ok());
        }
    }
    broker
}

#[test]
fn every_version_of_delete_records_moves_starts_and_says_where_to() {
    for version in 0..=2 {
        let mut connection = Connection::new(with_records());
        let response = connection.ask(version, &admin::delete_records());
        let told: Vec<_> = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|one| (one.partition_index, one.low_watermark, one.error_code))
            .collect();
        let expected = [
            (0, 2, 0),
            (1, 4, 0),
            (1, -1, 1),
            (0, -1, 1),
            (7, -1, 3),
            (0, -1, 3),
        ];
        assert_eq!(told, expected, "version {version}");
        assert_eq!(response.topics[0].name, topic("a"));
        assert_eq!(connection.broker.seen, ["delete records"; 3]);
    }
}

#[test]
fn every_version_of_describe_log_dirs_tells_what_partitions_take() {
    for version in 1..=4 {
        let config = KafkaConfig {
            data_directory: "/var/lib/somewhere".to_owned(),
            ..KafkaConfig::default()
        };
        let mut broker = with_records();
        broker.space = Some(DiskSpace {
            total_bytes: 5000,
            available_bytes: 3000,
        });
        let mut connection = Connection::with_config(broker, config);
        let all = connection.ask(
            version,
            &DescribeLogDirsRequest::default().with_topics(None),
        );
        assert_eq!(
            sizes(&all),
            [("a".to_owned(), 0, 150), ("a".to_owned(), 1, 150)]
        );
        let directory = &all.results[0];
        assert_eq!(directory.log_dir, text("/var/lib/somewhere"));
        let room = (directory.total_bytes, directory.usable_bytes);
        assert_eq!(room, if version >= 4 { (5000, 3000) } else { (-1, -1) });
        let asked = |name, partitions| {
            DescribableLogDirTopic::default()
                .with_topic(topic(name))
                .with_partitions(partitions)
        };
        let some = vec![asked("a", vec![1, 9]), asked("b", vec![0])];
        let some = DescribeLogDirsRequest::default().with_topics(Some(some));
        let some = connection.ask(version, &some);
        assert_eq!(sizes(&some), [("a".to_owned(), 1, 150)]);
    }
}

#[test]
fn version_5_of_describe_log_dirs_adds_that_the_directory_is_not_cordoned() {
    let reply = |version| {
        let mut connection = Connection::new(with_records());
        connection.send(
            version,
            &DescribeLogDirsRequest::default().with_topics(None),
        );
        connection.settle();
        connection.output()
    };
    let (fourth, fifth) = (reply(4), reply(5));
    // Behind it are the tagged fields of the directory and of the response.
    let (before, tags) = fourth[4..].split_at(fourth.len() - 6);
    assert_eq!(tags, [0, 0]);
    let body = [before, &[0], tags].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    assert_eq!(fifth, [&length[..], &body].concat());
}

/// Topic, partition and bytes of everything in the one directory.
fn sizes(response: &DescribeLogDirsResponse) -> Vec<(String, i32, i64)> {
    let [directory] = response.results.as_slice() else {
        panic!("one directory");
    };
    assert_eq!((response.error_code, directory.error_code), (0, 0));
    let topics = directory.topics.iter();
    let partitions = topics.flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|one| {
            assert!(!one.is_future_key);
            assert_eq!(one.offset_lag, 0);
            (
                topic.name.to_string(),
                one.partition_index,
                one.partition_size,
            )
        })
    });
    partitions.collect()
}

#[test]
fn a_node_tells_of_its_own_partitions_alone() {
    for own in [0, 1] {
        let mut broker = Broker::with_two_nodes();
        broker.cluster.own = own;
        broker.add_topic("a", 3);
        let mut connection = Connection::new(broker);
        let all = connection.ask(4, &DescribeLogDirsRequest::default().with_topics(None));
        let partitions: Vec<i32> = sizes(&all).iter().map(|(_, index, _)| *index).collect();
        assert_eq!(partitions, if own == 0 { vec![0, 2] } else { vec![1] });
        assert_eq!(connection.broker.seen, ["measure logs"]);
    }
}

#[test]
fn producers_are_told_with_what_there_is_without_transactions() {
    let mut broker = with_records();
    broker.producers = vec![
        ProducerListing {
            id: 4,
            epoch: 3,
            last_sequence: 17,
            last_timestamp_ms: Some(99),
        },
        ProducerListing {
            id: 5,
            epoch: 0,
            last_sequence: 0,
            last_timestamp_ms: None,
        },
    ];
    let mut connection = Connection::new(broker);
    let response = connection.ask(0, &admin::producers());
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let told: Vec<_> = partitions
        .clone()
        .map(|one| {
            (
                one.partition_index,
                one.error_code,
                one.error_message.is_some(),
            )
        })
        .collect();
    let unknown = (7, 3, true);
    assert_eq!(told, [(0, 0, false), unknown, (0, 3, true), (0, 17, true)]);
    let producers: Vec<_> = partitions
        .flat_map(|one| &one.active_producers)
        .map(|one| {
            assert_eq!(
                (one.coordinator_epoch, one.current_txn_start_offset),
                (-1, -1)
            );
            let id = (one.producer_id.0, one.producer_epoch);
            (id, one.last_sequence, one.last_timestamp)
        })
        .collect();
    assert_eq!(producers, [((4, 3), 17, 99), ((5, 0), 0, -1)]);
}

fn described(
    connection: &mut Connection,
    names: &[&'static str],
    limit: i32,
    cursor: Option<(&'static str, i32)>,
) -> DescribeTopicPartitionsResponse {
    let topics = names.iter();
    let topics = topics.map(|name| TopicRequest::default().with_name(topic(name)));
    let cursor = cursor.map(|(name, partition)| {
        Cursor::default()
            .with_topic_name(topic(name))
            .with_partition_index(partition)
    });
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(topics.collect())
        .with_response_partition_limit(limit)
        .with_cursor(cursor);
    connection.ask(0, &request)
}

/// Each topic's name, code and partitions, and the cursor.
type Page = (Vec<(String, i16, Vec<i32>)>, Option<(String, i32)>);

fn page(response: &DescribeTopicPartitionsResponse) -> Page {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter();
        let partitions = partitions.map(|one| {
            assert_eq!((one.error_code, one.leader_id), (0, BrokerId(1)));
            assert_eq!(one.replica_nodes, [BrokerId(1)]);
            assert_eq!(one.isr_nodes, [BrokerId(1)]);
            assert_eq!(one.eligible_leader_replicas, Some(vec![]));
            one.partition_index
        });
        let name = topic.name.clone().expect("topics have names");
        (name.to_string(), topic.error_code, partitions.collect())
    });
    let cursor = response.next_cursor.as_ref();
    let cursor = cursor.map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index));
    (topics.collect(), cursor)
}

#[test]
fn partitions_of_topics_are_told_a_page_at_a_time() {
    let mut broker = Broker::new();
    broker.add_topic("b", 2);
    let id = broker.add_topic("a", 3);
    let mut connection = Connection::new(broker);
    let all = described(&mut connection, &[], 100, None);
    let whole = |name: &str, count| (name.to_owned(), 0, (0..count).collect::<Vec<i32>>());
    assert_eq!(page(&all), (vec![whole("a", 3), whole("b", 2)], None));
    assert_eq!(all.topics[0].topic_id, id);
    assert_eq!(all.topics[0].topic_authorized_operations, 0b1101_1111_1000);

    let at = |name: &str, partition| Some((name.to_owned(), partition));
    let part = |name: &str, partitions: &[i32]| (name.to_owned(), 0, partitions.to_vec());
    let first = page(&described(&mut connection, &[], 2, None));
    assert_eq!(first, (vec![part("a", &[0, 1])], at("a", 2)));
    let second = page(&described(&mut connection, &[], 2, Some(("a", 2))));
    assert_eq!(second, (vec![part("a", &[2]), part("b", &[0])], at("b", 1)));
    let last = page(&described(&mut connection, &[], 2, Some(("b", 1))));
    assert_eq!(last, (vec![part("b", &[1])], None));
    let full = page(&described(&mut connection, &[], 3, None));
    assert_eq!(full, (vec![whole("a", 3)], at("b", 0)));
    // A limit of nothing still gets on.
    let least = page(&described(&mut connection, &["b"], 0, None));
    assert_eq!(least, (vec![part("b", &[0])], at("b", 1)));
    // Beyond its last partition a topic has none.
    let past = page(&described(
        &mut connection,
        &["a"],
        5,
        Some(("a", i32::MAX)),
    ));
    assert_eq!(past, (vec![part("a", &[])], None));
}

#[test]
fn topics_that_are_not_there_are_told_in_order_and_bad_cursors_refused() {
    let mut broker = Broker::new();
    broker.add_topic("b", 1);
    let mut connection = Connection::new(broker);
    let some = page(&described(
        &mut connection,
        &["no/t", "b", "a", "b"],
        9,
        None,
    ));
    let expected = [("a", 3, vec![]), ("b", 0, vec![0]), ("no/t", 17, vec![])];
    let expected = expected.map(|(name, code, partitions)| (name.to_owned(), code, partitions));
    assert_eq!(some, (expected.to_vec(), None));
    for cursor in [("a", 0), ("b", -1)] {
        let refused = page(&described(&mut connection, &["b"], 9, Some(cursor)));
        assert_eq!(refused, (vec![("b".to_owned(), 42, vec![])], None));
    }
}

fn resources(response: &ListConfigResourcesResponse) -> Vec<(i8, String)> {
    let resources = response.config_resources.iter();
    resources
        .map(|one| (one.resource_type, one.resource_name.to_string()))
        .collect()
}

#[test]
fn resources_with_settings_are_topics_and_nodes() {
    let mut broker = Broker::with_two_nodes();
    broker.add_topic("a", 1);
    let mut connection = Connection::new(broker);
    let none = connection.ask(0, &ListConfigResourcesRequest::default());
    assert_eq!((none.error_code, resources(&none)), (0, vec![]));
    let mut ask = |types: &[i8]| {
        let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
        let response = connection.ask(1, &request);
        (response.error_code, resources(&response))
    };
    let named = |kind, name: &str| (kind, name.to_owned());
    let (nodes, topics) = (vec![named(4, "1"), named(4, "2")], vec![named(2, "a")]);
    assert_eq!(ask(&[]), (0, [nodes.clone(), topics.clone()].concat()));
    assert_eq!(ask(&[4]), (0, nodes));
    assert_eq!(ask(&[2, 2]), (0, topics));
    assert_eq!(ask(&[8, 16, 32]), (0, vec![]));
    assert_eq!(ask(&[2, 3]), (35, vec![]));
}

#[test]
fn there_are_no_transactions() {
    let mut connection = Connection::new(Broker::new());
    for version in 0..=2 {
        let response = connection.ask(version, &admin::list_transactions(version));
        assert_eq!(response.error_code, 0);
        assert_eq!(response.unknown_state_filters, [text("Odd")]);
        assert!(response.transaction_states.is_empty());
    }
    let response = connection.ask(0, &admin::describe_transactions());
    let states = response.transaction_states.iter();
    let told: Vec<_> = states
        .map(|one| (one.transactional_id.as_str(), one.error_code))
        .collect();
    assert_eq!(told, [("t", 105), ("u", 105)]);
}

#[test]
fn no_election_is_needed_where_there_is_one_replica() {
    for version in 0..=2 {
        let mut connection = Connection::new(with_records());
        let response = connection.ask(version, &admin::elect_leaders());
        assert_eq!(response.error_code, 0);
        let partitions = response.replica_election_results[0].partition_result.iter();
        let told: Vec<_> = partitions
            .map(|one| (one.partition_id, one.error_code))
            .collect();
        assert_eq!(told, [(0, 84), (7, 3)]);
        let all = ElectLeadersRequest::default().with_topic_partitions(None);
        let response = connection.ask(version, &all);
        let [all] = response.replica_election_results.as_slice() else {
            panic!("one topic");
        };
        assert_eq!((all.topic.as_str(), all.partition_result.len()), ("a", 0));
        if version > 0 {
            let odd = admin::elect_leaders().with_election_type(9);
            assert_eq!(connection.ask(version, &odd).error_code, 42);
        }
    }
}

#[test]
fn partitions_stay_where_they_are() {
    for version in 0..=1 {
        let mut connection = Connection::new(with_records());
        let request = admin::alter_reassignments(version);
        let response = connection.ask(version, &request);
        assert_eq!(response.error_code, 0);
        let partitions = response.responses[0].partitions.iter();
        let told: Vec<_> = partitions
            .map(|one| {
                (
                    one.partition_index,
                    one.error_code,
                    one.error_message.is_some(),
                )
            })
            .collect();
        assert_eq!(told, [(0, 0, false), (1, 85, true)]);
        for brokers in [vec![], vec![2], vec![1, 1]] {
            let mut request = request.clone();
            let brokers = brokers.into_iter().map(BrokerId);
            request.topics[0].partitions[0].replicas = Some(brokers.collect());
            let response = connection.ask(version, &request);
            assert_eq!(response.responses[0].partitions[0].error_code, 39);
        }
    }
    let mut connection = Connection::new(with_records());
    let response = connection.ask(0, &admin::list_reassignments());
    assert_eq!((response.error_code, response.topics.len()), (0, 0));
}

#[test]
fn there_is_no_authorizer() {
    for version in 1..=3 {
        let mut connection = Connection::new(Broker::new());
        let described = connection.ask(version, &admin::describe_acls());
        assert_eq!(described.error_code, 54);
        assert!(described.error_message.is_some() && described.resources.is_empty());
        let created = connection.ask(version, &admin::create_acls());
        let codes = created.results.iter().map(|one| one.error_code);
        assert_eq!(codes.collect::<Vec<_>>(), [54, 54]);
        let deleted = connection.ask(version, &admin::delete_acls());
        let filters = deleted.filter_results.iter();
        let told: Vec<_> = filters
            .map(|one| (one.error_code, one.matching_acls.len()))
            .collect();
        assert_eq!(told, [(54, 0), (54, 0)]);
    }
}

#[test]
fn nobody_has_a_quota_and_none_is_given() {
    for version in 0..=1 {
        let mut connection = Connection::new(Broker::new());
        let described = connection.ask(version, &admin::quotas());
        assert_eq!((described.error_code, described.entries), (0, Some(vec![])));
        let component = &admin::quotas().components[0];
        let odd = [
            (vec![component.clone(), component.clone()], 42),
            (vec![component.clone().with_match_type(3)], 42),
            (vec![component.clone().with_entity_type(text("team"))], 35),
        ];
        for (components, code) in odd {
            let request = admin::quotas().with_components(components);
            let refused = connection.ask(version, &request);
            assert_eq!((refused.error_code, refused.entries), (code, None));
        }
        let altered = connection.ask(version, &admin::alter_quotas());
        let told: Vec<_> = altered.entries.iter().map(|one| one.error_code).collect();
        assert_eq!(told, [42, 0], "what is not there can be taken away");
        assert_eq!(altered.entries[0].entity[0].entity_type, text("user"));
    }
}

#[test]
fn nobody_has_a_password() {
    let mut connection = Connection::new(Broker::new());
    let all = admin::credentials(None);
    let all = connection.ask(0, &all);
    assert_eq!((all.error_code, all.results.len()), (0, 0));
    let some = connection.ask(0, &admin::credentials(Some(&["v", "u", "v"])));
    let told: Vec<_> = some
        .results
        .iter()
        .map(|one| (one.user.as_str(), one.error_code))
        .collect();
    assert_eq!(told, [("u", 91), ("v", 92)]);
    let altered = connection.ask(0, &admin::alter_credentials());
    let told: Vec<_> = altered
        .results
        .iter()
        .map(|one| (one.user.as_str(), one.error_code))
        .collect();
    assert_eq!(told, [("u", 91), ("v", 33)]);
}
