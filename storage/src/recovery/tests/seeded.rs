//! Each planted bug must turn a test red that is green without it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::testing::{Fault, Lasting, PlannedFault};

fn with_bug(bug: SeededBug) -> StoreConfig {
    StoreConfig {
        seeded_bug: Some(bug),
        ..small()
    }
}

/// Whether any of the runs fails. What a failing run prints is of no interest.
fn is_caught(mut run: impl FnMut(u64)) -> bool {
    (1..=200).any(|seed| catch_unwind(AssertUnwindSafe(|| run(seed))).is_err())
}

/// Lives in which the disk fails a commit now and then, as Linux does: the data stays readable
/// and never reaches the medium.
fn lives_with_failing_syncs(seed: u64, config: StoreConfig) {
    let mut machine = Machine::new(seed, config);
    let mut model = Model::default();
    for life in 0..3 {
        let mut store = machine.open(&mut model).expect("opens");
        machine.carry(&mut store);
        machine.disk.plan(PlannedFault {
            op: machine.disk.ops_started() + machine.dice.below(10),
            fault: Fault::SyncInVain,
            lasting: Lasting::Once,
        });
        machine.work(&mut store, &mut model, 20);
        machine.disk = machine
            .disk
            .after_power_cut(Survival::Nothing, seed * 10 + life);
    }
    machine.open(&mut model).expect("opens");
}

#[test]
fn a_failed_commit_acknowledges_nothing_that_is_lost() {
    for (seed, backend) in (1..=100).flat_map(|seed| BACKENDS.map(|backend| (seed, backend))) {
        lives_with_failing_syncs(seed, StoreConfig { backend, ..small() });
    }
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    for backend in BACKENDS {
        let config = StoreConfig {
            backend,
            ..with_bug(SeededBug::AckBeforeSync)
        };
        assert!(is_caught(|seed| lives(seed, config.clone())), "{backend:?}");
    }
}

#[test]
fn believing_a_second_sync_is_caught() {
    let config = with_bug(SeededBug::RetryAfterFailedSync);
    assert!(is_caught(|seed| lives_with_failing_syncs(
        seed,
        config.clone()
    )));
}

#[test]
fn serving_without_repersisting_is_caught() {
    let config = with_bug(SeededBug::ServeWithoutRepersist);
    assert!(is_caught(|seed| lives(seed, config.clone())));
}

/// A slot is used again at the same addresses, over a block that an earlier life left where the
/// next one will not write.
fn a_stale_block_lies_behind_the_end(config: StoreConfig) {
    let mut machine = Machine::new(1, config);
    let mut model = Model::default();
    // The hole in the middle ends the log; the third group stays behind it.
    life_with_three_in_flight(&mut machine, &mut model, 0b101);
    let mut store = machine.open(&mut model).expect("opens");
    assert_eq!(model.sure, 1);
    machine.carry(&mut store);
    // This start gets the first slot back and copies the first group to where it was.
    let mut store = machine.open(&mut model).expect("opens");
    machine.carry(&mut store);
    machine
        .append_of(&mut store, &mut model, 300)
        .expect("there is room");
    store.close_group(now(0));
    machine.carry(&mut store);
    model.sure = 2;
    machine.open(&mut model).expect("opens");
    assert_eq!(model.sure, 2);
}

#[test]
fn a_block_of_an_earlier_life_never_comes_back() {
    a_stale_block_lies_behind_the_end(small());
}

#[test]
fn checksums_without_a_generation_are_caught() {
    let config = with_bug(SeededBug::NoGenerationInChecksum);
    assert!(is_caught(|_| a_stale_block_lies_behind_the_end(
        config.clone()
    )));
}
