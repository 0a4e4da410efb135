//! Members that do not play along: joins without end, connections that vanish while they wait,
//! words out of date, fetches of much for little. Memory stays bounded, and neighbours do not
//! notice.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use crate::broker::{Broker, Directory, PATIENCE, values};

const MIB: usize = 1 << 20;
/// What a flood may leave behind: groups and members within their settings, and what the allocator
/// keeps.
const FLOOD_BYTES: usize = 48 * MIB;
/// How long a neighbour may take for what it does meanwhile, on a busy machine.
const NEIGHBOUR_MAX: Duration = Duration::from_secs(10);

const FETCH: u8 = 1;
const OFFSET_COMMIT: u8 = 8;
const JOIN_GROUP: u8 = 11;
const HEARTBEAT: u8 = 12;

/// A body of big-endian fields.
#[derive(Default)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    pub(crate) fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn string(mut self, text: &str) -> Self {
        let bytes = u16::try_from(text.len()).expect("short");
        self.0.extend(bytes.to_be_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    /// The request, from a client without a name.
    pub(crate) fn request(self, key: u8, version: u8) -> Vec<u8> {
        let length = u32::try_from(10 + self.0.len()).expect("short");
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend([0, key, 0, version, 0, 0, 0, 1, 0xff, 0xff]);
        frame.extend(self.0);
        frame
    }
}

/// JoinGroup: in version 4 a new member is given an id first, in version 2 it waits at once.
fn join(version: u8, group: &str, member: &str) -> Vec<u8> {
    let body = Body::default().string(group).i32(6_000).i32(6_000);
    let body = body.string(member).string("consumer").i32(1);
    let words = body.string("range").i32(1_000);
    Body([words.0, vec![7; 1_000]].concat()).request(JOIN_GROUP, version)
}

fn heartbeat(group: &str, generation: i32) -> Vec<u8> {
    let body = Body::default().string(group).i32(generation);
    body.string("nobody").request(HEARTBEAT, 1)
}

/// OffsetCommit 2 of somebody who is no member.
fn commit(group: &str, generation: i32) -> Vec<u8> {
    let body = Body::default().string(group).i32(generation);
    let body = body.string("nobody").i64(-1).i32(1).string("wide");
    let body = body.i32(1).i32(3).i64(1);
    body.string("").request(OFFSET_COMMIT, 2)
}

/// Fetch 4 of 2,000 partitions, a byte of each.
fn fetch_wide() -> Vec<u8> {
    let body = Body::default().i32(-1).i32(0).i32(0).i32(1);
    let body = Body([body.0, vec![0]].concat()).i32(1).string("wide");
    let all = (0..2_000).fold(body.i32(2_000), |body, partition| {
        body.i32(partition).i64(0).i32(1)
    });
    all.request(FETCH, 4)
}

/// A neighbour: a member of a group of its own that commits, and a producer.
struct Neighbour<'a> {
    broker: &'a Broker,
    member: BaseConsumer,
}

impl<'a> Neighbour<'a> {
    fn new(broker: &'a Broker) -> Self {
        broker.producer(&[]).send_all("own", 0, &values(0, 10));
        let member = broker.consumer(&[
            ("group.id", "own"),
            ("auto.offset.reset", "earliest"),
            ("enable.partition.eof", "false"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "500"),
        ]);
        member.subscribe(&["own"]).expect("sound");
        let mut one = Self { broker, member };
        one.reads(10);
        one
    }

    fn reads(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut left = count;
        while left > 0 {
            assert!(Instant::now() < deadline, "{left} of {count} are missing");
            if let Some(Ok(_)) = self.member.poll(Duration::from_millis(50)) {
                left -= 1;
            }
        }
    }

    /// What it does takes no longer than it may, and its group does not notice.
    fn works(&mut self) {
        let before = self.member.assignment().expect("known");
        let begun = Instant::now();
        self.broker
            .producer(&[])
            .send_all("own", 0, &values(0, 200));
        self.reads(200);
        let state = self.member.commit_consumer_state(CommitMode::Sync);
        state.expect("it is still a member");
        let taken = begun.elapsed();
        assert!(taken < NEIGHBOUR_MAX, "{taken:?}");
        assert_eq!(self.member.assignment().expect("known"), before);
    }
}

/// Sends requests on many connections for a while, reads what comes, and drops the connections
/// with whatever waits on them; each is drawn by its number. Returns how many were sent.
fn flood(broker: &Broker, seconds: u64, request: impl Fn(usize) -> Vec<u8> + Sync) -> usize {
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut sent, mut answers) = (0, vec![0; 64 << 10]);
    while Instant::now() < until {
        let mut streams: Vec<TcpStream> = (0..20)
            .map(|_| TcpStream::connect(&broker.address).expect("it listens"))
            .collect();
        for stream in &mut streams {
            let patience = Some(Duration::from_millis(5));
            stream.set_read_timeout(patience).expect("set");
            stream.set_write_timeout(Some(PATIENCE)).expect("set");
            for _ in 0..10 {
                stream.write_all(&request(sent)).expect("sent");
                sent += 1;
            }
        }
        for stream in &mut streams {
            match stream.read(&mut answers) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    sent
}

#[test]
fn floods_of_groups_requests_stay_bounded_and_neighbours_do_not_notice() {
    let directory = Directory::new("floods");
    let settings = [
        "--cores",
        "0,1",
        "--set",
        "topics.partitions=4",
        "--set",
        "groups.groups_max=5000",
        "--set",
        "groups.members_max=500",
    ];
    let broker = Broker::start(&directory, &settings);
    let mut neighbour = Neighbour::new(&broker);
    let before = broker.resident_bytes();
    type Request<'a> = &'a (dyn Fn(usize) -> Vec<u8> + Sync);
    let floods: [(&str, Request<'_>); 6] = [
        ("new members of one group, with ids", &|_| {
            join(4, "one", "")
        }),
        ("new members that vanish while they wait", &|_| {
            join(2, "two", "")
        }),
        ("new groups", &|n| join(4, &format!("group {n}"), "")),
        ("strangers' ids", &|n| join(4, "one", &format!("id {n}"))),
        ("heartbeats", &|n| {
            heartbeat(["own", "one"][n % 2], n as i32 % 5)
        }),
        ("commits", &|n| commit(["own", "one"][n % 2], n as i32 % 5)),
    ];
    for (name, request) in floods {
        let sent = std::thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&broker, 2, request));
            neighbour.works();
            flooding.join().expect("it went through")
        });
        let grown = broker.resident_bytes().saturating_sub(before);
        println!("{name}: {sent} requests, {} MiB more", grown / MIB);
        assert!(grown < FLOOD_BYTES, "{name}: {} MiB more", grown / MIB);
    }
    neighbour.works();
    broker.stop();
}

#[test]
fn fetches_of_many_partitions_for_a_byte_each_stay_bounded() {
    let directory = Directory::new("wide-fetches");
    let settings = ["--cores", "0,1", "--set", "topics.partitions=2000"];
    let broker = Broker::start(&directory, &settings);
    let producer = broker.producer(&[]);
    for partition in (0..2_000).step_by(50) {
        producer.send_all("wide", partition, &values(0, 2));
    }
    let mut neighbour = Neighbour::new(&broker);
    let before = broker.resident_bytes();
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&broker, 4, |_| fetch_wide()));
        neighbour.works();
        let sent = flooding.join().expect("it went through");
        println!("{sent} fetches");
    });
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 2 * FLOOD_BYTES, "{} MiB more", grown / MIB);
    neighbour.works();
    broker.stop();
}
