//! Whole workers when something lies: a rotten medium is never served, and a wake-up that is lost
//! is found.

use millrace_engine::start::OpenError;
use millrace_storage::error::StorageError;
use millrace_storage::testing::{FaultRates, Survival};

use crate::failure::{Checked, Failure, catching, ensure};
use crate::questions::{Damage, drain};
use crate::seeds::each_seed;
use crate::world::World;
use crate::world_runs::Run;

/// Seeds tried before a lost wake-up counts as overlooked.
const SEEDS_MAX: u64 = 20;
/// Steps on a sound disk, and on a rotten one.
const STEPS: u64 = 1_500;

#[test]
fn rot_under_whole_workers_is_never_served() {
    let mut total = Rotten::default();
    let seeds = each_seed("rot", 40, |seed| {
        let rotten = rot(Run::draw(seed))?;
        total.bits += rotten.bits;
        total.refused += rotten.refused;
        total.served += rotten.served;
        Ok(())
    });
    println!("{total:?} over {seeds} seeds");
    if seeds > 1 {
        let worth = total.bits > seeds && total.refused > 0 && total.served > 0;
        assert!(worth, "too little rotted: {total:?}");
    }
}

/// What became of a medium with rotten bits.
#[derive(Clone, Copy, Debug, Default)]
struct Rotten {
    bits: u64,
    /// Starts that named the damage.
    refused: u64,
    /// Starts that served all they could.
    served: u64,
}

/// Bits rot as they are read, by clients, by settling and by the next start.
fn rot(mut run: Run) -> Checked<Rotten> {
    let shards = 2;
    let mut world = run.start(run.first_remains(), shards)?;
    run.create_topic(&mut world)?;
    work(&mut world)?;
    world.disk.set_fault_rates(FaultRates {
        bit_rot_one_in: 6,
        read_error_one_in: 12,
        ..FaultRates::default()
    });
    work(&mut world)?;
    let mut rotten = Rotten {
        bits: world.disk.fault_counts().silent,
        ..Rotten::default()
    };
    let mut remains = world.stop();
    remains.disk = remains.disk.after_power_cut(Survival::Everything, 1);
    match run.try_start(remains, shards) {
        Err(refused) => {
            let (OpenError::Storage(StorageError::Corrupt { .. }) | OpenError::Quarantine { .. }) =
                refused.1
            else {
                return Err(Failure(format!(
                    "refused for another reason: {}",
                    refused.1
                )));
            };
            rotten.refused += 1;
        }
        Ok(mut world) => {
            for partition in 0..run.partitions {
                let log = drain(&mut world, partition, Damage::Honest)?;
                world.history.check_values(partition, &log)?;
            }
            rotten.served += 1;
        }
    }
    Ok(rotten)
}

fn work(world: &mut World) -> Checked<()> {
    for _ in 0..STEPS {
        if world.is_poisoned() {
            break;
        }
        world.step()?;
    }
    Ok(())
}

#[test]
fn a_lost_wake_up_is_found() {
    let found = (1..=SEEDS_MAX).find_map(|seed| catching(|| lose_wake_ups(seed)).err());
    let failure = found.expect("no run noticed that wake-ups are lost");
    assert!(failure.0.contains("nobody woke it"), "{failure}");
}

fn lose_wake_ups(seed: u64) -> Checked<()> {
    let mut run = Run::draw(seed);
    let mut world = run.start(run.first_remains(), 2)?;
    world.wake_lost_one_in = 4;
    run.create_topic(&mut world)?;
    work(&mut world)?;
    ensure!(!world.is_poisoned(), "the disk is sound");
    Ok(())
}
