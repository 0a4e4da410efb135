//! Members that join, leave and are killed all the time, while records come in: none is lost, and
//! none is read again but from where its partition was committed.
//!
//! Each member is a process, so that it can be killed: this test's own program, which writes down
//! what it is given, reads and commits. `STORM_SECONDS` and `STORM_MEMBERS` make it longer and
//! wider; `tests/clients/storm.sh` does. `STORM_BROKER` is the address of a broker that runs
//! already, of any make: everything goes over Kafka's protocol.

mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, Producer};

use crate::admin::{block_on, options, topic};
use crate::broker::{Broker, Directory, PATIENCE, Ticket, config_of, producer_of};
use member::{Line, read_logs};

const PARTITIONS: i32 = 200;
/// Of each member.
const SESSION_MS: u64 = 6_000;
/// Records a second.
const RATE: u64 = 2_000;

/// A topic at a broker, and the group of the topic's name that reads it.
struct Site {
    address: String,
    topic: String,
    /// How the group's members share.
    strategy: String,
}

impl Site {
    /// A new topic, which a broker that runs already has not seen before.
    fn new(address: String, strategy: &str) -> Self {
        let name = strategy.replace(',', "-");
        let site = Self {
            address,
            topic: format!("storm-{name}-{}", std::process::id()),
            strategy: strategy.to_owned(),
        };
        let new = topic(&site.topic, PARTITIONS);
        let created = block_on(site.admin().create_topics([&new], &options()));
        created.expect("told").remove(0).expect("created");
        site
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        config_of(&self.address).create().expect("sound settings")
    }
}

#[test]
fn a_storm_of_eager_members_loses_nothing() {
    storm("range,roundrobin");
}

#[test]
fn a_storm_of_cooperative_members_loses_nothing() {
    storm("cooperative-sticky");
}

fn number_of(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn storm(strategy: &str) {
    let name = strategy.replace(',', "-");
    let (seconds, count) = (
        number_of("STORM_SECONDS", 5),
        number_of("STORM_MEMBERS", 12),
    );
    let data = Directory::new(&format!("storm-{name}"));
    let logs = Directory::new(&format!("storm-{name}-members"));
    let (broker, address) = match std::env::var("STORM_BROKER") {
        Ok(address) => (None, address),
        Err(_) => {
            let broker = Broker::start(&data, &["--cores", "0,1"]);
            let address = broker.address.clone();
            (Some(broker), address)
        }
    };
    let site = Site::new(address, strategy);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (stored, mut crew) = thread::scope(|scope| {
        let producing = scope.spawn(|| produce(&site, until));
        let crew = weather(&site, logs.path(), (count, until));
        (producing.join().expect("it produced"), crew)
    });
    let stable = settle(&site, crew.live.len());
    let since_kill = stable - crew.last_kill.unwrap_or(crew.last_gone);
    println!(
        "{strategy}: {} processes, stable after {:?}, {since_kill:?} after the last kill",
        crew.begun,
        stable - crew.last_gone
    );
    await_all_read(logs.path(), &stored, stable);
    crew.end();
    let judged = judge(&read_logs(logs.path()), &stored);
    println!(
        "{strategy}: {} records, {} read again, {} stretches, {} commits",
        stored.len(),
        judged.again,
        judged.stretches,
        judged.commits
    );
    assert!(judged.stretches > PARTITIONS as usize && judged.commits > 0);
    // Whoever is killed is missed within a session, wherever it stood, and then the others need two
    // rounds at most, each begun by a heartbeat. The second session is for a busy machine.
    let allowed = Duration::from_millis(2 * SESSION_MS);
    assert!(
        since_kill < allowed,
        "stable {since_kill:?} after the last kill"
    );
    if let Some(broker) = broker {
        broker.stop();
    }
}

/// Produces records that name themselves; returns where each one is.
fn produce(site: &Site, until: Instant) -> BTreeMap<(i32, i64), u64> {
    let producer = producer_of(&site.address, &[("enable.idempotence", "true")]);
    let (done, deliveries) = mpsc::channel();
    let mut number = 0;
    while Instant::now() < until {
        for _ in 0..RATE / 50 {
            let ticket = Box::new(Ticket {
                number,
                done: done.clone(),
            });
            let record = BaseRecord::<(), String, _>::with_opaque_to(&site.topic, ticket);
            let partition = i32::try_from(number % PARTITIONS.unsigned_abs() as u64);
            let value = number.to_string();
            producer.send(record.partition(partition.expect("few")).payload(&value));
            number += 1;
        }
        producer.0.poll(Duration::from_millis(20));
    }
    producer.0.flush(PATIENCE).expect("all delivered");
    drop(done);
    let stored = deliveries.iter().map(|(number, delivery)| {
        let place = delivery.expect("delivered");
        (place, number)
    });
    stored.collect()
}

/// The members' processes.
struct Crew {
    live: Vec<Child>,
    begun: u64,
    last_kill: Option<Instant>,
    /// When the last one was killed or told to leave.
    last_gone: Instant,
}

impl Crew {
    fn begin(&mut self, site: &Site, logs: &Path) {
        let log = logs.join(self.begun.to_string());
        self.live.push(member::begin(site, &log));
        self.begun += 1;
    }

    /// Everyone leaves.
    fn end(&mut self) {
        for child in &mut self.live {
            drop(child.stdin.take());
        }
        for mut child in self.live.drain(..) {
            child.wait().expect("it ended");
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.live {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lets members come and go: every fourth that goes is killed.
fn weather(site: &Site, logs: &Path, (count, until): (u64, Instant)) -> Crew {
    let mut crew = Crew {
        live: Vec::new(),
        begun: 0,
        last_kill: None,
        last_gone: Instant::now(),
    };
    let mut leaving: Vec<Child> = Vec::new();
    let mut gone = 0;
    while Instant::now() < until {
        while (crew.live.len() as u64) < count {
            crew.begin(site, logs);
        }
        thread::sleep(Duration::from_millis(400 + 150 * (gone % 7)));
        let which = usize::try_from(gone * 7 % count).expect("few");
        let mut child = crew.live.swap_remove(which);
        crew.last_gone = Instant::now();
        if gone % 4 == 3 {
            child.kill().expect("it runs");
            child.wait().expect("it ended");
            crew.last_kill = Some(crew.last_gone);
        } else {
            drop(child.stdin.take());
            leaving.push(child);
        }
        gone += 1;
    }
    for mut child in leaving {
        child.wait().expect("it left");
    }
    crew
}

/// Waits until the group has just these members and each partition an owner; when that was so.
fn settle(site: &Site, members: usize) -> Instant {
    let begun = Instant::now();
    let admin = site.admin();
    loop {
        let listed = admin
            .inner()
            .fetch_group_list(Some(&site.topic), PATIENCE)
            .expect("told");
        let [group] = listed.groups() else {
            panic!("{} groups of one name", listed.groups().len());
        };
        let shares = group.members().iter().filter_map(|one| one.assignment());
        let shares: usize = shares.map(|share| partitions_of(share, &site.topic)).sum();
        let is_whole = shares == PARTITIONS.unsigned_abs() as usize;
        if group.state() == "Stable" && group.members().len() == members && is_whole {
            return Instant::now();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "the group is {}, with {} members of {members} and {shares} partitions",
            group.state(),
            group.members().len()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// How many partitions of the only topic a member's share has. A ConsumerProtocolAssignment of
/// Kafka's is a version (2 bytes), the number of topics (4), and of each its name (2 and the text)
/// and the number of its partitions (4), which follow. A share of nothing ends earlier.
fn partitions_of(share: &[u8], topic: &str) -> usize {
    let count = share.get(8 + topic.len()..).and_then(<[u8]>::first_chunk);
    count.map_or(0, |count| u32::from_be_bytes(*count) as usize)
}

/// Waits until everything stored was read by somebody.
fn await_all_read(logs: &Path, stored: &BTreeMap<(i32, i64), u64>, began: Instant) {
    loop {
        let read: BTreeSet<(i32, i64)> = read_logs(logs)
            .iter()
            .flatten()
            .filter_map(|(_, line)| match line {
                Line::Read(partition, offset, _) => Some((*partition, *offset)),
                _ => None,
            })
            .collect();
        let missing = stored.keys().filter(|place| !read.contains(place)).count();
        if missing == 0 {
            return;
        }
        assert!(
            began.elapsed() < 2 * PATIENCE,
            "{missing} records are not read"
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// What a storm came to.
struct Judged {
    /// Records that were read more than once.
    again: usize,
    /// Stretches of reading a partition from where it was committed.
    stretches: usize,
    commits: usize,
}

/// Holds what members wrote down against what is stored, and against the commits.
fn judge(members: &[Vec<(u128, Line)>], stored: &BTreeMap<(i32, i64), u64>) -> Judged {
    let mut commits: BTreeMap<i32, Vec<(u128, i64)>> = BTreeMap::new();
    for (time, line) in members.iter().flatten() {
        if let Line::Committed(partition, offset) = line {
            commits
                .entry(*partition)
                .or_default()
                .push((*time, *offset));
        }
    }
    let committed_before = |partition: i32, time: u128| {
        let commits = commits.get(&partition).into_iter().flatten();
        let before = commits.filter(|(at, _)| *at < time);
        before.map(|(_, offset)| *offset).max().unwrap_or(0)
    };
    let (mut seen, mut again, mut stretches) = (BTreeSet::new(), 0, 0);
    for lines in members {
        // When each partition was given, until its first record, and where it goes on.
        let mut given: BTreeMap<i32, u128> = BTreeMap::new();
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for (time, line) in lines {
            match *line {
                Line::Given(partition) => {
                    given.insert(partition, *time);
                }
                Line::Committed(..) => {}
                Line::Read(partition, offset, number) => {
                    if let Some(time) = given.remove(&partition) {
                        stretches += 1;
                        let committed = committed_before(partition, time);
                        assert!(
                            offset >= committed,
                            "{partition} is read from {offset}, committed was {committed}"
                        );
                    } else {
                        assert_eq!(Some(&offset), next.get(&partition), "without gaps");
                    }
                    next.insert(partition, offset + 1);
                    let place = (partition, offset);
                    assert_eq!(stored.get(&place), Some(&number), "at {place:?}");
                    again += usize::from(!seen.insert(place));
                }
            }
        }
    }
    assert_eq!(seen.len(), stored.len(), "each record is read");
    Judged {
        again,
        stretches,
        commits: commits.values().map(Vec::len).sum(),
    }
}
