//! Drivers on real sockets and files: what the daemon mounts, without the daemon.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millrace_engine::jobs::{JobDone, JobOp, JobResult};
use millrace_engine::limits::EngineConfig;
use millrace_engine::mesh::port::mesh;
use millrace_engine::start::{ShardDirectory, StartConfig, open_all};
use millrace_net::connection::ConnectionLimits;
use millrace_net::control::{ControlAnswer, ControlAsk, ControlReply, ControlRequest};
use millrace_net::io::ListenerId;
use millrace_net::kafka::KafkaConfig;
use millrace_net::session::{ClusterView, Node};
use millrace_net::uring::driver::{Driver, DriverConfig, DriverEnd, DriverParts};
use millrace_net::uring::files::Files;
use millrace_net::uring::inbox::Remote;
use millrace_net::uring::jobs::JobPool;
use millrace_net::uring::listener::Listener;
use millrace_net::uring::sys;
use millrace_net::worker::{Door, Protocol, Worker, WorkerConfig};
use millrace_storage::StoreConfig;
use millrace_storage::units::ShardId;

/// A broker of a few shards behind one port.
struct Broker {
    address: SocketAddr,
    remotes: Vec<Remote>,
    replies: Receiver<ControlReply>,
    threads: Vec<JoinHandle<DriverEnd>>,
    _jobs: JobPool,
    _directory: Scratch,
}

/// A data directory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if path.exists() {
            fs::remove_dir_all(&path).expect("an earlier run's files go");
        }
        fs::create_dir_all(&path).expect("the target directory is writable");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        assert!(removed.is_ok() || thread::panicking(), "{removed:?}");
    }
}

fn no_jobs(job: JobOp) -> JobDone {
    JobDone {
        token: job.token,
        result: JobResult::Unreadable("no jobs here".to_owned()),
    }
}

impl Broker {
    fn start(name: &str, count: u16, limits: ConnectionLimits) -> Self {
        let directory = Scratch::new(name);
        let mut files: Vec<Files> = (0..count)
            .map(|shard| Files::open(&directory.0, ShardId(shard), 64).expect("it opens"))
            .collect();
        let start = StartConfig {
            shards: count,
            engine: EngineConfig::default(),
            store: StoreConfig {
                wal_file_bytes: 4 << 20,
                batch_bytes_max: 1 << 20,
                ..StoreConfig::default()
            },
            accept_loss: Vec::new(),
            seed: 1,
        };
        let directories = (0..).zip(&mut files).map(|(shard, files)| ShardDirectory {
            shard: ShardId(shard),
            disk: Box::new(|op| files.run(op)),
        });
        let shards = open_all(&start, sys::now(), directories.collect());
        let shards = shards.expect("an empty directory opens");

        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(ListenerId(0), any).expect("a free port");
        let address = listener.address().expect("bound");
        let mut listeners = vec![listener];
        let ports = mesh(count, 64);
        let remotes: Vec<Remote> = ports
            .iter()
            .map(|port| Remote::to(port).expect("a descriptor"))
            .collect();
        let jobs = JobPool::start(1, no_jobs).expect("a thread");
        let (reply, replies) = mpsc::channel();
        let threads = shards.into_iter().zip(files).zip(ports);
        let threads = threads.map(|((shard, files), mesh)| {
            let reply = reply.clone();
            let parts = DriverParts {
                worker: Worker::new(worker_config(address, limits), shard),
                files,
                listeners: std::mem::take(&mut listeners),
                mesh,
                remotes: remotes.clone(),
                jobs: jobs.queue(),
                replies: Box::new(move |answer| drop(reply.send(answer))),
            };
            let config = DriverConfig {
                deals_connections: true,
                receive_buffers: 64,
                idle_spin_us: 0,
                ..DriverConfig::default()
            };
            let driver = Driver::new(config, parts).expect("the kernel gives a ring");
            thread::spawn(move || driver.run().expect("the ring is enabled"))
        });
        Self {
            threads: threads.collect(),
            address,
            remotes,
            replies,
            _jobs: jobs,
            _directory: directory,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the broker listens");
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("a timeout is set");
        stream.set_nodelay(true).expect("set");
        stream
    }

    fn counter(&self, shard: usize, name: &str) -> u64 {
        let ask = ControlAsk::Report;
        let request = ControlRequest { token: 7, ask };
        self.remotes[shard].control(request).expect("room");
        let reply = self.replies.recv_timeout(Duration::from_secs(10));
        let ControlAnswer::Report(report) = reply.expect("an answer").answer else {
            panic!("a report")
        };
        let mut counters = report.counters.iter();
        let found = counters.find(|(counter, _)| *counter == name);
        found.unwrap_or_else(|| panic!("{name} is counted")).1
    }

    fn wait_for(&self, shard: usize, name: &str, value: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.counter(shard, name);
            if found == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {found}, not {value}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(self) {
        for remote in &self.remotes {
            let ask = ControlAsk::Stop;
            let request = ControlRequest { token: 0, ask };
            remote.control(request).expect("room");
        }
        for thread in self.threads {
            let end = thread.join().expect("the driver ran");
            assert!(matches!(end, DriverEnd::Stopped), "{end:?}");
        }
    }
}

fn worker_config(address: SocketAddr, connection: ConnectionLimits) -> WorkerConfig {
    let node = Node {
        id: 1,
        shard: None,
        host: None,
        port: address.port(),
    };
    WorkerConfig {
        doors: vec![Door {
            protocol: Protocol::Kafka(Arc::new(KafkaConfig::default())),
            cluster: ClusterView {
                cluster_id: "test".to_owned(),
                nodes: vec![node],
                own: 0,
            },
        }],
        connection,
        connections_max: 10_000,
        connections_per_address_max: 10_000,
        assembly_bytes_max: 64 << 20,
    }
}

/// ApiVersions 0 with a correlation id.
fn api_versions(correlation: i32) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(10i32.to_be_bytes());
    request.extend(18i16.to_be_bytes());
    request.extend(0i16.to_be_bytes());
    request.extend(correlation.to_be_bytes());
    request.extend((-1i16).to_be_bytes());
    request
}

/// Reads one reply; returns its correlation id.
fn reply(stream: &mut TcpStream) -> i32 {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a reply");
    let mut body = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).expect("the whole reply");
    i32::from_be_bytes(body[..4].try_into().expect("four bytes"))
}

/// Waits until the broker ended the connection, by an end or by a reset.
fn is_ended(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

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
