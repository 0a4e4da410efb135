//! DeleteGroups, versions 0 to 2: forgets groups without members.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, GroupId};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk};

use super::groups::{answer, ask};
use super::{Call, Handled, Reply, ReplyTo, Work, decode};
use crate::kafka::errors::{ErrorCode, group_error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DeleteGroupsRequest = decode(call, request)?;
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        groups: Vec::with_capacity(body.groups_names.len()),
    };
    for (position, group) in body.groups_names.into_iter().enumerate() {
        ask(call, position, &group, GroupAsk::Delete);
        pending.groups.push((group, ErrorCode::None));
    }
    if pending.groups.is_empty() {
        return Ok(Handled::Reply(pending.finish()?));
    }
    Ok(Handled::Wait(Work::DeleteGroups(pending)))
}

/// A request whose groups are being forgotten.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    groups: Vec<(GroupId, ErrorCode)>,
}

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        self.groups[position].1 = match answer(outcome) {
            Ok(GroupAnswer::Deleted) => ErrorCode::None,
            Ok(other) => panic!("forgetting a group ended with {other:?}"),
            Err(refusal) => group_error_code(&refusal),
        };
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let results = self.groups.into_iter().map(|(group, code)| {
            DeletableGroupResult::default()
                .with_group_id(group)
                .with_error_code(code.code())
        });
        let response = DeleteGroupsResponse::default().with_results(results.collect());
        self.reply_to.frame(&response)
    }
}
