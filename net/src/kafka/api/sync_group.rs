//! SyncGroup, versions 0 to 5: the leader hands out the shares, everyone gets theirs.

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk, Membership, SyncGroup, Synced};

use super::groups::{answer, ask, shared, some};
use super::{Call, Handled, Reply, ReplyTo, Work, decode};
use crate::kafka::errors::{ErrorCode, group_error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// First version in which both sides say which protocol they mean.
const VERSION_PROTOCOL_MIN: i16 = 5;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: SyncGroupRequest = decode(call, request)?;
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        result: None,
    };
    let has_protocol = body.protocol_type.is_some() && body.protocol_name.is_some();
    if request.version >= VERSION_PROTOCOL_MIN && !has_protocol {
        // Kafka takes who does not say it for somebody who does not know it.
        pending.result = Some(Err(ErrorCode::InconsistentGroupProtocol));
        return Ok(Handled::Reply(pending.finish()?));
    }
    let assignments = body.assignments.into_iter();
    let assignments = assignments.map(|to| (to.member_id.to_string(), to.assignment));
    let sync = SyncGroup {
        membership: Membership {
            generation: body.generation_id,
            member: body.member_id.to_string(),
            instance: some(body.group_instance_id.as_ref()),
        },
        protocol_type: some(body.protocol_type.as_ref()),
        protocol: some(body.protocol_name.as_ref()),
        assignments: assignments.collect(),
    };
    ask(call, 0, &body.group_id, GroupAsk::Sync(sync));
    Ok(Handled::Wait(Work::SyncGroup(pending)))
}

/// A request that waits for the leader.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    result: Option<Result<Synced, ErrorCode>>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        assert!(self.result.is_none(), "one command has one outcome");
        self.result = Some(match answer(outcome) {
            Ok(GroupAnswer::Synced(synced)) => Ok(synced),
            Ok(other) => panic!("syncing ended with {other:?}"),
            Err(refusal) => Err(group_error_code(&refusal)),
        });
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let version = self.reply_to.version;
        let response = match self.result.expect("synced or refused") {
            Ok(synced) => {
                let response = SyncGroupResponse::default().with_assignment(synced.assignment);
                if version >= VERSION_PROTOCOL_MIN {
                    response
                        .with_protocol_type(Some(shared(&synced.protocol_type)))
                        .with_protocol_name(Some(shared(&synced.protocol)))
                } else {
                    response
                }
            }
            Err(code) => SyncGroupResponse::default().with_error_code(code.code()),
        };
        self.reply_to.frame(&response)
    }
}
