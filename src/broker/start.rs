//! From a resolved configuration to a serving broker, in the order in which it can fail.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_engine::Shard;
use millrace_engine::mesh::port::{MeshPort, mesh};
use millrace_engine::start::{ShardDirectory, StartConfig, open_all};
use millrace_net::kafka::KafkaConfig;
use millrace_net::uring::descriptors;
use millrace_net::uring::driver::{Driver, DriverParts};
use millrace_net::uring::files::Files;
use millrace_net::uring::inbox::Remote;
use millrace_net::uring::jobs::{JobPool, JobQueue};
use millrace_net::uring::listener::Listener;
use millrace_net::uring::sys;
use millrace_net::worker::{Worker, WorkerConfig};
use millrace_storage::LossRange;
use millrace_storage::units::ShardId;
use tokio::sync::mpsc::UnboundedSender;

use super::losses::AcceptedLosses;
use super::shards::{ShardEnd, ShardEnds, ShardThread};
use super::{Broker, directories, identity, kafka_view, listen, translate};
use crate::checks::{self, FileSystems};
use crate::config::{Config, Resolved};
use crate::control::{ControlSocket, ControlThread, Facts, Gate, Inbox, Replies};
use crate::exit::Failure;
use crate::lock::DirectoryLock;
use crate::topology::Topology;

/// 1. Nothing is touched before the directory is ours, and nothing is changed in it before kernel
///    and file system were tried out.
/// 2. Nothing listens before everything is recovered and durable: a client that gets in is served.
/// 3. What can fail on its own account is done before the first thread runs.
/// 4. From then on there is a [`Broker`]: whatever fails drops it, and that stops all it has.
pub(super) fn start(
    settings: Resolved,
    losses: &AcceptedLosses,
    began: Instant,
) -> Result<Broker, Failure> {
    let config = &settings.config;
    let data_dir = config.server.data_dir.clone();
    directories::create(&data_dir)?;
    let lock = DirectoryLock::take(&data_dir)?;
    let file_systems = FileSystems::of(&data_dir)?;
    for file_system in file_systems.iter() {
        checks::kernel::look_at_directory(file_system)?;
    }
    let cores = Topology::read().resolve(&config.server.cores, config.server.pin)?;
    let shards = u16::try_from(cores.len()).expect("cores are fewer");
    let warnings = checks::look(config, &file_systems, shards)?;
    checks::kernel::look(&translate::driver(config), shards)?;

    let (opened, files) = recover(config, &data_dir, shards, losses)?;
    let bound = listen::bind(&config.kafka, shards)?;
    let cluster_id = opened[0].catalog().cluster_id();
    let kafka = Arc::new(KafkaConfig {
        broker_settings: kafka_view::broker_settings(&settings, &bound.addresses),
        ..translate::kafka(config)
    });
    let doors = listen::doors(&config.kafka, &bound.addresses, &cluster_id, &kafka)?;
    let worker = translate::worker(config, doors);
    let facts = Facts {
        data_dir,
        file_system: file_systems.own.name.clone(),
        acknowledgement: file_systems.acknowledgement(),
        kafka: bound.addresses,
        cores,
        started: Instant::now(),
        settings,
    };
    let parts = Parts {
        opened,
        files,
        listeners: bound.by_shard,
        worker,
    };
    let socket = ControlSocket::bind(&facts.data_dir)?;
    let ready = set_up(config_of(&facts), parts)?;
    let gate = Gate::new(ready.remotes.iter().map(inbox).collect(), ready.replies);
    let (sender, ends) = ShardEnds::new();
    let mut broker = Broker {
        facts,
        warnings,
        started_in: Duration::ZERO,
        remotes: ready.remotes,
        threads: Vec::new(),
        ends,
        is_stopping: false,
        has_failed: false,
        control: None,
        jobs: Some(ready.jobs),
        _lock: lock,
    };
    broker.run(ready.drivers, &sender)?;
    let control = ControlThread::start(socket, broker.facts.clone(), gate)?;
    broker.control = Some(control);
    broker.started_in = began.elapsed();
    Ok(broker)
}

impl Broker {
    /// Starts the shards' threads, then lets them serve.
    fn run(
        &mut self,
        drivers: Vec<Driver>,
        ends: &UnboundedSender<ShardEnd>,
    ) -> Result<(), Failure> {
        let is_pinned = config_of(&self.facts).server.pin;
        for ((shard, core), driver) in (0..).zip(&self.facts.cores).zip(drivers) {
            let core = is_pinned.then_some(*core);
            let thread = ShardThread::start(shard, core, driver, ends.clone());
            self.threads.push(thread.map_err(setting_up)?);
        }
        self.threads.iter_mut().for_each(ShardThread::release);
        Ok(())
    }
}

fn config_of(facts: &Facts) -> &Config {
    &facts.settings.config
}

fn setting_up(error: io::Error) -> Failure {
    Failure::Kernel(format!("setting up a shard: {error}"))
}

/// Recovers every shard that ever was; returns those that run, each with its files.
fn recover(
    config: &Config,
    data_dir: &Path,
    shards: u16,
    losses: &AcceptedLosses,
) -> Result<(Vec<Shard>, Vec<Files>), Failure> {
    let mut all: Vec<ShardId> = directories::existing(data_dir)?;
    all.extend((0..shards).map(ShardId));
    // A directory that is given up is begun anew, to be emptied if its shard no longer runs.
    let given_up = losses
        .all()
        .iter()
        .filter(|(_, range)| *range == LossRange::WHOLE);
    all.extend(given_up.map(|(shard, _)| *shard));
    all.sort_unstable();
    all.dedup();
    let start_open_max = descriptors::files_at_start(all.len());
    let start_open_max = start_open_max.map_err(|error| Failure::Kernel(error.to_string()))?;
    let mut files = Vec::new();
    for shard in &all {
        let open_max = translate::size(config.limits.files_open_max);
        let opened = Files::open(data_dir, *shard, open_max);
        let mut opened = opened.map_err(Failure::io(data_dir))?;
        opened.limit_start(start_open_max);
        files.push(opened);
    }
    let seed = checks::random_seed();
    let start = StartConfig {
        shards,
        engine: translate::engine(config),
        store: translate::store(config),
        owner: identity::read(data_dir)?,
        accept_loss: losses.all().to_vec(),
        seed,
    };
    let directories = all
        .iter()
        .zip(&mut files)
        .map(|(shard, files)| ShardDirectory {
            shard: *shard,
            disk: Box::new(|op| files.run(op)),
        });
    let opened = open_all(&start, sys::now(), directories.collect())?;
    let owner = opened[0].catalog().broker_id();
    identity::note(data_dir, owner.expect("a start names the broker"))?;
    // What no longer runs was handed over; its directory stays, and is empty of data.
    files.truncate(opened.len());
    Ok((opened, files))
}

struct Parts {
    opened: Vec<Shard>,
    files: Vec<Files>,
    listeners: Vec<Vec<Listener>>,
    worker: WorkerConfig,
}

/// All that the shards' threads need, and nothing runs yet.
struct Ready {
    drivers: Vec<Driver>,
    remotes: Vec<Remote>,
    jobs: JobPool,
    replies: Replies,
}

/// Sets every ring up.
fn set_up(config: &Config, parts: Parts) -> Result<Ready, Failure> {
    let replies = Replies::new();
    let job_threads = translate::size(config.server.job_threads);
    let jobs = JobPool::start(job_threads, millrace_engine::jobs::perform).map_err(setting_up)?;
    let ports = mesh(
        u16::try_from(parts.opened.len()).expect("cores are fewer"),
        translate::size(config.limits.mesh_ring_slots),
    );
    let remotes = ports
        .iter()
        .map(Remote::to)
        .collect::<Result<Vec<_>, _>>()
        .map_err(setting_up)?;
    let mut drivers = Vec::new();
    let shards = parts
        .opened
        .into_iter()
        .zip(parts.files)
        .zip(parts.listeners)
        .zip(ports);
    for (((shard, files), listeners), mesh) in shards {
        let setup = Setup {
            config,
            worker: &parts.worker,
            remotes: &remotes,
            jobs: jobs.queue(),
            replies: replies.clone(),
        };
        drivers.push(setup.driver(shard, files, listeners, mesh)?);
    }
    Ok(Ready {
        drivers,
        remotes,
        jobs,
        replies,
    })
}

/// What the shards' drivers have in common.
struct Setup<'a> {
    config: &'a Config,
    worker: &'a WorkerConfig,
    remotes: &'a [Remote],
    jobs: JobQueue,
    replies: Replies,
}

impl Setup<'_> {
    fn driver(
        self,
        shard: Shard,
        files: Files,
        listeners: Vec<Listener>,
        mesh: MeshPort,
    ) -> Result<Driver, Failure> {
        let replies = self.replies;
        let parts = DriverParts {
            worker: Worker::new(self.worker.clone(), shard),
            files,
            listeners,
            mesh,
            remotes: self.remotes.to_vec(),
            jobs: self.jobs,
            replies: Box::new(move |reply| replies.push(reply)),
        };
        Driver::new(translate::driver(self.config), parts).map_err(checks::kernel::no_ring)
    }
}

fn inbox(remote: &Remote) -> Inbox {
    let remote = remote.clone();
    Box::new(move |request| remote.control(request))
}
