//! The manifest under power cuts: whatever its last edits were, each is there whole or not at all,
//! and every finished one is there.

use std::collections::BTreeMap;

use millrace_storage::disk::{BlockingDisk, DiskDone, DiskOp, DiskOutcome, DiskToken};
use millrace_storage::error::StorageError;
use millrace_storage::manifest::{ChainStart, Manifest, ManifestEdit};
use millrace_storage::testing::{Dice, Fault, Lasting, PlannedFault, SimDisk, Stream, Survival};
use millrace_storage::units::{Generation, LifeId, Offset, PartitionId, ShardId};

use crate::failure::{Checked, Failure, ensure};
use crate::seeds::each_seed;

const SHARD: ShardId = ShardId(0);
const PARTITIONS: u64 = 3;
const LIVES: u64 = 6;
/// Small, so that rewrites happen.
const ROOM_BYTES: u64 = 32 << 10;

#[test]
fn the_manifest_survives_a_power_cut_at_any_io() {
    each_seed("manifest", 300, |seed| {
        let mut dice = Dice::new(seed, Stream::Schedule);
        let mut disk = SimDisk::new(seed);
        let mut edits = Edits::default();
        for life in 0..LIVES {
            let fails = dice.one_in(3).then_some(Fault::SyncInVain);
            stop_somewhere(&mut disk, &mut dice, fails);
            let stopped = edits.live(&mut disk, &mut dice);
            ensure!(
                life > 0 || stopped.is_ok() || disk_failed(&disk),
                "{stopped:?}"
            );
            let survivals = [Survival::Nothing, Survival::Everything, Survival::Random];
            for survival in survivals {
                let mut left = disk.after_power_cut(survival, dice.bits());
                edits.clone().reopen(&mut left)?;
            }
            disk = disk.after_power_cut(*dice.pick(&survivals), dice.bits());
            edits.reopen(&mut disk)?;
        }
        Ok(())
    });
}

fn disk_failed(disk: &SimDisk) -> bool {
    disk.is_off() || disk.fault_counts().reported > 0
}

/// Stops the machine at some operation to come, or lets one fail.
fn stop_somewhere(disk: &mut SimDisk, dice: &mut Dice, fault: Option<Fault>) {
    let op = disk.ops_started() + dice.between(1, 30);
    match fault {
        None => disk.power_off_at(op),
        Some(fault) => disk.plan(PlannedFault {
            op,
            fault,
            lasting: Lasting::Once,
        }),
    }
}

/// Edits that were submitted, in order: number n moves the start of partition n % 3 to n.
#[derive(Clone, Debug, Default)]
struct Edits {
    submitted: u64,
    /// The first so many are durable for certain. The others are one change, whole or not there.
    finished: u64,
    /// The manifest was there for certain: created, or found.
    created: bool,
}

impl Edits {
    /// Opens or creates the manifest and edits it until the disk stops or fails.
    fn live(&mut self, disk: &mut SimDisk, dice: &mut Dice) -> Result<(), StorageError> {
        let mut disk = disk.blocking(SHARD);
        let Some(mut manifest) = open(&mut *disk)? else {
            let chain_start = ChainStart {
                slot: 0,
                life: LifeId(1),
                generation: Generation(7),
            };
            Manifest::create(&mut *disk, SHARD, chain_start, ROOM_BYTES)?;
            self.created = true;
            return Ok(());
        };
        for _ in 0..dice.between(1, 12) {
            let count = dice.between(1, 3);
            let edits = (self.submitted..self.submitted + count).map(|number| {
                let partition = PartitionId((number % PARTITIONS) as u32);
                ManifestEdit::LogStarts(vec![(partition, Offset(number + 1))])
            });
            let edits = edits.collect();
            self.submitted += count;
            manifest.commit_blocking(&mut *disk, edits)?;
            self.finished = self.submitted;
        }
        Ok(())
    }

    /// Opens the manifest after a stop and compares.
    fn reopen(&mut self, disk: &mut SimDisk) -> Checked<()> {
        let opened = open(&mut *disk.blocking(SHARD));
        let opened = opened.map_err(|error| Failure(format!("{error}\n{}", disk.trace())))?;
        let Some(manifest) = opened else {
            ensure!(!self.created, "the manifest is gone\n{}", disk.trace());
            self.submitted = 0;
            return Ok(());
        };
        let found = &manifest.state().log_starts;
        let last = found.values().map(|offset| offset.0).max().unwrap_or(0);
        ensure!(
            last == self.finished || last == self.submitted,
            "{last} edits came back of {}, {} were finished, and each change is whole\n{}",
            self.submitted,
            self.finished,
            disk.trace()
        );
        let expected: BTreeMap<_, _> = (0..last)
            .map(|number| {
                (
                    PartitionId((number % PARTITIONS) as u32),
                    Offset(number + 1),
                )
            })
            .collect();
        ensure!(
            *found == expected,
            "{found:?} came back instead of {expected:?}"
        );
        *self = Self {
            submitted: last,
            finished: last,
            created: true,
        };
        Ok(())
    }
}

fn open(disk: &mut BlockingDisk<'_>) -> Result<Option<Manifest>, StorageError> {
    let token = DiskToken(0);
    let DiskDone { result, .. } = disk(DiskOp::List { token });
    let listing = match result {
        Ok(DiskOutcome::Listed(listing)) => listing,
        Ok(other) => unreachable!("a listing came back as {other:?}"),
        Err(error) => {
            return Err(StorageError::Io {
                shard: SHARD,
                file: "directory".to_owned(),
                error,
            });
        }
    };
    let found = Manifest::read(disk, SHARD, &listing, ROOM_BYTES)?;
    found.map(|found| found.secure(disk)).transpose()
}
