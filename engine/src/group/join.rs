//! Joining: a new member, one that comes back, a static one that takes its old place.

use std::sync::Arc;

use bytes::Bytes;

use super::members::{Group, Phase};
use super::request::{GroupRefusal, JoinGroup, Joined};
use super::roster::{Member, Parked, Said};
use super::{GroupAnswer, Turn};
use crate::command::RequestId;

/// A member that waits for its first generation does not know its id, so nothing is heard of it;
/// it is dropped after this long, milliseconds. Kafka's number.
const NEW_MEMBER_MS: u64 = 300_000;

impl Group {
    /// A member wants to be in the next generation.
    pub(super) fn join(&mut self, turn: &mut Turn<'_>, request: RequestId, join: JoinGroup) {
        if let Err(refusal) = self.try_join(turn, request, join) {
            turn.refuse(request, refusal);
        }
        self.complete_join_if_all_did(turn);
    }

    /// Parks the request, answers it, or refuses it.
    fn try_join(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        join: JoinGroup,
    ) -> Result<(), GroupRefusal> {
        if !self.has_room(turn, &join.member) {
            self.remove_silently(turn, &join.member);
            let max = turn.settings.members_max;
            return Err(GroupRefusal::Full { max });
        }
        if !self.suits(&join) {
            return Err(GroupRefusal::InconsistentProtocol);
        }
        if join.member.is_empty() {
            return self.join_new(turn, request, join);
        }
        if self.members.is_pending(&join.member) {
            if join.instance.is_some() {
                // Static members are never given an id to join with.
                return Err(GroupRefusal::UnknownMember);
            }
            let id = Arc::from(join.member.as_str());
            self.add_member(turn, request, id, join);
            return Ok(());
        }
        self.check_member(&join.member, join.instance.as_deref())?;
        self.join_again(turn, request, join);
        Ok(())
    }

    /// Whether one more may join, or one that is here already may stay.
    fn has_room(&self, turn: &Turn<'_>, id: &str) -> bool {
        let max = turn.settings.members_max;
        let member = self.members.get(id);
        let (is_in, members) = match self.phase {
            Phase::Empty => (false, 0),
            Phase::Preparing(_) => {
                let has_joined = member.is_some_and(Member::has_joined);
                (has_joined, self.members.joined())
            }
            Phase::Completing | Phase::Stable => (member.is_some(), self.members.len()),
        };
        // Ids that were given away keep strangers out, but nobody who has one or is a member.
        let is_known = member.is_some() || self.members.is_pending(id);
        let given_away = if is_known {
            0
        } else {
            self.members.pending_len()
        };
        is_in || members + given_away < max
    }

    /// One too many: it is out, and the others go on as they are.
    fn remove_silently(&mut self, turn: &mut Turn<'_>, id: &str) {
        self.members.remove_pending(id);
        if let Some(member) = self.remove(id)
            && let Some(request) = member.parked.request()
        {
            turn.refuse(request, GroupRefusal::UnknownMember);
        }
    }

    fn join_new(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        join: JoinGroup,
    ) -> Result<(), GroupRefusal> {
        let prefix = join.instance.as_ref().unwrap_or(&join.client.id);
        let id = turn.new_member_id(prefix);
        if let Some(instance) = &join.instance {
            match self.instances.get(instance.as_str()).cloned() {
                Some(old) => self.replace_static(turn, request, (&old, id), join),
                None => self.add_member(turn, request, id, join),
            }
            return Ok(());
        }
        if join.id_first {
            let lapses = turn.now.boot.after_ms(join.session_timeout_ms);
            self.members.add_pending(Arc::clone(&id), lapses);
            return Err(GroupRefusal::JoinWithId(id));
        }
        self.add_member(turn, request, id, join);
        Ok(())
    }

    fn add_member(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        id: Arc<str>,
        join: JoinGroup,
    ) {
        if let Phase::Preparing(preparing) = &mut self.phase
            && let Some(first) = &mut preparing.first
        {
            first.grew = true;
        }
        if self.members.is_empty() {
            self.state.protocol_type = Some(Arc::clone(&join.protocol_type));
        }
        self.members.remove_pending(&id);
        let can_return = !join.member.is_empty() || join.instance.is_some();
        let instance: Option<Arc<str>> = join.instance.map(Arc::from);
        if let Some(instance) = &instance {
            self.instances.insert(Arc::clone(instance), Arc::clone(&id));
        }
        self.leader.get_or_insert_with(|| Arc::clone(&id));
        self.joins += 1;
        let member = Member {
            instance,
            client: join.client,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            said: Said::new(join.protocols, join.topics),
            assignment: Bytes::new(),
            is_new: true,
            can_return,
            parked: Parked::Join(request),
            awaits_sync: false,
            deadline: turn.now.boot.after_ms(NEW_MEMBER_MS),
            number: self.joins,
        };
        turn.wait(request, Arc::clone(&id));
        self.members.insert(id, member);
        self.begin_rebalance(turn);
    }

    /// One that is a member says that it is there, or that it has something else to say.
    fn join_again(&mut self, turn: &mut Turn<'_>, request: RequestId, join: JoinGroup) {
        let leads = self.leader.as_deref() == Some(join.member.as_str());
        let id = self.members.id_of(&join.member);
        let member = self.members.get(&id).expect("a member's id");
        let says_same = member.said.protocols == join.protocols;
        let is_current = match self.phase {
            Phase::Empty => unreachable!("an empty group has no member to come back"),
            Phase::Preparing(_) => false,
            // It may not have got the answer to its first join.
            Phase::Completing => says_same,
            // A leader that joins wants the shares dealt anew.
            Phase::Stable => says_same && !leads,
        };
        if is_current {
            let answer = self.joined(&id, leads && self.phase == Phase::Completing);
            self.members.change(&id, |member| member.renew(turn));
            turn.end_durably(request, answer);
            return;
        }
        self.park_join(turn, request, &id, join);
        self.begin_rebalance(turn);
    }

    /// Takes what a member has to say now, and keeps its request for the next generation.
    fn park_join(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        id: &Arc<str>,
        join: JoinGroup,
    ) {
        turn.wait(request, Arc::clone(id));
        let said = Said::new(join.protocols, join.topics);
        self.members.say(id, said);
        let before = self.members.change(id, |member| {
            member.session_timeout_ms = join.session_timeout_ms;
            member.rebalance_timeout_ms = join.rebalance_timeout_ms;
            if member.is_new {
                // It waits anew: a session that counted since its connection closed ends.
                member.deadline = turn.now.boot.after_ms(NEW_MEMBER_MS);
            }
            std::mem::replace(&mut member.parked, Parked::Join(request))
        });
        if let Some(old) = before.request() {
            turn.refuse(old, GroupRefusal::Rebalancing);
        }
    }

    /// A static member is back under a new id. If what it says changes nothing, it gets its place
    /// and its share, and nobody else notices.
    fn replace_static(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        (old, new): (&Arc<str>, Arc<str>),
        join: JoinGroup,
    ) {
        let leader_before = self.leader.clone();
        let mut member = self.members.remove(old).expect("instances are members'");
        if let Some(parked) = std::mem::replace(&mut member.parked, Parked::No).request() {
            turn.refuse(parked, GroupRefusal::InstanceFenced);
        }
        // From here on it waits as who was here before does, for as long as it takes.
        member.is_new = false;
        member.client = join.client.clone();
        let instance = member.instance.clone().expect("a static member has one");
        self.instances.insert(instance, Arc::clone(&new));
        if leader_before.as_ref() == Some(old) {
            self.leader = Some(Arc::clone(&new));
        }
        self.members.insert(Arc::clone(&new), member);
        let may_skip = join.may_skip_assignment;
        self.park_join(turn, request, &new, join);
        self.members.change(&new, |member| member.renew(turn));
        match self.phase {
            Phase::Stable if self.protocol == Some(self.elect_protocol()) => {
                self.members
                    .change(&new, |member| member.parked = Parked::No);
                let leads = self.leader.as_ref() == Some(&new);
                let mut joined = self.joined(&new, leads && may_skip);
                if let GroupAnswer::Joined(joined) = &mut joined {
                    joined.skip_assignment = leads && may_skip;
                    if !may_skip {
                        // It must not take itself for the leader: nobody would hear of the shares
                        // that it deals.
                        joined.leader = leader_before.expect("a stable group has a leader");
                    }
                }
                turn.end_durably(request, joined);
            }
            // In Completing the leader may know the old id already, and would assign to that.
            Phase::Stable | Phase::Completing => self.begin_rebalance(turn),
            Phase::Preparing(_) => {}
            Phase::Empty => unreachable!("an empty group has no static member"),
        }
    }

    /// The present generation as a member sees it.
    pub(super) fn joined(&self, id: &Arc<str>, with_members: bool) -> GroupAnswer {
        let known = "a generation has it";
        GroupAnswer::Joined(Box::new(Joined {
            generation: self.state.generation,
            protocol_type: self.state.protocol_type.clone().expect(known),
            protocol: self.protocol.clone().expect(known),
            leader: self.leader.clone().expect(known),
            member: Arc::clone(id),
            skip_assignment: false,
            members: if with_members {
                self.roll()
            } else {
                Vec::new()
            },
        }))
    }
}
