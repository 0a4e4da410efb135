//! ListGroups, versions 0 to 5: the groups of this node. Clients ask every node and merge.

use std::collections::BTreeSet;

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::GroupListing;
use millrace_storage::units::ShardId;

use super::groups::{shared, standing};
use super::{Call, Handled, Reply, ReplyTo, Work, decode, text};
use crate::kafka::errors::{ErrorCode, group_error_code};
use crate::kafka::frame::Request;
use crate::session::{CommandSink, ProtocolViolation};

/// First version that tells and asks for states.
const VERSION_STATES_MIN: i16 = 4;
/// First version that tells and asks for types.
const VERSION_TYPES_MIN: i16 = 5;
/// What Kafka calls the type of the groups that there are.
const CLASSIC: &str = "Classic";

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: ListGroupsRequest = decode(call, request)?;
    let pending = Pending {
        reply_to: ReplyTo::new(call.config, request),
        states: body.states_filter,
        types: body.types_filter,
        found: Ok(Vec::new()),
    };
    for (position, home) in homes(call.sink).into_iter().enumerate() {
        call.submit(position, Command::ListGroups { home });
    }
    Ok(Handled::Wait(Work::ListGroups(pending)))
}

/// The shards of this node: in one-port mode all that have groups.
fn homes(sink: &dyn CommandSink) -> BTreeSet<ShardId> {
    let cluster = sink.cluster();
    if let Some(shard) = cluster.nodes[cluster.own].shard {
        return BTreeSet::from([shard]);
    }
    let homes = sink.catalog().group_homes();
    let homes: BTreeSet<ShardId> = homes.iter().copied().collect();
    if homes.is_empty() {
        return BTreeSet::from([ShardId(0)]);
    }
    homes
}

/// A request whose groups are being listed.
#[derive(Debug)]
pub(crate) struct Pending {
    reply_to: ReplyTo,
    states: Vec<StrBytes>,
    types: Vec<StrBytes>,
    found: Result<Vec<GroupListing>, ErrorCode>,
}

impl Pending {
    pub(super) fn take(&mut self, outcome: Result<Outcome, Refusal>) {
        match (&mut self.found, outcome) {
            (Ok(found), Ok(Outcome::GroupsListed(groups))) => found.extend(groups),
            (_, Ok(Outcome::GroupsListed(_))) => {}
            (_, Ok(other)) => panic!("a list of groups ended with {other:?}"),
            (found, Err(refusal)) => *found = Err(group_error_code(&refusal)),
        }
    }

    pub(super) fn finish(self) -> Result<Reply, ProtocolViolation> {
        let version = self.reply_to.version;
        let mut response = ListGroupsResponse::default();
        match &self.found {
            Err(code) => response.error_code = code.code(),
            Ok(found) => {
                let wanted = found.iter().filter(|group| self.wants(group));
                response.groups = wanted.map(|group| describe(version, group)).collect();
            }
        }
        self.reply_to.frame(&response)
    }

    fn wants(&self, group: &GroupListing) -> bool {
        let takes = |filter: &[StrBytes], word: &str| {
            filter.is_empty() || filter.iter().any(|one| one.eq_ignore_ascii_case(word))
        };
        takes(&self.states, standing(group.standing)) && takes(&self.types, CLASSIC)
    }
}

fn describe(version: i16, group: &GroupListing) -> ListedGroup {
    let protocol_type = group.protocol_type.as_ref().map(shared);
    let mut described = ListedGroup::default()
        .with_group_id(GroupId(shared(&group.group)))
        .with_protocol_type(protocol_type.unwrap_or_default());
    if version >= VERSION_STATES_MIN {
        described.group_state = text(standing(group.standing));
    }
    if version >= VERSION_TYPES_MIN {
        described.group_type = text(CLASSIC);
    }
    described
}
