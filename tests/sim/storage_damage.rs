//! Damage to a log at rest: a flipped bit, a misplaced or a stale sector, a cut file; and a disk
//! that lies while the log runs. The machine refuses to start, or it has every message; never a
//! shorter log.

use std::collections::BTreeMap;

use millrace_storage::disk::FileName;
use millrace_storage::error::{ReadError, StorageError};
use millrace_storage::testing::{
    Dice, Fault, FaultRates, Lasting, PlannedFault, SimDisk, Stream, Survival,
};

use crate::failure::{Checked, Failure, ensure};
use crate::machine::{Machine, SHARD};
use crate::seeds::each_seed;
use crate::setup::Setup;

const SECTOR_BYTES: usize = 512;
/// Bits flipped, sectors overwritten and files cut in each case.
const TRIES: u64 = 60;

#[test]
fn damage_is_refused_by_name_or_harmless() {
    let mut total = Damaged::default();
    let seeds = each_seed("damage", 40, |seed| {
        let damaged = damage_at_rest(&Setup::draw(seed))?;
        total.refused += damaged.refused;
        total.read_errors += damaged.read_errors;
        total.harmless += damaged.harmless;
        Ok(())
    });
    if seeds > 1 {
        assert!(
            total.refused > 0 && total.read_errors > 0,
            "nothing was hit: {total:?}"
        );
    }
}

/// What a disk does while it reports success.
const LIES: [Fault; 3] = [Fault::LostWrite, Fault::MisdirectedWrite, Fault::BitRot];
/// Operations of one run of which each may be a lie.
const LIES_MAX: u64 = 60;

#[test]
fn a_lie_of_the_disk_is_found_out_or_harmless() {
    let mut total = Damaged::default();
    let seeds = each_seed("lies", 20, |seed| {
        lie_at_every_io(&Setup::draw(seed), &mut total)
    });
    println!("{total:?} over {seeds} seeds");
    if seeds > 1 {
        assert!(
            total.refused > 0 && total.read_errors > 0,
            "nothing was hit: {total:?}"
        );
    }
}

#[test]
fn a_disk_that_keeps_lying_never_has_wrong_records_served() {
    let mut errors = 0;
    let seeds = each_seed("many lies", 60, |seed| {
        let setup = Setup::draw(seed);
        let mut machine = setup.first_machine()?;
        machine.disk.set_fault_rates(FaultRates {
            lost_write_one_in: 30,
            misdirected_write_one_in: 60,
            bit_rot_one_in: 10,
            read_error_one_in: 20,
            ..FaultRates::default()
        });
        machine.run_ios(&setup, 150)?;
        machine.come_to_rest()?;
        errors += machine.check_contents_with(is_honest)?;
        Ok(())
    });
    if seeds > 1 {
        assert!(errors > 0, "no lie was noticed");
    }
}

/// Runs the case once for each of its I/Os, which is a lie, and starts again after it.
fn lie_at_every_io(setup: &Setup, damaged: &mut Damaged) -> Checked<()> {
    let mut dice = setup.dice(Stream::DiskFaults);
    for op in 0..LIES_MAX {
        let mut machine = setup.first_machine()?;
        let planned = PlannedFault {
            op: machine.disk.ops_started() + op,
            fault: *dice.pick(&LIES),
            lasting: Lasting::Once,
        };
        machine.disk.plan(planned);
        machine.run_ios(setup, LIES_MAX + 10)?;
        machine.come_to_rest()?;
        let context = |failure: Failure| {
            let trace = machine.disk.trace();
            Failure(format!("with {planned:?}: {failure}\n{trace}"))
        };
        let disk = machine
            .disk
            .after_power_cut(Survival::Everything, dice.bits());
        judge_damaged(setup, &machine, disk, damaged).map_err(context)?;
        machine.check_contents_with(is_honest)?;
    }
    Ok(())
}

/// The reader knows that something is missing.
fn is_honest(error: &ReadError) -> bool {
    matches!(error, ReadError::Damaged { .. } | ReadError::Disk(_))
}

/// What became of the tries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Damaged {
    pub(crate) refused: u64,
    pub(crate) read_errors: u64,
    pub(crate) harmless: u64,
}

/// Fills a log, brings it to rest and damages it in many ways, one at a time.
pub(crate) fn damage_at_rest(setup: &Setup) -> Checked<Damaged> {
    let mut dice = setup.dice(Stream::DiskFaults);
    let mut machine = setup.first_machine()?;
    machine.run_ios(setup, 60)?;
    machine.come_to_rest()?;
    ensure!(
        machine.oracle.visible() == machine.oracle.len(),
        "at rest everything is acknowledged"
    );
    let mut damaged = Damaged::default();
    for _ in 0..TRIES {
        let mut disk = machine
            .disk
            .after_power_cut(Survival::Everything, dice.bits());
        let what = hurt(&mut disk, &mut dice);
        let context = |failure: Failure| Failure(format!("after {what}: {failure}"));
        judge_damaged(setup, &machine, disk, &mut damaged).map_err(context)?;
    }
    Ok(damaged)
}

/// Damages something that is not empty, and says what.
fn hurt(disk: &mut SimDisk, dice: &mut Dice) -> String {
    let files = disk.files(SHARD);
    let files: Vec<FileName> = files.into_iter().filter(|file| is_data(*file)).collect();
    let file = *dice.pick(&files);
    let bytes = disk.contents(SHARD, file).expect("listed just now");
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |last| last + 1);
    let sectors = used.div_ceil(SECTOR_BYTES);
    let sector = |number: usize| &bytes[number * SECTOR_BYTES..][..SECTOR_BYTES];
    match dice.below(4) {
        0 | 1 => {
            let bit = dice.index(used * 8);
            disk.damage(
                SHARD,
                file,
                (bit / 8) as u64,
                &[bytes[bit / 8] ^ 1 << (bit % 8)],
            );
            format!("flipping bit {} of byte {} of {file}", bit % 8, bit / 8)
        }
        2 => {
            let (from, to) = (dice.index(sectors), dice.index(sectors));
            disk.damage(SHARD, file, (to * SECTOR_BYTES) as u64, sector(from));
            format!("sector {from} of {file} written over sector {to}")
        }
        _ => {
            // A file without a byte may be one that was never filled.
            let end = dice.between(1, used as u64) as usize;
            disk.cut(SHARD, file, end as u64);
            format!("cutting {file} at {end} of {used} bytes")
        }
    }
}

/// The reserve holds nothing, and a temporary file is nobody's yet.
fn is_data(file: FileName) -> bool {
    !matches!(file, FileName::Reserve | FileName::Temporary(_))
}

/// Every file of data with its bytes.
fn contents(disk: &SimDisk) -> BTreeMap<FileName, Option<Vec<u8>>> {
    let files = disk.files(SHARD).into_iter();
    files
        .filter(|file| is_data(*file))
        .map(|file| (file, disk.contents(SHARD, file)))
        .collect()
}

fn judge_damaged(
    setup: &Setup,
    before: &Machine,
    disk: SimDisk,
    damaged: &mut Damaged,
) -> Checked<()> {
    let files = contents(&disk);
    match setup.start(disk, before.oracle.clone(), before.now)? {
        Err((disk, error @ (StorageError::Quarantine { .. } | StorageError::Corrupt { .. }))) => {
            let is_untouched = contents(&disk) == files;
            ensure!(is_untouched, "files were changed by a refusal: {error}");
            damaged.refused += 1;
        }
        Err((_, error)) => return Err(Failure(format!("refused for another reason: {error}"))),
        Ok(mut machine) => {
            let errors =
                machine.check_contents_with(|error| matches!(error, ReadError::Damaged { .. }))?;
            if errors > 0 {
                damaged.read_errors += 1;
            } else {
                damaged.harmless += 1;
            }
        }
    }
    Ok(())
}
