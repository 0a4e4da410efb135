//! Much of everything at once on two shards: partitions, groups, and connections with a member or
//! more each. All are healthy, and what they cost is what the settings say.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::broker::{Broker, Directory, PATIENCE, values};
use crate::floods::Body;

const KIB: usize = 1 << 10;
const MIB: usize = KIB << 10;
const CONNECTIONS: usize = 2_000;
const GROUPS: usize = 5_000;
const PARTITIONS: usize = 10_000;
/// What each may cost, bytes: a partition in its home and in the other shard; a group with one
/// member and two offsets; a connection with its own buffers.
const PARTITION_BYTES: usize = 2 * KIB;
const GROUP_BYTES: usize = 4 * KIB;
const CONNECTION_BYTES: usize = 16 * KIB;
/// Of the tail and read caches of both shards together, as set.
const CACHES_BYTES: usize = 16 * MIB;
/// Threads that play the members.
const THREADS: usize = 8;

const OFFSET_COMMIT: u8 = 8;
const JOIN_GROUP: u8 = 11;
const HEARTBEAT: u8 = 12;
const SYNC_GROUP: u8 = 14;

/// A member of a group by itself, on a connection that it may share.
struct Member {
    group: String,
    id: String,
    generation: i32,
}

/// Sends a request and takes the answer, without its length and correlation id.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("answered");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("whole");
    answer.split_off(4)
}

fn i16_at(answer: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([answer[at], answer[at + 1]])
}

/// The counted text at `at`, and where it ends.
fn text_at(answer: &[u8], at: usize) -> (String, usize) {
    let end = at + 2 + usize::from(i16_at(answer, at).unsigned_abs());
    let text = String::from_utf8_lossy(&answer[at + 2..end]);
    (text.into_owned(), end)
}

impl Member {
    /// Joins and takes everything.
    fn join(stream: &mut TcpStream, group: String) -> Self {
        let body = Body::default().string(&group).i32(600_000).i32(600_000);
        let body = body.string("").string("consumer").i32(1);
        let body = body.string("range").i32(0);
        let answer = ask(stream, &body.request(JOIN_GROUP, 2));
        assert_eq!(i16_at(&answer, 4), 0, "{group} joined");
        let generation = answer[6..10].try_into().expect("four bytes");
        let generation = i32::from_be_bytes(generation);
        let (_, at) = text_at(&answer, 10);
        let (_, at) = text_at(&answer, at);
        let (id, _) = text_at(&answer, at);
        let body = Body::default().string(&group).i32(generation).string(&id);
        let body = body.i32(1).string(&id).i32(4).i32(7);
        let answer = ask(stream, &body.request(SYNC_GROUP, 1));
        assert_eq!(i16_at(&answer, 4), 0, "{group} has its share");
        Self {
            group,
            id,
            generation,
        }
    }

    fn begin(&self) -> Body {
        let body = Body::default().string(&self.group).i32(self.generation);
        body.string(&self.id)
    }

    /// Commits two partitions of its own.
    fn commit(&self, stream: &mut TcpStream, number: usize) {
        let first = i32::try_from(2 * number % PARTITIONS).expect("few");
        let body = self.begin().i64(-1).i32(1).string("wide").i32(2);
        let body = body.i32(first).i64(5).string("");
        let body = body.i32(first + 1).i64(6).string("");
        let answer = ask(stream, &body.request(OFFSET_COMMIT, 2));
        // Behind one topic's name and the count of its partitions.
        assert_eq!(
            i16_at(&answer, 4 + 6 + 4 + 4),
            0,
            "{} committed",
            self.group
        );
    }

    fn lives(&self, stream: &mut TcpStream) {
        let answer = ask(stream, &self.begin().request(HEARTBEAT, 1));
        assert_eq!(i16_at(&answer, 4), 0, "{} lives", self.group);
    }
}

/// A share of the connections and of the groups.
fn populate(broker: &Broker, thread: usize) -> (Vec<TcpStream>, Vec<Member>) {
    let connect = |_| {
        let stream = TcpStream::connect(&broker.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS / THREADS).map(connect).collect();
    let members = (0..GROUPS / THREADS).map(|n| {
        let stream = &mut streams[n % (CONNECTIONS / THREADS)];
        let number = thread * (GROUPS / THREADS) + n;
        let member = Member::join(stream, format!("group {number}"));
        member.commit(stream, number);
        member
    });
    let members = members.collect();
    (streams, members)
}

#[test]
fn many_partitions_groups_and_connections_cost_what_they_should() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Some(CONNECTIONS as u64 + 1_000);
    if limit.maximum.is_some_and(|maximum| Some(maximum) < wanted) {
        eprintln!("skipped: the limit of open files is {limit:?}");
        return;
    }
    let current = limit.current.max(wanted);
    let raised = Rlimit {
        current: limit.current.and(current),
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("below the maximum");
    let directory = Directory::new("scale");
    let mut settings = vec!["--cores".to_owned(), "0,1".to_owned()];
    for setting in [
        &format!("topics.partitions={PARTITIONS}"),
        "memory.tail_cache_bytes=4MiB",
        "memory.read_cache_bytes=4MiB",
        "groups.initial_rebalance_delay_ms=0",
        "limits.connections_per_address_max=4000",
    ] {
        settings.extend(["--set".to_owned(), setting.to_owned()]);
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let broker = Broker::start(&directory, &settings);
    let before = broker.resident_bytes();
    broker.producer(&[]).send_all("wide", 0, &values(0, 10));
    let with_partitions = broker.resident_bytes();
    let begun = Instant::now();
    let mut crew: Vec<(Vec<TcpStream>, Vec<Member>)> = thread::scope(|scope| {
        let broker = &broker;
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || populate(broker, number)))
            .collect();
        let crews = threads.into_iter().map(|one| one.join().expect("joined"));
        crews.collect()
    });
    for (streams, members) in &mut crew {
        for (n, member) in members.iter().enumerate() {
            let at = n % streams.len();
            member.lives(&mut streams[at]);
        }
    }
    let after = broker.resident_bytes();
    println!(
        "{} MiB at the start, {} with {PARTITIONS} partitions, {} with {GROUPS} groups over \
         {CONNECTIONS} connections, after {:?}",
        before / MIB,
        with_partitions / MIB,
        after / MIB,
        begun.elapsed()
    );
    let costs = PARTITIONS * PARTITION_BYTES + GROUPS * GROUP_BYTES;
    let allowed = costs + CONNECTIONS * CONNECTION_BYTES + CACHES_BYTES;
    let grown = after.saturating_sub(before);
    assert!(
        grown <= allowed + allowed / 10,
        "{} MiB of {}",
        grown / MIB,
        allowed / MIB
    );
    assert_eq!(broker.read_all("wide", 0).len(), 10);
    broker.stop();
}
