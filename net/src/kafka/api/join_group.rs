//! JoinGroup, versions 0 to 9: become a member, or say that one still is.

use std::sync::Arc;

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::{
    ClientIdentity, GroupAnswer, GroupAsk, GroupProtocol, GroupRefusal, JoinGroup, Joined,
};

use super::groups::{answer, ask, shared, some};
use super::{Call, Handled, Reply, ReplyTo, Work, decode};
use crate::kafka::consumer_protocol::{PROTOCOL_TYPE, subscribed_topics};
use crate::kafka::errors::group_error_code;
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// First version with a rebalance timeout of its own.
const VERSION_REBALANCE_TIMEOUT_MIN: i16 = 1;
/// First version of clients that know of ids that come before the member.
const VERSION_ID_FIRST_MIN: i16 = 4;
/// First version with static members.
const VERSION_INSTANCES_MIN: i16 = 5;
/// First version that tells the protocol type, and no protocol by null.
const VERSION_PROTOCOL_TYPE_MIN: i16 = 7;
/// First version that can tell a leader to leave the assignments alone.
const VERSION_SKIP_ASSIGNMENT_MIN: i16 = 9;

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: JoinGroupRequest = decode(call, request)?;
    let pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        member: body.member_id.clone(),
        result: None,
    };
    let group = body.group_id.clone();
    let join = wish(call, request, &body);
    ask(call, 0, &group, GroupAsk::Join(join));
    Ok(Handled::Wait(Work::JoinGroup(pending)))
}

fn wish(call: &Call<'_>, request: &Request<'_>, body: &JoinGroupRequest) -> JoinGroup {
    // A negative time is shorter than any that is allowed.
    let ms = |ms: i32| u64::try_from(ms).unwrap_or(0);
    let rebalance_timeout_ms = if request.version >= VERSION_REBALANCE_TIMEOUT_MIN {
        body.rebalance_timeout_ms
    } else {
        body.session_timeout_ms
    };
    let protocols = body.protocols.iter().map(|protocol| GroupProtocol {
        name: Arc::from(protocol.name.as_str()),
        metadata: protocol.metadata.clone(),
    });
    let instance = some(body.group_instance_id.as_ref());
    JoinGroup {
        member: body.member_id.to_string(),
        client: ClientIdentity {
            id: request.client_id.to_owned(),
            host: format!("/{}", call.sink.addresses().peer.ip().to_canonical()),
        },
        session_timeout_ms: ms(body.session_timeout_ms),
        rebalance_timeout_ms: ms(rebalance_timeout_ms),
        protocol_type: Arc::from(body.protocol_type.as_str()),
        protocols: protocols.collect(),
        topics: topics(body, call.config.request_items_max),
        id_first: request.version >= VERSION_ID_FIRST_MIN && instance.is_none(),
        may_skip_assignment: request.version >= VERSION_SKIP_ASSIGNMENT_MIN,
        instance,
    }
}

/// The topics that a consumer reads, by any of its protocols, which may name `items_max` in all.
fn topics(body: &JoinGroupRequest, items_max: usize) -> Option<Vec<Arc<str>>> {
    if body.protocol_type.as_str() != PROTOCOL_TYPE {
        return None;
    }
    let mut all = Vec::new();
    for protocol in &body.protocols {
        let items_left = items_max - all.len();
        all.extend(subscribed_topics(&protocol.metadata, items_left)?);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// A request that waits for the other members.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    /// As the client named itself.
    member: StrBytes,
    result: Option<Result<Joined, Refusal>>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        assert!(self.result.is_none(), "one command has one outcome");
        self.result = Some(answer(outcome).map(|answer| match answer {
            GroupAnswer::Joined(joined) => *joined,
            other => panic!("joining ended with {other:?}"),
        }));
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let version = self.reply_to.version;
        let response = match self.result.expect("joined or refused") {
            Ok(joined) => describe(version, &joined),
            Err(refusal) => refused(version, self.member, &refusal),
        };
        self.reply_to.frame(&response)
    }
}

fn describe(version: i16, joined: &Joined) -> JoinGroupResponse {
    let members = joined.members.iter().map(|member| {
        let described = JoinGroupResponseMember::default()
            .with_member_id(shared(&member.member))
            .with_metadata(member.metadata.clone());
        match &member.instance {
            Some(instance) if version >= VERSION_INSTANCES_MIN => {
                described.with_group_instance_id(Some(shared(instance)))
            }
            _ => described.with_group_instance_id(None),
        }
    });
    let mut response = JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_name(Some(shared(&joined.protocol)))
        .with_leader(shared(&joined.leader))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(shared(&joined.member))
        .with_members(members.collect());
    if version >= VERSION_PROTOCOL_TYPE_MIN {
        response.protocol_type = Some(shared(&joined.protocol_type));
    }
    response
}

fn refused(version: i16, member: StrBytes, refusal: &Refusal) -> JoinGroupResponse {
    let member = match refusal {
        Refusal::Group(GroupRefusal::JoinWithId(id)) => shared(id),
        _ => member,
    };
    let no_name = (version < VERSION_PROTOCOL_TYPE_MIN).then(StrBytes::default);
    JoinGroupResponse::default()
        .with_error_code(group_error_code(refusal).code())
        .with_generation_id(-1)
        .with_protocol_type(None)
        .with_protocol_name(no_name)
        .with_member_id(member)
}
