//! Power cuts: after every I/O, in every way, and again during the recovery from the last one.

use millrace_storage::disk::{DiskOp, FileName, WriteSync};
use millrace_storage::error::StorageError;
use millrace_storage::testing::{Dice, SimDisk, Stream, Survival};
use millrace_storage::units::Now;

use crate::failure::{Checked, Failure, ensure};
use crate::machine::Machine;
use crate::oracle::Oracle;
use crate::seeds::each_seed;
use crate::setup::Setup;

/// I/Os of one run, about.
const IOS_MAX: u64 = 90;
/// Rows of starts that end early in each case.
const ROWS: u64 = 12;
/// The last I/Os of a start.
const LAST_IOS: u64 = 8;
/// Random subsets tried at each I/O.
const RANDOM_CUTS: u64 = 4;
/// Commit writes in flight of which every subset is tried.
const COMMITS_MAX: u32 = 4;

#[test]
fn a_power_cut_after_any_io_loses_nothing_acknowledged() {
    let mut total = Tried::default();
    let seeds = each_seed("power cuts", 40, |seed| {
        let tried = cut_after_every_io(&Setup::draw(seed))?;
        total.cuts += tried.cuts;
        total.acknowledged += tried.acknowledged;
        total.settles += tried.settles;
        Ok(())
    });
    if seeds > 1 {
        let worth = total.cuts > 100 * seeds && total.acknowledged > seeds && total.settles > 0;
        assert!(worth, "too little happened: {total:?}");
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_acknowledged() {
    each_seed("cuts in recovery", 60, |seed| {
        cut_recovery_at_every_io(&Setup::draw(seed))
    });
}

#[test]
fn starts_that_end_early_in_a_row_lose_nothing_acknowledged() {
    each_seed("early ends", 40, |seed| {
        end_starts_early(&Setup::draw(seed))
    });
}

#[test]
pub(crate) fn three_lives_with_every_subset_of_the_groups_in_flight_lost() {
    each_seed("three lives", 40, |seed| three_lives(&Setup::draw(seed)));
}

#[test]
fn a_power_cut_during_the_first_start_leaves_an_empty_log() {
    each_seed("first start", 20, |seed| {
        cut_first_start_at_every_io(&Setup::draw(seed))
    });
}

/// What one run did, to show that it was worth something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    pub(crate) cuts: u64,
    pub(crate) acknowledged: u64,
    pub(crate) settles: u64,
}

/// Runs a workload and judges what a cut after each of its I/Os would leave.
pub(crate) fn cut_after_every_io(setup: &Setup) -> Checked<Tried> {
    let mut machine = setup.first_machine()?;
    let mut tried = Tried::default();
    let mut dice = setup.dice(Stream::Workload);
    let mut judged = 0;
    while machine.disk.ops_started() < IOS_MAX {
        ensure!(
            !machine.is_stuck(),
            "nothing happens any more\n{}",
            machine.disk.trace()
        );
        machine.turn(&setup.workload, &mut dice)?;
        let at = machine.disk.ops_started();
        if at == judged {
            continue;
        }
        judged = at;
        tried.cuts += judge_all_cuts(setup, &machine, at)?;
    }
    machine.come_to_rest()?;
    machine.check_contents()?;
    tried.acknowledged = machine.oracle.visible() as u64;
    tried.settles = machine.settles;
    Ok(tried)
}

fn judge_all_cuts(setup: &Setup, machine: &Machine, at: u64) -> Checked<u64> {
    let random = (0..RANDOM_CUTS).map(|number| (Survival::Random, at * 31 + number));
    let fixed = [
        (Survival::Nothing, at),
        (Survival::Everything, at),
        (Survival::Prefix, at),
    ];
    let mut cuts = 0;
    for (survival, draw) in fixed.into_iter().chain(random) {
        let disk = machine.disk.after_power_cut(survival, setup.seed ^ draw);
        judge(setup, disk, machine, survival)?;
        cuts += 1;
    }
    // A killed process leaves what it wrote readable without being durable: serving it and then
    // losing the power must not lose what was served.
    let killed = machine.disk.after_kill(setup.seed ^ at);
    let served = judge(setup, killed, machine, Survival::Everything)?;
    let disk = served
        .disk
        .after_power_cut(Survival::Nothing, setup.seed ^ at);
    judge(setup, disk, &served, Survival::Nothing)?;
    Ok(cuts + 2)
}

/// Starts a machine on what is left of `before`, and checks all it finds.
pub(crate) fn judge(
    setup: &Setup,
    disk: SimDisk,
    before: &Machine,
    survival: Survival,
) -> Checked<Machine> {
    let context = |failure: Failure| {
        Failure(format!(
            "after a stop with {survival:?}: {failure}\nbefore it:\n{}",
            before.disk.trace()
        ))
    };
    let mut machine = restart(setup, disk, before.oracle.clone(), before.now).map_err(context)?;
    machine.check_contents().map_err(context)?;
    Ok(machine)
}

/// As [`judge`]; then the machine must take an append and make it durable.
fn judge_and_go_on(
    setup: &Setup,
    disk: SimDisk,
    before: &Machine,
    survival: Survival,
) -> Checked<Machine> {
    let mut machine = judge(setup, disk, before, survival)?;
    machine.prove_alive()?;
    Ok(machine)
}

fn restart(setup: &Setup, disk: SimDisk, oracle: Oracle, now: Now) -> Checked<Machine> {
    match setup.start(disk, oracle, now)? {
        Ok(machine) => Ok(machine),
        Err((disk, error)) => Err(refused(&disk, &error)),
    }
}

fn refused(disk: &SimDisk, error: &StorageError) -> Failure {
    Failure(format!("refused to start: {error}\n{}", disk.trace()))
}

/// Cuts the power at each I/O of the very first start, and again at each of the second.
fn cut_first_start_at_every_io(setup: &Setup) -> Checked<()> {
    let mut dice = setup.dice(Stream::Schedule);
    let now = setup.first_now();
    for op in 0.. {
        let mut disk = SimDisk::new(setup.seed);
        disk.power_off_at(op);
        let Err((stopped, error)) = setup.start(disk, Oracle::default(), now)? else {
            return Ok(());
        };
        ensure!(
            stopped.is_off(),
            "refused to start: {error}\n{}",
            stopped.trace()
        );
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random] {
            let mut disk = stopped.after_power_cut(survival, dice.bits());
            disk.power_off_at(dice.below(40));
            let disk = match setup.start(disk, Oracle::default(), now)? {
                Ok(machine) => machine.disk,
                Err((disk, _)) => disk,
            };
            let disk = disk.after_power_cut(Survival::Random, dice.bits());
            let mut machine = restart(setup, disk, Oracle::default(), now)?;
            machine.prove_alive()?;
        }
    }
    Ok(())
}

/// Runs a while, cuts the power, and then cuts it again at each I/O of the recovery.
fn cut_recovery_at_every_io(setup: &Setup) -> Checked<()> {
    let mut dice = setup.dice(Stream::Schedule);
    let mut machine = setup.first_machine()?;
    machine.run_ios(setup, dice.between(5, IOS_MAX))?;
    for op in 0.. {
        let survival = *dice.pick(&[Survival::Random, Survival::Everything, Survival::Prefix]);
        let mut disk = machine.disk.after_power_cut(survival, dice.bits());
        disk.power_off_at(op);
        match setup.start(disk, machine.oracle.clone(), machine.now)? {
            Ok(_) => return Ok(()),
            Err((stopped, error)) => {
                ensure!(
                    stopped.is_off(),
                    "refused to start: {error}\n{}",
                    stopped.trace()
                );
                for survival in [Survival::Nothing, Survival::Everything, Survival::Random] {
                    let disk = stopped.after_power_cut(survival, dice.bits());
                    judge_and_go_on(setup, disk, &machine, survival)?;
                }
            }
        }
    }
    Ok(())
}

/// Runs a while, stops, and lets several starts in a row end before they are through.
fn end_starts_early(setup: &Setup) -> Checked<()> {
    let mut dice = setup.dice(Stream::Schedule);
    let mut machine = setup.first_machine()?;
    machine.run_ios(setup, dice.between(5, IOS_MAX))?;
    for _ in 0..ROWS {
        let mut disk = machine.disk.after_power_cut(Survival::Prefix, dice.bits());
        for _ in 0..dice.between(2, 4) {
            disk = end_start_early(setup, disk, &machine, &mut dice)?;
        }
        judge_and_go_on(setup, disk, &machine, Survival::Random)?;
    }
    Ok(())
}

/// A start on `disk` that is stopped at some I/O, and what that leaves.
fn end_start_early(
    setup: &Setup,
    mut disk: SimDisk,
    before: &Machine,
    dice: &mut Dice,
) -> Checked<SimDisk> {
    let trial = disk.after_kill(dice.bits());
    let begun = trial.ops_started();
    let through = restart(setup, trial, before.oracle.clone(), before.now)?;
    let ops = through.disk.ops_started() - begun;
    // The new life begins, and the manifest names it, among the last ones.
    let left = match dice.one_in(2) {
        true => dice.between(1, ops.min(LAST_IOS)),
        false => dice.between(1, ops),
    };
    disk.power_off_at(disk.ops_started() + ops - left);
    let stopped = match setup.start(disk, before.oracle.clone(), before.now)? {
        Ok(machine) => machine.disk,
        Err((stopped, error)) if !stopped.is_off() => return Err(refused(&stopped, &error)),
        Err((stopped, _)) => stopped,
    };
    Ok(match dice.one_in(2) {
        true => stopped.after_kill(dice.bits()),
        false => stopped.after_power_cut(Survival::Random, dice.bits()),
    })
}

/// Crash, recover, write, crash, recover, write, crash: each time with every subset of the groups
/// in flight surviving.
pub(crate) fn three_lives(setup: &Setup) -> Checked<()> {
    let mut dice = setup.dice(Stream::Schedule);
    let mut first = setup.first_machine()?;
    first.run_ios(setup, dice.between(3, IOS_MAX))?;
    first.fill_flight(setup)?;
    for survival in subsets(&first, &mut dice) {
        let disk = first.disk.after_power_cut(survival, setup.seed);
        let mut second = judge(setup, disk, &first, survival)?;
        second.run_ios(setup, dice.below(6))?;
        second.fill_flight(setup)?;
        for survival in subsets(&second, &mut dice) {
            let disk = second.disk.after_power_cut(survival, setup.seed);
            let mut third = judge(setup, disk, &second, survival)?;
            third.run_ios(setup, 4)?;
            let disk = third.disk.after_power_cut(Survival::Random, dice.bits());
            judge(setup, disk, &third, Survival::Random)?;
        }
    }
    Ok(())
}

/// Every subset of the commit writes in flight, the newest four if there are more. What else is in
/// flight survives or not, at random.
fn subsets(machine: &Machine, dice: &mut Dice) -> Vec<Survival> {
    let all = machine.disk.in_flight_mask(|_| true);
    let mut commits = machine.disk.in_flight_mask(is_commit);
    while commits.count_ones() > COMMITS_MAX {
        commits &= commits - 1;
    }
    let bits: Vec<u64> = (0..u64::BITS)
        .map(|bit| 1 << bit)
        .filter(|bit| commits & bit != 0)
        .collect();
    let subset = |choice: u64| {
        let chosen = bits.iter().zip(0..).filter(|(_, at)| choice >> at & 1 == 1);
        chosen.fold(0, |mask, (bit, _)| mask | bit)
    };
    (0..1_u64 << bits.len())
        .map(|choice| Survival::InFlight(subset(choice) | dice.bits() & all & !commits))
        .collect()
}

/// A group on its way to the log, or the header of the file that it goes to.
fn is_commit(op: &DiskOp) -> bool {
    let DiskOp::Write { file, sync, .. } = op else {
        return false;
    };
    matches!(file, FileName::Wal(_)) && *sync != WriteSync::None
}
