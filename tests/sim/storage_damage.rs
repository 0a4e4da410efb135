//! Damage to a log at rest: a flipped bit, a misplaced or a stale sector, a cut file. The
//! machine refuses to start, or it has every message; never a shorter log.

use millrace_storage::disk::FileName;
use millrace_storage::error::{ReadError, StorageError};
use millrace_storage::testing::{Dice, SimDisk, Stream, Survival};

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
            let end = dice.index(used);
            disk.cut(SHARD, file, end as u64);
            format!("cutting {file} at {end} of {used} bytes")
        }
    }
}

/// The reserve holds nothing, and a temporary file is nobody's yet.
fn is_data(file: FileName) -> bool {
    !matches!(file, FileName::Reserve | FileName::Temporary(_))
}

fn judge_damaged(
    setup: &Setup,
    before: &Machine,
    disk: SimDisk,
    damaged: &mut Damaged,
) -> Checked<()> {
    match setup.start(disk, before.oracle.clone(), before.now)? {
        Err((_, StorageError::Quarantine { .. } | StorageError::Corrupt { .. })) => {
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
