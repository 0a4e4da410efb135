//! Files that are settled from memory, or read before their pass begins.

use super::*;

/// Fills the log faster than it is settled, until a dozen files were.
fn saturated(seed: u64, unsettled_cache_bytes: usize) -> World {
    let config = StoreConfig {
        unsettled_cache_bytes,
        ..config()
    };
    let mut world = World::new(seed, config);
    while world.settled < 12 {
        let log = if world.ms.is_multiple_of(3) { B } else { A };
        world.ms += 1;
        while world.append(log, 4000).is_err() {
            world.turn();
        }
        world.change_state();
    }
    world.run();
    world
}

fn check(mut world: World) {
    world.check(1 << 20);
    world.restart();
    world.check(1 << 20);
}

#[test]
fn the_next_file_is_read_while_one_is_written() {
    let world = saturated(20, 0);
    assert!(world.loads > 0 && world.loads_beside_output > world.loads / 2);
    check(world);
}

#[test]
fn what_is_kept_in_memory_is_not_read_again() {
    let none = saturated(21, 0);
    let some = saturated(21, 128 << 10);
    let all = saturated(21, 1 << 20);
    assert!(some.loads < none.loads, "{} of {}", some.loads, none.loads);
    assert!(some.loads > 0);
    assert_eq!(all.loads, 0);
    check(some);
    check(all);
}

#[test]
fn damage_that_is_met_in_advance_is_for_its_own_pass_to_find() {
    let waiting = StoreConfig {
        settle_files_max: usize::MAX,
        ..config()
    };
    let mut world = World::new(22, waiting);
    world.produce(A, 40, 4000);
    world.damage(FileName::Wal(1), 4096 + 200);
    world.store.settle_all();
    for _ in 0..20 {
        world.ms += 60_000;
        world.run();
    }
    assert_eq!(world.settled, 1, "the file before it");
    assert!(world.loads_beside_output > 0, "read in advance");
    assert_eq!(world.store.counters().settle.discarded, 2);
    let reason = world.reason.clone();
    assert!(
        matches!(&reason, Some(StorageError::DamagedLog { file, .. }) if *file == FileName::Wal(1)),
        "{reason:?}"
    );
}

#[test]
fn a_quiet_log_is_settled_with_few_reads_and_little_memory() {
    for unsettled_cache_bytes in [0, 1 << 20] {
        let config = StoreConfig {
            tail_cache_bytes: 1 << 20,
            unsettled_cache_bytes,
            ..config()
        };
        let mut world = World::new(23, config);
        world.produce(B, 1, 300);
        // After each batch it is quiet for so long that the log notes what is durable, in a block
        // of its own, which readers never ask for.
        while world.settled < 3 {
            world.ms += 100;
            assert!(world.append(A, 300).is_ok());
            world.run();
            world.ms += 100;
            world.run();
        }
        let files = usize::try_from(world.settled).expect("few");
        assert!(world.store.counters().commit.seals > 12, "between batches");
        assert!(world.loads <= 2 * files, "{} in {files}", world.loads);
        assert_eq!(world.loads == 0, unsettled_cache_bytes > 0);
        check(world);
    }
}
