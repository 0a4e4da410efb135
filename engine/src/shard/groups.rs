//! Groups in a shard: their requests, their place in the log, and their time.

use std::collections::{BTreeSet, VecDeque};

use millrace_storage::error::AppendError;
use millrace_storage::units::{Lsn, Now, PartitionId};

use super::Shard;
use crate::catalog::Effect as CatalogEffect;
use crate::command::RequestId;
use crate::event::{Outcome, Refusal};
use crate::group::state::{self, GroupChange};
use crate::group::{Effect, GroupAnswer, GroupAsk, GroupRequest};
use crate::report::GroupReport;
use crate::snapshot::GROUPS_KEY;
use crate::waiters::Promise;

type Ended = Result<GroupAnswer, Refusal>;

/// What groups have for the log, and the answers that wait for it.
#[derive(Debug, Default)]
pub(super) struct GroupLog {
    /// Not in the log yet, in order: it had no free file.
    held: VecDeque<Effect>,
    /// Of the commits in `held`. At most `pending_append_bytes_max`, or one commit more.
    held_bytes: usize,
    /// Where the last entry ends.
    end: Lsn,
    /// Answers that go when the log is durable so far: one for each of the waiters' promises, in
    /// their order.
    answers: VecDeque<(RequestId, Ended)>,
}

impl GroupLog {
    /// Ends everything; returns the requests.
    pub(super) fn abandon(&mut self) -> Vec<RequestId> {
        self.held_bytes = 0;
        let held = self.held.drain(..).filter_map(|effect| match effect {
            Effect::End(request, _) | Effect::EndDurably(request, _) => Some(request),
            Effect::Log(_) => None,
        });
        let mut requests: Vec<RequestId> = held.collect();
        requests.extend(self.answers.drain(..).map(|(request, _)| request));
        requests
    }
}

impl Shard {
    /// The groups homed here, in full.
    #[must_use]
    pub fn group_reports(&self) -> Vec<GroupReport> {
        self.groups.report()
    }

    /// Serves a request to a group homed here.
    pub(super) fn serve_group(&mut self, now: Now, request: RequestId, asked: GroupRequest) {
        if let Err(refusal) = self.admit_group(&asked.ask) {
            return self.complete(request, Err(refusal));
        }
        let settings = &self.config.groups;
        self.groups
            .handle(now, settings, request, asked, &self.catalog);
        self.carry_out(now);
    }

    /// The connection is gone on which a request to a group homed here was to be answered.
    pub(super) fn withdraw_from_group(&mut self, now: Now, request: RequestId) {
        let settings = &self.config.groups;
        self.groups.withdraw(now, settings, request);
        self.carry_out(now);
    }

    /// Refuses what could not be answered, or would wait in a queue that is full.
    fn admit_group(&self, ask: &GroupAsk) -> Result<(), Refusal> {
        if self.poisoned.is_some() {
            return Err(Refusal::OutcomeUnknown);
        }
        let waits = matches!(
            ask,
            GroupAsk::Commit(_)
                | GroupAsk::FetchOffsets(_)
                | GroupAsk::DeleteOffsets(_)
                | GroupAsk::Describe
                | GroupAsk::Delete
        );
        let waiters = self.waiters.len() + self.group_log.held.len();
        if waits && waiters >= self.config.limits.waiters_max {
            return Err(Refusal::Busy("limits.waiters_max"));
        }
        let bytes_max = self.config.limits.pending_append_bytes_max;
        if matches!(ask, GroupAsk::Commit(_)) && self.group_log.held_bytes >= bytes_max {
            return Err(Refusal::Busy("memory.pending_append_bytes_max"));
        }
        Ok(())
    }

    /// Does what is due in groups.
    pub(super) fn expire_groups(&mut self, now: Now) {
        if self.poisoned.is_some() || self.groups.due().is_none_or(|due| due > now.boot) {
            return;
        }
        let settings = &self.config.groups;
        self.groups.handle_timeout(now, settings, &self.catalog);
        self.carry_out(now);
    }

    /// Forgets what groups know of partitions that are no more.
    pub(super) fn forget_in_groups(&mut self, effects: &[CatalogEffect]) {
        let gone = effects.iter().filter_map(|effect| match effect {
            CatalogEffect::Removed(partition) => Some(partition.id),
            CatalogEffect::Added(_) | CatalogEffect::Configured(_) => None,
        });
        let gone: BTreeSet<PartitionId> = gone.collect();
        if !gone.is_empty() {
            self.groups.forget_partitions(&gone);
        }
    }

    /// Takes what groups want done. An answer that promises nothing of the log goes at once, past
    /// those that wait for it.
    fn carry_out(&mut self, now: Now) {
        while let Some(effect) = self.groups.poll_effect() {
            if let Effect::End(request, outcome) = effect {
                self.complete(request, outcome.map(Outcome::Group));
                continue;
            }
            self.group_log.held_bytes += commit_bytes(&effect);
            self.group_log.held.push_back(effect);
        }
        self.log_groups(now);
    }

    /// Puts into the log what it takes of what groups have for it.
    pub(super) fn log_groups(&mut self, now: Now) {
        while self.poisoned.is_none()
            && let Some(effect) = self.group_log.held.pop_front()
        {
            let bytes = commit_bytes(&effect);
            match effect {
                Effect::Log(change) => {
                    let entry = state::entry(&change);
                    match self.store.append_client_state(now, GROUPS_KEY, &entry) {
                        Ok(lsn) => self.group_log.end = lsn,
                        Err(AppendError::WalFull | AppendError::Poisoned) => {
                            self.group_log.held.push_front(Effect::Log(change));
                            return;
                        }
                        Err(error @ (AppendError::DiskFull | AppendError::TooLarge { .. })) => {
                            unreachable!("checked, and state is kept on a full disk: {error}")
                        }
                    }
                }
                Effect::EndDurably(request, outcome) => self.answer_durably(request, outcome),
                Effect::End(..) => unreachable!("it was carried out when it came"),
            }
            self.group_log.held_bytes -= bytes;
        }
    }

    fn answer_durably(&mut self, request: RequestId, outcome: Ended) {
        match self
            .waiters
            .wait(self.group_log.end, Promise::GroupAnswered)
        {
            None => self.group_log.answers.push_back((request, outcome)),
            Some(_) => self.complete(request, outcome.map(Outcome::Group)),
        }
    }

    /// The log is durable as far as the oldest answer promises.
    pub(super) fn answer_group(&mut self) {
        let answer = self.group_log.answers.pop_front();
        let (request, outcome) = answer.expect("one answer a promise");
        self.complete(request, outcome.map(Outcome::Group));
    }
}

/// Bytes of a commit; everything else is small, and bounded by the members that it is about.
fn commit_bytes(effect: &Effect) -> usize {
    match effect {
        Effect::Log(GroupChange::Committed { offsets, .. }) => {
            let offsets = offsets.iter();
            offsets.map(|(_, commit)| state::offset_bytes(commit)).sum()
        }
        _ => 0,
    }
}
