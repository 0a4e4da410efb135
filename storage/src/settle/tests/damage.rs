//! WAL files that are damaged before they are settled.

use super::*;
use crate::blocking::StartDisk;
use crate::config::LossRange;
use crate::manifest::{self, ManifestState};

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

/// A world of which a part is settled, and what its manifest says.
fn with_snapshot() -> (World, ManifestState) {
    let mut world = World::new(3, config());
    while world.settled == 0 {
        world.ms += 1;
        world.append(A, 6000).expect("there is room");
        world.change_state();
        for _ in 0..3 {
            world.turn();
        }
    }
    world.run();
    let state = {
        let disk = &mut *world.disk.blocking(SHARD);
        let listing = StartDisk::new(disk, SHARD).list().expect("readable");
        manifest::peek(disk, SHARD, &listing).expect("readable")
    };
    (world, state.expect("a store has a manifest"))
}

#[test]
fn a_snapshot_testifies_to_a_log_of_which_no_block_is_left() {
    let cut_off: fn(&mut SimDisk, FileName) = |disk, file| {
        let bytes = disk.contents(SHARD, file).expect("there").len();
        disk.damage(SHARD, file, 4096, &vec![0; bytes - 4096]);
    };
    for hurt in [cut_off, |disk, file| disk.lose(SHARD, file)] {
        let (mut world, state) = with_snapshot();
        let as_of = state.snapshot.expect("settled").as_of;
        assert!(as_of > state.settled_lsn + 4096);
        let durable = world.store.durable_lsn();
        let mut disk = world.disk.after_power_cut(Survival::Nothing, 1);
        hurt(&mut disk, FileName::Wal(state.chain_start.slot));
        let (from, to) = match world.reopen(disk) {
            Err(StorageError::Quarantine { from, to, .. }) => (from, to),
            other => panic!("{other:?}"),
        };
        assert_eq!(from, state.settled_lsn);
        assert!(
            to >= durable,
            "{to} leaves out what was acknowledged to {durable}"
        );
        world.config.accept_loss = vec![LossRange { from, to }];
        let disk = world.disk.after_power_cut(Survival::Everything, 1);
        world.reopen(disk).expect("accepted");
        assert_eq!(world.store.durable_lsn(), to, "above the snapshot");
        world.config.accept_loss.clear();
        let disk = world.disk.after_power_cut(Survival::Everything, 1);
        world.reopen(disk).expect("from now on without the word");
    }
}
