//! Appending: offsets, durability, retries, refusals.

use millrace_storage::testing::{Fault, Lasting, PlannedFault};
use millrace_storage::units::LeaderEpoch;

use super::*;
use crate::command::TopicRef;
use crate::limits::Limits;

#[test]
fn a_batch_is_acknowledged_when_it_is_durable_and_read_back() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let three = BatchMaker::new(3).bytes();
    let batch = three.as_slice();
    let sequence = world.submit(0, Command::Append { partition, batch });
    world.turn();
    assert!(world.ended(sequence).is_none(), "nothing is durable yet");
    let before = world.read_without_disk(partition);
    assert_eq!(before.high_watermark, Offset(0), "nothing is readable yet");
    world.run();
    assert!(matches!(
        world.ended(sequence),
        Some(Ok(Outcome::Appended(appended))) if appended.base_offset == Offset(0)
    ));
    let second = world.append(0, partition, &BatchMaker::new(2));
    assert_eq!(second.map(|appended| appended.base_offset), Ok(Offset(3)));
    let fetched = world.read(0, partition, 1).expect("held");
    assert_eq!(
        bases(&fetched),
        [0, 3],
        "the batch that contains the offset comes first"
    );
    assert_eq!(fetched.high_watermark, Offset(5));
}

impl World {
    /// A fetch answered without any disk operation.
    fn read_without_disk(&mut self, partition: PartitionId) -> Fetched {
        let fetch = self.wanted(&[(partition, 0)], 0);
        let sequence = self.submit(0, Command::Fetch(fetch));
        self.turn();
        match self.ended(sequence) {
            Some(Ok(Outcome::Fetched(mut found))) => found.remove(0).result.expect("held"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_with_its_offset() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    for partition in &partitions {
        for base in [0, 2, 4] {
            let appended = world
                .append(0, *partition, &BatchMaker::new(2))
                .expect("taken");
            assert_eq!(appended.base_offset, Offset(base));
        }
    }
    let cluster = world.shards[0].catalog().cluster_id();
    world.power_cut();
    assert_eq!(world.shards[1].catalog().cluster_id(), cluster);
    for partition in partitions {
        assert_eq!(world.read_all(1, partition), [0, 2, 4]);
        let next = world
            .append(1, partition, &BatchMaker::new(1))
            .expect("taken");
        assert_eq!(next.base_offset, Offset(6));
    }
}

#[test]
fn a_repeated_batch_is_stored_once_also_across_a_power_cut() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let first = BatchMaker::new(3).producer(9, 0, 0);
    let second = BatchMaker::new(3).producer(9, 0, 3);
    assert!(world.append(0, partition, &first).is_ok());
    assert!(world.append(0, partition, &second).is_ok());
    for _ in 0..2 {
        let again = world.append(0, partition, &second).expect("known");
        assert_eq!(again.base_offset, Offset(3));
        assert_eq!(
            world.read(0, partition, 0).expect("held").high_watermark,
            Offset(6)
        );
        world.power_cut();
    }
    let gap = world.append(0, partition, &BatchMaker::new(1).producer(9, 0, 7));
    assert_eq!(
        gap,
        Err(Refusal::OutOfOrderSequence {
            expected: 6,
            received: 7
        })
    );
}

#[test]
fn a_batch_repeated_before_it_is_durable_waits_for_its_first_life() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let bytes = BatchMaker::new(3).producer(9, 0, 0).bytes();
    let batch = bytes.as_slice();
    let sequences = [0, 1].map(|_| world.submit(0, Command::Append { partition, batch }));
    world.turn();
    assert!(world.ended.is_empty(), "neither is durable");
    world.run();
    for sequence in sequences {
        assert!(matches!(
            world.ended(sequence),
            Some(Ok(Outcome::Appended(appended))) if appended.base_offset == Offset(0)
        ));
    }
    assert_eq!(
        world.read(0, partition, 0).expect("held").high_watermark,
        Offset(3)
    );
}

#[test]
fn a_batch_repeated_when_its_offset_is_forgotten_waits_until_it_is_durable() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    let batches = (0..6).map(|sequence| BatchMaker::new(1).producer(9, 0, sequence).bytes());
    let batches: Vec<Vec<u8>> = batches.collect();
    for batch in &batches {
        world.submit(0, Command::Append { partition, batch });
    }
    let batch = batches[0].as_slice();
    let again = world.submit(0, Command::Append { partition, batch });
    world.turn();
    assert!(
        world.ended(again).is_none(),
        "its first life is not durable"
    );
    world.run();
    let is_duplicate = |ended| matches!(ended, Some(Err(Refusal::DuplicateSequence)));
    assert!(is_duplicate(world.ended(again)));
    let again = world.submit(0, Command::Append { partition, batch });
    world.turn();
    assert!(is_duplicate(world.ended(again)), "nothing to wait for");
}

#[test]
fn another_shards_partition_is_appended_to_and_read_through_the_mesh() {
    let mut world = World::new(3);
    for partition in world.create("t", 3) {
        for shard in 0..3 {
            let appended = world
                .append(shard, partition, &BatchMaker::new(1))
                .expect("taken");
            assert_eq!(appended.base_offset, Offset(u64::from(shard)));
        }
        for shard in 0..3 {
            assert_eq!(
                bases(&world.read(shard, partition, 0).expect("held")),
                [0, 1, 2]
            );
        }
    }
}

#[test]
fn a_clean_stop_waits_for_what_other_shards_were_asked_and_for_who_may_ask() {
    let mut world = World::new(2);
    let partitions = world.create("a", 2);
    let home = |world: &World, id| world.shards[0].catalog().place(id).expect("there").home;
    let there = partitions
        .into_iter()
        .find(|id| home(&world, *id) == ShardId(1));
    let partition = there.expect("one of two");
    let batch = BatchMaker::new(3).bytes();
    let sequence = world.submit(
        0,
        Command::Append {
            partition,
            batch: &batch,
        },
    );
    // The asker's own log has nothing to do with it; its home has not even heard of it.
    for shard in &mut world.shards {
        shard.close(world.now);
    }
    assert!(world.shards[0].awaits_others());
    assert!(world.shards[1].is_asked_by_others());
    let mut turns = 0;
    while world
        .shards
        .iter()
        .any(|shard| shard.awaits_others() || shard.is_asked_by_others())
    {
        world.run();
        for shard in &mut world.shards {
            shard.close(world.now);
        }
        turns += 1;
        assert!(turns < 10, "they wait for each other");
    }
    let ended = world.ended(sequence).expect("answered before the stop");
    assert!(matches!(ended, Ok(Outcome::Appended(_))), "{ended:?}");
}

#[test]
fn the_logs_own_stamp_is_used_where_the_topic_asks_for_it() {
    let mut world = World::new(1);
    let config = [("message.timestamp.type", "LogAppendTime")];
    let partition = world.create_with("t", 1, &config)[0];
    let appended = world
        .append(0, partition, &BatchMaker::new(1))
        .expect("taken");
    assert_eq!(appended.append_time_ms, Some(WALL_MS));
    world.now.wall_ms -= 1_000_000;
    world.power_cut();
    let appended = world
        .append(0, partition, &BatchMaker::new(1))
        .expect("taken");
    assert_eq!(
        appended.append_time_ms,
        Some(WALL_MS),
        "the clock was set back"
    );
}

#[test]
fn bad_batches_and_unknown_partitions_are_refused() {
    let mut world = World::new(2);
    let partition = world.create("t", 1)[0];
    for shard in 0..2 {
        let unknown = world.append(shard, PartitionId(99), &BatchMaker::new(1));
        assert_eq!(unknown, Err(Refusal::UnknownPartition));
        let control = world.append(shard, partition, &BatchMaker::new(1).attributes(1 << 5));
        assert_eq!(control, Err(Refusal::NoTransaction));
    }
}

#[test]
fn a_failed_log_write_leaves_the_outcome_unknown_and_takes_nothing_more() {
    let mut world = World::new(1);
    let partition = world.create("t", 1)[0];
    assert!(world.append(0, partition, &BatchMaker::new(1)).is_ok());
    world.disk.plan(PlannedFault {
        op: world.disk.ops_started(),
        fault: Fault::Error,
        lasting: Lasting::Forever,
    });
    let unknown = Err(Refusal::OutcomeUnknown);
    assert_eq!(world.append(0, partition, &BatchMaker::new(1)), unknown);
    assert!(world.shards[0].poisoned().is_some());
    assert_eq!(world.append(0, partition, &BatchMaker::new(1)), unknown);
    assert!(!world.shards[0].accepts_appends());
}

#[test]
fn a_cancelled_append_is_stored_but_says_nothing() {
    let mut world = World::new(2);
    for partition in world.create("t", 2) {
        let bytes = BatchMaker::new(1).bytes();
        let batch = bytes.as_slice();
        let sequence = world.submit(0, Command::Append { partition, batch });
        let request = world.request(0, sequence);
        world.shards[0].cancel(request);
        world.run();
        assert!(world.ended(sequence).is_none());
        assert_eq!(
            world.read(0, partition, 0).expect("held").high_watermark,
            Offset(1)
        );
    }
}

#[test]
fn appends_that_the_log_has_no_room_for_wait_in_order_or_are_refused() {
    let limits = Limits {
        pending_append_bytes_max: 200 << 10,
        ..Limits::default()
    };
    let mut world = World::with(
        1,
        EngineConfig {
            limits,
            ..EngineConfig::default()
        },
    );
    let partition = world.create("t", 1)[0];
    // Without a disk step nothing is freed: the log fills, then the queue.
    let large = BatchMaker::new(1).attributes(1).payload(vec![7; 50 << 10]);
    let bytes = large.bytes();
    let batch = bytes.as_slice();
    let mut sequences = Vec::new();
    while world.shards[0].accepts_appends() {
        sequences.push(world.submit(0, Command::Append { partition, batch }));
        world.turn();
        assert!(sequences.len() < 2_000, "the log fills");
    }
    // The last of those is held; so are two more.
    for _ in 0..2 {
        sequences.push(world.submit(0, Command::Append { partition, batch }));
    }
    let over = world.submit(0, Command::Append { partition, batch });
    world.run();
    let taken = sequences.len();
    for (offset, sequence) in (0..).zip(sequences) {
        match world.ended(sequence) {
            Some(Ok(Outcome::Appended(appended))) => {
                assert_eq!(appended.base_offset, Offset(offset));
            }
            other => panic!("{offset} of {taken}: {other:?}"),
        }
    }
    assert_eq!(
        world.ended(over).and_then(Result::err),
        Some(Refusal::Busy("memory.pending_append_bytes_max"))
    );
}

#[test]
fn idle_producers_are_forgotten_after_their_time() {
    let limits = Limits {
        producer_expiry_ms: 5_000,
        ..Limits::default()
    };
    let mut world = World::with(
        1,
        EngineConfig {
            limits,
            ..EngineConfig::default()
        },
    );
    let partition = world.create("t", 1)[0];
    let first = BatchMaker::new(1).producer(9, 0, 0);
    assert!(world.append(0, partition, &first).is_ok());
    world.pass_ms(4_000);
    let second = BatchMaker::new(1).producer(9, 0, 1);
    assert!(world.append(0, partition, &second).is_ok());
    for _ in 0..8 {
        world.pass_ms(1_000);
    }
    let unknown = Refusal::UnknownProducer {
        log_start: Offset(0),
    };
    let third = world.append(0, partition, &BatchMaker::new(1).producer(9, 0, 2));
    assert_eq!(third, Err(unknown));
}

#[test]
fn made_up_producers_cost_a_bounded_amount_and_the_longest_idle_go_first() {
    let limits = Limits {
        producers_max: 4,
        ..Limits::default()
    };
    let engine = EngineConfig {
        limits,
        ..EngineConfig::default()
    };
    let mut world = World::with(1, engine);
    let partitions = world.create("t", 2);
    let by = |id, sequence| BatchMaker::new(1).producer(id, 0, sequence);
    assert!(world.append(0, partitions[0], &by(1, 0)).is_ok());
    for (sequence, id) in (1..).zip(1_000_000..1_000_009) {
        assert!(world.append(0, partitions[1], &by(id, 0)).is_ok());
        if id % 2 == 0 {
            let next = world.append(0, partitions[0], &by(1, (sequence + 1) / 2));
            assert!(next.is_ok(), "who goes on producing stays known: {next:?}");
        }
    }
    let counters = world.shards[0].report().counters;
    let counter = |name| counters.iter().find(|(known, _)| *known == name);
    assert_eq!(counter("producers_now"), Some(&("producers_now", 4)));
    assert_eq!(
        counter("evicted_producers"),
        Some(&("evicted_producers", 6))
    );
    let unknown = Refusal::UnknownProducer {
        log_start: Offset(0),
    };
    let forgotten = world.append(0, partitions[1], &by(1_000_000, 1));
    assert_eq!(forgotten, Err(unknown));

    world.power_cut();
    assert!(world.append(0, partitions[0], &by(1, 6)).is_ok());
    let deleted = CatalogRequest::DeleteTopics {
        topics: vec![TopicRef::Name("t".to_owned())],
    };
    assert!(world.ask(0, Command::WriteCatalog(deleted)).is_ok());
    let counters = world.shards[0].report().counters;
    assert!(
        counters.contains(&("producers_now", 0)),
        "they go with their topic"
    );
}

#[test]
fn the_end_of_a_leader_epoch_is_told() {
    let mut world = World::new(2);
    for partition in world.create("t", 2) {
        assert!(world.append(0, partition, &BatchMaker::new(4)).is_ok());
        let epoch = LeaderEpoch(0);
        let end = world.ask(0, Command::FindEpochEnd { partition, epoch });
        let Ok(Outcome::EpochEnd(end)) = end else {
            panic!("{end:?}")
        };
        assert_eq!(end, Some((epoch, Offset(4))));
        let epoch = LeaderEpoch(3);
        let beyond = world.ask(0, Command::FindEpochEnd { partition, epoch });
        assert!(matches!(beyond, Ok(Outcome::EpochEnd(None))), "{beyond:?}");
    }
}

#[test]
fn too_much_for_other_shards_stops_producers_and_then_is_refused() {
    let one = BatchMaker::new(1).bytes();
    let limits = Limits {
        mesh_append_bytes_max: one.len() * 4,
        ..Limits::default()
    };
    let mut world = World::with(
        2,
        EngineConfig {
            limits,
            ..EngineConfig::default()
        },
    );
    let partition = world.create("t", 2)[1];
    let batch = one.as_slice();
    let mut taken = Vec::new();
    for expected in [true, true, false, false] {
        taken.push(world.submit(0, Command::Append { partition, batch }));
        assert_eq!(world.shards[0].accepts_appends(), expected);
    }
    let over = world.submit(0, Command::Append { partition, batch });
    let cancelled = taken.pop().expect("four");
    let request = world.request(0, cancelled);
    world.shards[0].cancel(request);
    world.run();
    let busy = Refusal::Busy("memory.mesh_append_bytes_max");
    assert_eq!(world.ended(over).and_then(Result::err), Some(busy));
    assert!(world.ended(cancelled).is_none());
    for sequence in taken {
        assert!(matches!(
            world.ended(sequence),
            Some(Ok(Outcome::Appended(_)))
        ));
    }
    assert!(world.shards[0].accepts_appends(), "everything came back");
    assert_eq!(world.read_all(0, partition), [0, 1, 2, 3]);
}

#[test]
fn stages_are_recorded_at_the_connections_shard_and_at_the_home() {
    let mut world = World::new(2);
    let partition = world.create("t", 2)[1]; // Homed at shard 1.
    let count = |world: &mut World, shard: u16, name: &str| {
        let Ok(Outcome::Reported(report)) = world.ask(shard, Command::Report) else {
            panic!("a report is never refused");
        };
        let mut stages = report.stages.into_iter();
        let stage = stages.find(|stage| stage.name == name);
        let histogram = stage.expect("a stage is told from the start").histogram;
        histogram.iter().map(|[_, count]| count).sum::<u64>()
    };
    let before = [0, 1].map(|shard| count(&mut world, shard, "group_commit"));
    for _ in 0..3 {
        let stored = world.append(0, partition, &BatchMaker::new(1));
        assert!(stored.is_ok(), "{stored:?}");
    }
    let after = [0, 1].map(|shard| count(&mut world, shard, "group_commit"));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [0, 3]);
    assert_eq!(count(&mut world, 0, "append"), 3);
    assert_eq!(count(&mut world, 1, "append"), 0);
    assert!(count(&mut world, 0, "mesh") >= 3);
    // The answer says when the home had it, whose clock is the connection's shard's.
    let begun = world.now.boot;
    let batch = BatchMaker::new(1).bytes();
    let batch = batch.as_slice();
    let sequence = world.submit(0, Command::Append { partition, batch });
    world.turn();
    world.pass_ms(3);
    let Some(Ok(Outcome::Appended(answer))) = world.ended(sequence) else {
        panic!("it is appended")
    };
    assert_eq!(answer.durable_at, begun.after_ms(3));
}
