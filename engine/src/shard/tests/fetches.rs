//! Fetching: waiting, waking, and finding offsets.

use millrace_storage::record::BATCH_HEADER_BYTES;

use super::*;

#[test]
fn a_parked_fetch_wakes_when_something_came_to_any_home() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    for partition in &partitions {
        let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
        let high = world.read(0, *partition, 0).expect("held").high_watermark.0;
        assert_eq!(high, 0);
        let fetch = world.wanted(&from, 10_000);
        let sequence = world.submit(0, Command::Fetch(fetch));
        world.run();
        assert!(world.ended(sequence).is_none(), "nothing is there");
        assert!(world.append(1, *partition, &BatchMaker::new(2)).is_ok());
        let found = match world.ended(sequence) {
            Some(Ok(Outcome::Fetched(found))) => found,
            other => panic!("{other:?}"),
        };
        let with_data: Vec<PartitionId> = found
            .iter()
            .filter(|one| one.result.as_ref().is_ok_and(|f| !f.batches.is_empty()))
            .map(|one| one.partition)
            .collect();
        assert_eq!(with_data, [*partition]);
        world = World::new(2);
        assert_eq!(world.create("t", 2), partitions);
    }
}

#[test]
fn a_parked_fetch_ends_at_its_deadline_with_what_is_there() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
    let mut fetch = world.wanted(&from, 500);
    fetch.bytes_min = 1 << 20;
    let sequence = world.submit(0, Command::Fetch(fetch));
    world.run();
    assert!(world.append(0, partitions[1], &BatchMaker::new(2)).is_ok());
    assert!(world.ended(sequence).is_none(), "too little is there");
    world.pass_ms(499);
    assert!(world.ended(sequence).is_none());
    world.pass_ms(1);
    match world.ended(sequence) {
        Some(Ok(Outcome::Fetched(found))) => {
            let total: usize = found
                .iter()
                .map(|one| one.result.as_ref().map_or(0, |f| f.batches.len()))
                .sum();
            assert_eq!(total, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fetch_waits_for_as_many_bytes_as_it_asked_for() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let batch = BatchMaker::new(2);
    let mut fetch = world.wanted(&[(partition, 0)], 60_000);
    fetch.bytes_min = batch.bytes().len() * 3;
    let sequence = world.submit(0, Command::Fetch(fetch));
    for _ in 0..2 {
        assert!(world.append(0, partition, &batch).is_ok());
        assert!(world.ended(sequence).is_none());
    }
    assert!(world.append(0, partition, &batch).is_ok());
    assert!(world.ended(sequence).is_some());
}

#[test]
fn a_reader_of_small_settled_sections_does_not_wait_for_more_to_come() {
    let mut world = World::new(1);
    let partitions = world.create("t", 2);
    let batch = BatchMaker::new(2);
    let large = BatchMaker::new(1).attributes(1).payload(vec![7; 60 << 10]);
    let settled = |world: &World| {
        let counters = world.shards[0].report().counters;
        let snapshots = counters.iter().find(|(name, _)| *name == "snapshots");
        snapshots.expect("counted").1
    };
    for pass in 1..4 {
        assert!(world.append(0, partitions[0], &batch).is_ok());
        while settled(&world) < pass {
            assert!(world.append(0, partitions[1], &large).is_ok());
            world.pass_ms(100);
        }
    }
    world.power_cut();
    let mut fetch = world.wanted(&[(partitions[0], 0)], 60_000);
    fetch.bytes_min = batch.bytes().len() * 3;
    let found = world.fetch(0, fetch.clone());
    let fetched = found[0].result.as_ref().expect("held");
    assert_eq!(bases(fetched), [0], "a pack has one of them");
    // The end is where one waits.
    fetch.partitions[0].from = Offset(4);
    let sequence = world.submit(0, Command::Fetch(fetch));
    world.run();
    assert!(world.ended(sequence).is_none());
}

#[test]
fn a_fetch_of_as_many_bytes_as_fit_is_answered_when_no_further_batch_fits() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let batch = BatchMaker::new(2);
    let batch_bytes = batch.bytes().len();
    let mut fetch = world.wanted(&[(partition, 0)], 60_000);
    fetch.bytes_min = batch_bytes * 5 / 2;
    fetch.bytes_max = fetch.bytes_min;
    fetch.partitions[0].bytes_max = fetch.bytes_min;
    let sequence = world.submit(0, Command::Fetch(fetch));
    for _ in 0..2 {
        assert!(world.append(0, partition, &batch).is_ok());
        assert!(world.ended(sequence).is_none());
    }
    assert!(world.append(0, partition, &batch).is_ok());
    match world.ended(sequence) {
        Some(Ok(Outcome::Fetched(found))) => {
            assert_eq!(bases(found[0].result.as_ref().expect("held")), [0, 2]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn fetches_wait_while_sessions_hold_what_others_read() {
    let mut engine = EngineConfig::default();
    engine.limits.answer_bytes_max = 8 << 20;
    let mut world = World::with(2, engine);
    let partitions = world.create("t", 2);
    for partition in &partitions {
        assert!(world.append(0, *partition, &BatchMaker::new(2)).is_ok());
    }
    let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
    world.shards[0].note_answers_held(7 << 20);
    assert!(
        world.shards[0].accepts_questions(),
        "short ones have a part of their own"
    );
    let fetch = world.wanted(&from, 0);
    let waiting: Vec<u64> = (0..3)
        .map(|_| world.submit(0, Command::Fetch(fetch.clone())))
        .collect();
    world.run();
    assert!(
        waiting
            .iter()
            .all(|sequence| world.ended(*sequence).is_none())
    );
    assert_eq!(world.shards[0].fetch_waits_since(), Some(world.now.boot));
    // Nobody waits for one that is gone.
    let gone = world.request(0, waiting[0]);
    world.shards[0].cancel(gone);
    world.shards[0].note_answers_held(0);
    world.run();
    assert!(world.ended(waiting[0]).is_none());
    for sequence in &waiting[1..] {
        assert!(matches!(
            world.ended(*sequence),
            Some(Ok(Outcome::Fetched(_)))
        ));
    }
    assert_eq!(world.shards[0].fetch_waits_since(), None);
    let brought = world.shards[0].answer_bytes();
    assert!(
        brought > 0 && brought < 4096,
        "what was read, not what might have been: {brought}"
    );
    world.shards[0].note_answers_taken();
    assert_eq!(world.shards[0].answer_bytes(), 0);
}

#[test]
fn a_fetch_given_up_while_it_reads_keeps_its_room_until_its_homes_are_done() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
    let fetch = world.wanted(&from, 0);
    let sequence = world.submit(0, Command::Fetch(fetch));
    assert!(world.shards[0].answer_bytes() > 0, "another home was asked");
    let request = world.request(0, sequence);
    world.shards[0].cancel(request);
    assert!(world.shards[0].answer_bytes() > 0);
    world.run();
    assert_eq!(world.shards[0].answer_bytes(), 0);
    assert!(world.ended(sequence).is_none());
}

#[test]
fn a_cancelled_fetch_leaves_nothing_behind() {
    for whole_connection in [false, true] {
        let mut world = World::new(2);
        let partitions = world.create("t", 2);
        let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
        let fetch = world.wanted(&from, 10_000);
        let sequence = world.submit(0, Command::Fetch(fetch));
        world.run();
        let request = world.request(0, sequence);
        if whole_connection {
            world.shards[0].cancel_connection(request.connection);
        } else {
            world.shards[0].cancel(request);
        }
        world.run();
        let now = |world: &World, shard: usize, name: &str| {
            let counters = world.shards[shard].report().counters;
            counters
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, count)| *count)
        };
        assert_eq!(now(&world, 0, "fetches_now"), Some(0));
        assert_eq!(now(&world, 0, "requests_now"), Some(0));
        assert_eq!(now(&world, 0, "watches_now"), Some(0));
        assert_eq!(now(&world, 1, "watches_now"), Some(0));
        assert!(world.append(0, partitions[0], &BatchMaker::new(1)).is_ok());
        assert!(world.ended(sequence).is_none());
    }
}

#[test]
fn reading_outside_what_is_held_is_refused() {
    let mut world = World::new(2);
    for partition in world.create("t", 2) {
        assert!(world.append(0, partition, &BatchMaker::new(2)).is_ok());
        assert_eq!(
            world.read(0, partition, 3).err(),
            Some(Refusal::OffsetOutOfRange {
                first: Offset(0),
                next: Offset(2)
            })
        );
        let at_end = world
            .read(0, partition, 2)
            .expect("that is where one waits");
        assert!(at_end.batches.is_empty());
    }
    assert_eq!(
        world.read(0, PartitionId(99), 0).err(),
        Some(Refusal::UnknownPartition)
    );
}

#[test]
fn a_fetch_is_cut_to_its_bytes_over_all_partitions() {
    let mut world = World::new(2);
    let partitions = world.create("t", 4);
    let batch = BatchMaker::new(2);
    for partition in &partitions {
        for _ in 0..3 {
            assert!(world.append(0, *partition, &batch).is_ok());
        }
    }
    let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
    let mut fetch = world.wanted(&from, 0);
    fetch.bytes_max = batch.bytes().len() * 5;
    let found = world.fetch(0, fetch);
    let counts: Vec<usize> = found
        .iter()
        .map(|one| one.result.as_ref().expect("held").batches.len())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 5);
    assert_eq!(counts[0], 3);
}

/// Asks for the first offset at or after a time; the request's number.
fn find(world: &mut World, partition: PartitionId, at_ms: i64) -> u64 {
    let command = Command::FindOffset {
        partition,
        at: OffsetQuery::AtOrAfter(at_ms),
        isolation: Isolation::Uncommitted,
    };
    world.submit(0, command)
}

#[test]
fn offsets_are_found_at_the_ends_and_by_time() {
    let mut world = World::new(2);
    for partition in world.create("t", 2) {
        assert_eq!(world.find(0, partition, OffsetQuery::MaxTimestamp), None);
        for deltas in [[0, 10, 5], [20, 30, 25], [7, 6, 5]] {
            assert!(
                world
                    .append(0, partition, &BatchMaker::new(3).deltas(&deltas))
                    .is_ok()
            );
        }
        let find = |world: &mut World, at| {
            let found = world.find(0, partition, at)?;
            Some((found.offset.0, found.timestamp_ms))
        };
        assert_eq!(find(&mut world, OffsetQuery::Earliest), Some((0, None)));
        assert_eq!(find(&mut world, OffsetQuery::Latest), Some((9, None)));
        let at = |ms| OffsetQuery::AtOrAfter(WALL_MS + ms);
        assert_eq!(find(&mut world, at(-5)), Some((0, Some(WALL_MS))));
        assert_eq!(find(&mut world, at(6)), Some((1, Some(WALL_MS + 10))));
        assert_eq!(find(&mut world, at(21)), Some((4, Some(WALL_MS + 30))));
        assert_eq!(find(&mut world, at(31)), None);
        let largest = find(&mut world, OffsetQuery::MaxTimestamp);
        assert_eq!(largest, Some((4, Some(WALL_MS + 30))));
    }
}

#[test]
fn deleted_records_are_not_found_by_time() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    for deltas in [[50, 10, 5], [20, 30, 25], [7, 6, 1]] {
        let batch = BatchMaker::new(3).deltas(&deltas);
        assert!(world.append(0, partition, &batch).is_ok());
    }
    let find = |world: &mut World, at| {
        let found = world.find(0, partition, at)?;
        let timestamp_ms = found.timestamp_ms.expect("found by time");
        Some((found.offset.0, timestamp_ms - WALL_MS))
    };
    let at = |ms| OffsetQuery::AtOrAfter(WALL_MS + ms);
    let max = OffsetQuery::MaxTimestamp;
    assert_eq!(find(&mut world, max), Some((0, 50)));
    assert_eq!(world.delete(0, partition, Some(1)), Ok(1));
    assert_eq!(find(&mut world, at(0)), Some((1, 10)));
    assert_eq!(find(&mut world, at(11)), Some((3, 20)), "in the next batch");
    assert_eq!(find(&mut world, at(31)), None);
    assert_eq!(find(&mut world, max), Some((4, 30)));
    assert_eq!(world.delete(0, partition, Some(5)), Ok(5));
    assert_eq!(
        find(&mut world, max),
        Some((5, 25)),
        "later than all others"
    );
    assert_eq!(world.delete(0, partition, Some(8)), Ok(8));
    assert_eq!(find(&mut world, at(0)), Some((8, 1)));
    assert_eq!(find(&mut world, at(2)), None);
    assert_eq!(find(&mut world, max), Some((8, 1)));
}

#[test]
fn deleted_records_are_not_found_by_the_logs_own_time() {
    let mut world = World::new(1);
    let config = [("message.timestamp.type", "LogAppendTime")];
    let partition = world.create_with("t", 1, &config)[0];
    assert!(world.append(0, partition, &BatchMaker::new(4)).is_ok());
    assert_eq!(world.delete(0, partition, Some(2)), Ok(2));
    for at in [OffsetQuery::AtOrAfter(0), OffsetQuery::MaxTimestamp] {
        let found = world.find(0, partition, at).expect("two are left");
        assert_eq!(found.offset, Offset(2));
    }
}

#[test]
fn a_shortage_is_no_damage() {
    use crate::shard::fetches::refusal_of;
    use millrace_storage::disk::DiskError;
    use millrace_storage::error::ReadError;

    const EIO: i32 = 5;
    const ENOMEM: i32 = 12;
    const EMFILE: i32 = 24;
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let partition = world.shards[0].partition(partition).expect("homed here");
    let refused = |errno| refusal_of(ReadError::Disk(DiskError::Io { errno }), partition);
    for errno in [EMFILE, ENOMEM] {
        assert!(matches!(refused(errno), Refusal::Busy(_)), "{errno}");
    }
    assert!(matches!(refused(EIO), Refusal::Damaged(_)));
}

#[test]
fn searches_past_their_bound_wait_for_their_turn() {
    let mut engine = EngineConfig::default();
    engine.limits.lookups_max = 2;
    let mut world = World::with(2, engine);
    let partitions = world.create("t", 8);
    for partition in &partitions {
        let batch = BatchMaker::new(2).deltas(&[0, 10]);
        assert!(world.append(0, *partition, &batch).is_ok());
    }
    let asked: Vec<u64> = partitions
        .iter()
        .map(|partition| find(&mut world, *partition, WALL_MS + 5))
        .collect();
    let withdrawn = asked.iter().zip(&partitions).rev();
    let (withdrawn, _) = withdrawn
        .into_iter()
        .find(|(_, partition)| world.shards[0].home(**partition) == Ok(ShardId(0)))
        .expect("partitions are spread");
    let request = world.request(0, *withdrawn);
    world.shards[0].cancel(request);
    assert!(world.shards[0].lookups.waiting() > 0);
    world.run();
    for sequence in &asked {
        let ended = world.ended(*sequence);
        if sequence == withdrawn {
            assert!(ended.is_none(), "it was withdrawn");
            continue;
        }
        match ended {
            Some(Ok(Outcome::OffsetFound(Some(found)))) => assert_eq!(found.offset, Offset(1)),
            other => panic!("{other:?}"),
        }
    }
    for shard in &world.shards {
        assert_eq!((shard.lookups.len(), shard.lookups.waiting()), (0, 0));
    }
}

#[test]
fn a_turn_begins_a_bounded_number_of_searches_and_the_next_one_goes_on() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    assert!(world.append(0, partition, &BatchMaker::new(2)).is_ok());
    world.pass_ms(1);
    let asked = (0..200).map(|_| find(&mut world, partition, WALL_MS));
    let asked: Vec<u64> = asked.collect();
    for (turn, ended) in [64, 128, 192, 200].into_iter().enumerate() {
        // Several rounds of a turn share its bound.
        world.turn();
        let has_ended = |sequence| world.ended.contains_key(sequence);
        assert_eq!(asked.iter().filter(|asked| has_ended(asked)).count(), ended);
        let due = world.shards[0].poll_timeout();
        assert_eq!(due == Some(BootTime(0)), ended < 200, "turn {turn}");
        world.now.boot = BootTime(world.now.boot.0 + 1);
    }
}

#[test]
fn searches_wait_while_others_hold_large_batches() {
    // Of 64 KiB at most, as the store is told. These have 40 KiB.
    for (bytes_max, at_once) in [(3 * (64 << 10), 4), (1, 1)] {
        let mut engine = EngineConfig::default();
        engine.limits.lookup_bytes_max = bytes_max;
        let mut world = World::with(1, engine);
        let partition = world.create("t", 1)[0];
        let mut payload = BatchMaker::new(2).records_alone().to_vec();
        payload.resize((40 << 10) - BATCH_HEADER_BYTES, 0);
        let batch = BatchMaker::new(2).payload(payload);
        assert!(world.append(0, partition, &batch).is_ok());
        let asked = (0..8).map(|_| find(&mut world, partition, WALL_MS));
        let asked: Vec<u64> = asked.collect();
        let lookups = &world.shards[0].lookups;
        assert_eq!((lookups.len(), lookups.waiting()), (at_once, 8 - at_once));
        assert_ne!(world.shards[0].poll_timeout(), Some(BootTime(0)));
        world.run();
        for sequence in asked {
            assert!(matches!(
                world.ended(sequence),
                Some(Ok(Outcome::OffsetFound(Some(_))))
            ));
        }
    }
}

#[test]
fn idle_readers_stop_no_producer() {
    let mut engine = EngineConfig::default();
    engine.limits.requests_max = 4;
    engine.limits.mesh_requests_max = 4;
    let mut world = World::with(2, engine);
    let partitions = world.create("t", 2);
    let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
    let parked: Vec<u64> = (0..9)
        .map(|_| {
            let fetch = world.wanted(&from, 10_000);
            world.submit(0, Command::Fetch(fetch))
        })
        .collect();
    world.run();
    assert!(world.shards[0].accepts_appends());
    for partition in &partitions {
        assert!(world.append(0, *partition, &BatchMaker::new(1)).is_ok());
    }
    for sequence in parked {
        assert!(world.ended(sequence).is_some_and(|ended| ended.is_ok()));
    }
}
