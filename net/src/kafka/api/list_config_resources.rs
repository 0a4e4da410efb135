//! ListConfigResources, versions 0 and 1: what has settings that can be described. Version 0 knows
//! subscriptions of client metrics alone, of which there are none.

use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::{
    Call, Handled, RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS,
    RESOURCE_GROUP, RESOURCE_TOPIC, ReplyTo, decode, text,
};
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

/// What can be asked for in version 1; an empty list stands for all of it.
const KNOWN: [i8; 5] = [
    RESOURCE_TOPIC,
    RESOURCE_BROKER,
    RESOURCE_BROKER_LOGGER,
    RESOURCE_CLIENT_METRICS,
    RESOURCE_GROUP,
];
/// Bytes that a resource takes without its name.
const RESOURCE_BYTES_MAX: usize = 7;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: ListConfigResourcesRequest = decode(call, request)?;
    let reply_to = ReplyTo::new(call.config, request);
    let mut response = ListConfigResourcesResponse::default();
    let asked = &body.resource_types;
    if !asked.iter().all(|kind| KNOWN.contains(kind)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return reply_to.frame(&response).map(Handled::Reply);
    }
    let wants = |kind| request.version > 0 && (asked.is_empty() || asked.contains(&kind));
    if wants(RESOURCE_BROKER) {
        let nodes = call.sink.cluster().nodes.iter();
        let nodes = nodes.map(|node| resource(RESOURCE_BROKER, &node.id.to_string()));
        response.config_resources.extend(nodes);
    }
    if wants(RESOURCE_TOPIC) {
        reply_to.check_bytes(topics_bytes(call.sink))?;
        let topics = call.sink.catalog().topics();
        let topics = topics.map(|topic| resource(RESOURCE_TOPIC, &topic.name));
        response.config_resources.extend(topics);
    }
    reply_to.frame(&response).map(Handled::Reply)
}

/// What all topics take in a reply.
fn topics_bytes(sink: &dyn CommandSink) -> usize {
    let topics = sink.catalog().topics();
    topics
        .map(|topic| RESOURCE_BYTES_MAX + topic.name.len())
        .sum()
}

fn resource(kind: i8, name: &str) -> ConfigResource {
    ConfigResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
}
