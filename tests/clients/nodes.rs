//! Several cores: behind one port, as a node each, and with another count after a restart.

use rdkafka::admin::{AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::consumer::Consumer;

use crate::admin::{block_on, options, topic};
use crate::broker::{Broker, Directory, PATIENCE, offsets, values};

/// Partitions of the topic that is spread over the cores.
const PARTITIONS: i32 = 4;

fn produce_to_all(broker: &Broker, from: usize, to: usize) {
    let producer = broker.producer(&[]);
    let (first, end) = (i64::try_from(from).unwrap(), i64::try_from(to).unwrap());
    for partition in 0..PARTITIONS {
        let sent = producer.send_all("spread", partition, &values(from, to));
        assert_eq!(sent, offsets(first, end), "partition {partition}");
    }
}

fn check_all(broker: &Broker, to: usize) {
    for partition in 0..PARTITIONS {
        let read = broker.read_all("spread", partition);
        let found: Vec<String> = read.into_iter().map(|record| record.value).collect();
        assert_eq!(found, values(0, to), "partition {partition}");
    }
}

fn nodes(broker: &Broker) -> Vec<i32> {
    let consumer = broker.consumer(&[]);
    let metadata = consumer.fetch_metadata(Some("spread"), PATIENCE).unwrap();
    let mut leaders: Vec<i32> = metadata.topics()[0]
        .partitions()
        .iter()
        .map(|partition| partition.leader())
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    assert_eq!(
        leaders.len(),
        metadata.brokers().len(),
        "each node leads something"
    );
    leaders
}

const FOUR_PARTITIONS: [&str; 2] = ["--set", "topics.partitions=4"];

#[test]
fn partitions_of_every_core_are_served_on_one_port() {
    let directory = Directory::new("one-port");
    let broker = Broker::start(
        &directory,
        &[&["--cores", "0,1"], &FOUR_PARTITIONS[..]].concat(),
    );
    produce_to_all(&broker, 0, 100);
    check_all(&broker, 100);
    assert_eq!(nodes(&broker), [1]);
    broker.stop();
}

#[test]
fn each_core_is_a_node_and_fewer_nodes_later_hold_the_same() {
    let directory = Directory::new("node-per-core");
    let start = |cores, port: &str| {
        let arguments = ["--cores", cores, "--node-per-core"];
        let arguments = [&arguments, &FOUR_PARTITIONS[..]].concat();
        Broker::start_at(&directory, port, &arguments)
    };
    let broker = start("0,1", "127.0.0.1:0");
    produce_to_all(&broker, 0, 100);
    check_all(&broker, 100);
    assert_eq!(nodes(&broker), [1, 2]);
    // librdkafka asks for the nodes again by the clock alone when all of them went at once.
    let survivor = broker.producer(&[("topic.metadata.refresh.interval.ms", "1000")]);
    survivor.send_all("spread", 1, &values(100, 101));
    let port = broker.address.clone();
    broker.stop();

    let broker = start("0", &port);
    // A client that knew two nodes finds everything on the one that is left.
    for partition in [0, 2, 3] {
        assert_eq!(
            survivor.send_all("spread", partition, &values(100, 101)),
            [100]
        );
    }
    produce_to_all(&broker, 101, 150);
    check_all(&broker, 150);
    assert_eq!(nodes(&broker), [1]);
    broker.stop();
}

/// Both to the controller's node and to the other one.
#[test]
fn every_node_serves_idempotent_producers_and_admin_clients() {
    let directory = Directory::new("node-services");
    let arguments = ["--cores", "0,1", "--node-per-core"];
    let broker = Broker::start(&directory, &arguments);
    let admin = broker.admin();
    for (node, name) in [(1, "by-first"), (2, "by-second")] {
        let to_node = options().broker_id(node);
        let created = block_on(admin.create_topics([&topic(name, 2)], &to_node));
        assert_eq!(created.unwrap(), [Ok(name.to_owned())]);
        let more = NewPartitions::new(name, 4);
        let grown = block_on(admin.create_partitions([&more], &to_node));
        assert_eq!(grown.unwrap(), [Ok(name.to_owned())]);
        let resource = ResourceSpecifier::Topic(name);
        let change = AlterConfig::new(resource).set("retention.ms", "86400000");
        block_on(admin.alter_configs([&change], &to_node))
            .unwrap()
            .remove(0)
            .unwrap();
        let settings = block_on(admin.describe_configs([&resource], &to_node));
        let settings = settings.unwrap().remove(0).unwrap();
        let retention = settings.get("retention.ms").unwrap().value.as_deref();
        assert_eq!(retention, Some("86400000"));

        // Its partitions lie on both nodes, and so do their sequences.
        let producer = broker.producer(&[("enable.idempotence", "true"), ("linger.ms", "0")]);
        for round in 0..3 {
            for partition in 0..PARTITIONS {
                let (from, to) = (round * 100, (round + 1) * 100);
                let sent = producer.send_all(name, partition, &values(from, to));
                assert_eq!(
                    sent,
                    offsets(from as i64, to as i64),
                    "partition {partition}"
                );
            }
        }
        for partition in 0..PARTITIONS {
            let read = broker.read_all(name, partition);
            let found: Vec<String> = read.into_iter().map(|record| record.value).collect();
            assert_eq!(found, values(0, 300), "partition {partition}");
        }
        let deleted = block_on(admin.delete_topics(&[name], &to_node));
        assert_eq!(deleted.unwrap(), [Ok(name.to_owned())]);
    }
    broker.stop();
}

#[test]
fn one_two_four_and_one_cores_hold_the_same_records() {
    let directory = Directory::new("core-counts");
    for (round, cores) in ["0", "0,1", "0,1,2,3", "0"].into_iter().enumerate() {
        let broker = Broker::start(
            &directory,
            &[&["--cores", cores], &FOUR_PARTITIONS[..]].concat(),
        );
        produce_to_all(&broker, round * 50, (round + 1) * 50);
        check_all(&broker, (round + 1) * 50);
        if round % 2 == 0 {
            broker.kill();
        } else {
            broker.stop();
        }
    }
}
