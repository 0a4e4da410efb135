//! A member of a storm's group, which is a process of its own, and what it writes down.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{SESSION_MS, Site};
use crate::broker::config_of;

/// What tells a member's process what it is: address, topic, strategy and file, a line each.
const MEMBER_VARIABLE: &str = "STORM_MEMBER";

/// Starts one. It leaves when its standard input is closed.
pub(super) fn begin(site: &Site, log: &Path) -> Child {
    let (address, topic, strategy) = (&site.address, &site.topic, &site.strategy);
    let what = format!("{address}\n{topic}\n{strategy}\n{}", log.display());
    Command::new(std::env::current_exe().expect("this program"))
        .args(["storm::member::a_process", "--exact", "--nocapture"])
        .env(MEMBER_VARIABLE, what)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program runs")
}

/// What a member writes down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// It is about to be given a partition.
    Given(i32),
    /// Partition, offset and the record's number.
    Read(i32, i64, u64),
    /// A commit of this offset was answered.
    Committed(i32, i64),
}

/// Each member's lines with the time of each, nanoseconds.
pub(super) fn read_logs(logs: &Path) -> Vec<Vec<(u128, Line)>> {
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

/// Not a test: what a member's process does.
#[test]
fn a_process() {
    let Ok(what) = std::env::var(MEMBER_VARIABLE) else {
        return;
    };
    let words: Vec<&str> = what.lines().collect();
    let [address, topic, strategy, log] = words[..] else {
        panic!("{what}");
    };
    let site = Site {
        address: address.to_owned(),
        topic: topic.to_owned(),
        strategy: strategy.to_owned(),
    };
    let leaves = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&leaves);
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        end.store(true, Relaxed);
    });
    be_member(&site, &PathBuf::from(log), &leaves);
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

fn be_member(site: &Site, log: &Path, leaves: &AtomicBool) {
    let mut config = config_of(&site.address);
    for (name, value) in [
        ("group.id", site.topic.as_str()),
        ("partition.assignment.strategy", &site.strategy),
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
    consumer.subscribe(&[&site.topic]).expect("sound");
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
            commit(&consumer, &site.topic, std::mem::take(&mut next));
            last = Instant::now();
        }
    }
    // What is not written down was not read: it was not committed either.
}

/// Commits what was read of the partitions that are still held.
fn commit(consumer: &BaseConsumer<Watch>, topic: &str, next: BTreeMap<i32, i64>) {
    let held = consumer.assignment().expect("known");
    let mut list = TopicPartitionList::new();
    for (partition, offset) in next {
        if held.find_partition(topic, partition).is_some() {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))
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

fn now_ns() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_nanos()
}
