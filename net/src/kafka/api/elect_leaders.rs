//! ElectLeaders, versions 0 to 2: every partition has the one leader that it can have.

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Handled, ReplyTo, decode, partition_of, topic_name};
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

/// Kafka's kinds of elections: of the preferred replica, or of any that is there.
const ELECTION_TYPES: [i8; 2] = [0, 1];
/// Bytes that a topic takes without its name.
const TOPIC_BYTES_MAX: usize = 8;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: ElectLeadersRequest = decode(call, request)?;
    let reply_to = ReplyTo::new(call.config, request);
    let mut response = ElectLeadersResponse::default();
    if !ELECTION_TYPES.contains(&body.election_type) {
        response.error_code = ErrorCode::InvalidRequest.code();
        return reply_to.frame(&response).map(Handled::Reply);
    }
    let catalog = call.sink.catalog();
    response.replica_election_results = match body.topic_partitions {
        // Of all partitions, those alone are told that an election was needed for.
        None => {
            reply_to.check_bytes(topics_bytes(call.sink))?;
            let all = catalog.topics();
            let all = all
                .map(|topic| ReplicaElectionResult::default().with_topic(topic_name(&topic.name)));
            all.collect()
        }
        Some(asked) => {
            let asked = asked.into_iter().map(|asked| {
                let partitions = asked.partitions.iter();
                let results = partitions.map(|index| {
                    let found = partition_of(catalog, &asked.topic, *index, -1);
                    elect(*index, found.is_ok())
                });
                let results = results.collect();
                ReplicaElectionResult::default()
                    .with_topic(asked.topic)
                    .with_partition_result(results)
            });
            asked.collect()
        }
    };
    reply_to.frame(&response).map(Handled::Reply)
}

/// What all topics take in a reply.
fn topics_bytes(sink: &dyn CommandSink) -> usize {
    let topics = sink.catalog().topics();
    topics.map(|topic| TOPIC_BYTES_MAX + topic.name.len()).sum()
}

fn elect(index: i32, exists: bool) -> PartitionResult {
    let (code, words) = if exists {
        let words = "Leader election not needed for topic partition.";
        (ErrorCode::ElectionNotNeeded, words)
    } else {
        (ErrorCode::UnknownTopicOrPartition, "No such partition")
    };
    PartitionResult::default()
        .with_partition_id(index)
        .with_error_code(code.code())
        .with_error_message(Some(StrBytes::from_static_str(words)))
}
