//! Connections on real sockets: cut, slow, silent, greedy and rude ones.

mod broker;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use broker::{Broker, api_versions, is_ended, reply};
use millrace_net::connection::ConnectionLimits;

#[test]
fn requests_cut_anywhere_are_answered_on_every_shard() {
    let broker = Broker::start("cut", 2, ConnectionLimits::default());
    let mut streams: Vec<TcpStream> = (0..4).map(|_| broker.connect()).collect();
    for (stream, number) in streams.iter_mut().zip(0..) {
        stream.write_all(&api_versions(number)).expect("sent");
        assert_eq!(reply(stream), number);
        for cut in 1..14 {
            let request = api_versions(number + 100);
            stream.write_all(&request[..cut]).expect("sent");
            thread::sleep(Duration::from_millis(1));
            stream.write_all(&request[cut..]).expect("sent");
            assert_eq!(reply(stream), number + 100);
        }
    }
    assert_eq!(broker.counter(0, "net_connections_now"), 2);
    assert_eq!(broker.counter(1, "net_connections_now"), 2);
    broker.stop();
    assert!(streams.iter_mut().all(is_ended));
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let broker = Broker::start("pipeline", 1, ConnectionLimits::default());
    let mut stream = broker.connect();
    let mut writer = stream.try_clone().expect("a second handle");
    let writing = thread::spawn(move || {
        for correlation in 0..10_000 {
            writer.write_all(&api_versions(correlation)).expect("sent");
        }
    });
    for correlation in 0..10_000 {
        assert_eq!(reply(&mut stream), correlation);
    }
    writing.join().expect("the writer ran");
    broker.stop();
}

/// The values are true: both ends lie in one turn, whose time is read between them.
#[test]
fn how_long_a_request_waits_to_be_handed_over_is_told() {
    let broker = Broker::start("stages", 1, ConnectionLimits::default());
    let mut stream = broker.connect();
    for correlation in 0..50 {
        stream.write_all(&api_versions(correlation)).expect("sent");
        assert_eq!(reply(&mut stream), correlation);
    }
    let values = broker.stage(0, "parse");
    assert_eq!(values.iter().map(|[_, count]| count).sum::<u64>(), 50);
    assert!(values[0][0] > 1, "no request takes no time: {values:?}");
    let chain = ["parse", "append", "group_open", "group_commit", "reply"];
    let told = broker.stages(0);
    assert!(told.starts_with(&chain), "{told:?}");
    broker.stop();
}

#[test]
fn a_reader_that_does_not_read_is_left_alone_and_then_closed() {
    let limits = ConnectionLimits {
        transfer_ms_max: 1_000,
        rate_bytes_per_s_min: 1 << 30,
        ..ConnectionLimits::default()
    };
    let broker = Broker::start("slow", 1, limits);
    let mut slow = broker.connect();
    let mut writer = slow.try_clone().expect("a second handle");
    let patience = Some(Duration::from_millis(200));
    writer.set_write_timeout(patience).expect("set");
    // Requests go in until the broker stops reading them.
    let requests: Vec<u8> = (0..1000).flat_map(api_versions).collect();
    let flood = (0..100_000).take_while(|_| writer.write_all(&requests).is_ok());
    assert!(flood.count() < 99_999, "the broker stopped reading");
    let mut good = broker.connect();
    for correlation in 0..100 {
        good.write_all(&api_versions(correlation)).expect("sent");
        assert_eq!(reply(&mut good), correlation);
    }
    broker.wait_for(0, "net_connections_now", 1);
    assert!(is_ended(&mut slow));
    good.write_all(&api_versions(1)).expect("sent");
    assert_eq!(reply(&mut good), 1);
    broker.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_reader_that_does_not_read() {
    let broker = Broker::start("stop", 2, ConnectionLimits::default());
    let stuck = broker.connect();
    let mut writer = stuck.try_clone().expect("a second handle");
    let patience = Some(Duration::from_millis(200));
    writer.set_write_timeout(patience).expect("set");
    let requests: Vec<u8> = (0..1000).flat_map(api_versions).collect();
    let flood = (0..100_000).take_while(|_| writer.write_all(&requests).is_ok());
    assert!(flood.count() < 99_999, "the broker stopped reading");
    let begun = Instant::now();
    broker.stop();
    let taken = begun.elapsed();
    assert!(
        taken >= Duration::from_millis(900),
        "{taken:?}: its time was over too early"
    );
    assert!(taken < Duration::from_secs(5), "{taken:?}");
}

#[test]
fn garbage_and_silence_are_closed() {
    let limits = ConnectionLimits {
        handshake_ms_max: 300,
        ..ConnectionLimits::default()
    };
    let broker = Broker::start("garbage", 1, limits);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 18],
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    ] {
        let mut stream = broker.connect();
        stream.write_all(garbage).expect("sent");
        assert!(is_ended(&mut stream), "{garbage:?}");
    }
    let mut silent = broker.connect();
    let mut slow = broker.connect();
    let begun = Instant::now();
    for byte in api_versions(1).into_iter().take(8) {
        // The broker may be done with it before we are.
        drop(slow.write_all(&[byte]));
        thread::sleep(Duration::from_millis(60));
    }
    assert!(is_ended(&mut slow) && is_ended(&mut silent));
    assert!(begun.elapsed() < Duration::from_secs(5));
    broker.wait_for(0, "net_connections_now", 0);
    broker.stop();
}

#[test]
fn receives_that_lack_a_buffer_go_on_when_there_is_one() {
    let limits = ConnectionLimits::default();
    let broker = Broker::start_with("starved", 1, limits, 2);
    let requests: Vec<u8> = (0..5_000).flat_map(api_versions).collect();
    let clients = (0..8).map(|_| {
        let (mut stream, requests) = (broker.connect(), requests.clone());
        let mut writer = stream.try_clone().expect("a second handle");
        let writing = thread::spawn(move || writer.write_all(&requests).expect("sent"));
        thread::spawn(move || {
            for correlation in 0..5_000 {
                assert_eq!(reply(&mut stream), correlation);
            }
            writing.join().expect("the writer ran");
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().expect("every reply came in order");
    }
    assert!(broker.counter(0, "net_receives_without_buffer") > 0);
    broker.stop();
}

/// Resident bytes of this process.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages = text.split(' ').nth(1).expect("the second field");
    pages.parse::<usize>().expect("a number") * 4096
}

#[test]
fn declared_lengths_cost_nothing() {
    const CONNECTIONS: usize = 2_000;
    let broker = Broker::start("declared", 1, ConnectionLimits::default());
    let mut warm = broker.connect();
    warm.write_all(&api_versions(0)).expect("sent");
    assert_eq!(reply(&mut warm), 0);
    let before = resident_bytes();
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| broker.connect()).collect();
    for stream in &mut streams {
        stream.write_all(&api_versions(1)).expect("sent");
    }
    for stream in &mut streams {
        assert_eq!(reply(stream), 1);
        // A Produce of 90 MiB begins.
        let mut head = (90i32 << 20).to_be_bytes().to_vec();
        head.extend([0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff]);
        stream.write_all(&head).expect("sent");
    }
    for correlation in 0..10 {
        warm.write_all(&api_versions(correlation)).expect("sent");
        assert_eq!(reply(&mut warm), correlation);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 40 << 20,
        "{grown} bytes for {CONNECTIONS} connections"
    );
    assert_eq!(
        broker.counter(0, "net_connections_now"),
        CONNECTIONS as u64 + 1
    );
    // Greedy ones that send a little of it get a little more, within the budget.
    for stream in &mut streams {
        stream.write_all(&[0; 16 << 10]).expect("sent");
    }
    warm.write_all(&api_versions(77)).expect("sent");
    assert_eq!(reply(&mut warm), 77);
    let assembly = broker.counter(0, "net_assembly_bytes_now");
    assert!(
        assembly < (64 << 20) + (CONNECTIONS << 14) as u64 * 2,
        "{assembly} bytes"
    );
    drop(streams);
    broker.wait_for(0, "net_connections_now", 1);
    broker.wait_for(0, "net_assembly_bytes_now", 0);
    broker.stop();
}

/// Runs a test again in a process of its own, where it is a broker because of that variable, after
/// `preparation`. Its output, and where it listens.
fn broker_process(
    preparation: &str,
    test: &str,
    variable: &str,
) -> (Child, BufReader<ChildStdout>, String) {
    let program = std::env::current_exe().expect("a test knows itself");
    let script = format!("{preparation}; exec \"$0\" --exact \"$1\" --nocapture");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .arg(test)
        .env(variable, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let address = output.by_ref().lines().find_map(|line| {
        let line = line.expect("text");
        let (_, address) = line.split_once("address ")?;
        Some(address.to_owned())
    });
    (child, output, address.expect("the broker says where it is"))
}

/// The other side of [`broker_process`].
fn serve_until_left(broker: Broker) {
    println!("address {}", broker.address);
    // Until the client's end of the pipe is gone.
    std::io::stdin().lines().count();
    broker.stop();
}

#[test]
fn what_came_in_time_counts_although_the_process_was_stopped_past_the_deadline() {
    const STOPPED: &str = "MILLRACE_TEST_BROKER_THAT_IS_STOPPED";
    const HANDSHAKE: Duration = Duration::from_secs(2);
    let name = "what_came_in_time_counts_although_the_process_was_stopped_past_the_deadline";
    if std::env::var_os(STOPPED).is_some() {
        let limits = ConnectionLimits {
            handshake_ms_max: HANDSHAKE.as_millis() as u64,
            ..ConnectionLimits::default()
        };
        return serve_until_left(Broker::start("stopped", 2, limits));
    }
    let (mut child, mut output, address) = broker_process(":", name, STOPPED);
    let signal = |signal: &str| {
        let process = child.id().to_string();
        let sent = Command::new("kill").args([signal, &process]).status();
        assert!(sent.expect("kill runs").success());
    };
    let mut streams: Vec<TcpStream> = (0..4)
        .map(|_| TcpStream::connect(&address).expect("the broker listens"))
        .collect();
    thread::sleep(HANDSHAKE / 4);
    signal("-STOP");
    for stream in &mut streams {
        stream.write_all(&api_versions(5)).expect("sent");
    }
    thread::sleep(HANDSHAKE + HANDSHAKE / 4);
    signal("-CONT");
    for stream in &mut streams {
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("set");
        assert_eq!(reply(stream), 5);
    }
    drop(streams);
    drop(child.stdin.take());
    std::io::copy(&mut output, &mut std::io::sink()).expect("what it says until its end");
    assert!(child.wait().expect("the broker ends").success());
}

/// With few descriptors for the process, connections are refused and data goes on. The clients are
/// in this process, the broker is in one of its own.
#[test]
fn out_of_descriptors_clients_are_told_and_others_served() {
    const LIMITED: &str = "MILLRACE_TEST_BROKER_WITH_FEW_DESCRIPTORS";
    let name = "out_of_descriptors_clients_are_told_and_others_served";
    if std::env::var_os(LIMITED).is_some() {
        let broker = Broker::start("descriptors", 1, ConnectionLimits::default());
        return serve_until_left(broker);
    }
    let (mut child, mut output, address) = broker_process("ulimit -n 64", name, LIMITED);
    let mut streams: Vec<TcpStream> = (0..100)
        .map(|_| {
            // The backlog is short too: not all at once.
            thread::sleep(Duration::from_millis(2));
            let stream = TcpStream::connect(&address).expect("the broker listens");
            let patience = Some(Duration::from_secs(10));
            stream.set_read_timeout(patience).expect("set");
            stream
        })
        .collect();
    let mut served = Vec::new();
    for mut stream in streams.drain(..) {
        let mut length = [0; 4];
        // A connection that was dropped may be reset before or after it is written to.
        let is_served =
            stream.write_all(&api_versions(5)).is_ok() && stream.peek(&mut length).unwrap_or(0) > 0;
        if is_served {
            assert_eq!(reply(&mut stream), 5);
            served.push(stream);
        }
    }
    assert!((5..60).contains(&served.len()), "{} of 100", served.len());
    served.truncate(3);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut late = loop {
        let mut stream = TcpStream::connect(&address).expect("the broker listens");
        let is_served =
            stream.write_all(&api_versions(6)).is_ok() && stream.peek(&mut [0]).unwrap_or(0) > 0;
        if is_served {
            break stream;
        }
        assert!(Instant::now() < deadline, "served once there is room");
    };
    assert_eq!(reply(&mut late), 6);
    drop((served, late));
    drop(child.stdin.take());
    std::io::copy(&mut output, &mut std::io::sink()).expect("what it says until its end");
    assert!(child.wait().expect("the broker ends").success());
}
