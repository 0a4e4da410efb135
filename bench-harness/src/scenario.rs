//! From the command line to phases and back to one report.
//!
//! `produce` sends and then reads everything back; `consume` reads at the tail while producers
//! send, or fills a backlog and then reads it; `e2e` is the tail with the sending side's figures
//! beside it. Every message of a run is verified unless `--no-verify` or the sink make it moot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::args::{ConsumeArgs, LoadArgs};
use crate::child::{self, Broker, ChildPlan};
use crate::client::{Cursor, FetchLimits};
use crate::consumer::ConsumerPlan;
use crate::machine::{Storage, Usage};
use crate::payload;
use crate::phase::{self, PhasePlan, PhaseResult};
use crate::producer::{Load, ProducerPlan};
use crate::report::Report;
use crate::schedule::Clock;
use crate::setup::{self, Topic};
use crate::sink::{Behaviour, Sink};
use crate::verify::{self, Ledger, Verdict};

/// Largest `--size` and `--batch`: a request must fit into a frame.
const BATCH_BYTES_MAX: u64 = 64 << 20;
const CONNECTIONS_MAX: u32 = 10_000;
const DEPTH_MAX: u32 = 10_000;
const PARTITIONS_MAX: u32 = 100_000;
const THREADS_MAX: u32 = 256;
/// As clients do: a long poll of half a second, a mebibyte of each partition.
const FETCH: FetchLimits = FetchLimits {
    wait_ms_max: 500,
    bytes_max: 16 << 20,
    partition_bytes_max: 1 << 20,
};

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Produce,
    ConsumeTail,
    ConsumeBacklog,
    EndToEnd,
}

/// A run as it was asked for, defaults filled in; part of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scenario {
    pub(crate) kind: Kind,
    pub(crate) protocol: &'static str,
    pub(crate) target: Target,
    pub(crate) message_bytes: u64,
    /// `None` is a closed loop.
    pub(crate) rate_per_s: Option<u64>,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    pub(crate) batch_bytes: u64,
    pub(crate) duration_ms: u64,
    pub(crate) warmup_ms: u64,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
    pub(crate) acks: i16,
    pub(crate) threads: u32,
    pub(crate) consumers: u32,
    pub(crate) backlog_messages: u64,
    pub(crate) verify: bool,
    pub(crate) generator_cores: Vec<usize>,
    pub(crate) broker_cores: Option<String>,
    /// Marks this run's messages.
    pub(crate) run: u32,
}

/// Who is driven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// This executable's `serve`, started for the run.
    Child,
    /// The in-process peer that discards.
    Sink,
    /// A broker that runs anyway, as `HOST:PORT`.
    External(String),
}

/// What answers, for the length of a run.
struct Peer {
    address: SocketAddr,
    broker: Option<Broker>,
    storage: Option<Storage>,
}

/// `bench produce`.
pub(crate) fn produce(args: LoadArgs) -> anyhow::Result<Report> {
    run(Scenario::new(Kind::Produce, 0, &args)?, &args)
}

/// `bench consume`.
pub(crate) fn consume(args: ConsumeArgs) -> anyhow::Result<Report> {
    let load = &args.load;
    match args.backlog {
        None => run(Scenario::new(Kind::ConsumeTail, 0, load)?, load),
        Some(bytes) => {
            let messages = bytes.div_ceil(load.size.max(1));
            ensure!(messages > 0, "--backlog must be more than 0");
            run(Scenario::new(Kind::ConsumeBacklog, messages, load)?, load)
        }
    }
}

/// `bench e2e`.
pub(crate) fn end_to_end(args: LoadArgs) -> anyhow::Result<Report> {
    run(Scenario::new(Kind::EndToEnd, 0, &args)?, &args)
}

impl Scenario {
    fn new(kind: Kind, backlog_messages: u64, args: &LoadArgs) -> anyhow::Result<Self> {
        let run = fresh_run();
        let target = match args.target.as_deref() {
            None => Target::Child,
            Some("sink") => Target::Sink,
            Some(target) => Target::External(target.to_owned()),
        };
        let scenario = Self {
            kind,
            protocol: "kafka",
            message_bytes: args.size,
            rate_per_s: (args.rate > 0).then_some(args.rate),
            connections: args.connections,
            depth: args.depth,
            batch_bytes: args.batch,
            duration_ms: milliseconds(args.duration),
            warmup_ms: milliseconds(args.warmup),
            topic: args
                .topic
                .clone()
                .unwrap_or_else(|| format!("millrace-bench-{run:08x}")),
            partitions: args.partitions,
            acks: args.acks.code(),
            threads: args.threads,
            consumers: args
                .consumers
                .unwrap_or(args.connections.min(args.partitions)),
            // Every stream sends the same number.
            backlog_messages: backlog_messages.next_multiple_of(args.connections.max(1).into()),
            verify: !args.no_verify && target != Target::Sink,
            generator_cores: args.generator_cores.clone(),
            broker_cores: args.child.cores.clone(),
            target,
            run,
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// Refuses what cannot be run, by the flag's name.
    fn check(&self) -> anyhow::Result<()> {
        let size_min = payload::HEADER_BYTES;
        ensure!(
            (u64::try_from(size_min)?..=BATCH_BYTES_MAX).contains(&self.message_bytes),
            "--size must be {size_min} (a message carries an id, a time and a checksum) to \
             {BATCH_BYTES_MAX}"
        );
        ensure!(
            self.batch_bytes <= BATCH_BYTES_MAX,
            "--batch must be at most {BATCH_BYTES_MAX}"
        );
        let ranges = [
            ("--connections", self.connections, CONNECTIONS_MAX),
            ("--depth", self.depth, DEPTH_MAX),
            ("--partitions", self.partitions, PARTITIONS_MAX),
            ("--threads", self.threads, THREADS_MAX),
            (
                "--consumers",
                self.consumers,
                self.partitions.min(CONNECTIONS_MAX),
            ),
        ];
        for (flag, value, max) in ranges {
            ensure!((1..=max).contains(&value), "{flag} must be 1 to {max}");
        }
        ensure!(self.duration_ms > 0, "--duration must be more than 0");
        ensure!(
            !self.topic.is_empty() && self.topic.len() <= 249,
            "--topic must have 1 to 249 characters"
        );
        ensure!(
            self.target != Target::Sink || self.kind == Kind::Produce,
            "the sink discards what it gets: it can only be produced to"
        );
        Ok(())
    }

    fn load(&self, messages_max: Option<u64>) -> Load {
        Load {
            topic: self.topic.clone(),
            run: self.run,
            message_bytes: usize::try_from(self.message_bytes).expect("checked against its max"),
            batch_bytes: usize::try_from(self.batch_bytes).expect("checked against its max"),
            depth: usize::try_from(self.depth).expect("32 bits fit"),
            acks: self.acks,
            // A backlog is filled as fast as it goes.
            rate_per_s: if messages_max.is_some() {
                None
            } else {
                self.rate_per_s
            },
            messages_max,
            streams: self.connections,
        }
    }

    fn producers(&self, topic: &Topic, messages_max: Option<u64>) -> Vec<ProducerPlan> {
        let load = Arc::new(self.load(messages_max));
        (0..self.connections)
            .map(|stream| {
                let node = &topic.nodes[usize::try_from(stream).unwrap_or(0) % topic.nodes.len()];
                ProducerPlan {
                    load: load.clone(),
                    address: node.address,
                    stream,
                    partitions: node.partitions.clone(),
                }
            })
            .collect()
    }

    /// Deals the partitions of each node to the consumers that connect to it.
    fn consumers(&self, topic: &Topic) -> Vec<ConsumerPlan> {
        let nodes = topic.nodes.len();
        let consumers = usize::try_from(self.consumers)
            .expect("32 bits fit")
            .max(nodes);
        (0..consumers)
            .map(|consumer| {
                let node = &topic.nodes[consumer % nodes];
                let peers = (consumers - consumer % nodes).div_ceil(nodes);
                let own = node.partitions.iter().skip(consumer / nodes).step_by(peers);
                let cursors = own.map(|partition| Cursor {
                    partition: *partition,
                    next_offset: topic.ends[usize::try_from(*partition).expect("32 bits fit")],
                });
                ConsumerPlan {
                    topic: self.topic.clone(),
                    run: self.run,
                    address: node.address,
                    cursors: cursors.collect(),
                    limits: FETCH,
                }
            })
            .filter(|plan| !plan.cursors.is_empty())
            .collect()
    }

    fn phase(&self, name: &'static str) -> PhasePlan {
        PhasePlan {
            name,
            producers: Vec::new(),
            consumers: Vec::new(),
            threads: usize::try_from(self.threads).expect("32 bits fit"),
            cores: self.generator_cores.clone(),
            streams: self.connections,
            warmup_ns: self.warmup_ms * 1_000_000,
            duration_ns: Some(self.duration_ms * 1_000_000),
            backlog: 0,
            uncertain: false,
        }
    }

    /// A phase without warm-up that lasts as long as it takes.
    fn unlimited_phase(&self, name: &'static str) -> PhasePlan {
        PhasePlan {
            warmup_ns: 0,
            duration_ns: None,
            ..self.phase(name)
        }
    }
}

impl Peer {
    fn find(scenario: &Scenario, args: &LoadArgs) -> anyhow::Result<Self> {
        match &scenario.target {
            Target::External(target) => Ok(Self {
                address: setup::resolve(target)?,
                broker: None,
                storage: None,
            }),
            Target::Sink => {
                let sink = Sink::start(Behaviour::default()).context("cannot start the sink")?;
                Ok(Self {
                    address: sink.address,
                    broker: None,
                    storage: None,
                })
            }
            Target::Child => Self::start_child(args),
        }
    }

    /// What a child broker has used since it was ready; `None` for others and for a dead child.
    fn usage(&self) -> Option<Usage> {
        self.broker.as_ref().and_then(|broker| broker.usage().ok())
    }

    fn written_bytes(&self) -> Option<u64> {
        self.usage().map(|usage| usage.storage_written_bytes)
    }

    fn start_child(args: &LoadArgs) -> anyhow::Result<Self> {
        let program = match &args.child.broker {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot find this executable")?,
        };
        let directory = args.child.data_dir.clone();
        let broker = Broker::start(ChildPlan {
            program,
            remove_directory: directory.is_none(),
            data_directory: directory
                .clone()
                .unwrap_or_else(child::default_data_directory),
            cores: args.child.cores.clone(),
        })?;
        let directory = directory.unwrap_or_else(child::default_data_directory);
        let storage = Storage::of(&directory)?;
        eprintln!(
            "broker at {}, data in {} on {} ({})",
            broker.address,
            storage.directory.display(),
            storage.file_system,
            storage.device
        );
        if !storage.durable {
            eprintln!(
                "NOT DURABLE: {} keeps its files in memory",
                storage.file_system
            );
        }
        Ok(Self {
            address: broker.address,
            broker: Some(broker),
            storage: Some(storage),
        })
    }
}

fn run(scenario: Scenario, args: &LoadArgs) -> anyhow::Result<Report> {
    let mut peer = Peer::find(&scenario, args)?;
    let topic = setup::prepare(peer.address, &scenario.topic, scenario.partitions)?;
    let nodes = topic.nodes.len();
    ensure!(
        usize::try_from(scenario.connections)? >= nodes,
        "{nodes} nodes lead the topic's partitions: --connections must be at least {nodes}"
    );
    let clock = Clock::start();
    let mut outcome = match scenario.kind {
        Kind::Produce => run_produce(&scenario, &topic, &peer, clock)?,
        Kind::ConsumeBacklog => run_backlog(&scenario, &topic, &peer, clock)?,
        Kind::ConsumeTail | Kind::EndToEnd => run_tail(&scenario, &topic, &peer, clock)?,
    };
    if let Some(Err(error)) = peer.broker.take().map(Broker::stop) {
        outcome.result.failures.push(format!("{error:#}"));
    }
    Ok(Report::new(scenario, peer.storage, outcome))
}

/// What a run brought, before it is put into words.
pub(crate) struct Outcome {
    /// The measured phase.
    pub(crate) result: PhaseResult,
    /// `None` when the run did not verify, or could not.
    pub(crate) verdict: Option<Verdict>,
    /// What the broker, if it is a child, used in the measured phase.
    pub(crate) broker: Option<Usage>,
    /// What the broker wrote to storage until everything was sent.
    pub(crate) written_bytes: Option<u64>,
    /// What this process used in the measured phase.
    pub(crate) generator: Usage,
}

/// Usage of both sides between two moments.
struct Meter<'a> {
    peer: &'a Peer,
    broker: Option<Usage>,
    generator: Usage,
}

impl<'a> Meter<'a> {
    fn start(peer: &'a Peer) -> anyhow::Result<Self> {
        Ok(Self {
            peer,
            broker: peer.usage(),
            generator: Usage::of(None)?,
        })
    }

    fn finish(
        self,
        result: PhaseResult,
        verdict: Option<Verdict>,
        written_bytes: Option<u64>,
    ) -> anyhow::Result<Outcome> {
        let broker = self.peer.usage().zip(self.broker);
        Ok(Outcome {
            result,
            verdict,
            broker: broker.map(|(now, before)| now.since(&before)),
            written_bytes,
            generator: Usage::of(None)?.since(&self.generator),
        })
    }
}

fn run_produce(
    scenario: &Scenario,
    topic: &Topic,
    peer: &Peer,
    clock: Clock,
) -> anyhow::Result<Outcome> {
    let producers = scenario.producers(topic, None);
    let meter = Meter::start(peer)?;
    let sent = phase::run(
        PhasePlan {
            producers,
            ..scenario.phase("produce")
        },
        clock,
    )?;
    let mut outcome = meter.finish(sent, None, peer.written_bytes())?;
    if scenario.verify && !outcome.result.interrupted && outcome.result.failures.is_empty() {
        let read = read_all(scenario, topic, &outcome.result, "verify", clock)?;
        outcome.verdict = verdict(&outcome.result, &read);
        outcome.result.interrupted |= read.interrupted;
        outcome.result.failures.extend(read.failures);
    }
    Ok(outcome)
}

fn run_backlog(
    scenario: &Scenario,
    topic: &Topic,
    peer: &Peer,
    clock: Clock,
) -> anyhow::Result<Outcome> {
    let per_stream = scenario.backlog_messages / u64::from(scenario.connections);
    let fill = PhasePlan {
        producers: scenario.producers(topic, Some(per_stream)),
        ..scenario.unlimited_phase("fill")
    };
    let filled = phase::run(fill, clock)?;
    let written_bytes = peer.written_bytes();
    let meter = Meter::start(peer)?;
    if filled.interrupted || !filled.failures.is_empty() {
        return meter.finish(filled, None, written_bytes);
    }
    let mut read = read_all(scenario, topic, &filled, "consume", clock)?;
    read.recorder.accepted_bytes = filled.recorder.accepted_bytes;
    let verdict = verdict(&filled, &read);
    meter.finish(read, verdict, written_bytes)
}

fn run_tail(
    scenario: &Scenario,
    topic: &Topic,
    peer: &Peer,
    clock: Clock,
) -> anyhow::Result<Outcome> {
    let name = if scenario.kind == Kind::EndToEnd {
        "e2e"
    } else {
        "consume"
    };
    let both = PhasePlan {
        producers: scenario.producers(topic, None),
        consumers: scenario.consumers(topic),
        ..scenario.phase(name)
    };
    let meter = Meter::start(peer)?;
    let result = phase::run(both, clock)?;
    let verdict = verdict(&result, &result);
    meter.finish(result, verdict, peer.written_bytes())
}

/// Reads everything that `sent` had acknowledged.
fn read_all(
    scenario: &Scenario,
    topic: &Topic,
    sent: &PhaseResult,
    name: &'static str,
    clock: Clock,
) -> anyhow::Result<PhaseResult> {
    let plan = PhasePlan {
        consumers: scenario.consumers(topic),
        backlog: sent.ledgers.iter().map(Ledger::acknowledged).sum(),
        uncertain: !sent.recorder.refused.is_empty() || sent.recorder.unanswered > 0,
        ..scenario.unlimited_phase(name)
    };
    phase::run(plan, clock)
}

/// Judges a run whose reading side was not stopped half-way.
fn verdict(sent: &PhaseResult, read: &PhaseResult) -> Option<Verdict> {
    let whole = !read.interrupted && read.failures.is_empty();
    whole.then(|| verify::judge(&sent.ledgers, &read.sighting))
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a duration flag was parsed from milliseconds")
}

/// A number that no other run in reach is likely to have.
fn fresh_run() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let folded = since.as_secs().rotate_left(32) ^ u64::from(since.subsec_nanos());
    let mixed = (folded ^ u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).expect("32 bits are left")
}
