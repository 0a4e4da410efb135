//! FindCoordinator, versions 0 to 6: the node of a group's home, whether the group exists or not.
//!
//! Any node serves any group; this one does it without a detour. Transactions and share groups are
//! refused with codes that clients do not retry: waiting would not help them. For transactions only
//! "you may not" is such a code everywhere: librdkafka asks again after any other. The words say
//! why.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Handled, NO_TRANSACTIONS, ReplyTo, decode, text};
use crate::kafka::cluster;
use crate::kafka::errors::{ErrorCode, Failure};
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation, Refused};

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
    if body.key_type == KEY_TRANSACTION {
        let key = body.coordinator_keys.first().unwrap_or(&body.key);
        call.log_refusal(
            Refused::Transactions,
            "transactional id",
            key,
            NO_TRANSACTIONS,
        );
    }
    let mut response = FindCoordinatorResponse::default();
    if request.version >= VERSION_KEYS_MIN {
        let keys = body.coordinator_keys.into_iter();
        let coordinators = keys.map(|key| find(call.sink, body.key_type, key));
        response.coordinators = coordinators.collect();
    } else {
        let found = find(call.sink, body.key_type, body.key);
        response.node_id = found.node_id;
        response.host = found.host;
        response.port = found.port;
        response.error_code = found.error_code;
        if request.version >= VERSION_WORDS_MIN {
            response.error_message = found.error_message;
        }
    }
    let reply = ReplyTo::new(call.config, request).frame(&response);
    reply.map(Handled::Reply)
}

fn find(sink: &dyn CommandSink, key_type: i8, key: StrBytes) -> Coordinator {
    let described = Coordinator::default().with_key(key);
    let home = match judge(key_type) {
        Ok(()) => sink.catalog().group_home(&described.key),
        Err(failure) => return refused(described, failure),
    };
    match cluster::node_of(sink.cluster(), home) {
        Some(node) => described
            .with_node_id(BrokerId(node.id))
            .with_host(text(cluster::host(node, sink.addresses())))
            .with_port(i32::from(node.port))
            .with_error_message(None),
        None => {
            let words = "the node of the group's home is not there";
            let failure = Failure::new(ErrorCode::CoordinatorNotAvailable, words);
            refused(described, failure)
        }
    }
}

fn refused(described: Coordinator, failure: Failure) -> Coordinator {
    described
        .with_node_id(BrokerId(-1))
        .with_port(-1)
        .with_error_code(failure.code.code())
        .with_error_message(failure.message.map(text))
}

fn judge(key_type: i8) -> Result<(), Failure> {
    Err(match key_type {
        KEY_GROUP => return Ok(()),
        KEY_TRANSACTION => Failure::new(
            ErrorCode::TransactionalIdAuthorizationFailed,
            NO_TRANSACTIONS,
        ),
        KEY_SHARE => Failure::new(
            ErrorCode::UnsupportedVersion,
            "share groups are not built into this broker",
        ),
        other => Failure::new(
            ErrorCode::InvalidRequest,
            format!("key type {other} is unknown"),
        ),
    })
}
