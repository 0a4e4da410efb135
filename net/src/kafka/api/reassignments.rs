//! AlterPartitionReassignments, versions 0 and 1, and ListPartitionReassignments, version 0:
//! partitions stay where the broker placed them, so none is ever on its way.

use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Handled, ReplyTo, decode};
use crate::kafka::cluster;
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

pub(super) fn list(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let _: ListPartitionReassignmentsRequest = decode(call, request)?;
    let response = ListPartitionReassignmentsResponse::default().with_error_message(None);
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

pub(super) fn alter(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: AlterPartitionReassignmentsRequest = decode(call, request)?;
    let topics = body.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter();
        let partitions = partitions.map(|target| {
            let refused = judge(call.sink, &topic.name, target).err();
            let code = refused.map_or(ErrorCode::None, |(code, _)| code);
            let words = refused.map(|(_, words)| StrBytes::from_static_str(words));
            ReassignablePartitionResponse::default()
                .with_partition_index(target.partition_index)
                .with_error_code(code.code())
                .with_error_message(words)
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default()
            .with_name(topic.name)
            .with_partitions(partitions)
    });
    let mut response = AlterPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_responses(topics.collect());
    if request.version >= 1 {
        response.allow_replication_factor_change = body.allow_replication_factor_change;
    }
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

/// Whether a partition is where it shall be; if not, why it does not get there.
fn judge(
    sink: &dyn CommandSink,
    topic: &str,
    target: &ReassignablePartition,
) -> Result<(), (ErrorCode, &'static str)> {
    let index = usize::try_from(target.partition_index).ok();
    let topic = sink.catalog().topic(topic);
    let home = topic.and_then(|topic| topic.partitions.get(index?));
    let home = home.ok_or((ErrorCode::UnknownTopicOrPartition, "No such partition"))?;
    let Some(replicas) = &target.replicas else {
        let words = "No partition reassignment is in progress.";
        return Err((ErrorCode::NoReassignmentInProgress, words));
    };
    let nodes = &sink.cluster().nodes;
    let is_node = |id: &BrokerId| nodes.iter().any(|node| node.id == id.0);
    let words = if replicas.is_empty() {
        "The manual partition assignment includes an empty replica list."
    } else if !replicas.iter().all(is_node) {
        "The manual partition assignment includes a broker that is not registered."
    } else if replicas.len() > 1 {
        "a partition has one replica here"
    } else if replicas.first().copied() != cluster::leader(sink.cluster(), home) {
        "the broker places partitions"
    } else {
        return Ok(());
    };
    Err((ErrorCode::InvalidReplicaAssignment, words))
}
