//! The catalog over several shards, and producer ids.

use std::collections::BTreeSet;

use super::*;
use crate::command::{ConfigAlteration, ConfigChange, TopicRef};

fn create_request(name: &str) -> CatalogRequest {
    CatalogRequest::CreateTopics {
        topics: vec![NewTopic {
            name: name.to_owned(),
            partitions: None,
            homes: Vec::new(),
            config: Vec::new(),
        }],
        validate_only: false,
    }
}

#[test]
fn a_catalog_write_is_answered_when_it_is_durable_and_everywhere() {
    let mut world = World::new(3);
    let sequence = world.submit(2, Command::WriteCatalog(create_request("t")));
    while world.ended(sequence).is_none() {
        assert!(world.shards[2].catalog().topic("t").is_none() || world.ended.is_empty());
        world.shards[0].end_turn(world.now);
        world.turn();
        if world.ended.contains_key(&sequence) {
            break;
        }
        assert!(world.disk_step(), "the write ends");
    }
    for shard in &world.shards {
        assert!(shard.catalog().topic("t").is_some());
    }
    world.power_cut();
    for shard in &world.shards {
        assert!(shard.catalog().topic("t").is_some());
    }
}

#[test]
fn nothing_of_a_change_is_visible_before_it_is_durable() {
    let mut world = World::new(2);
    world.submit(0, Command::WriteCatalog(create_request("t")));
    world.turn();
    for shard in &world.shards {
        assert!(shard.catalog().topic("t").is_none());
    }
    world.power_cut();
    for shard in &world.shards {
        assert!(shard.catalog().topic("t").is_none());
    }
}

#[test]
fn requests_queue_and_each_sees_the_ones_before() {
    let mut world = World::new(2);
    let sequences = [1, 0, 1].map(|shard| {
        let request = create_request("t");
        world.submit(shard, Command::WriteCatalog(request))
    });
    world.run();
    let mut created = 0;
    for sequence in sequences {
        match world.ended(sequence) {
            Some(Ok(Outcome::CatalogWritten(answers))) => match &answers[0] {
                Ok(_) => created += 1,
                Err(refusal) => assert_eq!(*refusal, Refusal::TopicExists("t".to_owned())),
            },
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(created, 1);
}

#[test]
fn a_deleted_topic_is_gone_from_every_shard_and_wakes_its_readers() {
    let mut world = World::new(2);
    let partitions = world.create("t", 2);
    let from: Vec<(PartitionId, u64)> = partitions.iter().map(|p| (*p, 0)).collect();
    let fetch = world.wanted(&from, 60_000);
    let parked = world.submit(1, Command::Fetch(fetch));
    world.run();
    let delete = CatalogRequest::DeleteTopics {
        topics: vec![TopicRef::Name("t".to_owned())],
    };
    assert!(world.ask(1, Command::WriteCatalog(delete)).is_ok());
    match world.ended(parked) {
        Some(Ok(Outcome::Fetched(found))) => assert!(
            found
                .iter()
                .any(|one| one.result.as_ref().err() == Some(&Refusal::UnknownPartition))
        ),
        other => panic!("{other:?}"),
    }
    let again = world.create("t", 2);
    assert!(
        again.iter().all(|id| !partitions.contains(id)),
        "ids are not reused"
    );
    world.power_cut();
    for partition in partitions {
        let gone = world.append(0, partition, &BatchMaker::new(1));
        assert_eq!(gone, Err(Refusal::UnknownPartition));
    }
}

#[test]
fn changed_settings_apply_at_the_home() {
    let mut world = World::new(2);
    for (name, partition) in [
        ("a", world.create("a", 1)[0]),
        ("b", world.create("b", 1)[0]),
    ] {
        let alter = CatalogRequest::AlterTopicConfigs {
            topics: vec![ConfigAlteration {
                topic: name.to_owned(),
                changes: vec![ConfigChange::Set {
                    name: "max.message.bytes".to_owned(),
                    value: "10".to_owned(),
                }],
            }],
            validate_only: false,
        };
        assert!(world.append(0, partition, &BatchMaker::new(1)).is_ok());
        assert!(world.ask(0, Command::WriteCatalog(alter)).is_ok());
        let refused = world.append(0, partition, &BatchMaker::new(1));
        assert!(matches!(
            refused,
            Err(Refusal::BatchTooLarge { bytes_max: 10, .. })
        ));
    }
}

#[test]
fn producer_ids_are_given_once_in_the_life_of_the_broker() {
    let mut world = World::new(2);
    let mut given = BTreeSet::new();
    for _ in 0..3 {
        for shard in [0, 1] {
            let sequences: Vec<u64> = (0..1_200)
                .map(|_| world.submit(shard, Command::AllocateProducerId))
                .collect();
            world.run();
            for sequence in sequences {
                match world.ended(sequence) {
                    Some(Ok(Outcome::ProducerIdAllocated(id))) => assert!(given.insert(id)),
                    other => panic!("{other:?}"),
                }
            }
        }
        world.power_cut();
    }
}

#[test]
fn a_report_says_what_a_shard_holds() {
    let mut world = World::new(2);
    let partition = world.create("t", 1)[0];
    assert!(world.append(0, partition, &BatchMaker::new(3)).is_ok());
    match world.ask(0, Command::Report) {
        Ok(Outcome::Reported(report)) => {
            assert_eq!(report.shard, ShardId(0));
            assert_eq!(report.partitions.len(), 1);
            assert_eq!(report.partitions[0].high_watermark, Offset(3));
            assert!(report.counters.contains(&("appended_batches", 1)));
        }
        other => panic!("{other:?}"),
    }
}
