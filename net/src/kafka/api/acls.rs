//! DescribeAcls, CreateAcls and DeleteAcls, versions 1 to 3: everybody may do everything, and Kafka
//! without an authorizer says so in these words.

use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsRequest, DescribeAclsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Handled, ReplyTo, decode};
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

const NOT_DESCRIBED: &str = "No Authorizer is configured on the broker";
const NOT_CHANGED: &str = "No Authorizer is configured.";

pub(super) fn describe(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let _: DescribeAclsRequest = decode(call, request)?;
    let response = DescribeAclsResponse::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(StrBytes::from_static_str(NOT_DESCRIBED)));
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

pub(super) fn create(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: CreateAclsRequest = decode(call, request)?;
    let refused = AclCreationResult::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(StrBytes::from_static_str(NOT_CHANGED)));
    let results = vec![refused; body.creations.len()];
    let response = CreateAclsResponse::default().with_results(results);
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

pub(super) fn delete(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DeleteAclsRequest = decode(call, request)?;
    let refused = DeleteAclsFilterResult::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(StrBytes::from_static_str(NOT_CHANGED)));
    let results = vec![refused; body.filters.len()];
    let response = DeleteAclsResponse::default().with_filter_results(results);
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}
