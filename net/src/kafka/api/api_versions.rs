//! ApiVersions, versions 0 to 4: which APIs there are. Most clients send it first.
//!
//! Its reply's header has no tagged fields in any version, and a version that we do not know is
//! answered in version 0 with the error and the table: that is how a newer client learns what to
//! speak (KIP-511).

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::{Call, Handled, Reply, ReplyTo, decode};
use crate::kafka::config::KafkaConfig;
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::kafka::versions::Api;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let _names_the_client: ApiVersionsRequest = decode(call, request)?;
    let reply = ReplyTo::new(call.config, request).frame(&table(ErrorCode::None));
    reply.map(Handled::Reply)
}

/// The reply to a request of a version that we do not know.
pub(crate) fn unknown_version(
    config: &KafkaConfig,
    correlation: i32,
) -> Result<Reply, ProtocolViolation> {
    let reply_to = ReplyTo {
        api: Api::ApiVersions,
        version: 0,
        correlation,
        bytes_max: config.reply_bytes_max,
    };
    reply_to.frame(&table(ErrorCode::UnsupportedVersion))
}

/// No features are listed: what clients would do with them (transactions, new group protocols) is
/// not built.
fn table(code: ErrorCode) -> ApiVersionsResponse {
    let rows = Api::ALL.into_iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key())
            .with_min_version(api.versions().first)
            .with_max_version(api.versions().last)
    });
    ApiVersionsResponse::default()
        .with_error_code(code.code())
        .with_api_keys(rows.collect())
}
