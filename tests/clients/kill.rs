//! SIGKILL under load, again and again: nothing acknowledged is missing, and no offset that was
//! ever told or read comes to hold another record.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseRecord, Producer, PurgeConfig};

use crate::broker::{Broker, Directory, Ticket};

const ROUNDS: usize = 20;
const PARTITIONS: usize = 2;
/// Messages on their way at once.
const IN_FLIGHT_MAX: i32 = 2_000;

/// What each partition is known to hold, by offset.
type Known = Vec<BTreeMap<i64, String>>;

#[test]
fn twenty_kills_under_load_lose_nothing_and_change_no_offset() {
    let directory = Directory::new("kills");
    let arguments = ["--cores", "0,1", "--set", "topics.partitions=2"];
    let mut known: Known = vec![BTreeMap::new(); PARTITIONS];
    let mut next_id = 0;
    for round in 0..ROUNDS {
        let broker = Broker::start(&directory, &arguments);
        for (partition, known) in (0..).zip(&mut known) {
            check(&broker, partition, known);
        }
        let load = Duration::from_millis(100 + 37 * (round as u64 % 7));
        let acknowledged = produce_until_killed(broker, load, &mut next_id);
        assert!(!acknowledged.is_empty(), "round {round} made progress");
        for (partition, offset, id) in acknowledged {
            let before = known[partition as usize].insert(offset, id.clone());
            assert!(
                before.is_none_or(|old| old == id),
                "{partition}/{offset} was given twice"
            );
        }
    }
    let broker = Broker::start(&directory, &arguments);
    for (partition, known) in (0..).zip(&mut known) {
        check(&broker, partition, known);
    }
    broker.stop();
}

/// Everything known must be there unchanged; what is there becomes known.
fn check(broker: &Broker, partition: i32, known: &mut BTreeMap<i64, String>) {
    if known.is_empty() {
        return;
    }
    let records = broker.read_all("killed", partition);
    let found: BTreeMap<i64, String> = records.into_iter().map(|r| (r.offset, r.value)).collect();
    for (offset, id) in known.iter() {
        assert_eq!(
            found.get(offset),
            Some(id),
            "partition {partition}, offset {offset}"
        );
    }
    *known = found;
}

/// Produces unique ids, kills the broker in the middle of it, and returns what was acknowledged:
/// partition, offset, id.
fn produce_until_killed(
    broker: Broker,
    load: Duration,
    next_id: &mut u64,
) -> Vec<(i32, i64, String)> {
    let producer = broker.producer(&[("acks", "all"), ("linger.ms", "1")]);
    let (done, deliveries) = mpsc::channel();
    let mut acknowledged = Vec::new();
    let mut first_at: Option<Instant> = None;
    while first_at.is_none_or(|at| at.elapsed() < load) {
        while producer.0.in_flight_count() < IN_FLIGHT_MAX {
            let ticket = Box::new(Ticket {
                number: *next_id,
                done: done.clone(),
            });
            let id = id(*next_id);
            let record = BaseRecord::<(), String, _>::with_opaque_to("killed", ticket);
            producer.send(record.partition(partition_of(*next_id)).payload(&id));
            *next_id += 1;
        }
        producer.0.poll(Duration::from_millis(1));
        for (number, delivery) in deliveries.try_iter() {
            first_at.get_or_insert_with(Instant::now);
            let (partition, offset) = delivery.expect("the broker lives");
            acknowledged.push((partition, offset, id(number)));
        }
    }
    broker.kill();
    // What was acknowledged before the kill and not polled yet counts as well.
    producer.0.poll(Duration::from_millis(50));
    for (number, delivery) in deliveries.try_iter() {
        if let Ok((partition, offset)) = delivery {
            acknowledged.push((partition, offset, id(number)));
        }
    }
    producer.0.purge(PurgeConfig::default().queue().inflight());
    acknowledged
}

fn id(number: u64) -> String {
    format!("id {number}")
}

fn partition_of(number: u64) -> i32 {
    i32::try_from(number % PARTITIONS as u64).expect("few partitions")
}
