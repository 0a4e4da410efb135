//! InitProducerId, versions 0 to 5: an identity for an idempotent producer.
//!
//! With a transactional id it would begin a transaction's bookkeeping. Transactions are not built,
//! and the refusal is one that no client retries for ever.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};

use super::{Call, Handled, NO_TRANSACTIONS, Reply, ReplyTo, Work, decode};
use crate::kafka::errors::{ErrorCode, producer_id_error_code};
use crate::kafka::frame::Request;
use crate::session::{ProtocolViolation, Refused};

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: InitProducerIdRequest = decode(call, request)?;
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        result: None,
    };
    let Some(transactional_id) = body.transactional_id else {
        call.submit(0, Command::AllocateProducerId);
        return Ok(Handled::Wait(Work::InitProducerId(pending)));
    };
    pending.result = Some(Err(if transactional_id.is_empty() {
        ErrorCode::InvalidRequest
    } else {
        call.log_refusal(
            Refused::Transactions,
            "transactional id",
            &transactional_id,
            NO_TRANSACTIONS,
        );
        ErrorCode::TransactionalIdAuthorizationFailed
    }));
    pending.finish().map(Handled::Reply)
}

/// A request whose id is being drawn.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    result: Option<Result<i64, ErrorCode>>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        assert!(self.result.is_none(), "one command has one outcome");
        self.result = Some(match outcome {
            Ok(Outcome::ProducerIdAllocated(id)) => Ok(id),
            Ok(other) => panic!("drawing a producer id ended with {other:?}"),
            Err(refusal) => Err(producer_id_error_code(&refusal)),
        });
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let response = InitProducerIdResponse::default();
        let response = match self.result.expect("drawn or refused") {
            Ok(id) => response
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(0),
            Err(code) => response
                .with_error_code(code.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1),
        };
        self.reply_to.frame(&response)
    }
}
