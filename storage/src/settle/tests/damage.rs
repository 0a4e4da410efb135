//! WAL files that are damaged before they are settled.

use super::*;

/// A world in which a closed WAL file waits that no pass has read yet.
fn with_closed_file(seed: u64) -> World {
    let waiting = StoreConfig {
        settle_files_max: usize::MAX,
        ..config()
    };
    let mut world = World::new(seed, waiting);
    world.produce(A, 30, 4000);
    assert_eq!(world.settled, 0);
    world
}

#[test]
fn a_closed_file_that_is_damaged_stops_the_store_and_the_next_start_refuses() {
    let mut world = with_closed_file(14);
    let damaged_at = 4096 + 8192;
    world.damage(FileName::Wal(0), damaged_at + 200);
    for _ in 0..20 {
        world.ms += 60_000;
        world.run();
    }
    let Some(StorageError::DamagedLog {
        from,
        to,
        file,
        position,
        ..
    }) = world.reason.clone()
    else {
        panic!("{:?}", world.reason);
    };
    assert_eq!((file, position.0), (FileName::Wal(0), damaged_at));
    assert_eq!((from, to), (Lsn(8192), Lsn(2 * 8192)));
    assert_eq!(
        world.store.counters().settle.discarded,
        2,
        "it was read again"
    );
    assert_eq!(world.append(A, 100), Err(AppendError::Poisoned));
    let disk = world.disk.after_power_cut(Survival::Nothing, 1);
    let refused = world.reopen(disk);
    let Err(StorageError::Quarantine {
        from: refused_from, ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(refused_from, from);
}

#[test]
fn a_closed_file_is_read_again_before_it_counts_as_damaged_or_lost() {
    let mut world = with_closed_file(15);
    let damaged_at = 4096 + 200;
    let byte = world.disk.contents(SHARD, FileName::Wal(0)).expect("there")[damaged_at];
    world.damage(FileName::Wal(0), damaged_at as u64);
    world.ms += 60_000;
    world.run();
    assert_eq!(world.store.counters().settle.discarded, 1);
    world
        .disk
        .damage(SHARD, FileName::Wal(0), damaged_at as u64, &[byte]);
    for _ in 0..5 {
        world.ms += 60_000;
        world.run();
    }
    assert!(!world.poisoned && world.settled > 0, "it was misread");
    world.check(1 << 20);
}
