//! How far a group came: committing, telling and forgetting offsets.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_storage::units::PartitionId;

use super::members::{Group, Phase};
use super::request::{CommitOffsets, CommittedOffset, GroupRefusal, Membership, NewOffset};
use super::state::{self, GroupChange};
use super::{GroupAnswer, Turn};
use crate::catalog::Catalog;
use crate::command::RequestId;
use crate::event::Refusal;
use crate::limits::SeededBug;

/// What members speak that are consumers: only of these can be told which topics they read.
const CONSUMERS: &str = "consumer";
/// Partitions in one entry of forgotten offsets: it fits the smallest bound of an entry.
const FORGOTTEN_MAX: usize = 4_096;

impl Group {
    /// Remembers offsets, of those that may commit.
    pub(super) fn commit(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        commit: CommitOffsets,
        catalog: &Catalog,
    ) {
        if let Err(refusal) = self.check_committer(turn, &commit.membership) {
            return turn.refuse(request, refusal);
        }
        let max = turn.settings.offset_metadata_bytes_max;
        let mut results: Vec<Result<(), Refusal>> = Vec::with_capacity(commit.offsets.len());
        let mut offsets = Vec::with_capacity(commit.offsets.len());
        for (partition, offset) in commit.offsets {
            if is_gone(catalog, partition) {
                results.push(Err(Refusal::UnknownPartition));
            } else if offset.metadata.len() > max {
                let refusal = GroupRefusal::OffsetMetadataTooLarge { max };
                results.push(Err(Refusal::Group(refusal)));
            } else {
                results.push(Ok(()));
                offsets.push((partition, offset));
            }
        }
        if let Err(refusal) = check_size(turn, &offsets) {
            return turn.refuse(request, refusal);
        }
        if !offsets.is_empty() {
            self.remember(turn, offsets, commit.retention_ms);
        }
        let answer = GroupAnswer::OffsetsCommitted(results);
        if turn.settings.bug(SeededBug::CommitBeforeDurable) {
            return turn.end(request, answer);
        }
        turn.end_durably(request, answer);
    }

    fn remember(
        &mut self,
        turn: &mut Turn<'_>,
        offsets: Vec<(PartitionId, NewOffset)>,
        retention_ms: Option<u64>,
    ) {
        let committed_ms = turn.now.wall_ms;
        let expires_ms = retention_ms.map(|ms| after_ms(committed_ms, ms));
        self.state.commit(&offsets, committed_ms, expires_ms);
        turn.log(GroupChange::Committed {
            group: Arc::clone(turn.name),
            committed_ms,
            expires_ms,
            offsets,
        });
    }

    /// Members commit in their generation; others only while there are no members.
    fn check_committer(
        &mut self,
        turn: &Turn<'_>,
        claimed: &Membership,
    ) -> Result<(), GroupRefusal> {
        if claimed.generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if turn.settings.bug(SeededBug::CommitOfAnyGeneration) {
            self.check_member(&claimed.member, claimed.instance.as_deref())?;
        } else {
            self.check_membership(claimed)?;
        }
        match self.phase {
            // Kafka's rule: it got its generation but not its share, so it cannot have read.
            Phase::Completing => Err(GroupRefusal::Rebalancing),
            Phase::Empty => Err(GroupRefusal::UnknownMember),
            // While the group rebalances members may still save what they did.
            Phase::Preparing(_) | Phase::Stable => {
                self.members
                    .change(&claimed.member, |member| member.renew(turn));
                Ok(())
            }
        }
    }

    /// Tells offsets: those of partitions asked for, or all.
    pub(super) fn fetch_offsets(
        &self,
        turn: &mut Turn<'_>,
        request: RequestId,
        wanted: Option<Vec<PartitionId>>,
    ) {
        let offsets = &self.state.offsets;
        let found = match wanted {
            Some(wanted) => {
                let wanted = wanted.into_iter();
                let found = wanted.map(|partition| (partition, offsets.get(&partition).cloned()));
                found.collect()
            }
            None => {
                let all = offsets.iter();
                let all = all.map(|(partition, found)| (*partition, Some(found.clone())));
                all.collect()
            }
        };
        turn.end_durably(request, GroupAnswer::Offsets(found));
    }

    /// Forgets offsets of topics that no member reads.
    pub(super) fn delete_offsets(
        &mut self,
        turn: &mut Turn<'_>,
        request: RequestId,
        partitions: Vec<PartitionId>,
        catalog: &Catalog,
    ) {
        let is_empty = self.phase == Phase::Empty;
        if !is_empty && self.state.protocol_type.as_deref() != Some(CONSUMERS) {
            return turn.refuse(request, GroupRefusal::NotEmpty);
        }
        let mut forgotten = Vec::new();
        let read = self.are_read(&partitions, catalog);
        let results = partitions
            .into_iter()
            .zip(read)
            .map(|(partition, is_read)| {
                if is_read {
                    return Err(GroupRefusal::Subscribed);
                }
                if self.state.offsets.contains_key(&partition) {
                    forgotten.push(partition);
                }
                Ok(())
            });
        let results = results.collect();
        self.forget_offsets(turn, forgotten);
        turn.end_durably(request, GroupAnswer::OffsetsDeleted(results));
    }

    fn forget_offsets(&mut self, turn: &mut Turn<'_>, partitions: Vec<PartitionId>) {
        for partition in &partitions {
            self.state.offsets.remove(*partition);
        }
        for partitions in partitions.chunks(FORGOTTEN_MAX) {
            turn.log(GroupChange::OffsetsForgotten {
                group: Arc::clone(turn.name),
                partitions: partitions.to_vec(),
            });
        }
    }

    /// Forgets offsets that are out of their time: those of a group without members, counted from
    /// when the last one went; and those of topics that no member reads any more.
    pub(super) fn expire_offsets(&mut self, turn: &mut Turn<'_>, catalog: &Catalog) {
        let is_consumers = self.state.protocol_type.as_deref() == Some(CONSUMERS);
        let is_stable = self.phase == Phase::Stable && is_consumers;
        if self.phase != Phase::Empty && !is_stable {
            return;
        }
        let empty_since_ms = match self.state.protocol_type {
            Some(_) => self.state.empty_since_ms.unwrap_or(i64::MIN),
            // Nobody ever joined: each offset counts from its commit.
            None => i64::MIN,
        };
        let retention_ms = turn.settings.offsets_retention_ms;
        let is_over = |found: &CommittedOffset| {
            let since_ms = found.committed_ms.max(empty_since_ms);
            let ends_ms = match (found.expires_ms, retention_ms) {
                (Some(ends_ms), _) => ends_ms,
                (None, Some(retention_ms)) => after_ms(since_ms, retention_ms),
                (None, None) => return false,
            };
            ends_ms <= turn.now.wall_ms
        };
        let offsets = self.state.offsets.iter();
        let over = offsets.filter(|(_, found)| is_over(found));
        let mut over: Vec<PartitionId> = over.map(|(partition, _)| *partition).collect();
        let mut read = self.are_read(&over, catalog).into_iter();
        over.retain(|_| read.next() == Some(false));
        self.forget_offsets(turn, over);
    }

    /// Of each partition, whether members read its topic; if only they know, they do.
    fn are_read(&self, partitions: &[PartitionId], catalog: &Catalog) -> Vec<bool> {
        let topic = |id: &PartitionId| catalog.place(*id).map(|place| &*place.topic);
        let mut unread: BTreeSet<&str> = partitions.iter().filter_map(topic).collect();
        if self.phase != Phase::Empty {
            unread = self.unread(unread);
        }
        let is_read = |id| topic(id).is_some_and(|topic| !unread.contains(topic));
        partitions.iter().map(is_read).collect()
    }
}

/// Whether a partition was deleted. One that this copy of the catalog does not have yet was not.
fn is_gone(catalog: &Catalog, partition: PartitionId) -> bool {
    catalog.place(partition).is_none() && partition < catalog.next_partition()
}

/// Refuses a commit that no entry of the log can hold.
fn check_size(turn: &Turn<'_>, offsets: &[(PartitionId, NewOffset)]) -> Result<(), GroupRefusal> {
    /// Everything in an entry but the group's name and its offsets.
    const AROUND_BYTES: usize = 64;
    let bytes = offsets
        .iter()
        .map(|(_, offset)| state::offset_bytes(offset));
    let bytes = bytes.sum::<usize>() + turn.name.len() + AROUND_BYTES;
    let max = turn.settings.entry_bytes_max;
    if bytes > max {
        return Err(GroupRefusal::CommitTooLarge { bytes, max });
    }
    Ok(())
}

fn after_ms(time_ms: i64, ms: u64) -> i64 {
    time_ms.saturating_add_unsigned(ms)
}
