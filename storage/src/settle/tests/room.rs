//! A log that finds no room for its next file, and a stop meanwhile.

use super::*;

/// A store whose first log file is all that the disk has room for, above its low-water mark.
fn cramped(reserve_bytes: u64) -> World {
    let config = StoreConfig {
        reserve_bytes,
        disk_low_bytes: 8 << 10,
        ..config()
    };
    let mut world = World::new(15, config);
    world.logs.remove(&B);
    let file_bytes = world.config.wal_file_bytes;
    world
        .disk
        .set_capacity(world.disk.used_bytes() + file_bytes / 2);
    world.ms += 1000;
    world.run();
    world
}

/// Appends until the log takes no more, or seconds have passed.
fn append_until_refused(world: &mut World) -> AppendError {
    for _ in 0..100 {
        world.ms += 100;
        match world.append(A, 8000) {
            Ok(_) | Err(AppendError::WalFull) => world.run(),
            Err(error) => return error,
        }
    }
    panic!("producers wait for ever");
}

#[test]
fn a_log_without_room_for_its_next_file_refuses_instead_of_waiting() {
    // Without a reserve; with one that there is no room for; with one that is held.
    for reserve_bytes in [0, 300_000, 8 << 10] {
        let mut world = cramped(reserve_bytes);
        assert_eq!(append_until_refused(&mut world), AppendError::DiskFull);
        for _ in 0..50 {
            world.ms += 100;
            world.run();
            assert!(world.store.accepts_appends(), "producers must hear it");
            assert_eq!(world.append(A, 8000), Err(AppendError::DiskFull));
        }
        world.disk.set_capacity(u64::MAX);
        for _ in 0..5 {
            world.ms += 1000;
            world.run();
        }
        world.produce(A, 30, 8000);
        assert!(world.settled > 0);
        world.check(1 << 20);
        world.restart();
        world.check(1 << 20);
    }
}

#[test]
fn a_clean_stop_is_not_due_while_it_waits_for_the_disk() {
    for has_room in [true, false] {
        let mut world = cramped(0);
        if has_room {
            world.disk.set_capacity(u64::MAX);
        }
        for _ in 0..3 {
            world.ms += 1000;
            world.append(A, 100).expect("there is room");
            world.run();
        }
        world.append(A, 100).expect("there is room");
        for _ in 0..100 {
            let now = world.now();
            world.store.close(now);
            // What it asks of the disk takes its time.
            while world.store.poll_disk().is_some() {}
            world.ms += 1000;
            let now = world.now();
            world.store.handle_timeout(now);
            let due = world.store.poll_timeout();
            assert!(due.is_none_or(|at| at > now.boot), "{due:?} at {now:?}");
        }
        assert!(!world.store.is_quiet());
    }
}
