//! DescribeCluster, versions 0 to 2: the nodes, for admin clients.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::{Call, Handled, ReplyTo, decode, text};
use crate::kafka::cluster;
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// Which sort of node a client asks for.
const ENDPOINT_BROKERS: i8 = 1;
const ENDPOINT_CONTROLLERS: i8 = 2;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeClusterRequest = decode(call, request)?;
    let refusal = match body.endpoint_type {
        ENDPOINT_BROKERS => None,
        ENDPOINT_CONTROLLERS => Some((
            ErrorCode::MismatchedEndpointType,
            "this is a broker's endpoint",
        )),
        _ => Some((ErrorCode::UnsupportedEndpointType, "unknown endpoint type")),
    };
    let mut response = DescribeClusterResponse::default();
    if let Some((code, words)) = refusal {
        response.error_code = code.code();
        response.error_message = Some(text(words));
    } else {
        let nodes = cluster::nodes(call.sink).into_iter();
        let brokers = nodes.map(|(id, host, port)| {
            DescribeClusterBroker::default()
                .with_broker_id(id)
                .with_host(text(host))
                .with_port(port)
        });
        response.brokers = brokers.collect();
        response.cluster_id = text(call.sink.cluster().cluster_id.as_str());
        response.controller_id = cluster::CONTROLLER;
        if body.include_cluster_authorized_operations {
            response.cluster_authorized_operations = cluster::OPERATIONS;
        }
    }
    let reply = ReplyTo::new(call.config, request).frame(&response);
    reply.map(Handled::Reply)
}
