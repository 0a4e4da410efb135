//! Consumer groups as librdkafka makes them: shares, rebalances, commits, restarts and kills.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use millrace::control::GroupStatus;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::broker::{Broker, Directory, PATIENCE, values};

const PARTITIONS: i32 = 4;
const FOUR_PARTITIONS: [&str; 2] = ["--set", "topics.partitions=4"];
/// First rebalances need not wait for anyone here.
const AT_ONCE: [&str; 2] = ["--set", "groups.initial_rebalance_delay_ms=100"];

fn start(directory: &Directory, arguments: &[&str]) -> Broker {
    let arguments = [&FOUR_PARTITIONS, &AT_ONCE, arguments].concat();
    Broker::start(directory, &arguments)
}

/// A member of `group` that reads the topic `shared` from its beginning, and commits by itself
/// only when it is told to.
fn member(broker: &Broker, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let own = [
        ("group.id", group),
        ("auto.offset.reset", "earliest"),
        ("enable.partition.eof", "false"),
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "500"),
    ];
    let consumer = broker.consumer(&[&own, settings].concat());
    consumer.subscribe(&["shared"]).expect("sound");
    consumer
}

fn fill(broker: &Broker, from: usize, to: usize) {
    let producer = broker.producer(&[]);
    for partition in 0..PARTITIONS {
        producer.send_all("shared", partition, &values(from, to));
    }
}

/// Partition and offset of each record that comes until `enough`.
fn poll_until(
    members: &[&BaseConsumer],
    mut enough: impl FnMut(&BTreeSet<(i32, i64)>) -> bool,
) -> BTreeSet<(i32, i64)> {
    let mut read = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while !enough(&read) {
        assert!(Instant::now() < deadline, "only {} records", read.len());
        for member in members {
            match member.poll(Duration::from_millis(20)) {
                Some(Ok(message)) => {
                    read.insert((message.partition(), message.offset()));
                }
                Some(Err(KafkaError::MessageConsumption(code))) => {
                    show_passing(&code.to_string());
                }
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
        }
    }
    read
}

/// What passes while brokers come and go; shown only when a test fails.
fn show_passing(note: &str) {
    eprintln!("passing: {note}");
}

fn assigned(member: &BaseConsumer) -> BTreeSet<i32> {
    let assigned = member.assignment().expect("known");
    let partitions = assigned.elements();
    partitions.iter().map(|one| one.partition()).collect()
}

/// Polls everyone until each has a share of the size given, all of them disjoint.
fn settle(members: &[&BaseConsumer], shares: &[usize]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for member in members {
            let _ = member.poll(Duration::from_millis(50));
        }
        let held: Vec<BTreeSet<i32>> = members.iter().map(|member| assigned(member)).collect();
        let mut sizes: Vec<usize> = held.iter().map(BTreeSet::len).collect();
        sizes.sort_unstable();
        let all: BTreeSet<i32> = held.iter().flatten().copied().collect();
        if sizes == shares && all.len() == shares.iter().sum::<usize>() {
            return;
        }
        assert!(Instant::now() < deadline, "shares are {held:?}");
    }
}

/// How far the group came with each partition.
fn committed(broker: &Broker, group: &str) -> BTreeMap<i32, i64> {
    let consumer = broker.consumer(&[("group.id", group)]);
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition("shared", partition);
    }
    let found = consumer.committed_offsets(list, PATIENCE).expect("told");
    let found = found.elements();
    let offsets = found.iter().filter_map(|one| match one.offset() {
        Offset::Offset(offset) => Some((one.partition(), offset)),
        _ => None,
    });
    offsets.collect()
}

fn commit(member: &BaseConsumer, offsets: &[(i32, i64)]) {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        let offset = Offset::Offset(*offset);
        list.add_partition_offset("shared", *partition, offset)
            .expect("a valid offset");
    }
    member.commit(&list, CommitMode::Sync).expect("durable");
}

#[test]
fn members_share_the_partitions_and_take_over_from_each_other() {
    for strategy in ["range", "cooperative-sticky"] {
        let directory = Directory::new(&format!("group-{strategy}"));
        let broker = start(&directory, &["--cores", "0,1"]);
        fill(&broker, 0, 50);
        let settings = [("partition.assignment.strategy", strategy)];
        let first = member(&broker, "shares", &settings);
        let read = poll_until(&[&first], |read| read.len() == 200);
        assert_eq!(assigned(&first).len(), 4);
        assert_eq!(read.iter().filter(|(_, offset)| *offset == 49).count(), 4);

        let second = member(&broker, "shares", &settings);
        settle(&[&first, &second], &[2, 2]);
        let third = member(&broker, "shares", &settings);
        settle(&[&first, &second, &third], &[1, 1, 2]);
        drop(second); // Leaves.
        settle(&[&first, &third], &[2, 2]);
        first.unsubscribe();
        settle(&[&third], &[4]);
        broker.stop();
    }
}

#[test]
fn committed_offsets_outlive_members_restarts_and_other_core_counts() {
    let directory = Directory::new("group-commits");
    let broker = start(&directory, &["--cores", "0,1"]);
    fill(&broker, 0, 20);
    let first = member(&broker, "commits", &[]);
    poll_until(&[&first], |read| read.len() == 80);
    first
        .commit_consumer_state(CommitMode::Sync)
        .expect("durable");
    drop(first);
    let all: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, 20)).collect();
    assert_eq!(committed(&broker, "commits"), all);
    broker.stop();
    for (round, cores) in ["0", "0,1,2", "0,1"].into_iter().enumerate() {
        let broker = start(&directory, &["--cores", cores]);
        assert_eq!(committed(&broker, "commits"), {
            let next = i64::try_from(20 + round).expect("few");
            all.keys().map(|partition| (*partition, next)).collect()
        });
        fill(&broker, 20 + round, 21 + round);
        let next = member(&broker, "commits", &[]);
        let read = poll_until(&[&next], |read| read.len() == 4);
        let offset = i64::try_from(20 + round).expect("few");
        assert!(read.iter().all(|(_, at)| *at == offset), "{read:?}");
        next.commit_consumer_state(CommitMode::Async)
            .expect("queued");
        drop(next); // Closing waits for the commit.
        broker.kill();
    }
}

#[test]
fn commits_by_themselves_are_found_again() {
    let directory = Directory::new("group-auto");
    let broker = start(&directory, &[]);
    fill(&broker, 0, 10);
    let settings = [
        ("enable.auto.commit", "true"),
        ("auto.commit.interval.ms", "100"),
    ];
    let first = member(&broker, "auto", &settings);
    poll_until(&[&first], |read| read.len() == 40);
    drop(first);
    let all = (0..PARTITIONS).map(|partition| (partition, 10)).collect();
    assert_eq!(committed(&broker, "auto"), all);
    broker.stop();
}

#[test]
fn each_core_a_node_coordinates_its_own_groups() {
    let directory = Directory::new("group-nodes");
    let broker = start(&directory, &["--cores", "0,1", "--node-per-core"]);
    fill(&broker, 0, 10);
    for group in ["n0", "n1", "n2", "n3", "n4"] {
        let one = member(&broker, group, &[]);
        poll_until(&[&one], |read| read.len() == 40);
        one.commit_consumer_state(CommitMode::Sync)
            .expect("durable");
        let groups = one.fetch_group_list(Some(group), PATIENCE).expect("told");
        let found = groups.groups().iter().find(|one| one.name() == group);
        let found = found.expect("every node is asked");
        assert_eq!(
            (found.state(), found.protocol_type()),
            ("Stable", "consumer")
        );
        assert_eq!(found.members().len(), 1);
        drop(one);
        assert_eq!(committed(&broker, group).len(), 4);
    }
    broker.stop();
}

#[test]
fn a_static_member_that_restarts_keeps_its_share() {
    let directory = Directory::new("group-static");
    let broker = start(&directory, &[]);
    fill(&broker, 0, 10);
    let named = |name| [("group.instance.id", name), ("session.timeout.ms", "30000")];
    let first = member(&broker, "static", &named("one"));
    let second = member(&broker, "static", &named("two"));
    settle(&[&first, &second], &[2, 2]);
    let share = assigned(&second);
    drop(second); // Static members do not leave.
    let again = member(&broker, "static", &named("two"));
    settle(&[&first, &again], &[2, 2]);
    assert_eq!(assigned(&again), share);
    broker.stop();
}

#[test]
fn twenty_kills_take_no_commit_back() {
    let directory = Directory::new("group-kills");
    let mut broker = start(&directory, &["--cores", "0,1"]);
    let address = broker.address.clone();
    fill(&broker, 0, 400);
    let mut next = 0;
    for round in 0..20_i64 {
        let known = committed(&broker, "killed");
        assert!(known.values().all(|offset| *offset >= next), "{known:?}");
        let one = member(&broker, "killed", &[]);
        poll_until(&[&one], |read| !read.is_empty());
        settle(&[&one], &[4]);
        for _ in 0..1 + round % 5 {
            next += 1;
            let offsets: Vec<(i32, i64)> = (0..PARTITIONS).map(|id| (id, next)).collect();
            commit(&one, &offsets);
        }
        broker.kill();
        let arguments = [&FOUR_PARTITIONS, &AT_ONCE, &["--cores", "0,1"][..]].concat();
        broker = Broker::start_at(&directory, &address, &arguments);
        // The member goes on with the new one, if it is asked to.
        if round % 4 == 0 {
            settle(&[&one], &[4]);
            let deadline = Instant::now() + PATIENCE;
            next += 1;
            let mut list = TopicPartitionList::new();
            for partition in 0..PARTITIONS {
                list.add_partition_offset("shared", partition, Offset::Offset(next))
                    .expect("a valid offset");
            }
            while one.commit(&list, CommitMode::Sync).is_err() {
                assert!(Instant::now() < deadline, "it joins again");
                let _ = one.poll(Duration::from_millis(100));
            }
        }
    }
    let known = committed(&broker, "killed");
    assert!(known.values().all(|offset| *offset == next), "{known:?}");
    broker.stop();
}

/// Asks the broker on `directory` with its own command: code, and what it printed.
fn millrace(directory: &Directory, arguments: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .arg("--data-dir")
        .arg(directory.path())
        .output()
        .expect("the command was built");
    let out = [ended.stdout, ended.stderr].concat();
    (
        ended.status.code(),
        String::from_utf8_lossy(&out).into_owned(),
    )
}

/// One member with nothing left to read in partition 0 and six records in partition 1.
fn lag_is_told(directory: &Directory) {
    let (code, json) = millrace(directory, &["groups", "--json"]);
    assert_eq!(code, Some(0), "{json}");
    let groups: Vec<GroupStatus> = serde_json::from_str(&json).expect("as documented");
    let group = groups.iter().find(|one| one.group == "moved");
    let group = group.expect("listed");
    assert_eq!((group.state.as_str(), group.members.len()), ("Stable", 1));
    assert_eq!(
        group.members[0].assignment,
        [("shared".to_owned(), vec![0, 1, 2, 3])]
    );
    let lags: Vec<(u32, u64)> = group
        .offsets
        .iter()
        .map(|one| (one.partition, one.lag))
        .collect();
    assert_eq!(lags, [(0, 0), (1, 6)]);
    assert_eq!(group.offsets[0].lag_s, Some(0.0));
    let age_s = group.offsets[1].lag_s.expect("readable");
    assert!(
        age_s > 0.0 && age_s < PATIENCE.as_secs_f64() * 2.0,
        "{age_s}"
    );
}

#[test]
fn lag_is_told_and_offsets_of_an_empty_group_are_moved() {
    let directory = Directory::new("group-command");
    let broker = start(&directory, &["--cores", "0,1"]);
    fill(&broker, 0, 10);
    let one = member(&broker, "moved", &[]);
    poll_until(&[&one], |read| read.len() == 40);
    commit(&one, &[(0, 10), (1, 4)]);
    lag_is_told(&directory);
    let (_, text) = millrace(&directory, &["groups"]);
    assert!(
        text.contains("moved: Stable, generation 1, 1 members, range"),
        "{text}"
    );

    check_reset(&broker, &directory, one);
    broker.stop();
}

fn check_reset(broker: &Broker, directory: &Directory, one: BaseConsumer) {
    let reset = |to: &[&str], more: &[&str]| {
        let words = ["groups", "reset", "moved", "--topic", "shared:1", "--to"];
        millrace(directory, &[&words, to, more].concat())
    };
    let (code, text) = reset(&["earliest"], &["--execute"]);
    assert_eq!(code, Some(76), "{text}");
    assert!(text.contains("has 1 members"), "{text}");
    drop(one);
    let (code, text) = reset(&["earliest"], &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("shared  1  4  0") && text.contains("nothing was changed"),
        "{text}"
    );
    assert_eq!(
        committed(broker, "moved"),
        BTreeMap::from([(0, 10), (1, 4)])
    );
    for (to, offset) in [
        (&["earliest"][..], 0),
        (&["latest"], 10),
        (&["offset", "7"], 7),
        (&["offset 70"], 10),
        (&["time", "0"], 0),
        (&["time", "99999999999999"], 10),
    ] {
        let (code, text) = reset(to, &["--execute"]);
        assert_eq!(code, Some(0), "{to:?}: {text}");
        let moved = BTreeMap::from([(0, 10), (1, offset)]);
        assert_eq!(committed(broker, "moved"), moved, "{to:?}");
    }
    let words = [
        "groups", "reset", "moved", "--topic", "none", "--to", "latest",
    ];
    let (code, text) = millrace(directory, &words);
    assert_eq!(code, Some(76), "{text}");
}
