//! One case: everything that a seed decides about a run.

use millrace_storage::config::{CommitBackend, SeededBug, StoreConfig};
use millrace_storage::error::StorageError;
use millrace_storage::testing::{Dice, SimDisk, Stream};
use millrace_storage::units::{BootTime, Now};

use crate::batches::WALL_MS_START;
use crate::failure::{Checked, Failure};
use crate::machine::{Machine, SHARD};
use crate::oracle::Oracle;
use crate::workload::Workload;

/// Both ways of making a group durable: everything must hold over each.
pub(crate) const BACKENDS: [CommitBackend; 2] =
    [CommitBackend::Dsync, CommitBackend::LinkedFdatasync];

/// A case drawn from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) config: StoreConfig,
    pub(crate) workload: Workload,
    pub(crate) partitions: u32,
}

impl Setup {
    pub(crate) fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, Stream::Config);
        let config = StoreConfig {
            shard: SHARD,
            wal_file_bytes: *dice.pick(&[64 << 10, 96 << 10, 160 << 10]),
            wal_files: u32::try_from(dice.between(3, 6)).expect("few files"),
            commit_buffer_bytes: *dice.pick(&[4 << 10, 8 << 10, 16 << 10, 48 << 10]),
            groups_in_flight_max: dice.between(1, 4) as usize,
            commit_queue_bytes_max: 128 << 10,
            backend: *dice.pick(&BACKENDS),
            batch_bytes_max: 42 << 10,
            tail_cache_bytes: *dice.pick(&[0, 16 << 10, 1 << 20]),
            unsettled_cache_bytes: *dice.pick(&[0, 64 << 10, 1 << 20]),
            read_cache_bytes: *dice.pick(&[64 << 10, 256 << 10]),
            segment_bytes_min: *dice.pick(&[20 << 10, 40 << 10, 1 << 20]),
            settle_files_max: dice.between(1, 2) as usize,
            settle_after_ms: *dice.pick(&[1_000, 5_000]),
            manifest_bytes_max: *dice.pick(&[32 << 10, 64 << 10]),
            ..StoreConfig::default()
        };
        Self {
            seed,
            config,
            workload: Workload::draw(dice),
            partitions: dice.between(1, 5) as u32,
        }
    }

    /// The same case over another backend and with a planted bug.
    pub(crate) fn with(mut self, backend: CommitBackend, bug: Option<SeededBug>) -> Self {
        self.config.backend = backend;
        self.config.seeded_bug = bug;
        self
    }

    pub(crate) fn dice(&self, concern: Stream) -> Dice {
        Dice::new(self.seed, concern)
    }

    /// When the first machine starts.
    pub(crate) fn first_now(&self) -> Now {
        Now {
            boot: BootTime(1_000_000_000),
            wall_ms: WALL_MS_START,
        }
    }

    /// A machine started on an empty disk.
    pub(crate) fn first_machine(&self) -> Checked<Machine> {
        match self.start(SimDisk::new(self.seed), Oracle::default(), self.first_now())? {
            Ok(machine) => Ok(machine),
            Err((_, error)) => Err(Failure(format!("an empty disk is refused: {error}"))),
        }
    }

    /// A machine started on `disk`, with a generation seed of its own.
    pub(crate) fn start(
        &self,
        disk: SimDisk,
        oracle: Oracle,
        now: Now,
    ) -> Checked<Result<Machine, (SimDisk, StorageError)>> {
        let mut config = self.config.clone();
        let life = oracle.lives();
        config.seed = Dice::new(self.seed ^ life << 32, Stream::Product).bits();
        Machine::start(disk, oracle, config, self.partitions, now)
    }
}
