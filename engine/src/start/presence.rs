//! Whether all directories are there that should be, and no other's: a directory that went missing
//! looks like one that is new.
//!
//! A start begins shard 0 before any other, gives partitions to a shard only once its directory is
//! begun, and marks every directory as the broker's before it serves, shard 0's last. So these are
//! losses, and never what a crash leaves:
//! * shard 0 is blank, and another shard is not, or it is known that the broker ran before;
//! * partitions are at home in a shard whose directory is blank;
//! * they are, the directory is begun but nobody's, and shard 0's is marked.

use std::collections::{BTreeMap, BTreeSet};

use millrace_storage::disk::BlockingDisk;
use millrace_storage::units::{BrokerId, ShardId};
use millrace_storage::{LossRange, Store, Tenancy};

use super::{OpenError, ShardDirectory};
use crate::catalog::{Catalog, cluster_name};

/// What the directories are, before any is opened.
pub(super) struct Presence(BTreeMap<ShardId, Tenancy>);

impl Presence {
    /// Looks into every directory; refuses when shard 0 is lost, or brokers are mixed up. A
    /// broker of which it is `known` that it ran has marked every directory.
    pub(super) fn look(
        known: Option<BrokerId>,
        directories: &mut BTreeMap<ShardId, Box<BlockingDisk<'_>>>,
    ) -> Result<Self, OpenError> {
        let mut found = BTreeMap::new();
        for (shard, disk) in directories {
            found.insert(*shard, Store::look(&mut **disk, *shard)?);
        }
        let presence = Self(found);
        let is_new = presence.0.values().all(|one| *one == Tenancy::Blank);
        let is_lost = match presence.of(ShardId(0)) {
            Tenancy::Blank => !is_new || known.is_some(),
            Tenancy::Begun => known.is_some(),
            Tenancy::Owned(_) => false,
        };
        if is_lost {
            return Err(OpenError::Lost {
                shard: ShardId(0),
                partitions: 0,
            });
        }
        if let Some(owner) = known.or(presence.owner()) {
            presence.refuse_foreign(owner)?;
        }
        Ok(presence)
    }

    /// What shard 0's directory says of the broker's name.
    pub(super) fn owner(&self) -> Option<BrokerId> {
        match self.of(ShardId(0)) {
            Tenancy::Owned(owner) => Some(owner),
            Tenancy::Blank | Tenancy::Begun => None,
        }
    }

    /// Checks the other shards against the catalog, before they are opened. Returns those of which
    /// everything is lost and given up.
    pub(super) fn check(
        &self,
        catalog: &Catalog,
        accept_loss: &[(ShardId, LossRange)],
    ) -> Result<BTreeSet<ShardId>, OpenError> {
        self.refuse_foreign(catalog.broker_id().expect("shard 0 named it"))?;
        let mut given_up = BTreeSet::new();
        for (shard, partitions) in catalog.held() {
            if !self.is_lost(*shard) {
                continue;
            }
            let is_accepted = accept_loss.contains(&(*shard, LossRange::WHOLE));
            if !is_accepted || !self.0.contains_key(shard) {
                return Err(OpenError::Lost {
                    shard: *shard,
                    partitions: *partitions as usize,
                });
            }
            given_up.insert(*shard);
        }
        Ok(given_up)
    }

    /// Whether a shard that holds partitions has lost its directory.
    fn is_lost(&self, shard: ShardId) -> bool {
        match self.of(shard) {
            Tenancy::Blank => shard != ShardId(0),
            Tenancy::Begun => self.owner().is_some(),
            Tenancy::Owned(_) => false,
        }
    }

    fn of(&self, shard: ShardId) -> Tenancy {
        self.0.get(&shard).copied().unwrap_or(Tenancy::Blank)
    }

    fn refuse_foreign(&self, expected: BrokerId) -> Result<(), OpenError> {
        for (shard, tenancy) in &self.0 {
            if let Tenancy::Owned(found) = *tenancy
                && found != expected
            {
                return Err(OpenError::Foreign {
                    shard: *shard,
                    found: cluster_name(found),
                    expected: cluster_name(expected),
                });
            }
        }
        Ok(())
    }
}

/// The directories by shard.
pub(super) fn sorted(
    directories: Vec<ShardDirectory<'_>>,
) -> BTreeMap<ShardId, Box<BlockingDisk<'_>>> {
    let mut sorted = BTreeMap::new();
    for ShardDirectory { shard, disk } in directories {
        let before = sorted.insert(shard, disk);
        assert!(before.is_none(), "a shard has one directory");
    }
    sorted
}

/// What a lost directory means, and what to do.
pub(super) fn loss(shard: ShardId, partitions: usize) -> String {
    let LossRange { from, to } = LossRange::WHOLE;
    if shard == ShardId(0) {
        return "the directory shard-0 is missing or empty, and the data directory is not new: it \
             has the catalog, without which nobody can tell what the other shards hold. Mount it, \
             or restore it from a backup; nothing was changed. To give everything up, start with \
             another data directory"
            .to_owned();
    }
    format!(
        "the directory shard-{shard} is missing or empty, and {partitions} partitions are at home \
         there: mount it, or restore it from a backup; the files are left as they are. To start \
         without everything that it held: --accept-loss {shard}:{from}-{to}"
    )
}
