//! From the command line to what a run does: a checked scenario, and the plans of its phases.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use serde::Serialize;

use crate::args::{ConsumeArgs, LoadArgs};
use crate::client::{Cursor, FetchLimits};
use crate::consumer::ConsumerPlan;
use crate::payload;
use crate::phase::PhasePlan;
use crate::producer::{Load, ProducerPlan};
use crate::setup::Topic;

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

impl Scenario {
    /// `bench produce` or `bench e2e`.
    pub(crate) fn of(kind: Kind, args: &LoadArgs) -> anyhow::Result<Self> {
        Self::new(kind, 0, args)
    }

    /// `bench consume`.
    pub(crate) fn of_consume(args: &ConsumeArgs) -> anyhow::Result<Self> {
        let load = &args.load;
        let Some(bytes) = args.backlog else {
            return Self::new(Kind::ConsumeTail, 0, load);
        };
        let messages = bytes.div_ceil(load.size.max(1));
        ensure!(messages > 0, "--backlog must be more than 0");
        Self::new(Kind::ConsumeBacklog, messages, load)
    }

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

    pub(crate) fn producers(&self, topic: &Topic, messages_max: Option<u64>) -> Vec<ProducerPlan> {
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
    pub(crate) fn consumers(&self, topic: &Topic) -> Vec<ConsumerPlan> {
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

    pub(crate) fn phase(&self, name: &'static str) -> PhasePlan {
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
    pub(crate) fn unlimited_phase(&self, name: &'static str) -> PhasePlan {
        PhasePlan {
            warmup_ns: 0,
            duration_ns: None,
            ..self.phase(name)
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
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
