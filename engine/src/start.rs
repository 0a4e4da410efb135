//! Starting a broker's engine: every shard directory recovered, one catalog for all.
//!
//! Runs before anything listens, one operation at a time. When it returns, everything that the
//! shards will ever show is durable. The order matters:
//! 1. Every directory is looked at before any is changed, and opened only if all that should be
//!    there is ([`presence`]): those of shards that no longer run too. Shard 0 comes first, it has
//!    the catalog.
//! 2. Each shard goes past what an accepted loss may have taken. One of the catalog's own may have
//!    taken what says whose a log is: such a log is kept where it is ([`found_again`]).
//! 3. Partitions of shards that no longer run move to others ([`rehome`]). Until then no shard
//!    drops a log that the catalog does not give to it: it may be half of a move.
//! 4. Slots of groups go where their shard runs now, what the groups hold with them.
//! 5. Each shard keeps the logs and groups that are at home there, and serves.

mod found_again;
mod presence;
mod rehome;
mod topic_names;

use std::collections::BTreeMap;

use millrace_storage::disk::BlockingDisk;
use millrace_storage::error::{AppendError, StorageError};
use millrace_storage::units::{BrokerId, Lsn, Now, PartitionId, ShardId};
use millrace_storage::{LossRange, Store, StoreConfig};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use uuid::{Builder, Uuid};

use crate::catalog::change::{CatalogChange, Operation};
use crate::catalog::{Catalog, CatalogEpoch};
use crate::codec::CodecError;
use crate::group::state;
use crate::limits::EngineConfig;
use crate::partition::PartitionState;
use crate::shard::{Shard, ShardParts};
use crate::snapshot::{self, CATALOG_KEY, EPOCHS_KEY, GROUPS_KEY, Recovered};
use presence::Presence;
pub use topic_names::TopicNames;

/// What a broker's engine starts from.
#[derive(Clone, Debug)]
pub struct StartConfig {
    /// Shards to run; positive.
    pub shards: u16,
    /// The engine's limits and defaults.
    pub engine: EngineConfig,
    /// How each shard's store is set up; its shard, seed and accepted losses are set here.
    pub store: StoreConfig,
    /// The broker that the data directory is known to be of, whatever is left in it.
    pub owner: Option<BrokerId>,
    /// Damaged ranges that the operator gives up.
    pub accept_loss: Vec<(ShardId, LossRange)>,
    /// Fresh randomness at every start.
    pub seed: u64,
}

/// A shard's directory, and the way to its files until the shard runs.
pub struct ShardDirectory<'a> {
    /// Which shard.
    pub shard: ShardId,
    /// Performs its operations.
    pub disk: Box<BlockingDisk<'a>>,
}

/// Why a broker cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The log's business: each variant has its own exit code.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Acknowledged data is damaged: the refusal of the log, and whose data is at stake.
    #[error("{error} (topics with data in that range, as far as it can be read: {topics})")]
    Quarantine {
        /// The refusal.
        error: StorageError,
        /// The topics' names.
        topics: TopicNames,
    },
    /// The log is sound but says what this program cannot understand.
    #[error("shard {shard}: the stored state cannot be read: {error}")]
    State {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        error: CodecError,
    },
    /// A directory that the others need is not there, or there is nothing in it.
    #[error("{}", presence::loss(*shard, *partitions))]
    Lost {
        /// The shard.
        shard: ShardId,
        /// Partitions that are at home there; of shard 0, which has the catalog, that is not known.
        partitions: usize,
    },
    /// Directories of two brokers lie side by side.
    #[error(
        "shard {shard}: the directory belongs to the broker {found}, and the others to {expected}: \
         put the right one in its place. Nothing was changed"
    )]
    Foreign {
        /// The shard.
        shard: ShardId,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The log has no room for what a start must write.
    #[error("shard {shard}: no room for what a start must write: {error}")]
    NoRoom {
        /// The shard.
        shard: ShardId,
        /// Why.
        error: AppendError,
    },
}

/// A shard whose store is open and that does not serve yet.
struct Opened<'a> {
    shard: ShardId,
    store: Store,
    /// Largest entry that the log takes, bytes.
    entry_bytes_max: usize,
    disk: Box<BlockingDisk<'a>>,
    found: Recovered,
    /// Everything that the shard held was lost, and the operator gave it up.
    is_given_up: bool,
}

/// Opens every directory and returns the shards to run, in order. `directories` holds one for each
/// shard to run and one for each that ran before, in any order.
///
/// # Errors
/// See [`OpenError`]; nothing was lost, and a later start finds everything again.
pub fn open_all(
    config: &StartConfig,
    now: Now,
    directories: Vec<ShardDirectory<'_>>,
) -> Result<Vec<Shard>, OpenError> {
    assert!(config.shards > 0, "a broker has a shard");
    let mut random = Pcg64Mcg::seed_from_u64(config.seed);
    let (mut opened, mut catalog) = open_present(config, now, directories, &mut random)?;
    // What leaves a shard goes past that shard's losses first, what stays or comes to one past its
    // own: the loss may have taken what a partition got there after an earlier move.
    let leaves = |shard: &ShardId| shard.0 >= config.shards;
    for one in opened.values_mut() {
        one.skip_lost_generations(now)?;
    }
    for (_, one) in opened.iter_mut().filter(|(shard, _)| leaves(shard)) {
        one.skip_lost(now)?;
    }
    rehome::rehome(now, config.shards, &mut catalog, &mut opened)?;
    rehome::rehome_groups(now, config.shards, &mut catalog, &mut opened)?;
    for (_, one) in opened.iter_mut().filter(|(shard, _)| !leaves(shard)) {
        one.skip_lost(now)?;
    }
    for one in opened.values_mut() {
        one.retain(&catalog, now);
    }
    for one in opened.values() {
        for (partition, state) in &one.found.partitions {
            catalog.note_leader_epoch(*partition, state.epochs.current());
        }
    }
    let shards = (0..config.shards).map(|shard| {
        let one = opened.remove(&ShardId(shard));
        let one = one.expect("a directory for each shard to run");
        Shard::new(ShardParts {
            id: one.shard,
            shards: config.shards,
            config: config.engine.clone(),
            store: one.store,
            catalog: catalog.clone(),
            states: one.found.partitions,
            now,
            groups: one.found.groups,
            seed: random.next_u64(),
        })
    });
    Ok(shards.collect())
}

/// Steps 1 and 2: opens what should be there, by shard, and makes it the broker's.
fn open_present<'a>(
    config: &StartConfig,
    now: Now,
    directories: Vec<ShardDirectory<'a>>,
    random: &mut Pcg64Mcg,
) -> Result<(BTreeMap<ShardId, Opened<'a>>, Catalog), OpenError> {
    let mut directories = presence::sorted(directories);
    let presence = Presence::look(config.owner, &mut directories)?;
    let writer = directories.remove(&ShardId(0));
    let writer = writer.expect("every broker has a shard 0");
    let mut writer = Opened::open(config, now, (ShardId(0), writer), None, random.next_u64())?;
    let mut catalog = writer.open_catalog(now, config.shards, presence.owner(), random)?;
    let given_up = presence.check(&catalog, &config.accept_loss)?;
    let mut opened = BTreeMap::from([(ShardId(0), writer)]);
    for (shard, disk) in directories {
        let known = Some(&catalog);
        let mut one = Opened::open(config, now, (shard, disk), known, random.next_u64())?;
        one.is_given_up = given_up.contains(&shard);
        opened.insert(shard, one);
    }
    found_again::take_home(now, &mut catalog, &mut opened)?;
    let broker = catalog.broker_id().expect("shard 0 named it");
    // Shard 0 comes last: once it has an owner, all that hold anything have.
    for one in opened.values_mut().rev() {
        one.complete_states(now, &catalog)?;
        one.store.claim(&mut *one.disk, broker)?;
    }
    Ok((opened, catalog))
}

/// The log's refusal, with the names of what is at stake.
fn refusal(error: StorageError, catalog: &Catalog) -> OpenError {
    match &error {
        StorageError::Quarantine { intact, .. } => {
            let topics = TopicNames::of(&intact.partitions, catalog);
            OpenError::Quarantine { error, topics }
        }
        _ => OpenError::Storage(error),
    }
}

impl<'a> Opened<'a> {
    /// Opens one directory. `catalog` is what is known of shard 0's by now, for a refusal.
    fn open(
        config: &StartConfig,
        now: Now,
        (shard, mut disk): (ShardId, Box<BlockingDisk<'a>>),
        catalog: Option<&Catalog>,
        seed: u64,
    ) -> Result<Self, OpenError> {
        let accepted = config.accept_loss.iter();
        let accept_loss = accepted
            .filter(|(of, _)| *of == shard)
            .map(|(_, range)| *range);
        let store_config = StoreConfig {
            shard,
            accept_loss: accept_loss.collect(),
            seed,
            ..config.store.clone()
        };
        let mut found = Recovered::new(config.engine.limits.producers_max);
        let store = Store::open(store_config, now, &mut *disk, &mut |entry| {
            found.replay(entry);
        });
        // Shard 0's own catalog, as far as the log goes.
        let store = store.map_err(|error| refusal(error, catalog.unwrap_or(&found.catalog)))?;
        let found = found.finish();
        let found = found.map_err(|error| OpenError::State { shard, error })?;
        Ok(Self {
            shard,
            store,
            entry_bytes_max: config.store.batch_bytes_max,
            disk,
            found,
            is_given_up: false,
        })
    }

    /// Shard 0: the catalog, with what a first start or an accepted loss adds to it. If the loss
    /// took the broker's name, the directory's `owner` is it.
    fn open_catalog(
        &mut self,
        now: Now,
        shards: u16,
        owner: Option<BrokerId>,
        random: &mut Pcg64Mcg,
    ) -> Result<Catalog, OpenError> {
        let mut catalog = std::mem::take(&mut self.found.catalog);
        let mut operations = Vec::new();
        if catalog.broker_id().is_none() {
            let mut bytes = [0; 16];
            random.fill_bytes(&mut bytes);
            let new = Builder::from_random_bytes(bytes).into_uuid();
            let id = owner.map_or(new, |owner| Uuid::from_u128(owner.0));
            operations.push(Operation::ClusterNamed { id });
        }
        if catalog.group_homes().is_empty() {
            let homes = rehome::group_homes(shards);
            operations.push(Operation::GroupSlotsHomed { homes });
        }
        if self.found.lost_bytes > 0 {
            operations.extend(snapshot::skip_lost_ids(&catalog, self.found.lost_bytes));
        }
        if !operations.is_empty() {
            self.change_catalog(now, &mut catalog, operations)?;
        }
        Ok(catalog)
    }

    /// Shard 0: changes the catalog, durably.
    fn change_catalog(
        &mut self,
        now: Now,
        catalog: &mut Catalog,
        operations: Vec<Operation>,
    ) -> Result<(), OpenError> {
        assert_eq!(self.shard, ShardId(0), "shard 0 alone writes the catalog");
        let change = CatalogChange {
            epoch: CatalogEpoch(catalog.epoch().0 + 1),
            operations,
        };
        self.write_state(now, CATALOG_KEY, change.encode())?;
        catalog.apply(&change).expect("it follows the catalog");
        Ok(())
    }

    /// Gives every partition homed here a state.
    fn complete_states(&mut self, now: Now, catalog: &Catalog) -> Result<(), OpenError> {
        for partition in catalog.homed(self.shard) {
            let state = self.found.partitions.entry(partition);
            let state = state.or_insert_with(PartitionState::new);
            let log = self.store.log(partition);
            state.reach(log.map_or(state.next(), |log| log.end));
        }
        if self.is_given_up {
            let states = self.found.partitions.iter_mut();
            let states = states.map(|(id, state)| (*id, state));
            let epochs = snapshot::begin_again(now.wall_ms, states);
            self.write_state(now, EPOCHS_KEY, epochs)?;
        }
        Ok(())
    }

    /// Moves every partition that is here past what an accepted loss may have taken of it.
    fn skip_lost(&mut self, now: Now) -> Result<(), OpenError> {
        if self.found.lost_bytes == 0 {
            return Ok(());
        }
        let states = self.found.partitions.iter_mut();
        let states = states.map(|(id, state)| (*id, state));
        let epochs = snapshot::skip_lost(self.found.lost_bytes, states);
        self.write_state(now, EPOCHS_KEY, epochs)
    }

    /// Moves every group that is here past the generations that an accepted loss may have taken.
    /// Before [`Self::skip_lost`], which settles the loss.
    fn skip_lost_generations(&mut self, now: Now) -> Result<(), OpenError> {
        if self.found.lost_bytes == 0 {
            return Ok(());
        }
        for entry in state::skip_lost(self.found.lost_bytes, &mut self.found.groups) {
            self.write_state(now, GROUPS_KEY, entry)?;
        }
        Ok(())
    }

    /// Keeps the logs of partitions and the groups that are at home here, and nothing of others but
    /// the logs of which the catalog has lost whose they are.
    fn retain(&mut self, catalog: &Catalog, now: Now) {
        let shard = self.shard;
        let is_home = |partition: PartitionId| {
            let place = catalog.place(partition);
            place.is_some_and(|place| place.home == shard)
        };
        let mut is_kept = |partition| is_home(partition) || catalog.is_lost(partition);
        self.store.retain_logs(&mut is_kept);
        self.found.partitions.retain(|id, _| is_home(*id));
        found_again::report(shard, &self.store, catalog);
        let groups = &mut self.found.groups;
        groups.retain(|group, _| catalog.group_home(group) == shard);
        for state in groups.values_mut() {
            state.offsets.retain(|id| catalog.place(id).is_some());
            // Members that were there are not: their group is empty since now.
            state.empty_since_ms.get_or_insert(now.wall_ms);
        }
    }

    /// Appends a change of the engine's state, however large, and waits until it is durable.
    fn write_state(&mut self, now: Now, key: u64, bytes: Vec<u8>) -> Result<(), OpenError> {
        for (key, piece) in snapshot::in_pieces(key, bytes, self.entry_bytes_max) {
            let lsn = self.append_state(now, key, &piece)?;
            self.wait_durable(now, lsn)?;
        }
        Ok(())
    }

    fn append_state(&mut self, now: Now, key: u64, bytes: &[u8]) -> Result<Lsn, OpenError> {
        loop {
            match self.store.append_state(now, key, bytes) {
                Ok(lsn) => return Ok(lsn),
                // A file may be on its way; without anything to wait for there is none.
                Err(AppendError::WalFull) if self.run_disk(now) => {}
                Err(error) => {
                    let shard = self.shard;
                    return Err(OpenError::NoRoom { shard, error });
                }
            }
        }
    }

    fn wait_durable(&mut self, now: Now, lsn: Lsn) -> Result<(), OpenError> {
        while self.store.durable_lsn() < lsn {
            self.store.close_group(now);
            let progress = self.run_disk(now);
            // Events stay for the shard that will run: a settle pass that began here waits until
            // its wish for a snapshot is heard.
            if let Some(error) = self.store.is_poisoned() {
                let shard = self.shard;
                return Err(StorageError::Poisoned { shard, error }.into());
            }
            assert!(
                progress,
                "a group that is open or on its way has an operation"
            );
        }
        Ok(())
    }

    /// Performs one operation, if the store has one.
    fn run_disk(&mut self, now: Now) -> bool {
        let Some(op) = self.store.poll_disk() else {
            return false;
        };
        let done = (self.disk)(op);
        self.store.handle_disk(now, done);
        true
    }
}
