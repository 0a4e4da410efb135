//! FindCoordinator, versions 0 to 6.
//!
//! Groups are not coordinated yet. For a group the answer is what a Kafka broker says while its
//! coordinator cannot be had: clients keep asking in the background, and consumers that assign
//! themselves their partitions read on undisturbed. Transactions and share groups are refused with
//! codes that clients do not retry: waiting would not help them. For transactions only "you may
//! not" is such a code everywhere: librdkafka asks again after any other. The words say why.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::{Call, Handled, ReplyTo, decode, text};
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// First version that asks for several keys at once.
const VERSION_KEYS_MIN: i16 = 4;
/// First version with words.
const VERSION_WORDS_MIN: i16 = 1;
const KEY_GROUP: i8 = 0;
const KEY_TRANSACTION: i8 = 1;
const KEY_SHARE: i8 = 2;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: FindCoordinatorRequest = decode(call, request)?;
    let refusal = refusal(body.key_type);
    let (code, nobody) = (refusal.code.code(), BrokerId(-1));
    let words = refusal.message.map(text);
    let mut response = FindCoordinatorResponse::default();
    if request.version >= VERSION_KEYS_MIN {
        let coordinators = body.coordinator_keys.into_iter().map(|key| {
            Coordinator::default()
                .with_key(key)
                .with_node_id(nobody)
                .with_port(-1)
                .with_error_code(code)
                .with_error_message(words.clone())
        });
        response.coordinators = coordinators.collect();
    } else {
        response.node_id = nobody;
        response.port = -1;
        response.error_code = code;
        if request.version >= VERSION_WORDS_MIN {
            response.error_message = words;
        }
    }
    let reply = ReplyTo::new(call.config, request).frame(&response);
    reply.map(Handled::Reply)
}

fn refusal(key_type: i8) -> Failure {
    match key_type {
        KEY_GROUP => Failure::new(
            ErrorCode::CoordinatorNotAvailable,
            "groups are not coordinated by this broker; assign partitions instead",
        ),
        KEY_TRANSACTION => Failure::new(
            ErrorCode::TransactionalIdAuthorizationFailed,
            "transactions are not built into this broker",
        ),
        KEY_SHARE => Failure::new(
            ErrorCode::UnsupportedVersion,
            "share groups are not built into this broker",
        ),
        other => Failure::new(
            ErrorCode::InvalidRequest,
            format!("key type {other} is unknown"),
        ),
    }
}
