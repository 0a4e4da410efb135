//! From one generation to the next, and how members go.

use std::sync::Arc;

use bytes::Bytes;

use super::members::{FirstRebalance, Group, Phase, Preparing};
use super::request::{GroupRefusal, LeavingMember};
use super::roster::{Member, Parked};
use super::state::GroupChange;
use super::{GroupAnswer, Turn};
use crate::command::RequestId;

impl Group {
    /// Makes everyone join again, unless that is under way.
    pub(super) fn begin_rebalance(&mut self, turn: &mut Turn<'_>) {
        let (wait_ms, first) = match self.phase {
            Phase::Preparing(_) => return,
            Phase::Empty => {
                let delay_ms = turn.settings.initial_rebalance_delay_ms;
                let left_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
                let grew = false;
                (delay_ms, Some(FirstRebalance { left_ms, grew }))
            }
            Phase::Completing | Phase::Stable => (self.rebalance_timeout_ms(), None),
        };
        if self.phase == Phase::Completing {
            self.refuse_syncs(turn);
        }
        self.sync_until = None;
        let until = turn.now.boot.after_ms(wait_ms);
        self.phase = Phase::Preparing(Preparing { until, first });
    }

    /// Those that wait for their share of a generation that will not be must join again.
    fn refuse_syncs(&mut self, turn: &mut Turn<'_>) {
        self.members.change_all(|_, member| {
            member.assignment = Bytes::new();
            if let Parked::Sync(request) = member.parked {
                member.parked = Parked::No;
                member.renew(turn);
                turn.refuse(request, GroupRefusal::Rebalancing);
            }
        });
    }

    /// As long as the slowest member may take.
    fn rebalance_timeout_ms(&self) -> u64 {
        let members = self.members.iter();
        let timeouts = members.map(|(_, member)| member.rebalance_timeout_ms);
        timeouts.max().unwrap_or(0)
    }

    /// Begins the next generation if nobody is missing.
    pub(super) fn complete_join_if_all_did(&mut self, turn: &mut Turn<'_>) {
        let Phase::Preparing(Preparing { first: None, .. }) = self.phase else {
            return;
        };
        let is_awaited = self.members.is_empty() || self.members.awaits_generation();
        if self.members.all_joined() && is_awaited {
            self.complete_join(turn);
        }
    }

    /// Begins the next generation with those that joined, and static members that may come yet.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        let missing: Vec<Arc<str>> = self
            .members
            .iter()
            .filter(|(_, member)| !member.has_joined() && member.instance.is_none())
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in missing {
            self.remove(&id);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Nobody waits for it: who is away comes back, or session timeouts decide.
            let until = turn.now.boot.after_ms(self.rebalance_timeout_ms().max(1));
            self.phase = Phase::Preparing(Preparing { until, first: None });
            return;
        }
        self.state.generation = self.state.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            self.protocol = None;
            self.state.empty_since_ms = Some(turn.now.wall_ms);
            self.log_generation(turn);
            return;
        }
        self.protocol = Some(self.elect_protocol());
        self.phase = Phase::Completing;
        self.sync_until = Some(turn.now.boot.after_ms(self.rebalance_timeout_ms()));
        self.state.empty_since_ms = None;
        self.log_generation(turn);
        self.answer_joins(turn);
    }

    /// Tells everyone of the generation, once no restart can give its number to another.
    fn answer_joins(&mut self, turn: &mut Turn<'_>) {
        let mut waiting = Vec::new();
        self.members.change_all(|id, member| {
            let parked = std::mem::replace(&mut member.parked, Parked::No);
            member.is_new = false;
            member.can_return = true;
            member.awaits_sync = true;
            if parked != Parked::Cut {
                member.renew(turn);
            }
            waiting.extend(parked.request().map(|request| (Arc::clone(id), request)));
        });
        for (id, request) in waiting {
            let leads = self.leader.as_ref() == Some(&id);
            let answer = self.joined(&id, leads);
            turn.end_durably(request, answer);
        }
    }

    /// Keeps the leader if it waits for the generation, or takes the first that does; whether there
    /// is one. Who was cut off could not deal shares, and all would wait for it.
    fn elect_leader(&mut self) -> bool {
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        if leader.is_some_and(Member::awaits_generation) {
            return true;
        }
        let mut in_order = self.members.in_order();
        let first = in_order.find(|(_, one)| one.awaits_generation());
        let Some((id, _)) = first else { return false };
        self.leader = Some(Arc::clone(id));
        true
    }

    fn log_generation(&self, turn: &mut Turn<'_>) {
        turn.log(GroupChange::Generation {
            group: Arc::clone(turn.name),
            generation: self.state.generation,
            protocol_type: self.state.protocol_type.clone(),
            empty_since_ms: self.state.empty_since_ms,
        });
    }

    /// Does what is due: members and ids that are out of time go, waiting ends.
    pub(super) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        for id in self.members.late(turn.now.boot) {
            if !self.members.remove_pending(&id) {
                self.drop_member(turn, &id);
            }
        }
        if self.sync_until.is_some_and(|until| until <= turn.now.boot) {
            self.drop_unsynced(turn);
        }
        if let Phase::Preparing(preparing) = self.phase
            && preparing.until <= turn.now.boot
        {
            match preparing.first {
                Some(first) if first.grew && first.left_ms > 0 => self.wait_for_more(turn, first),
                _ => self.complete_join(turn),
            }
        }
        self.complete_join_if_all_did(turn);
    }

    /// Somebody came while a new group waited: more may be on their way.
    fn wait_for_more(&mut self, turn: &Turn<'_>, first: FirstRebalance) {
        let wait_ms = turn.settings.initial_rebalance_delay_ms.min(first.left_ms);
        let first = FirstRebalance {
            left_ms: first.left_ms - wait_ms,
            grew: false,
        };
        self.phase = Phase::Preparing(Preparing {
            until: turn.now.boot.after_ms(wait_ms),
            first: Some(first),
        });
    }

    /// Members that joined the generation and never asked for their share go.
    fn drop_unsynced(&mut self, turn: &mut Turn<'_>) {
        self.sync_until = None;
        let late = self.members.iter().filter(|(_, one)| one.awaits_sync);
        let late: Vec<Arc<str>> = late.map(|(id, _)| Arc::clone(id)).collect();
        if late.is_empty() || !matches!(self.phase, Phase::Completing | Phase::Stable) {
            return;
        }
        for id in late {
            self.remove(&id);
        }
        self.begin_rebalance(turn);
    }

    /// The connection is gone on which a member waits: the answer cannot reach it. Its session
    /// counts from here, as from a heartbeat, and it may come back until that is over. It has
    /// joined all the same: nobody else need wait for it.
    pub(super) fn withdraw(&mut self, turn: &mut Turn<'_>, request: RequestId, id: &Arc<str>) {
        // It ends for the sake of the books.
        turn.refuse(request, GroupRefusal::Rebalancing);
        let can_return = self.members.change(id, |member| {
            member.renew(turn);
            member.parked = match member.parked {
                Parked::Join(_) => Parked::Cut,
                Parked::Sync(_) => Parked::No,
                Parked::No | Parked::Cut => unreachable!("it waits with that request"),
            };
            member.can_return
        });
        if !can_return {
            self.drop_member(turn, id);
            self.complete_join_if_all_did(turn);
        }
    }

    /// A member is gone: the others share its partitions.
    fn drop_member(&mut self, turn: &mut Turn<'_>, id: &str) {
        let Some(member) = self.remove(id) else {
            return;
        };
        if let Some(request) = member.parked.request() {
            turn.refuse(request, GroupRefusal::UnknownMember);
        }
        self.begin_rebalance(turn);
    }

    /// Members go of their own will, or by an operator's.
    pub(super) fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        leaving: &[LeavingMember],
    ) {
        let results = leaving.iter().map(|one| self.leave_one(turn, one));
        let results = results.collect();
        self.complete_join_if_all_did(turn);
        turn.end(request, GroupAnswer::Left(results));
    }

    fn leave_one(
        &mut self,
        turn: &mut Turn<'_>,
        leaving: &LeavingMember,
    ) -> Result<(), GroupRefusal> {
        let instance = leaving.instance.as_deref();
        if leaving.member.is_empty() {
            let holder = instance.and_then(|name| self.instances.get(name)).cloned();
            let holder = holder.ok_or(GroupRefusal::UnknownMember)?;
            self.drop_member(turn, &holder);
            return Ok(());
        }
        if self.members.remove_pending(&leaving.member) {
            return Ok(());
        }
        self.check_member(&leaving.member, instance)?;
        self.drop_member(turn, &leaving.member);
        Ok(())
    }
}
