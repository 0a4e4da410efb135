//! What retention and deletions drop, and what they leave.

use super::*;

#[test]
fn retention_by_bytes_keeps_about_the_limit_and_gives_the_space_back() {
    let mut world = World::new(5, config());
    let limit = LogConfig {
        retention_bytes: Some(100_000),
        ..LogConfig::default()
    };
    assert!(world.store.configure_log(A, limit));
    for _ in 0..40 {
        world.produce(A, 5, 8000);
        world.produce(B, 1, 300);
        world.ms += 6000;
        world.run();
    }
    let bytes = world.store.log(A).expect("known").bytes;
    assert!((100_000..200_000).contains(&bytes), "{bytes}");
    assert!(world.logs[&A].start > 0);
    let config = config();
    let log_bytes = u64::from(config.wal_files) * config.wal_file_bytes;
    let used_bytes = world.disk.used_bytes();
    assert!(used_bytes < log_bytes + 1_850_000, "{used_bytes}");
    assert!(world.store.counters().returned_bytes > 1_000_000);
    world.check(1 << 20);
    world.restart();
    world.check(1 << 20);
}

#[test]
fn retention_by_time_drops_all_that_is_older_and_the_offsets_go_on() {
    let mut world = World::new(6, config());
    let limit = LogConfig {
        retention_ms: Some(10_000),
        ..LogConfig::default()
    };
    assert!(world.store.configure_log(A, limit));
    world.produce(A, 60, 4000);
    world.produce(B, 60, 4000);
    world.ms += 1_000_000;
    for _ in 0..2 {
        world.run();
        world.ms += 6000;
    }
    world.run();
    let end = world.logs[&A].end;
    assert_eq!(world.logs[&A].start, end);
    assert_eq!(world.logs[&B].start, 0);
    let check = |world: &mut World| {
        let log = world.store.log(A).expect("known");
        assert_eq!(
            (log.start, log.end, log.bytes),
            (Offset(end), Offset(end), 0)
        );
        world.check(1 << 20);
    };
    check(&mut world);
    world.restart();
    check(&mut world);
    assert!(world.store.configure_log(A, limit));
    world.produce(A, 1, 4000);
    assert!(world.logs[&A].end > end);
    world.check(1 << 20);
}

#[test]
fn a_deleted_log_disappears_and_a_deletion_up_to_the_end_keeps_the_offsets() {
    let mut world = World::new(7, config());
    world.produce(A, 60, 4000);
    world.produce(B, 60, 4000);
    let before = world.disk.used_bytes();
    let end = world.logs[&A].end;
    let now = world.now();
    let lsn = world.store.append_log_start(now, A, Offset(end));
    let lsn = lsn.expect("taken");
    world.model(A).start = end;
    assert!(world.store.remove_log(B));
    world.logs.remove(&B);
    world.run();
    assert!(world.store.durable_lsn() >= lsn);
    assert!(world.disk.used_bytes() + 200_000 < before);
    world.restart();
    world.check(1 << 20);
    world.store.retain_logs(&mut |log| log == A);
    assert!(world.store.log(B).is_none());
    world.produce(A, 30, 4000);
    world.check(1 << 20);
    world.restart();
    world.check(1 << 20);
}
