//! Moving partitions away from shards that no longer run.
//!
//! Homes are data: a start with fewer cores gives the partitions of the shards above them to those
//! that have the fewest. No record is copied; the store links its packs. The order is the crash
//! story, and a start that is killed anywhere in it is followed by one that does it all again:
//! 1. The source settles everything: all that its partitions have lies in packs.
//! 2. Each target links and adopts the packs, and notes the partitions' states in its log. Both
//!    have the partitions now; the catalog still says the source. Again, this changes nothing.
//! 3. The catalog's change of homes becomes durable. From here on the targets have them.
//! 4. The source forgets them. If it does not get to it, its next start does.

use std::collections::BTreeMap;

use millrace_storage::units::{LeaderEpoch, Now, PartitionId, ShardId};

use super::{OpenError, Opened};
use crate::catalog::change::Operation;
use crate::catalog::{Catalog, PartitionHome};
use crate::group::state::{GroupStates, move_entries};
use crate::group::{GROUP_SLOTS, slot_of};
use crate::placement::homes_for_new;
use crate::snapshot::{self, GROUPS_KEY, PRODUCERS_MOVED_MAX, STATES_KEY};

/// Moves what lives on shards from `shards` up to those below.
pub(super) fn rehome(
    now: Now,
    shards: u16,
    catalog: &mut Catalog,
    opened: &mut BTreeMap<ShardId, Opened<'_>>,
) -> Result<(), OpenError> {
    let gone: Vec<ShardId> = opened.keys().copied().filter(|id| id.0 >= shards).collect();
    for source in gone {
        let moves = plan(catalog, source, shards);
        if moves.is_empty() {
            continue;
        }
        let count: usize = moves.values().map(Vec::len).sum();
        tracing::info!(shard = source.0, count, "moving partitions to other shards");
        let mut from = opened.remove(&source).expect("listed above");
        let moved = move_out(now, &mut from, &moves, catalog, opened);
        opened.insert(source, from);
        moved?;
    }
    Ok(())
}

/// Which shard gets which of the source's partitions. The same catalog gives the same plan, so a
/// second attempt finds what the first one did.
fn plan(catalog: &Catalog, source: ShardId, shards: u16) -> BTreeMap<ShardId, Vec<PartitionId>> {
    let mut partitions: Vec<PartitionId> = catalog.homed(source).collect();
    partitions.sort_unstable();
    let count = u32::try_from(partitions.len()).expect("partition ids are 32 bits");
    let homes = homes_for_new(catalog.held(), shards, count);
    let mut moves: BTreeMap<ShardId, Vec<PartitionId>> = BTreeMap::new();
    for (partition, home) in partitions.into_iter().zip(homes) {
        moves.entry(home).or_default().push(partition);
    }
    moves
}

/// Where the slots of groups belong with `shards` shards: evenly over all.
pub(super) fn group_homes(shards: u16) -> Vec<ShardId> {
    (0..GROUP_SLOTS)
        .map(|slot| ShardId(slot % shards))
        .collect()
}

/// Moves slots of groups to where they belong. The targets have them durably before the catalog
/// says so; a start that is killed before that moves them again, one after it drops them at the
/// source.
pub(super) fn rehome_groups(
    now: Now,
    shards: u16,
    catalog: &mut Catalog,
    opened: &mut BTreeMap<ShardId, Opened<'_>>,
) -> Result<(), OpenError> {
    let homes = group_homes(shards);
    let mut moves: BTreeMap<(ShardId, ShardId), Vec<u16>> = BTreeMap::new();
    for ((slot, from), to) in (0..).zip(catalog.group_homes()).zip(&homes) {
        if from != to {
            moves.entry((*from, *to)).or_default().push(slot);
        }
    }
    if moves.is_empty() {
        return Ok(());
    }
    for ((from, to), slots) in moves {
        // A shard whose directory is gone, and everything with it, has no groups to give.
        let source = opened.get_mut(&from);
        let source = source.map(|source| std::mem::take(&mut source.found.groups));
        let (moving, staying) = source
            .unwrap_or_default()
            .into_iter()
            .partition(|(group, _)| slots.contains(&slot_of(group)));
        let moving: GroupStates = moving;
        if let Some(source) = opened.get_mut(&from) {
            source.found.groups = staying;
        }
        let target = opened.get_mut(&to).expect("a shard that runs");
        let here = &mut target.found.groups;
        here.retain(|group, _| !slots.contains(&slot_of(group)));
        for entry in move_entries(slots, moving.iter()) {
            target.write_state(now, GROUPS_KEY, entry)?;
        }
        target.found.groups.extend(moving);
    }
    let writer = opened.get_mut(&ShardId(0)).expect("shard 0 always runs");
    let homed = vec![Operation::GroupSlotsHomed { homes }];
    writer.change_catalog(now, catalog, homed)
}

fn move_out(
    now: Now,
    source: &mut Opened<'_>,
    moves: &BTreeMap<ShardId, Vec<PartitionId>>,
    catalog: &mut Catalog,
    opened: &mut BTreeMap<ShardId, Opened<'_>>,
) -> Result<(), OpenError> {
    source.settle_everything(now)?;
    for (target, partitions) in moves {
        let target = opened.get_mut(target).expect("a shard that runs");
        source.move_to(now, target, partitions)?;
    }
    let homes = moves.iter().flat_map(|(home, partitions)| {
        partitions.iter().map(|partition| PartitionHome {
            id: *partition,
            home: *home,
            leader_epoch: LeaderEpoch(0), // Not part of a change.
        })
    });
    let moved = vec![Operation::PartitionsMoved {
        homes: homes.collect(),
    }];
    let writer = opened.get_mut(&ShardId(0)).expect("shard 0 always runs");
    writer.change_catalog(now, catalog, moved)?;
    let partitions: Vec<PartitionId> = moves.values().flatten().copied().collect();
    source
        .store
        .release(now, &mut *source.disk, &partitions)
        .map_err(OpenError::Storage)
}

impl Opened<'_> {
    /// Brings everything in the log into packs.
    fn settle_everything(&mut self, now: Now) -> Result<(), OpenError> {
        let (states, groups) = (&self.found.partitions, &self.found.groups);
        let mut state = || {
            let partitions = states.iter().map(|(id, state)| (*id, state));
            snapshot::encode(None, None, partitions, groups.iter())
        };
        self.store
            .settle_everything(now, &mut *self.disk, &mut state)
            .map_err(OpenError::Storage)
    }

    /// Gives partitions to `target`, which has them durably on return. Here they stay as well.
    fn move_to(
        &mut self,
        now: Now,
        target: &mut Opened<'_>,
        partitions: &[PartitionId],
    ) -> Result<(), OpenError> {
        let offer = self.store.export(&mut *self.disk, partitions)?;
        target.store.adopt(&mut *target.disk, &offer)?;
        for id in partitions {
            let state = self.found.partitions.get_mut(id);
            let state = state.expect("every partition has a state");
            state.producers.keep_last_used(PRODUCERS_MOVED_MAX);
        }
        let state_of = |id: &PartitionId| &self.found.partitions[id];
        let states = partitions.iter().map(|id| (*id, state_of(id)));
        for entry in snapshot::encode_states(states) {
            target.write_state(now, STATES_KEY, entry)?;
        }
        for id in partitions {
            let state = self.found.partitions.remove(id);
            let state = state.expect("every partition has a state");
            target.found.partitions.insert(*id, state);
        }
        Ok(())
    }
}
