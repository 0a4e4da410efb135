//! LeaveGroup, versions 0 to 5: one member goes; since 3 several, also by an operator's will.

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk, GroupRefusal, LeavingMember};

use super::groups::{answer, ask, some};
use super::{Call, Handled, Reply, ReplyTo, Work, decode};
use crate::kafka::errors::{ErrorCode, group_error_code, group_refusal_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// First version with several members.
const VERSION_MEMBERS_MIN: i16 = 3;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: LeaveGroupRequest = decode(call, request)?;
    let members: Vec<Named> = if request.version >= VERSION_MEMBERS_MIN {
        let members = body.members.into_iter();
        members
            .map(|member| (member.member_id, member.group_instance_id))
            .collect()
    } else {
        vec![(body.member_id, None)]
    };
    let leaving = members.iter().map(|(member, instance)| LeavingMember {
        member: member.to_string(),
        instance: some(instance.as_ref()),
    });
    let leaving = GroupAsk::Leave(leaving.collect());
    ask(call, 0, &body.group_id, leaving);
    Ok(Handled::Wait(Work::LeaveGroup(Pending {
        reply_to: ReplyTo::new(call.config, request),
        members,
        results: Ok(Vec::new()),
    })))
}

/// A request whose members are going.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    members: Vec<Named>,
    /// One a member, or none at all and why.
    results: Result<Vec<Result<(), GroupRefusal>>, ErrorCode>,
}

/// A member as the request names it: its id, and its instance's.
type Named = (StrBytes, Option<StrBytes>);

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        self.results = match answer(outcome) {
            Ok(GroupAnswer::Left(results)) => {
                assert_eq!(results.len(), self.members.len(), "one result a member");
                Ok(results)
            }
            Ok(other) => panic!("leaving ended with {other:?}"),
            Err(refusal) => Err(group_error_code(&refusal)),
        };
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let mut response = LeaveGroupResponse::default();
        let code_of = |result: Result<(), GroupRefusal>| match result {
            Ok(()) => ErrorCode::None,
            Err(refusal) => group_refusal_code(&refusal),
        };
        match self.results {
            Err(code) => response.error_code = code.code(),
            Ok(results) if self.reply_to.version >= VERSION_MEMBERS_MIN => {
                let members = self.members.into_iter().zip(results);
                let members = members.map(|((member, instance), result)| {
                    MemberResponse::default()
                        .with_member_id(member)
                        .with_group_instance_id(instance)
                        .with_error_code(code_of(result).code())
                });
                response.members = members.collect();
            }
            Ok(results) => {
                let only = results.into_iter().next().expect("one member was named");
                response.error_code = code_of(only).code();
            }
        }
        self.reply_to.frame(&response)
    }
}
