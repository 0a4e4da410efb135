//! A whole machine stops after the n-th disk operation of a short run, for every n.

use millrace_storage::config::{CommitBackend, SeededBug};
use millrace_storage::testing::Survival;

use crate::failure::{Checked, Failure, catching, ensure};
use crate::seeds::each_seed;
use crate::setup::BACKENDS;
use crate::world_runs::{LAST_STEPS_MAX, Run};

/// Operations of one run at most: a stop after each.
const OPS_MAX: u64 = 150;
/// Operations of one run at least, or there is too little to stop in.
const OPS_MIN: u64 = 40;
/// Seeds tried before a planted bug counts as overlooked.
const SEEDS_MAX: u64 = 5;

#[test]
fn a_stop_after_any_disk_op_of_whole_workers_loses_nothing() {
    each_seed("world stops", 1, |seed| {
        for backend in BACKENDS {
            let stops = stop_after_every_op(seed, backend, None)?;
            ensure!(stops >= OPS_MIN, "{backend:?}: only {stops} operations");
        }
        Ok(())
    });
}

#[test]
fn an_acknowledgement_before_the_sync_is_found_over_both_backends() {
    for backend in BACKENDS {
        let bug = Some(SeededBug::AckBeforeSync);
        let mut seeds = 1..=SEEDS_MAX;
        let found = seeds.any(|seed| catching(|| stop_after_every_op(seed, backend, bug)).is_err());
        assert!(found, "{backend:?}: overlooked in {SEEDS_MAX} seeds");
    }
}

/// Runs the case once for each of its operations. Returns how many there were.
fn stop_after_every_op(seed: u64, backend: CommitBackend, bug: Option<SeededBug>) -> Checked<u64> {
    for op in 0..OPS_MAX {
        let mut run = Run::draw(seed);
        run.sends = (12, 20);
        run.deletions = 1;
        run.store.backend = backend;
        run.store.seeded_bug = bug;
        let context = |failure| {
            Failure(format!(
                "{backend:?}, a stop after operation {op}: {failure}"
            ))
        };
        if !stop_after(run, op).map_err(context)? {
            return Ok(op);
        }
    }
    Ok(OPS_MAX)
}

/// Stops a machine after so many operations, and looks at what the next one makes of it. False if
/// it had everything done before.
fn stop_after(mut run: Run, op: u64) -> Checked<bool> {
    let mut world = run.start(run.first_remains(), 2)?;
    run.create_topic(&mut world)?;
    let at = world.disk.ops_started() + op;
    world.disk.power_off_at(at);
    for _ in 0..LAST_STEPS_MAX {
        if world.disk.is_off() || world.is_done() {
            break;
        }
        world.step()?;
    }
    if !world.disk.is_off() {
        ensure!(world.is_done(), "clients still wait: {}", world.waiting());
        return Ok(false);
    }
    let mut remains = world.stop();
    let survivals = [
        Survival::Nothing,
        Survival::Everything,
        Survival::Random,
        Survival::Prefix,
    ];
    let way = usize::try_from(op).expect("few") % (survivals.len() + 1);
    remains.disk = match survivals.get(way) {
        Some(survival) => remains.disk.after_power_cut(*survival, op),
        None => remains.disk.after_kill(op),
    };
    let mut world = run.start(remains, if op % 7 == 6 { 1 } else { 2 })?;
    run.finish(&mut world)?;
    Ok(true)
}
