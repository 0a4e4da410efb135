//! Within a generation: the leader deals the shares, members take theirs and say that they live.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::members::{Group, Phase};
use super::request::{GroupRefusal, Membership, SyncGroup, Synced};
use super::roster::Parked;
use super::{GroupAnswer, Turn};
use crate::command::RequestId;

impl Group {
    /// A member wants its share; the leader brings everyone's.
    pub(super) fn sync(&mut self, turn: &mut Turn<'_>, request: RequestId, sync: SyncGroup) {
        if let Err(refusal) = self.try_sync(turn, request, sync) {
            turn.refuse(request, refusal);
        }
    }

    fn try_sync(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        sync: SyncGroup,
    ) -> Result<(), GroupRefusal> {
        self.check_membership(&sync.membership)?;
        let fits = |claimed: &Option<String>, ours: Option<&str>| {
            claimed.is_none() || claimed.as_deref() == ours
        };
        if !fits(&sync.protocol_type, self.state.protocol_type.as_deref())
            || !fits(&sync.protocol, self.protocol.as_deref())
        {
            return Err(GroupRefusal::InconsistentProtocol);
        }
        let id = sync.membership.member.as_str();
        match self.phase {
            Phase::Empty => Err(GroupRefusal::UnknownMember),
            Phase::Preparing(_) => Err(GroupRefusal::Rebalancing),
            Phase::Completing => {
                self.note_synced(id);
                turn.wait(request, self.members.id_of(id));
                let before = self.members.change(id, |member| {
                    std::mem::replace(&mut member.parked, Parked::Sync(request))
                });
                if let Some(old) = before.request() {
                    turn.refuse(old, GroupRefusal::Rebalancing);
                }
                if self.leader.as_deref() == Some(id) {
                    self.deal(turn, sync.assignments);
                }
                Ok(())
            }
            Phase::Stable => {
                self.note_synced(id);
                let assignment = self.members.change(id, |member| {
                    member.renew(turn);
                    member.assignment.clone()
                });
                let answer = self.synced(assignment);
                turn.end(request, answer);
                Ok(())
            }
        }
    }

    fn note_synced(&mut self, id: &str) {
        self.members.change(id, |member| member.awaits_sync = false);
        if !self.members.awaits_sync() {
            self.sync_until = None;
        }
    }

    /// The shares are dealt: everyone who waits gets theirs. Who is not named gets nothing.
    fn deal(&mut self, turn: &mut Turn<'_>, assignments: Vec<(String, Bytes)>) {
        let mut shares: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        let mut waiting = Vec::new();
        self.members.change_all(|id, member| {
            let share = shares.remove(&**id).unwrap_or_default();
            member.assignment = share.clone();
            if let Parked::Sync(request) = member.parked {
                member.parked = Parked::No;
                member.renew(turn);
                waiting.push((request, share));
            }
        });
        self.phase = Phase::Stable;
        for (request, share) in waiting {
            let answer = self.synced(share);
            turn.end(request, answer);
        }
    }

    fn synced(&self, assignment: Bytes) -> GroupAnswer {
        let known = "a generation has it";
        GroupAnswer::Synced(Synced {
            protocol_type: self.state.protocol_type.clone().expect(known),
            protocol: self.protocol.clone().expect(known),
            assignment,
        })
    }

    /// A member lives.
    pub(super) fn heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        membership: &Membership,
    ) {
        if let Err(refusal) = self.check_membership(membership) {
            turn.refuse(request, refusal);
            return;
        }
        self.members
            .change(&membership.member, |member| member.renew(turn));
        match self.phase {
            Phase::Empty => turn.refuse(request, GroupRefusal::UnknownMember),
            Phase::Preparing(_) => turn.refuse(request, GroupRefusal::Rebalancing),
            Phase::Completing | Phase::Stable => turn.end(request, GroupAnswer::Alive),
        }
    }

    /// Those of some topics that no member reads; none where a member's cannot be told, which may
    /// read all of them. Mostly the first few members read all that is asked for: the others, who
    /// may have said many topics each, are not looked at.
    pub(super) fn unread<'a>(&self, mut topics: BTreeSet<&'a str>) -> BTreeSet<&'a str> {
        if topics.is_empty() {
            return topics;
        }
        for (_, member) in self.members.iter() {
            let Some(read) = &member.said.topics else {
                return BTreeSet::new();
            };
            for topic in read {
                topics.remove(&**topic);
            }
            if topics.is_empty() {
                break;
            }
        }
        topics
    }
}
