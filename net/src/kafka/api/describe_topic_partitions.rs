//! DescribeTopicPartitions, version 0: topics in name order, so many partitions at a time.

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_topic_partitions_request::Cursor as Asked;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use millrace_engine::catalog::names::check_topic_name;
use millrace_engine::catalog::{PartitionHome, Topic};

use super::metadata::TOPIC_OPERATIONS;
use super::{Call, Handled, ReplyTo, decode, topic_name};
use crate::kafka::cluster;
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::{ClusterView, CommandSink, ProtocolViolation};

/// Partitions of one reply at most: Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: i32 = 2000;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeTopicPartitionsRequest = decode(call, request)?;
    let reply_to = ReplyTo::new(call.config, request);
    let response = match check_cursor(&body) {
        Ok(()) => page(call.sink, &body),
        Err(code) => refused(&body, code),
    };
    reply_to.frame(&response).map(Handled::Reply)
}

/// A cursor points at a topic that is asked for, and at a partition that can be.
fn check_cursor(body: &DescribeTopicPartitionsRequest) -> Result<(), ErrorCode> {
    let Some(cursor) = &body.cursor else {
        return Ok(());
    };
    let mut topics = body.topics.iter();
    let is_asked = body.topics.is_empty() || topics.any(|topic| topic.name == cursor.topic_name);
    if is_asked && cursor.partition_index >= 0 {
        return Ok(());
    }
    Err(ErrorCode::InvalidRequest)
}

fn refused(
    body: &DescribeTopicPartitionsRequest,
    code: ErrorCode,
) -> DescribeTopicPartitionsResponse {
    let topics = body.topics.iter().map(|topic| {
        DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(topic.name.clone()))
            .with_error_code(code.code())
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics.collect())
}

/// From the cursor on, until there are as many partitions as the client wants.
fn page(
    sink: &dyn CommandSink,
    body: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let catalog = sink.catalog();
    let asked: BTreeSet<&str> = match body.topics.as_slice() {
        [] => catalog.topics().map(|topic| &*topic.name).collect(),
        topics => topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    let from = body.cursor.as_ref();
    let first = from.map_or("", |cursor| cursor.topic_name.as_str());
    let mut left = body.response_partition_limit.clamp(1, PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default().with_next_cursor(None);
    for name in asked.range(first..) {
        if left == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let Some(topic) = catalog.topic(name) else {
            response.topics.push(unknown(name));
            continue;
        };
        let (described, next) = describe(sink.cluster(), topic, start(name, from), left);
        left -= i32::try_from(described.partitions.len()).expect("at most what was left");
        response.topics.push(described);
        if next.is_some() {
            response.next_cursor = next;
            break;
        }
    }
    response
}

/// The first partition of a topic to describe.
fn start(name: &str, from: Option<&Asked>) -> i32 {
    let from = from.filter(|cursor| cursor.topic_name.as_str() == name);
    from.map_or(0, |cursor| cursor.partition_index)
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default()
        .with_topic_name(topic_name(name))
        .with_partition_index(partition)
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let code = match check_topic_name(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopic,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(name)))
        .with_error_code(code.code())
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

/// A topic's partitions from `start` on, `max` at most, and where to go on if that is not all.
fn describe(
    cluster: &ClusterView,
    topic: &Topic,
    start: i32,
    max: i32,
) -> (DescribeTopicPartitionsResponseTopic, Option<Cursor>) {
    let end = start.saturating_add(max);
    let wanted = topic.partitions.iter().zip(0..);
    let wanted = wanted.filter(|(_, index)| (start..end).contains(index));
    let partitions = wanted.map(|(home, index)| describe_partition(cluster, home, index));
    let described = DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(TOPIC_OPERATIONS);
    let has_more = usize::try_from(end).is_ok_and(|end| end < topic.partitions.len());
    (described, has_more.then(|| cursor(&topic.name, end)))
}

fn describe_partition(
    cluster: &ClusterView,
    home: &PartitionHome,
    index: i32,
) -> DescribeTopicPartitionsResponsePartition {
    let led = cluster::led(cluster, home);
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(led.code.code())
        .with_partition_index(index)
        .with_leader_id(led.leader)
        .with_leader_epoch(home.leader_epoch.0)
        .with_replica_nodes(led.replicas.clone())
        .with_isr_nodes(led.replicas)
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}
