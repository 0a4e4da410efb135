//! DescribeGroups, versions 0 to 6: members and their shares.

use std::collections::HashSet;

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{GroupAnswer, GroupAsk, GroupDescription, MemberDescription};

use super::groups::{answer, ask, shared, standing};
use super::{Call, Handled, Reply, ReplyTo, Work, decode, text};
use crate::kafka::errors::{ErrorCode, Failure, group_error_code};
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// First version with static members.
const VERSION_INSTANCES_MIN: i16 = 4;
/// First version in which a group that does not exist is an error, and with words.
const VERSION_NOT_FOUND_MIN: i16 = 6;
/// Kafka's bits of what may be done with a group, by operation code, where nothing is forbidden:
/// read, delete, describe.
const GROUP_OPERATIONS: i32 = 0b1_0100_1000;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let mut body: DescribeGroupsRequest = decode(call, request)?;
    // Named again: a group's members are many, and are told once.
    let mut asked = HashSet::new();
    body.groups.retain(|group| asked.insert(group.clone()));
    let mut pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        tells_operations: body.include_authorized_operations,
        groups: Vec::with_capacity(body.groups.len()),
    };
    for (position, group) in body.groups.into_iter().enumerate() {
        ask(call, position, &group, GroupAsk::Describe);
        pending.groups.push((group, Ok(None)));
    }
    if pending.groups.is_empty() {
        return Ok(Handled::Reply(pending.finish()?));
    }
    Ok(Handled::Wait(Work::DescribeGroups(pending)))
}

/// A request whose groups are being looked for.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    tells_operations: bool,
    groups: Vec<(GroupId, Found)>,
}

type Found = Result<Option<Box<GroupDescription>>, ErrorCode>;

impl Pending {
    pub(super) fn take(&mut self, position: usize, outcome: Result<Outcome, Refusal>) {
        self.groups[position].1 = match answer(outcome) {
            Ok(GroupAnswer::Described(found)) => Ok(found),
            Ok(other) => panic!("a description ended with {other:?}"),
            Err(refusal) => Err(group_error_code(&refusal)),
        };
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let version = self.reply_to.version;
        let groups = self.groups.into_iter().map(|(group, found)| {
            let mut described = describe(version, group, found);
            if self.tells_operations {
                described.authorized_operations = GROUP_OPERATIONS;
            }
            described
        });
        let response = DescribeGroupsResponse::default().with_groups(groups.collect());
        self.reply_to.frame(&response)
    }
}

fn describe(version: i16, group: GroupId, found: Found) -> DescribedGroup {
    let mut described = DescribedGroup::default().with_group_id(group);
    described.error_message = None;
    match found {
        Err(code) => described.with_error_code(code.code()),
        Ok(None) => {
            described.group_state = text("Dead");
            if version >= VERSION_NOT_FOUND_MIN {
                let words = format!("Group {} not found.", described.group_id.as_str());
                let failure = Failure::new(ErrorCode::GroupIdNotFound, words);
                described.error_code = failure.code.code();
                described.error_message = failure.message.map(text);
            }
            described
        }
        Ok(Some(found)) => {
            let members = found.members.iter();
            let members = members.map(|member| describe_member(version, member));
            let name = |name: Option<_>| name.as_ref().map(shared).unwrap_or_default();
            described
                .with_group_state(text(standing(found.standing)))
                .with_members(members.collect())
                .with_protocol_type(name(found.protocol_type))
                .with_protocol_data(name(found.protocol))
        }
    }
}

fn describe_member(version: i16, member: &MemberDescription) -> DescribedGroupMember {
    let described = DescribedGroupMember::default()
        .with_member_id(shared(&member.member))
        .with_client_id(text(member.client.id.as_str()))
        .with_client_host(text(member.client.host.as_str()))
        .with_member_metadata(member.metadata.clone())
        .with_member_assignment(member.assignment.clone());
    match &member.instance {
        Some(instance) if version >= VERSION_INSTANCES_MIN => {
            described.with_group_instance_id(Some(shared(instance)))
        }
        _ => described.with_group_instance_id(None),
    }
}
