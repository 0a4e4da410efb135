//! Answers that are far longer than their requests: how often they are made, and how many at once.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    DescribeGroupsRequest, DescribeProducersRequest, FetchRequest, GroupId, OffsetFetchRequest,
    describe_producers_request,
};
use millrace_net::kafka::KafkaConfig;

use crate::broker::Broker;
use crate::client::{Connection, text, topic};
use crate::samples::groups as samples;

fn connection() -> Connection {
    let mut broker = Broker::new();
    broker.add_topic("a", 2);
    Connection::new(broker)
}

fn producers(indexes: Vec<i32>) -> DescribeProducersRequest {
    let asked = describe_producers_request::TopicRequest::default()
        .with_name(topic("a"))
        .with_partition_indexes(indexes);
    DescribeProducersRequest::default().with_topics(vec![asked])
}

#[test]
fn what_is_named_many_times_is_listed_once() {
    let mut connection = connection();
    let listed = connection.ask(0, &producers(vec![1, 0, 1, 1, 0]));
    let partitions = listed.topics[0].partitions.iter();
    let indexes: Vec<i32> = partitions.map(|one| one.partition_index).collect();
    assert_eq!(indexes, [1, 0]);
    assert_eq!(connection.broker.seen, ["list producers"; 2]);

    let groups = ["g", "h", "g", "g"].map(|name| GroupId(text(name)));
    let describe = DescribeGroupsRequest::default().with_groups(groups.to_vec());
    let described = connection.ask(5, &describe).groups;
    let names: Vec<&str> = described.iter().map(|one| one.group_id.as_str()).collect();
    assert_eq!(names, ["g", "h"]);

    let all = groups.map(|group| {
        OffsetFetchRequestGroup::default()
            .with_group_id(group)
            .with_topics(None)
    });
    let fetch = OffsetFetchRequest::default().with_groups(all.to_vec());
    let fetched = connection.ask(8, &fetch).groups;
    let names: Vec<&str> = fetched.iter().map(|one| one.group_id.as_str()).collect();
    assert_eq!(names, ["g", "h"]);
}

#[test]
fn a_connection_has_one_list_on_its_way() {
    let mut connection = connection();
    connection.send(0, &producers(vec![0]));
    connection.send(4, &samples::list(4));
    connection.send(0, &producers(vec![1]));
    assert_eq!(connection.broker.seen, ["list producers"]);
    connection.settle();
    assert_eq!(
        connection.broker.seen,
        ["list producers", "list groups", "list producers"]
    );
    assert!(connection.input.is_empty());
}

fn fetch(name: &'static str) -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let wanted = FetchTopic::default()
        .with_topic(topic(name))
        .with_partitions(vec![partition; 4]);
    FetchRequest::default()
        .with_max_wait_ms(0)
        .with_max_bytes(1 << 20)
        .with_topics(vec![wanted])
}

#[test]
fn a_fetch_repeats_no_name_that_no_topic_has() {
    let mut connection = connection();
    let known = connection.ask(7, &fetch("a"));
    assert_eq!(known.responses.len(), 1);
    let longest: &'static str = "x".repeat(249).leak();
    let unknown = connection.ask(7, &fetch(longest));
    assert_eq!(unknown.responses[0].partitions[0].error_code, 3);
    let longer: &'static str = "x".repeat(250).leak();
    connection.input = crate::client::frame(7, 1, &fetch(longer));
    let refused = connection.feed().expect_err("refused");
    assert!(
        refused.reason.contains("more than 249 bytes"),
        "{}",
        refused.reason
    );
}

#[test]
fn the_fields_of_a_fetch_are_held_against_the_limit_of_a_reply() {
    let mut broker = Broker::new();
    broker.add_topic("a", 1);
    let config = KafkaConfig {
        reply_bytes_max: 128,
        ..KafkaConfig::default()
    };
    let mut connection = Connection::with_config(broker, config);
    connection.input = crate::client::frame(7, 1, &fetch("x"));
    let fed = connection.feed();
    connection.settle();
    let refused = fed.and_then(|_| connection.feed()).expect_err("too long");
    let reason = refused.reason;
    assert!(
        reason.contains("listeners.kafka.reply_bytes_max = 128"),
        "{reason}"
    );
}
