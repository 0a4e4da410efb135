//! Heartbeat, versions 0 to 4: a member lives, and hears whether it must join again.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk, Membership};

use super::groups::{answer, ask, some};
use super::{Call, Handled, Reply, ReplyTo, Work, decode};
use crate::kafka::errors::{ErrorCode, group_error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: HeartbeatRequest = decode(call, request)?;
    let membership = Membership {
        generation: body.generation_id,
        member: body.member_id.to_string(),
        instance: some(body.group_instance_id.as_ref()),
    };
    ask(call, 0, &body.group_id, GroupAsk::Heartbeat(membership));
    Ok(Handled::Wait(Work::Heartbeat(Pending {
        reply_to: ReplyTo::new(call.config, request),
        code: None,
    })))
}

/// A request whose member is being looked for.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    code: Option<ErrorCode>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        assert!(self.code.is_none(), "one command has one outcome");
        self.code = Some(match answer(outcome) {
            Ok(GroupAnswer::Alive) => ErrorCode::None,
            Ok(other) => panic!("a heartbeat ended with {other:?}"),
            Err(refusal) => group_error_code(&refusal),
        });
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let code = self.code.expect("answered").code();
        let response = HeartbeatResponse::default().with_error_code(code);
        self.reply_to.frame(&response)
    }
}
