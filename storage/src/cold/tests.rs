//! Packs that are damaged, missing, or dropped under a reader.

use super::*;
use crate::config::StoreConfig;
use crate::disk::FileName;
use crate::error::StorageError;
use crate::record::BatchHeader;
use crate::request::{ReadOutcome, TimePoint, TimeRequest};
use crate::section::{Directory, SectionKind};
use crate::settle::tests::{A, B, SHARD, World, config, is_pack, is_segment};
use crate::testing::{Fault, Lasting, PlannedFault};
use crate::units::page_ceil;

/// Files of a few chunks.
fn large() -> StoreConfig {
    StoreConfig {
        wal_file_bytes: 512 << 10,
        segment_bytes_min: 300 << 10,
        ..config()
    }
}

/// A store with one segment of A and, in a pack, a section of B; its segment's directory.
fn settled() -> (World, FileName, Directory) {
    let mut world = World::new(1, large());
    world.produce(B, 10, 300);
    while world.settled == 0 {
        world.produce(A, 5, 9000);
    }
    world.restart();
    let segment = world.disk.files(SHARD).into_iter().find(is_segment);
    let segment = segment.expect("A has enough for one");
    let directory = directory_of(&world, segment);
    assert!(directory.sections[0].index_entries > 4);
    (world, segment, directory)
}

/// Reads the directory as `inspect` would: from the file's end.
fn directory_of(world: &World, file: FileName) -> Directory {
    let content = world.disk.contents(SHARD, file).expect("a file");
    let starts = (0..content.len()).step_by(PAGE_BYTES).rev();
    let mut found = starts.filter_map(|at| {
        let sections = u32::from_le_bytes(content[at + 12..at + 16].try_into().expect("four"));
        let length = 32 + 112 * usize::try_from(sections).expect("small");
        let bytes = content.get(at..at + length)?;
        Directory::decode(bytes, FilePosition(at as u64)).ok()
    });
    found.next().expect("a directory")
}

#[test]
fn damage_in_any_chunk_is_an_error_for_that_range_only() {
    let (world, segment, directory) = settled();
    let section = &directory.sections[0];
    for at in (0..section.bytes).step_by(1801) {
        let mut world = World::reopened(&world);
        world.damage(segment, section.position.0 + at);
        let (mut hurt, mut whole) = (0, 0);
        for base in world.logs[&A].batches.keys().copied().collect::<Vec<_>>() {
            if base >= section.end_offset.0 {
                continue;
            }
            let request = world.request(A, base, 1);
            match world.read(request) {
                Ok(records) => {
                    assert_eq!(world.logs[&A].batches[&base], records.batches[0]);
                    whole += 1;
                }
                Err(ReadError::Damaged { file, .. }) => {
                    assert_eq!(file, segment);
                    hurt += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            (1..=7).contains(&hurt) && whole > 20,
            "{hurt} of {whole} at {at}"
        );
        assert!(world.store.counters().cold.damaged > 0);
    }
}

#[test]
fn a_damaged_index_is_made_anew_and_a_damaged_section_shows() {
    let (world, segment, directory) = settled();
    let section = &directory.sections[0];
    for at in 0..section.index_bytes() {
        let mut world = World::reopened(&world);
        world.damage(segment, section.index_position.0 + at);
        world.check(1 << 20);
        assert_eq!(world.store.counters().cold.rebuilt, 1);
        world.check(5000);
        assert_eq!(world.store.counters().cold.rebuilt, 1, "it is kept");
    }
    let mut world = World::reopened(&world);
    world.damage(segment, section.index_position.0);
    world.damage(segment, section.position.0 + 100_000);
    let request = world.request(A, 0, 1);
    let result = world.read(request);
    assert!(
        matches!(result, Err(ReadError::Damaged { .. })),
        "{result:?}"
    );
}

#[test]
fn one_damaged_directory_is_survived_and_two_are_refused_by_name() {
    let (world, segment, directory) = settled();
    let content = world.disk.contents(SHARD, segment).expect("a file");
    let length = 32 + 112 * directory.sections.len();
    let second = content.len() - page_ceil(length);
    let first = second - page_ceil(length);
    for at in 0..length {
        let mut world = World::reopened(&world);
        world.damage(segment, (first + at) as u64);
        world.restart();
        world.check(1 << 20);
        world.damage(segment, (second + at) as u64);
        let disk = world.disk.after_kill(1);
        let refused = world.reopen(disk).expect_err("damaged twice");
        let StorageError::Corrupt { file, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(file, segment);
    }
}

#[test]
fn a_missing_or_shortened_pack_is_refused_by_name() {
    let (world, segment, _) = settled();
    let mut lost = World::reopened(&world);
    lost.disk.lose(SHARD, segment);
    let mut cut = World::reopened(&world);
    let bytes = cut.disk.contents(SHARD, segment).expect("a file").len();
    cut.disk.cut(SHARD, segment, bytes as u64 - 4096);
    for mut world in [lost, cut] {
        let disk = world.disk.after_kill(1);
        let refused = world.reopen(disk).expect_err("not there as it was");
        let StorageError::Corrupt { file, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(file, segment);
    }
}

#[test]
fn a_snapshot_survives_damage_of_one_copy_and_is_refused_by_name_without_any() {
    let (mut world, ..) = settled();
    let packs = world.disk.files(SHARD).into_iter();
    let pack = packs.rev().find(|file| matches!(file, FileName::Pack(_)));
    let pack = pack.expect("the snapshot's");
    let directory = directory_of(&world, pack);
    let section = directory.sections.last().expect("not empty");
    assert_eq!(section.kind, SectionKind::Snapshot);
    let copies: Vec<u64> = section.copy_positions().map(|copy| copy.0).collect();
    for copy in &copies {
        let mut one = World::reopened(&world);
        one.damage(pack, *copy);
        let disk = one.disk.after_kill(1);
        one.reopen(disk).expect("the other copy is good");
        one.check(1 << 20);
    }
    for copy in copies {
        world.damage(pack, copy);
    }
    let disk = world.disk.after_kill(1);
    let refused = world.reopen(disk).expect_err("the engine's state is lost");
    let found = matches!(refused, StorageError::Corrupt { file, .. } if file == pack);
    assert!(found, "{refused}");
}

#[test]
fn a_start_that_runs_out_of_descriptors_calls_nothing_damaged() {
    let (mut world, ..) = settled();
    world.produce(B, 2, 300);
    let mut refused = 0;
    for (op, lasting) in (0..).flat_map(|op| [(op, Lasting::Once), (op, Lasting::Forever)]) {
        let mut short = World::reopened(&world);
        let mut disk = world.disk.after_kill(1);
        let fault = Fault::Shortage;
        disk.plan(PlannedFault { op, fault, lasting });
        match short.reopen(disk) {
            Ok(()) if short.disk.ops_started() <= op => break,
            Ok(()) => {}
            Err(StorageError::Io { error, .. }) => {
                assert!(error.is_shortage(), "{error} at {op}");
                refused += 1;
            }
            Err(error) => panic!("{error} at {op}"),
        }
        let mut disk = short.disk.after_kill(1);
        disk.heal();
        short.reopen(disk).expect("nothing was wrong");
        short.check(1 << 20);
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn what_was_never_committed_goes_and_what_is_not_ours_stays() {
    let (mut world, ..) = settled();
    let stray = FileName::Pack(crate::units::PackId(999));
    let half = FileName::Temporary(77);
    for (number, file) in [stray, half].into_iter().enumerate() {
        let token = DiskToken(number as u64);
        let bytes = 8192;
        let done = world.disk.run(SHARD, DiskOp::Create { token, file, bytes });
        done.result.expect("created");
    }
    let disk = world.disk.after_kill(1);
    world.reopen(disk).expect("opens");
    let files = world.disk.files(SHARD);
    assert!(!files.contains(&stray) && !files.contains(&half));
    world.check(1 << 20);
    // The stray's number is not given out again.
    let settled = world.settled;
    while world.settled == settled {
        world.produce(A, 5, 9000);
    }
    let is_later = |file: &FileName| match file {
        FileName::Pack(id) | FileName::Segment(id) => id.0 >= 1000,
        _ => false,
    };
    assert!(world.disk.files(SHARD).iter().any(is_later));
}

const EARLY: i64 = 100;
const MIDDLE: i64 = 500;
const LATE: i64 = 1000;

/// A lookup of A's largest timestamp that has just asked for the chunk of a section whose latest
/// batches it may not see. What it may see of it is `EARLY`; the section before, in a pack of its
/// own, has `MIDDLE`. With `beside`, that pack has a section of B as well.
fn looking_for_the_latest(beside: bool) -> (World, ReadTicket, DiskOp) {
    let mut world = World::new(
        1,
        StoreConfig {
            settle_after_ms: 1000,
            small_packs_max: 1,
            ..config()
        },
    );
    if beside {
        world.append(B, 700).expect("taken");
    }
    for times in [[MIDDLE, MIDDLE], [EARLY, LATE]] {
        for time in times {
            world.append_of(A, 700, time).expect("taken");
        }
        world.change_state();
        settle_now(&mut world);
    }
    assert_eq!(world.sections(A).len(), 2);
    let request = TimeRequest {
        ticket: ReadTicket(77),
        partition: A,
        point: TimePoint::Max,
        from: Offset(0),
        end: Offset(9),
    };
    let outcome = world.store.find_time(world.now(), request);
    assert_eq!(outcome, ReadOutcome::Pending);
    let held = world.store.poll_disk().expect("a chunk");
    (world, request.ticket, held)
}

fn settle_now(world: &mut World) {
    world.run();
    world.ms += 2000;
    world.run();
}

/// Base offset of the batch that the lookup found once its operation came through.
fn latest(world: &mut World, ticket: ReadTicket, held: DiskOp) -> u64 {
    let done = world.disk.run(SHARD, held);
    world.store.handle_disk(world.now(), done);
    let records = world.await_read(ticket, ReadOutcome::Pending);
    let batches = records.expect("nothing is damaged").batches;
    let header = BatchHeader::parse(&batches[0]).expect("a batch");
    header.base_offset.0
}

/// Deletes A's first section.
fn delete_first(world: &mut World) {
    let deleted = world.store.append_log_start(world.now(), A, Offset(6));
    deleted.expect("taken");
    world.model(A).start = 6;
}

#[test]
fn a_lookup_leaves_a_pack_alone_that_is_being_removed() {
    let (mut world, ticket, held) = looking_for_the_latest(false);
    let first = world.disk.files(SHARD).into_iter().find(is_pack);
    delete_first(&mut world);
    let now = world.now();
    let mut removal = None;
    while removal.is_none() {
        world.store.close_group(now);
        world.store.handle_timeout(now);
        let op = world.store.poll_disk().expect("the pack goes");
        if matches!(op, DiskOp::Remove { file, .. } if Some(file) == first) {
            removal = Some(op);
        } else {
            let done = world.disk.run(SHARD, op);
            world.store.handle_disk(now, done);
        }
    }
    let done = world.disk.run(SHARD, held);
    world.store.handle_disk(now, done);
    let done = world.disk.run(SHARD, removal.expect("just seen"));
    world.store.handle_disk(now, done);
    let records = world.await_read(ticket, ReadOutcome::Pending);
    let found = records.expect("found").batches;
    let header = BatchHeader::parse(&found[0]).expect("a batch");
    assert_eq!(header.base_offset, Offset(6));
    world.run();
    world.check(1 << 20);
}

#[test]
fn a_lookup_leaves_a_section_alone_whose_bytes_were_given_back() {
    let (mut world, ticket, held) = looking_for_the_latest(true);
    delete_first(&mut world);
    world.run();
    assert!(world.store.counters().returned_bytes > 0);
    assert_eq!(latest(&mut world, ticket, held), 6);
    world.check(1 << 20);
}

#[test]
fn a_lookup_finds_what_was_merged_meanwhile() {
    let (mut world, ticket, held) = looking_for_the_latest(false);
    world.append(B, 700).expect("taken");
    settle_now(&mut world);
    world.ms += 2000;
    world.run();
    assert!(world.store.counters().merge.merges > 0);
    assert_eq!(latest(&mut world, ticket, held), 0);
    world.check(1 << 20);
}

#[test]
fn a_dropped_section_stays_whole_while_a_read_holds_it() {
    let (mut world, segment, directory) = settled();
    let request = world.request(A, 0, 1);
    world.read(request).expect("the index is at hand now");
    let request = world.request(A, 0, 1 << 20);
    let now = world.now();
    let outcome = world.store.read(now, request);
    assert_eq!(outcome, ReadOutcome::Pending);
    // The read's operation waits; everything else runs.
    let held = world.store.poll_disk().expect("chunks");
    let end = directory.sections[0].end_offset;
    let deleted = world.store.append_log_start(now, A, end);
    deleted.expect("taken");
    world.model(A).start = end.0;
    world.run();
    assert!(world.disk.files(SHARD).contains(&segment), "held");
    let done = world.disk.run(SHARD, held);
    world.store.handle_disk(now, done);
    let records = world.await_read(request.ticket, ReadOutcome::Pending);
    assert!(!records.expect("promised").batches.is_empty());
    world.run();
    assert!(!world.disk.files(SHARD).contains(&segment), "gone");
    world.check(1 << 20);
}
