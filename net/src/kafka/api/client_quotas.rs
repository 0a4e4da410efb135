//! DescribeClientQuotas and AlterClientQuotas, versions 0 and 1: nobody has a quota, and none can
//! be set.

use std::collections::HashSet;

use kafka_protocol::messages::alter_client_quotas_request;
use kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};

use super::{Call, Handled, ReplyTo, decode, text};
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// What Kafka has quotas for.
const ENTITIES: [&str; 3] = ["user", "client-id", "ip"];
/// How a component of a filter can match: exactly, the default, any.
const MATCH_TYPES: [i8; 3] = [0, 1, 2];

pub(super) fn describe(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeClientQuotasRequest = decode(call, request)?;
    let mut response = DescribeClientQuotasResponse::default().with_error_message(None);
    match check_filter(&body.components) {
        Ok(()) => response.entries = Some(Vec::new()),
        Err(failure) => {
            response.error_code = failure.code.code();
            response.error_message = failure.message.map(text);
            response.entries = None;
        }
    }
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

fn check_filter(components: &[ComponentData]) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for component in components {
        let kind = component.entity_type.as_str();
        if !seen.insert(kind) {
            let words = format!("Entity type {kind} cannot appear more than once in the filter.");
            return Err(Failure::new(ErrorCode::InvalidRequest, words));
        }
        if !ENTITIES.contains(&kind) {
            let words = format!("Unsupported entity type {kind}");
            return Err(Failure::new(ErrorCode::UnsupportedVersion, words));
        }
        if !MATCH_TYPES.contains(&component.match_type) {
            let words = format!("Unknown match type {}", component.match_type);
            return Err(Failure::new(ErrorCode::InvalidRequest, words));
        }
    }
    Ok(())
}

pub(super) fn alter(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: AlterClientQuotasRequest = decode(call, request)?;
    let entries = body.entries.into_iter().map(alter_entry);
    let response = AlterClientQuotasResponse::default().with_entries(entries.collect());
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

/// Taking away what nobody has is done; giving is refused.
fn alter_entry(entry: alter_client_quotas_request::EntryData) -> EntryData {
    let entity = entry.entity.into_iter().map(|entity| {
        EntityData::default()
            .with_entity_type(entity.entity_type)
            .with_entity_name(entity.entity_name)
    });
    let altered = EntryData::default()
        .with_entity(entity.collect())
        .with_error_message(None);
    if entry.ops.iter().all(|op| op.remove) {
        return altered;
    }
    altered
        .with_error_code(ErrorCode::InvalidRequest.code())
        .with_error_message(Some(text("this broker has no client quotas")))
}
