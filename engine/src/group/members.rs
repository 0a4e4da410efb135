//! A group: who is in it, what is said of it, when it is looked at next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use millrace_storage::units::{BootTime, PartitionId};

use super::request::{
    GroupAsk, GroupDescription, GroupRefusal, GroupStanding, JoinGroup, JoinedMember,
    MemberDescription, Membership,
};
use super::roster::{Member, Parked, Roster};
use super::state::{GroupState, memory_bytes};
use super::{GroupAnswer, Turn};
use crate::catalog::Catalog;
use crate::command::RequestId;

/// A group without members and offsets is forgotten after this long, milliseconds: members that
/// were only cut off find its generation again.
const FORGOTTEN_AFTER_MS: i64 = 60_000;
/// Memory of a group besides its words, members and offsets, bytes.
const GROUP_BYTES: usize = 512;

/// One group at its home.
#[derive(Debug)]
pub(super) struct Group {
    /// What survives a restart.
    pub(super) state: GroupState,
    pub(super) phase: Phase,
    /// At most `members_max`, ids that were given away included; besides them, members that have
    /// not joined the rebalance under way.
    pub(super) members: Roster,
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

/// Bytes of a group of that name without members and offsets.
pub(super) fn group_bytes(name: &str) -> usize {
    GROUP_BYTES + name.len()
}

impl Group {
    /// A group without members.
    pub(super) fn new(name: &str, state: GroupState) -> Self {
        let mut group = Self {
            state,
            phase: Phase::Empty,
            members: Roster::default(),
            instances: BTreeMap::new(),
            leader: None,
            protocol: None,
            sync_until: None,
            joins: 0,
            armed: None,
            counted_bytes: 0,
        };
        group.counted_bytes = group.bytes(name);
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
            && self.members.pending_len() == 0
            && self.state.offsets.is_empty()
            && left_ms.saturating_add(FORGOTTEN_AFTER_MS) <= wall_ms
    }

    /// About how many bytes it holds under its name.
    pub(super) fn bytes(&self, name: &str) -> usize {
        group_bytes(name) + self.kind_bytes() + self.state.offsets.bytes() + self.members.bytes()
    }

    fn kind_bytes(&self) -> usize {
        self.state.protocol_type.as_deref().map_or(0, str::len)
    }

    /// Bytes of what it holds that serving `ask` takes the place of.
    pub(super) fn replaced_bytes(&self, ask: &GroupAsk) -> usize {
        match ask {
            GroupAsk::Join(join) => {
                let instance = join.instance.as_deref();
                let holder = instance.and_then(|instance| self.instances.get(instance));
                let holder = holder.filter(|_| join.member.is_empty());
                let id = holder.map_or(join.member.as_str(), |id| id);
                self.kind_bytes() + self.members.bytes_of(id)
            }
            GroupAsk::Sync(_) => self.members.share_bytes(),
            GroupAsk::Commit(commit) => {
                let partitions = commit.offsets.iter().map(|(partition, _)| partition);
                let partitions: BTreeSet<&PartitionId> = partitions.collect();
                let known = partitions.into_iter();
                let known = known.filter_map(|id| self.state.offsets.get(id));
                known.map(|known| memory_bytes(&known.commit)).sum()
            }
            GroupAsk::Heartbeat(_)
            | GroupAsk::Leave(_)
            | GroupAsk::FetchOffsets(_)
            | GroupAsk::DeleteOffsets(_)
            | GroupAsk::Describe
            | GroupAsk::Delete => 0,
        }
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<BootTime> {
        let preparing = match self.phase {
            Phase::Preparing(preparing) => Some(preparing.until),
            _ => None,
        };
        let times = [self.members.due(), preparing, self.sync_until];
        times.into_iter().flatten().min()
    }

    /// Takes every request that waits here.
    pub(super) fn abandon(&mut self) -> Vec<RequestId> {
        let mut parked = Vec::new();
        self.members.change_all(|_, member| {
            parked.extend(member.parked.request());
            member.parked = Parked::No;
        });
        parked
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
        if self.members.contains(member) {
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

    /// Takes a member out; the request that it waits with, if any, is the caller's to end.
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            let first = self.members.in_order().next();
            self.leader = first.map(|(id, _)| Arc::clone(id));
        }
        Some(member)
    }

    /// Whether a member could speak with all the others.
    pub(super) fn suits(&self, join: &JoinGroup) -> bool {
        if self.phase == Phase::Empty {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        let speaks_it = self.state.protocol_type.as_ref() == Some(&join.protocol_type);
        speaks_it && join.protocols.iter().any(|one| self.members.is_common(one))
    }

    /// The protocol that most members like best among those that all of them speak; of several
    /// the one that who came first likes best.
    pub(super) fn elect_protocol(&self) -> Arc<str> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, member) in self.members.iter() {
            let mut protocols = member.said.protocols.iter();
            let vote = protocols.find(|one| self.members.is_common(one));
            let vote = vote.expect("who joined speaks one of them");
            *votes.entry(&vote.name).or_default() += 1;
        }
        let most = votes.values().copied().max();
        let first = self.members.in_order().next();
        let mut protocols = first
            .into_iter()
            .flat_map(|(_, first)| &first.said.protocols);
        let elected = protocols.find(|one| votes.get(&*one.name).copied() == most);
        Arc::clone(
            &elected
                .expect("a group with members has a common protocol")
                .name,
        )
    }

    /// Everyone, as the leader needs to know them.
    pub(super) fn roll(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.in_order().map(|(id, member)| JoinedMember {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            metadata: member.metadata(protocol),
        });
        members.collect()
    }
}
