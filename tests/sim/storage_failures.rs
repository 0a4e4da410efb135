//! The N-th I/O fails, for every N, in every way, once or for ever.

use millrace_storage::testing::{Fault, Lasting, PlannedFault, Stream, Survival};

use crate::failure::{Checked, Failure, ensure};
use crate::machine::Machine;
use crate::seeds::each_seed;
use crate::setup::Setup;
use crate::storage_crash::judge;

/// I/Os of one run, about.
const IOS_MAX: u64 = 60;

/// What can go wrong with an operation that reports it.
const FAULTS: [Fault; 5] = [
    Fault::Error,
    Fault::SyncInVain,
    Fault::ShortWrite,
    Fault::TornWrite,
    Fault::NoSpace,
];

#[test]
fn no_failed_io_acknowledges_or_loses_anything() {
    each_seed("failed I/O", 30, |seed| {
        fail_every_io(&Setup::draw(seed)).map(|_| ())
    });
}

/// Runs the case once for each of its I/Os, failing that one. Returns how many failed.
pub(crate) fn fail_every_io(setup: &Setup) -> Checked<u64> {
    let mut dice = setup.dice(Stream::DiskFaults);
    let mut fired = 0;
    for op in 0..IOS_MAX {
        let planned = PlannedFault {
            op,
            fault: *dice.pick(&FAULTS),
            lasting: *dice.pick(&[Lasting::Once, Lasting::Forever]),
        };
        let context = |failure: Failure| Failure(format!("with {planned:?}: {failure}"));
        fired += fail_one(setup, planned).map_err(context)?;
    }
    ensure!(
        fired > IOS_MAX / 2,
        "only {fired} of {IOS_MAX} planned faults happened"
    );
    Ok(fired)
}

fn fail_one(setup: &Setup, planned: PlannedFault) -> Checked<u64> {
    let mut machine = setup.first_machine()?;
    let mut planned_here = planned;
    planned_here.op += machine.disk.ops_started();
    machine.disk.plan(planned_here);
    machine.run_ios(setup, IOS_MAX + 10)?;
    machine.come_to_rest()?;
    let fired = machine.disk.fault_counts().total();
    judge_after(setup, &machine)?;
    Ok(fired.min(1))
}

/// Whatever failed, a restart finds what was acknowledged: with the machine's power lost, and with
/// only the process gone and the power lost after that.
fn judge_after(setup: &Setup, machine: &Machine) -> Checked<()> {
    for survival in [Survival::Nothing, Survival::Everything, Survival::Random] {
        let disk = machine.disk.after_power_cut(survival, setup.seed);
        judge(setup, disk, machine, survival)?;
    }
    let served = judge(
        setup,
        machine.disk.after_kill(setup.seed),
        machine,
        Survival::Everything,
    )?;
    let disk = served.disk.after_power_cut(Survival::Nothing, setup.seed);
    judge(setup, disk, &served, Survival::Nothing)?;
    Ok(())
}
