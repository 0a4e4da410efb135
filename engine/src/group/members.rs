//! A group and its members: who they are, what they speak, when they are looked at next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use millrace_storage::units::BootTime;

use super::request::{
    ClientIdentity, GroupAsk, GroupDescription, GroupProtocol, GroupRefusal, GroupStanding,
    JoinGroup, JoinedMember, MemberDescription, Membership,
};
use super::spoken::Spoken;
use super::state::GroupState;
use super::{GroupAnswer, Turn};
use crate::catalog::Catalog;
use crate::command::RequestId;

/// Memory of a member besides what it says, bytes.
const MEMBER_BYTES: usize = 512;
/// A group without members and offsets is forgotten after this long, milliseconds: members that
/// were only cut off find its generation again.
const FORGOTTEN_AFTER_MS: i64 = 60_000;
/// Memory of a group besides its members and offsets, bytes.
const GROUP_BYTES: usize = 512;

/// One group at its home.
#[derive(Debug)]
pub(super) struct Group {
    /// What survives a restart.
    pub(super) state: GroupState,
    pub(super) phase: Phase,
    /// By id. At most `members_max`, ids in `pending` included.
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// By those members.
    pub(super) spoken: Spoken,
    /// Ids that were given away and not joined with yet, and when they lapse.
    pub(super) pending: BTreeMap<Arc<str>, BootTime>,
    /// Static members' ids by instance name: each is a member's.
    pub(super) instances: BTreeMap<Arc<str>, Arc<str>>,
    /// A member, unless there is none.
    pub(super) leader: Option<Arc<str>>,
    /// In use since the last rebalance.
    pub(super) protocol: Option<Arc<str>>,
    /// Members that have not synced by then are dropped; set while `awaits_sync` holds for any.
    pub(super) sync_until: Option<BootTime>,
    /// Numbers members in the order of their coming.
    pub(super) joins: u64,
    /// The time in the set of timers.
    pub(super) armed: Option<BootTime>,
    /// What the sum over all groups has counted.
    pub(super) counted_bytes: usize,
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Empty,
    Preparing(Preparing),
    Completing,
    Stable,
}

/// A rebalance that waits for members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preparing {
    /// It goes on without those that have not joined by then.
    pub(super) until: BootTime,
    /// Set in the first rebalance of an empty group, which waits out its time even when all have
    /// joined: more are probably on their way.
    pub(super) first: Option<FirstRebalance>,
}

/// How a first rebalance may be drawn out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstRebalance {
    /// So much longer, milliseconds.
    pub(super) left_ms: u64,
    /// Whether somebody came in the present stretch.
    pub(super) grew: bool,
}

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<Arc<str>>,
    pub(super) client: ClientIdentity,
    pub(super) session_timeout_ms: u64,
    pub(super) rebalance_timeout_ms: u64,
    pub(super) protocols: Vec<GroupProtocol>,
    pub(super) topics: Option<Vec<Arc<str>>>,
    /// Empty while the group rebalances.
    pub(super) assignment: Bytes,
    /// It does not know its generation yet, so it cannot send heartbeats.
    pub(super) is_new: bool,
    /// It knows its id, or has an instance name: it can come back on another connection.
    pub(super) can_return: bool,
    pub(super) parked: Parked,
    /// It has not synced in this generation.
    pub(super) awaits_sync: bool,
    /// It is dropped then, unless it waits here.
    pub(super) deadline: BootTime,
    /// In the order of coming.
    pub(super) number: u64,
}

/// The request of a member that waits here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    No,
    Join(RequestId),
    Sync(RequestId),
    /// It has joined, and its connection closed since: nobody waits for the answer.
    Cut,
}

impl Parked {
    /// The request that is to be answered.
    pub(super) fn request(self) -> Option<RequestId> {
        match self {
            Self::Join(request) | Self::Sync(request) => Some(request),
            Self::No | Self::Cut => None,
        }
    }
}

impl Member {
    /// Whether it will be in the next generation.
    pub(super) fn has_joined(&self) -> bool {
        matches!(self.parked, Parked::Join(_) | Parked::Cut)
    }

    /// Whether somebody waits for the next generation.
    pub(super) fn awaits_generation(&self) -> bool {
        matches!(self.parked, Parked::Join(_))
    }

    /// When it is dropped. One that waits lives as long as its connection; a new one is dropped
    /// although it waits, for a connection may hang for ever.
    fn due(&self) -> Option<BootTime> {
        let waits = matches!(self.parked, Parked::Join(_) | Parked::Sync(_));
        (self.is_new || !waits).then_some(self.deadline)
    }

    pub(super) fn is_late(&self, turn: &Turn<'_>) -> bool {
        self.due().is_some_and(|due| due <= turn.now.boot)
    }

    /// It lives.
    pub(super) fn renew(&mut self, turn: &Turn<'_>) {
        self.deadline = turn.now.boot.after_ms(self.session_timeout_ms);
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|one| *one.name == *protocol);
        found.map_or(Bytes::new(), |one| one.metadata.clone())
    }

    fn bytes(&self) -> usize {
        MEMBER_BYTES
            + self.client.id.len()
            + said_bytes(&self.protocols, self.topics.as_ref())
            + self.assignment.len()
    }
}

/// Bytes that a wish to join leaves here.
pub(super) fn join_bytes(join: &JoinGroup) -> usize {
    MEMBER_BYTES + join.client.id.len() + said_bytes(&join.protocols, join.topics.as_ref())
}

fn said_bytes(protocols: &[GroupProtocol], topics: Option<&Vec<Arc<str>>>) -> usize {
    let said = protocols
        .iter()
        .map(|one| one.name.len() + one.metadata.len());
    let topics = topics.into_iter().flatten().map(|topic| topic.len() + 16);
    said.sum::<usize>() + topics.sum::<usize>()
}

impl Group {
    /// A group without members.
    pub(super) fn new(state: GroupState) -> Self {
        let mut group = Self {
            state,
            phase: Phase::Empty,
            members: BTreeMap::new(),
            spoken: Spoken::default(),
            pending: BTreeMap::new(),
            instances: BTreeMap::new(),
            leader: None,
            protocol: None,
            sync_until: None,
            joins: 0,
            armed: None,
            counted_bytes: 0,
        };
        group.counted_bytes = group.bytes();
        group
    }

    /// Serves a request. Every one that is served ends, or waits in a member.
    pub(super) fn handle(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        ask: GroupAsk,
        catalog: &Catalog,
    ) {
        match ask {
            GroupAsk::Join(join) => self.join(turn, request, join),
            GroupAsk::Sync(sync) => self.sync(turn, request, sync),
            GroupAsk::Heartbeat(membership) => self.heartbeat(turn, request, &membership),
            GroupAsk::Leave(members) => self.leave(turn, request, &members),
            GroupAsk::Commit(commit) => self.commit(turn, request, commit, catalog),
            GroupAsk::FetchOffsets(wanted) => self.fetch_offsets(turn, request, wanted),
            GroupAsk::DeleteOffsets(partitions) => {
                self.delete_offsets(turn, request, partitions, catalog);
            }
            GroupAsk::Describe => {
                let described = GroupAnswer::Described(Some(Box::new(self.describe())));
                turn.end(request, described);
            }
            GroupAsk::Delete => unreachable!("deleting is the business of all groups together"),
        }
    }

    pub(super) fn standing(&self) -> GroupStanding {
        match self.phase {
            Phase::Empty => GroupStanding::Empty,
            Phase::Preparing(_) => GroupStanding::PreparingRebalance,
            Phase::Completing => GroupStanding::CompletingRebalance,
            Phase::Stable => GroupStanding::Stable,
        }
    }

    pub(super) fn describe(&self) -> GroupDescription {
        let is_stable = self.phase == Phase::Stable;
        let protocol = self.protocol.clone().filter(|_| is_stable);
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            client: member.client.clone(),
            metadata: protocol
                .as_deref()
                .map_or(Bytes::new(), |protocol| member.metadata(protocol)),
            assignment: member.assignment.clone(),
        });
        GroupDescription {
            standing: self.standing(),
            generation: self.state.generation,
            protocol_type: self.state.protocol_type.clone(),
            members: members.collect(),
            protocol,
            leader: self.leader.clone(),
        }
    }

    /// Whether nothing of it is worth remembering, and nobody was here for a while.
    pub(super) fn is_forgettable(&self, wall_ms: i64) -> bool {
        let left_ms = self.state.empty_since_ms.unwrap_or(i64::MIN);
        self.phase == Phase::Empty
            && self.pending.is_empty()
            && self.state.offsets.is_empty()
            && left_ms.saturating_add(FORGOTTEN_AFTER_MS) <= wall_ms
    }

    /// About how many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        let members = self.members.values().map(Member::bytes);
        let pending = self.pending.keys().map(|id| id.len() + 64);
        GROUP_BYTES + self.state.bytes() + members.sum::<usize>() + pending.sum::<usize>()
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<BootTime> {
        let members = self.members.values().filter_map(Member::due);
        let preparing = match self.phase {
            Phase::Preparing(preparing) => Some(preparing.until),
            _ => None,
        };
        let times = members.chain(self.pending.values().copied());
        times.chain(preparing).chain(self.sync_until).min()
    }

    /// Takes every request that waits here.
    pub(super) fn abandon(&mut self) -> Vec<RequestId> {
        let members = self.members.values_mut();
        let parked = members.map(|member| std::mem::replace(&mut member.parked, Parked::No));
        parked.filter_map(Parked::request).collect()
    }

    /// Refuses who is not a member, or not the one that bears the instance name now.
    pub(super) fn check_member(
        &self,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), GroupRefusal> {
        if let Some(instance) = instance {
            return match self.instances.get(instance) {
                Some(holder) if **holder == *member => Ok(()),
                Some(_) => Err(GroupRefusal::InstanceFenced),
                None => Err(GroupRefusal::UnknownMember),
            };
        }
        if self.members.contains_key(member) {
            return Ok(());
        }
        Err(GroupRefusal::UnknownMember)
    }

    /// As [`Self::check_member`], and in the present generation.
    pub(super) fn check_membership(&self, claimed: &Membership) -> Result<(), GroupRefusal> {
        self.check_member(&claimed.member, claimed.instance.as_deref())?;
        let current = self.state.generation;
        if claimed.generation != current {
            return Err(GroupRefusal::IllegalGeneration { current });
        }
        Ok(())
    }

    /// A member's id, to be kept.
    pub(super) fn id_of(&self, id: &str) -> Arc<str> {
        let (id, _) = self
            .members
            .get_key_value(id)
            .expect("the caller checked it");
        Arc::clone(id)
    }

    pub(super) fn member_mut(&mut self, id: &str) -> &mut Member {
        self.members.get_mut(id).expect("the caller checked it")
    }

    /// Takes a member out; the request that it waits with, if any, is the caller's to end.
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.spoken.take(&member.protocols);
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            let first = self.members.iter().min_by_key(|(_, other)| other.number);
            self.leader = first.map(|(id, _)| Arc::clone(id));
        }
        Some(member)
    }

    fn is_common(&self, protocol: &GroupProtocol) -> bool {
        self.spoken.is_common(&protocol.name, self.members.len())
    }

    /// Whether a member could speak with all the others.
    pub(super) fn suits(&self, join: &JoinGroup) -> bool {
        if self.phase == Phase::Empty {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        let speaks_it = self.state.protocol_type.as_ref() == Some(&join.protocol_type);
        speaks_it && join.protocols.iter().any(|one| self.is_common(one))
    }

    /// The protocol that most members like best among those that all of them speak; of several
    /// the one that who came first likes best.
    pub(super) fn elect_protocol(&self) -> Arc<str> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|one| self.is_common(one));
            let vote = vote.expect("who joined speaks one of them");
            *votes.entry(&vote.name).or_default() += 1;
        }
        let most = votes.values().copied().max();
        let first = self.members.values().min_by_key(|member| member.number);
        let mut in_order = first.into_iter().flat_map(|member| &member.protocols);
        let elected = in_order.find(|one| votes.get(&*one.name).copied() == most);
        Arc::clone(
            &elected
                .expect("a group with members has a common protocol")
                .name,
        )
    }

    /// Everyone, as the leader needs to know them.
    pub(super) fn roll(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_unstable_by_key(|(_, member)| member.number);
        let members = members.into_iter().map(|(id, member)| JoinedMember {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            metadata: member.metadata(protocol),
        });
        members.collect()
    }
}
