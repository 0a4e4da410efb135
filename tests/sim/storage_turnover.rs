//! Reads of a log whose files are settled and used again meanwhile.

use millrace_storage::testing::Stream;

use crate::failure::{Checked, ensure};
use crate::seeds::each_seed;
use crate::setup::Setup;

/// I/Os of one run, about: the log goes round several times.
const IOS_MAX: u64 = 600;

#[test]
fn reads_are_right_while_files_are_used_again() {
    let mut passes = 0;
    let seeds = each_seed("turnover", 60, |seed| {
        passes += turn_over(&Setup::draw(seed))?;
        Ok(())
    });
    if seeds > 1 {
        assert!(passes > 6 * seeds, "only {passes} passes over the log");
    }
}

/// Runs a workload that reads in every turn, from the disk; every answer is checked. Returns how
/// many of the log's files were settled.
pub(crate) fn turn_over(setup: &Setup) -> Checked<u64> {
    let mut setup = setup.clone();
    setup.config.tail_cache_bytes = 0;
    setup.config.unsettled_cache_bytes = 0;
    setup.config.read_cache_bytes = 0;
    setup.workload.read_one_in = 1;
    setup.workload.idle_one_in = 4;
    let mut machine = setup.first_machine()?;
    let mut dice = setup.dice(Stream::Workload);
    while machine.disk.ops_started() < IOS_MAX {
        ensure!(
            !machine.is_stuck(),
            "nothing happens any more\n{}",
            machine.disk.trace()
        );
        machine.turn(&setup.workload, &mut dice)?;
    }
    machine.come_to_rest()?;
    machine.check_contents()?;
    Ok(machine.settles)
}
