//! Members that join, leave and are killed all the time, while records come in: none is lost, and
//! none is read again but from where its partition was committed.
//!
//! Each member is a process, so that it can be killed: this test's own program, which writes down
//! what it is given, reads and commits. `STORM_SECONDS` and `STORM_MEMBERS` make it longer and
//! wider; `tests/clients/storm.sh` does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use millrace::control::GroupStatus;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::broker::{Broker, Directory, PATIENCE, Ticket};

const TOPIC: &str = "storm";
const GROUP: &str = "storm";
const PARTITIONS: i32 = 200;
/// Of each member.
const SESSION_MS: u64 = 6_000;
/// Records a second.
const RATE: u64 = 2_000;
/// What tells a member's process what it is: address, strategy and file, a line each.
const MEMBER_VARIABLE: &str = "STORM_MEMBER";

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
    let partitions = format!("topics.partitions={PARTITIONS}");
    let settings = ["--cores", "0,1", "--set", &partitions];
    let broker = Broker::start(&data, &settings);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (stored, mut crew) = thread::scope(|scope| {
        let producing = scope.spawn(|| produce(&broker, until));
        let crew = weather(&broker, strategy, logs.path(), (count, until));
        (producing.join().expect("it produced"), crew)
    });
    let began = Instant::now();
    let settled = settle(data.path(), crew.live.len());
    let since_kill = crew
        .last_kill
        .map_or(settled, |killed| began - killed + settled);
    println!(
        "{strategy}: {} processes, stable after {settled:?}, {since_kill:?} after the last kill",
        crew.begun
    );
    await_all_read(logs.path(), &stored, began);
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
    broker.stop();
}

/// Produces records that name themselves; returns where each one is.
fn produce(broker: &Broker, until: Instant) -> BTreeMap<(i32, i64), u64> {
    let producer = broker.producer(&[("enable.idempotence", "true")]);
    let (done, deliveries) = mpsc::channel();
    let mut number = 0;
    while Instant::now() < until {
        for _ in 0..RATE / 50 {
            let ticket = Box::new(Ticket {
                number,
                done: done.clone(),
            });
            let record = BaseRecord::<(), String, _>::with_opaque_to(TOPIC, ticket);
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
}

impl Crew {
    fn begin(&mut self, broker: &Broker, strategy: &str, logs: &Path) {
        let log = logs.join(self.begun.to_string());
        let what = format!("{}\n{strategy}\n{}", broker.address, log.display());
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["storm::a_members_process", "--exact", "--nocapture"])
            .env(MEMBER_VARIABLE, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program runs");
        self.live.push(child);
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
fn weather(broker: &Broker, strategy: &str, logs: &Path, (count, until): (u64, Instant)) -> Crew {
    let mut crew = Crew {
        live: Vec::new(),
        begun: 0,
        last_kill: None,
    };
    let mut leaving: Vec<Child> = Vec::new();
    let mut gone = 0;
    while Instant::now() < until {
        while (crew.live.len() as u64) < count {
            crew.begin(broker, strategy, logs);
        }
        thread::sleep(Duration::from_millis(400 + 150 * (gone % 7)));
        let which = usize::try_from(gone * 7 % count).expect("few");
        let mut child = crew.live.swap_remove(which);
        if gone % 4 == 3 {
            child.kill().expect("it runs");
            child.wait().expect("it ended");
            crew.last_kill = Some(Instant::now());
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

/// Waits until the group has just these members and each partition an owner; how long that took.
fn settle(data: &Path, members: usize) -> Duration {
    let begun = Instant::now();
    loop {
        let asked = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["groups", "--json", "--data-dir"])
            .arg(data)
            .output()
            .expect("the command was built");
        let groups: Vec<GroupStatus> =
            serde_json::from_slice(&asked.stdout).expect("as documented");
        let group = groups.iter().find(|one| one.group == GROUP);
        let group = group.expect("listed");
        let shares = group.members.iter().flat_map(|one| &one.assignment);
        let shares = shares
            .map(|(_, partitions)| partitions.len())
            .sum::<usize>();
        let is_whole = shares == PARTITIONS.unsigned_abs() as usize;
        if group.state == "Stable" && group.members.len() == members && is_whole {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "the group is {}, with {} members of {members} and {shares} partitions",
            group.state,
            group.members.len()
        );
        thread::sleep(Duration::from_millis(100));
    }
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

/// What a member writes down.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// It is about to be given a partition.
    Given(i32),
    /// Partition, offset and the record's number.
    Read(i32, i64, u64),
    /// A commit of this offset was answered.
    Committed(i32, i64),
}

/// Each member's lines with the time of each, nanoseconds.
fn read_logs(logs: &Path) -> Vec<Vec<(u128, Line)>> {
    let files = fs::read_dir(logs).expect("it is there");
    let logs = files.map(|file| {
        let text = fs::read_to_string(file.expect("listed").path()).expect("text");
        // A member that was killed may have written a part of a line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines: Vec<(u128, Line)> = whole.lines().map(parse).collect();
        // What is read is written down a little later than what is given.
        lines.sort_by_key(|(time, _)| *time);
        lines
    });
    logs.collect()
}

fn parse(line: &str) -> (u128, Line) {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("a whole line");
    let (time, kind) = (word().parse().expect("a time"), word());
    let partition = word().parse().expect("a partition");
    let line = match kind {
        "given" => Line::Given(partition),
        "read" => {
            let offset = word().parse().expect("an offset");
            Line::Read(partition, offset, word().parse().expect("a number"))
        }
        "committed" => Line::Committed(partition, word().parse().expect("an offset")),
        other => panic!("{other}"),
    };
    (time, line)
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

fn now_ns() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_nanos()
}

/// Not a test: what a member's process does.
#[test]
fn a_members_process() {
    let Ok(what) = std::env::var(MEMBER_VARIABLE) else {
        return;
    };
    let words: Vec<&str> = what.lines().collect();
    let [address, strategy, log] = words[..] else {
        panic!("{what}");
    };
    let leaves = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&leaves);
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        end.store(true, Relaxed);
    });
    be_member(address, strategy, &PathBuf::from(log), &leaves);
}

/// Writes down what is given, before its offsets are asked for.
struct Watch(Mutex<File>);

impl ClientContext for Watch {}

impl ConsumerContext for Watch {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(given) = rebalance {
            let lines = given
                .elements()
                .into_iter()
                .fold(String::new(), |mut all, one| {
                    let _ = writeln!(all, "{} given {}", now_ns(), one.partition());
                    all
                });
            self.write(&lines);
        }
    }
}

impl Watch {
    fn write(&self, lines: &str) {
        let mut file = self.0.lock().expect("nobody panicked");
        file.write_all(lines.as_bytes()).expect("written");
    }
}

fn be_member(address: &str, strategy: &str, log: &Path, leaves: &AtomicBool) {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", address),
        ("group.id", GROUP),
        ("partition.assignment.strategy", strategy),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "earliest"),
        ("session.timeout.ms", &SESSION_MS.to_string()),
        ("heartbeat.interval.ms", "500"),
        ("fetch.wait.max.ms", "100"),
    ] {
        config.set(name, value);
    }
    let watch = Watch(Mutex::new(File::create(log).expect("writable")));
    let consumer: BaseConsumer<Watch> = config.create_with_context(watch).expect("sound");
    consumer.subscribe(&[TOPIC]).expect("sound");
    let (mut lines, mut next) = (String::new(), BTreeMap::new());
    let mut last = Instant::now();
    while !leaves.load(Relaxed) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
            let (partition, offset) = (message.partition(), message.offset());
            let value = String::from_utf8_lossy(message.payload().expect("a value"));
            let _ = writeln!(lines, "{} read {partition} {offset} {value}", now_ns());
            next.insert(partition, offset + 1);
        }
        if last.elapsed() > Duration::from_millis(200) {
            consumer.context().write(&std::mem::take(&mut lines));
            commit(&consumer, std::mem::take(&mut next));
            last = Instant::now();
        }
    }
    // What is not written down was not read: it was not committed either.
}

/// Commits what was read of the partitions that are still held.
fn commit(consumer: &BaseConsumer<Watch>, next: BTreeMap<i32, i64>) {
    let held = consumer.assignment().expect("known");
    let mut list = TopicPartitionList::new();
    for (partition, offset) in next {
        if held.find_partition(TOPIC, partition).is_some() {
            list.add_partition_offset(TOPIC, partition, Offset::Offset(offset))
                .expect("a valid offset");
        }
    }
    if list.count() == 0 || consumer.commit(&list, CommitMode::Sync).is_err() {
        return;
    }
    let lines = list.elements().iter().fold(String::new(), |mut all, one| {
        let offset = one.offset().to_raw().expect("an offset");
        let _ = writeln!(all, "{} committed {} {offset}", now_ns(), one.partition());
        all
    });
    consumer.context().write(&lines);
}
