//! A broker's drivers on real sockets and files: what the daemon mounts, without the daemon.

use std::fs;
use std::io::Read;
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
use millrace_net::control::{
    ControlAnswer, ControlAsk, ControlReply, ControlRequest, WorkerReport,
};
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
pub(crate) struct Broker {
    /// Where it listens.
    pub(crate) address: SocketAddr,
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

fn start_config(shards: u16) -> StartConfig {
    StartConfig {
        shards,
        engine: EngineConfig::default(),
        store: StoreConfig {
            wal_file_bytes: 4 << 20,
            batch_bytes_max: 1 << 20,
            ..StoreConfig::default()
        },
        owner: None,
        accept_loss: Vec::new(),
        seed: 1,
    }
}

impl Broker {
    /// Starts `count` shards that share one port and take connections in turn.
    pub(crate) fn start(name: &str, count: u16, limits: ConnectionLimits) -> Self {
        Self::start_with(name, count, limits, 64)
    }

    /// The same with so many receive buffers.
    pub(crate) fn start_with(
        name: &str,
        count: u16,
        limits: ConnectionLimits,
        buffers: u16,
    ) -> Self {
        let directory = Scratch::new(name);
        let mut files: Vec<Files> = (0..count)
            .map(|shard| Files::open(&directory.0, ShardId(shard), 64).expect("it opens"))
            .collect();
        let start = start_config(count);
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
                receive_buffers: buffers,
                idle_spin_us: 0,
                commit_spin_us: 0,
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

    /// A client of it.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the broker listens");
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("a timeout is set");
        stream.set_nodelay(true).expect("set");
        stream
    }

    fn report(&self, shard: usize) -> WorkerReport {
        let ask = ControlAsk::Report;
        let request = ControlRequest { token: 7, ask };
        self.remotes[shard].control(request).expect("room");
        let reply = self.replies.recv_timeout(Duration::from_secs(10));
        let ControlAnswer::Report(report) = reply.expect("an answer").answer else {
            panic!("a report")
        };
        *report
    }

    /// Names of a shard's stages, in the order in which they are told.
    pub(crate) fn stages(&self, shard: usize) -> Vec<&'static str> {
        let stages = self.report(shard).stages;
        stages.iter().map(|stage| stage.name).collect()
    }

    /// The values of one of a shard's stages, each with its count.
    pub(crate) fn stage(&self, shard: usize, name: &str) -> Vec<[u64; 2]> {
        let mut stages = self.report(shard).stages.into_iter();
        let found = stages.find(|stage| stage.name == name);
        found.expect("a stage is told from the start").histogram
    }

    /// One of a shard's counters.
    pub(crate) fn counter(&self, shard: usize, name: &str) -> u64 {
        let report = self.report(shard);
        let mut counters = report.counters.iter();
        let found = counters.find(|(counter, _)| *counter == name);
        found.unwrap_or_else(|| panic!("{name} is counted")).1
    }

    /// Waits until one of a shard's counters has this value.
    pub(crate) fn wait_for(&self, shard: usize, name: &str, value: u64) {
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

    /// Stops it cleanly.
    pub(crate) fn stop(self) {
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
        sending_bytes_max: 64 << 20,
        remembered_partitions_max: 100_000,
        stop_ms_max: 1_000,
    }
}

/// ApiVersions 0 with a correlation id.
pub(crate) fn api_versions(correlation: i32) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(10i32.to_be_bytes());
    request.extend(18i16.to_be_bytes());
    request.extend(0i16.to_be_bytes());
    request.extend(correlation.to_be_bytes());
    request.extend((-1i16).to_be_bytes());
    request
}

/// Reads one reply; returns its correlation id.
pub(crate) fn reply(stream: &mut TcpStream) -> i32 {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a reply");
    let mut body = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).expect("the whole reply");
    i32::from_be_bytes(body[..4].try_into().expect("four bytes"))
}

/// Waits until the broker ended the connection, by an end or by a reset.
pub(crate) fn is_ended(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
