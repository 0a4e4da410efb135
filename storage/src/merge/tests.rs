//! Merging in whole stores on the simulated disk.

use super::{MERGE_BYTES_MAX, Merge};
use crate::config::StoreConfig;
use crate::disk::FileName;
use crate::log_index::LogConfig;
use crate::settle::tests::{A, B, SHARD, World, config, is_pack};
use crate::testing::Survival;
use crate::units::Offset;

/// Small packs are plenty: each idle second settles what there is.
fn merging() -> StoreConfig {
    StoreConfig {
        small_packs_max: 4,
        settle_after_ms: 1000,
        ..config()
    }
}

/// Writes a little and lets it be settled, so many times.
fn produce_packs(world: &mut World, packs: u64) {
    for _ in 0..packs {
        world.produce(A, 2, 700);
        world.produce(B, 1, 300);
        world.ms += 2000;
        world.run();
    }
}

#[test]
fn small_packs_are_merged_and_everything_stays_readable() {
    let mut world = World::new(1, merging());
    produce_packs(&mut world, 30);
    let merge = world.store.counters().merge;
    assert!(merge.merges >= 5, "{merge:?}");
    assert!(world.files(is_pack) <= 6);
    for bytes_max in [1, 5000, 1 << 20] {
        world.check(bytes_max);
    }
    world.restart();
    world.check(1 << 20);
    produce_packs(&mut world, 10);
    world.check(1 << 20);
}

#[test]
fn a_merge_keeps_to_the_section_size_that_a_log_asks_for() {
    let large = StoreConfig {
        wal_file_bytes: 2 << 20,
        segment_bytes_min: 32 << 20,
        ..merging()
    };
    let mut world = World::new(4, large);
    let small = LogConfig {
        segment_bytes: Some(1 << 20),
        ..LogConfig::default()
    };
    world.store.create_log(A, small);
    for _ in 0..8 {
        world.produce(A, 12, 30_000);
        world.produce(B, 12, 30_000);
        world.ms += 2000;
        world.run();
    }
    assert!(world.store.counters().merge.merges > 0);
    let sections = world.sections(A);
    let (one, merged) = (12 * 30_000, 1 << 20);
    assert!(
        sections.iter().all(|bytes| *bytes <= merged),
        "{sections:?}"
    );
    assert!(sections.iter().any(|bytes| *bytes > one), "{sections:?}");
    assert!(world.sections(B).iter().any(|bytes| *bytes > merged));
    world.check(1 << 20);
}

#[test]
fn deletes_while_packs_are_merged_take_effect() {
    let mut merged = 0;
    for turns in 0..60 {
        let mut world = World::new(turns, merging());
        produce_packs(&mut world, 5);
        // The next pack makes too many; the deletes come that many turns later.
        one_too_many(&mut world);
        for _ in 0..turns {
            world.turn();
        }
        let start = world.logs[&A].end - 4;
        let now = world.now();
        let deleted = world.store.append_log_start(now, A, Offset(start));
        deleted.expect("taken");
        world.model(A).start = start;
        assert!(world.store.remove_log(B));
        world.logs.remove(&B);
        world.run();
        world.check(1 << 20);
        merged += world.store.counters().merge.merges;
        world.restart();
        world.store.retain_logs(&mut |log| log == A);
        produce_a(&mut world);
        world.check(1 << 20);
    }
    assert!(merged > 30, "{merged}");
}

/// Settles one more pack; when the clock goes on, a merge is due.
fn one_too_many(world: &mut World) {
    world.produce(A, 1, 700);
    world.ms += 1000;
    world.run();
    world.ms += 1000;
}

fn produce_a(world: &mut World) {
    world.produce(A, 3, 700);
    world.ms += 2000;
    world.run();
}

#[test]
fn a_damaged_source_stops_its_merge_and_hurts_nothing_else() {
    let mut world = World::new(2, merging());
    produce_packs(&mut world, 3);
    let damaged = world.disk.files(SHARD).into_iter().find(is_pack);
    world
        .disk
        .damage(SHARD, damaged.expect("packs"), 4096 + 100, &[1, 2, 3]);
    produce_packs(&mut world, 10);
    let merge = world.store.counters().merge;
    assert!(merge.discarded > 0, "{merge:?}");
    assert!(!world.poisoned);
    // What lies in the first pack is hurt; all that came later is whole.
    let from = world.logs[&A].end / 2;
    let request = world.request(A, from, 1 << 20);
    world.read(request).expect("readable");
}

#[test]
fn a_pack_is_never_merged_alone() {
    let mut world = World::new(
        5,
        StoreConfig {
            small_packs_max: 0,
            ..merging()
        },
    );
    produce_packs(&mut world, 2);
    for _ in 0..20 {
        world.ms += 1000;
        world.run();
    }
    let merge = world.store.counters().merge;
    assert_eq!(merge.sources, 2 * merge.merges, "{merge:?}");
    world.check(1 << 20);
}

#[test]
fn packs_count_as_small_only_if_two_of_them_fit_a_merge() {
    let large = StoreConfig {
        segment_bytes_min: 1 << 40,
        ..merging()
    };
    let merge = Merge::new(&large);
    assert!(2 * merge.small_bytes <= MERGE_BYTES_MAX);
    assert_eq!(
        Merge::new(&merging()).small_bytes,
        merging().segment_bytes_min
    );
}

#[test]
fn a_merge_without_room_leaves_the_reserve_alone() {
    let mut world = World::new(
        6,
        StoreConfig {
            reserve_bytes: 64 << 10,
            disk_low_bytes: 0,
            ..merging()
        },
    );
    world.disk.set_capacity(64 << 20);
    world.ms += 1000;
    world.run();
    produce_packs(&mut world, 5);
    one_too_many(&mut world);
    assert!(world.disk.files(SHARD).contains(&FileName::Reserve));
    // Too little for another reserve, were this one gone.
    world.disk.set_capacity(world.disk.used_bytes() - 4096);
    world.run();
    let merge = world.store.counters().merge;
    assert!(merge.discarded > 0, "{merge:?}");
    assert!(world.disk.files(SHARD).contains(&FileName::Reserve));
    world.append(A, 700).expect("producers go on");
    world.run();
    world.disk.set_capacity(64 << 20);
    world.check(1 << 20);
}

#[test]
fn a_power_cut_anywhere_in_a_merge_leaves_one_side_of_it() {
    let survivals = [
        Survival::Nothing,
        Survival::Everything,
        Survival::Random,
        Survival::Prefix,
    ];
    let mut merged = 0;
    for cut in 0..70 {
        let mut world = World::new(3, merging());
        produce_packs(&mut world, 5);
        one_too_many(&mut world);
        let acknowledged = world.logs.clone();
        world.disk.power_off_at(world.disk.ops_started() + cut);
        world.run();
        merged += world.store.counters().merge.merges;
        let survival = survivals[usize::try_from(cut).expect("small") % survivals.len()];
        let disk = world.disk.after_power_cut(survival, cut);
        world.logs = acknowledged;
        world.reopen(disk).expect("a power cut is no damage");
        world.check(1 << 20);
        produce_packs(&mut world, 6);
        world.check(1 << 20);
    }
    assert!(merged > 5 && merged < 65, "{merged}: the cuts span a merge");
}
