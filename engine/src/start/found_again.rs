//! Logs that the catalog does not account for any more, because changes of it are lost.
//!
//! An accepted loss in shard 0's log may take the change that made a partition, or the one that
//! moved it. The other shards are undamaged: what they hold must not be deleted on the word of a
//! catalog that is known to be incomplete.
//! * A partition whose move is lost is at home where its log is: the catalog is told so again.
//! * A partition whose creation is lost has neither name nor topic. Its log stays, at this start
//!   and all later ones, and is named in the broker's log; its id is never given again.

use std::collections::BTreeMap;

use millrace_storage::Store;
use millrace_storage::units::{LeaderEpoch, Now, Offset, PartitionId, ShardId};

use super::{OpenError, Opened};
use crate::catalog::change::Operation;
use crate::catalog::{Catalog, PartitionHome};

/// Homes partitions where their logs are, if the catalog lost anything and they are not where it
/// says.
pub(super) fn take_home(
    now: Now,
    catalog: &mut Catalog,
    opened: &mut BTreeMap<ShardId, Opened<'_>>,
) -> Result<(), OpenError> {
    if opened[&ShardId(0)].found.lost_bytes == 0 {
        return Ok(());
    }
    let mut moved: BTreeMap<PartitionId, PartitionHome> = BTreeMap::new();
    for (shard, one) in &*opened {
        for id in one.store.held_logs() {
            let log = one.store.log(id);
            if log.is_some_and(|log| log.end == Offset(0)) {
                continue; // Nothing would be lost with it.
            }
            let home = catalog.place(id).map(|place| place.home);
            if home.is_some_and(|home| home != *shard && !holds(opened, home, id)) {
                let home = PartitionHome {
                    id,
                    home: *shard,
                    leader_epoch: LeaderEpoch(0), // Not part of a change.
                };
                moved.insert(id, home);
            }
        }
    }
    if moved.is_empty() {
        return Ok(());
    }
    for PartitionHome { id, home, .. } in moved.values() {
        tracing::warn!(partition = %id, shard = %home, "its move was lost: it is where its log is");
    }
    let homes = moved.into_values().collect();
    let operations = vec![Operation::PartitionsMoved { homes }];
    let writer = opened.get_mut(&ShardId(0)).expect("shard 0 is opened");
    writer.change_catalog(now, catalog, operations)
}

fn holds(opened: &BTreeMap<ShardId, Opened<'_>>, shard: ShardId, partition: PartitionId) -> bool {
    let one = opened.get(&shard);
    one.is_some_and(|one| one.store.log(partition).is_some())
}

/// Tells the operator of logs that are kept although nobody can reach them.
pub(super) fn report(shard: ShardId, store: &Store, catalog: &Catalog) {
    for partition in store.held_logs() {
        if catalog.is_lost(partition)
            && let Some(log) = store.log(partition)
        {
            tracing::warn!(
                %shard,
                %partition,
                start = %log.start,
                end = %log.end,
                bytes = log.bytes,
                "a log is kept although its topic is lost with a range that was given up"
            );
        }
    }
}
