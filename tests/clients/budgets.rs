//! Memory budgets of a whole process, held against clients that do not play along, and against
//! their neighbours that do.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::broker::{Broker, Directory, PATIENCE};

const MIB: usize = 1 << 20;
/// Each of the budgets in these tests.
const BUDGET_BYTES: usize = 16 * MIB;
/// What the process may keep beside them: freed buffers of sends, and what allocators hold back.
const BESIDE_BYTES: usize = 16 * MIB;

fn start(name: &str, more: &[&str]) -> (Broker, Directory, PathBuf) {
    let directory = Directory::new(name);
    let log = directory.path().with_extension("log");
    let mut arguments = vec!["--set", "server.cores=0"];
    for setting in [
        "memory.tail_cache_bytes=4MiB",
        "memory.unsettled_cache_bytes=1MiB",
        "memory.read_cache_bytes=4MiB",
        "memory.assembly_bytes_max=16MiB",
        "memory.sending_bytes_max=16MiB",
        "memory.answer_bytes_max=16MiB",
        "memory.receive_buffers=64",
        "listeners.kafka.request_bytes_max=16MiB",
        "settle.after_ms=100",
        "limits.stop_timeout_ms=2000",
    ] {
        arguments.extend(["--set", setting]);
    }
    arguments.extend(more);
    let broker = Broker::start_logging(&directory, &arguments, &log);
    (broker, directory, log)
}

/// A client for which the kernel keeps little.
fn connect(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(&broker.address).expect("the broker listens");
    set_socket_recv_buffer_size(&stream, 4096).expect("set");
    stream
}

/// A request without a client id.
fn frame(key: u8, version: u8, body_bytes: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(10 + body_bytes).expect("short");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend([0, key, 0, version, 0, 0, 0, 1, 0xff, 0xff]);
    frame.extend(body);
    frame
}

/// Fetch 4 of up to 50 MiB from the start of partition 0 of `wide`.
fn fetch() -> Vec<u8> {
    let bytes_max = (50i32 << 20).to_be_bytes();
    let mut body = vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1];
    body.extend(bytes_max);
    body.extend([0, 0, 0, 0, 1, 0, 4]);
    body.extend(b"wide");
    body.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend([0; 8]);
    body.extend(bytes_max);
    frame(1, 4, body.len(), &body)
}

/// Produces `count` records of 100 KB each, and says how long that took.
fn produce(broker: &Broker, topic: &str, count: usize) -> Duration {
    let producer = broker.producer(&[]);
    let values: Vec<String> = (0..count)
        .map(|n| format!("{n:050000}").repeat(2))
        .collect();
    let begun = Instant::now();
    producer.send_all(topic, 0, &values);
    begun.elapsed()
}

/// The most memory that the broker has over a while.
fn most_resident(broker: &Broker, seconds: u64) -> usize {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut most = 0;
    while Instant::now() < until {
        most = most.max(broker.resident_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    most
}

fn wait_for_line(log: &PathBuf, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(log)
        .expect("it is there")
        .contains(words)
    {
        assert!(Instant::now() < deadline, "no line says {words:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn readers_that_ask_for_much_and_do_not_read_stay_within_the_budgets() {
    let (broker, _directory, log) = start("slow-readers", &[]);
    for _ in 0..4 {
        produce(&broker, "wide", 200);
    }
    let before = broker.resident_bytes();
    let mut readers: Vec<TcpStream> = (0..100).map(|_| connect(&broker)).collect();
    for reader in &mut readers {
        // More than one: the kernel keeps some, and what waits behind counts too.
        reader.write_all(&fetch().repeat(20)).expect("sent");
    }
    let most = most_resident(&broker, 3);
    // Replies under way and one of them more, answers that wait, and the cache of reads.
    let budgets = BUDGET_BYTES + BUDGET_BYTES + BUDGET_BYTES / 4 + 4 * MIB;
    let allowed = before + budgets + budgets / 10 + BESIDE_BYTES;
    assert!(most <= allowed, "{} MiB of {}", most / MIB, allowed / MIB);
    let taken = produce(&broker, "other", 20);
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    wait_for_line(
        &log,
        "it takes a reply slowly while others wait for the memory",
    );
    // An honest reader gets through, and a stop does not wait for the others.
    assert_eq!(broker.read_all("other", 0).len(), 20);
    let begun = Instant::now();
    broker.stop();
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(15), "{taken:?}");
}

#[test]
fn half_sent_requests_stay_within_the_budget_and_hold_nobody_up() {
    let (broker, _directory, log) = start("half-sent", &[]);
    produce(&broker, "other", 20);
    let before = broker.resident_bytes();
    let mut senders = Vec::new();
    let mut begin_requests = |count: usize, body_bytes: usize| {
        for _ in 0..count {
            let mut sender = connect(&broker);
            let patience = Some(Duration::from_millis(20));
            sender.set_write_timeout(patience).expect("set");
            // The broker takes as much as it has memory for.
            let _ = sender.write_all(&frame(0, 9, body_bytes, &vec![0; 800_000]));
            senders.push(sender);
        }
    };
    begin_requests(100, 15 * MIB);
    // Others of a common size do not notice.
    let taken = produce(&broker, "other", 20);
    assert!(taken < Duration::from_secs(4), "{taken:?}");
    // If even those are half-sent they wait, until the slow ones have had their time.
    begin_requests(6, 900_000);
    let most = most_resident(&broker, 1);
    let budgets = BUDGET_BYTES + MIB;
    let allowed = before + budgets + budgets / 10 + BESIDE_BYTES;
    assert!(most <= allowed, "{} MiB of {}", most / MIB, allowed / MIB);
    let taken = produce(&broker, "other", 20);
    assert!(taken < Duration::from_secs(25), "{taken:?}");
    wait_for_line(
        &log,
        "it sends a request slowly while others wait for the memory",
    );
    broker.stop();
}

#[test]
fn a_refused_connection_is_told_by_its_limit() {
    let limit = ["--set", "limits.connections_per_address_max=4"];
    let (broker, _directory, log) = start("refused", &limit);
    let _connections: Vec<TcpStream> = (0..20).map(|_| connect(&broker)).collect();
    wait_for_line(&log, "refused by limits.connections_per_address_max = 4");
    broker.stop();
}

#[test]
fn a_second_signal_ends_a_clean_stop_at_once() {
    let slow = ["--set", "limits.stop_timeout_ms=600000"];
    let (broker, _directory, log) = start("two-signals", &slow);
    produce(&broker, "wide", 200);
    let mut reader = connect(&broker);
    reader.write_all(&fetch().repeat(20)).expect("sent");
    std::thread::sleep(Duration::from_millis(500));
    broker.terminate();
    wait_for_line(&log, "SIGTERM: stopping");
    std::thread::sleep(Duration::from_millis(500));
    broker.terminate();
    assert_eq!(broker.wait(), Some(79));
}
