//! From the command line to what a run does: a checked scenario, and the plans of its phases.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::args::{Compression, ConsumeArgs, LoadArgs};
use crate::client::{Cursor, FetchLimits};
use crate::consumer::ConsumerPlan;
use crate::payload;
use crate::phase::PhasePlan;
use crate::producer::{Load, ProducerPlan};
use crate::schedule::Burst;
use crate::setup::Topic;
use crate::sizes::Sizes;
use crate::spin::Spin;

/// Largest `--size` and `--batch`: a request must fit into a frame.
const BATCH_BYTES_MAX: u64 = 64 << 20;
const CONNECTIONS_MAX: u32 = 10_000;
const DEPTH_MAX: u32 = 10_000;
const PARTITIONS_MAX: u32 = 100_000;
const THREADS_MAX: u32 = 256;
const FAN_OUT_MAX: u32 = 1_000;
/// How long one rate of a search is looked at, and run in before that.
const PROBE_MS: u64 = 3_000;
const PROBE_WARMUP_MS: u64 = 500;
/// Consumers that are behind by what is produced in so long have caught up.
const CAUGHT_UP_MS: u64 = 100;
/// As clients do: a long poll of half a second, a mebibyte of each partition.
const FETCH: FetchLimits = FetchLimits {
    wait_ms_max: 500,
    bytes_max: 16 << 20,
    partition_bytes_max: 1 << 20,
};

/// What a run is about.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Produce,
    ConsumeTail,
    ConsumeBacklog,
    EndToEnd,
}

/// A run as it was asked for, defaults filled in; part of the report.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Scenario {
    pub(crate) kind: Kind,
    /// The file that it came from, if it did, and what that says it is about.
    #[serde(default)]
    pub(crate) file: Option<String>,
    #[serde(default)]
    pub(crate) about: Option<String>,
    pub(crate) protocol: String,
    pub(crate) target: Target,
    /// The mean of `sizes`.
    pub(crate) message_bytes: u64,
    /// `None` in files that were written before there were other sizes than one.
    #[serde(default)]
    pub(crate) sizes: Option<Sizes>,
    #[serde(default)]
    pub(crate) keys: Option<u32>,
    #[serde(default)]
    pub(crate) compression: Compression,
    /// `None` is a closed loop.
    pub(crate) rate_per_s: Option<u64>,
    #[serde(default)]
    pub(crate) burst: Option<Burst>,
    #[serde(default)]
    pub(crate) linger_ms: u64,
    /// Bound of the p99 below which the highest rate is searched.
    #[serde(default)]
    pub(crate) find_max_p99_ms: Option<u64>,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    pub(crate) batch_bytes: u64,
    pub(crate) duration_ms: u64,
    pub(crate) warmup_ms: u64,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
    pub(crate) acks: i16,
    #[serde(default)]
    pub(crate) idempotent: bool,
    pub(crate) threads: u32,
    /// Off in files that were written before threads could spin.
    #[serde(default)]
    pub(crate) spin: Spin,
    /// Of each group.
    pub(crate) consumers: u32,
    /// Groups of consumers.
    #[serde(default = "one")]
    pub(crate) fan_out: u32,
    pub(crate) backlog_messages: u64,
    /// What is produced while a backlog is read.
    #[serde(default)]
    pub(crate) meanwhile_per_s: Option<u64>,
    pub(crate) verify: bool,
    pub(crate) generator_cores: Vec<usize>,
    pub(crate) broker_cores: Option<String>,
    /// Marks this run's messages.
    pub(crate) run: u32,
}

/// Who is driven.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// This executable's `serve`, started for the run.
    Child,
    /// The in-process peer that discards.
    Sink,
    /// A broker that runs anyway, as `HOST:PORT`.
    External(String),
}

impl Target {
    /// What `--target` says.
    pub(crate) fn of(target: Option<&str>) -> Self {
        match target {
            None => Self::Child,
            Some("sink") => Self::Sink,
            Some(target) => Self::External(target.to_owned()),
        }
    }
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
            ensure!(args.meanwhile.is_none(), "--meanwhile needs a --backlog");
            return Self::new(Kind::ConsumeTail, 0, load);
        };
        let messages = bytes.div_ceil(load.size.mean().max(1));
        ensure!(messages > 0, "--backlog must be more than 0");
        let scenario = Self::new(Kind::ConsumeBacklog, messages, load)?;
        ensure!(
            args.meanwhile.is_none() || scenario.acks != 0,
            "--meanwhile needs acknowledgements: how far behind consumers are is counted by them"
        );
        Ok(Self {
            meanwhile_per_s: args.meanwhile,
            ..scenario
        })
    }

    fn new(kind: Kind, backlog_messages: u64, args: &LoadArgs) -> anyhow::Result<Self> {
        let run = fresh_run();
        let target = Target::of(args.target.as_deref());
        let scenario = Self {
            kind,
            file: None,
            about: None,
            protocol: "kafka".to_owned(),
            message_bytes: args.size.mean(),
            sizes: Some(args.size.clone()),
            keys: args.keys,
            compression: args.compression,
            burst: args.burst,
            linger_ms: milliseconds(args.linger),
            find_max_p99_ms: args.find_max.then(|| milliseconds(args.p99_max)),
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
            idempotent: args.idempotent,
            threads: args.threads,
            spin: Spin::asked(args.spin),
            consumers: args
                .consumers
                .unwrap_or(args.connections.min(args.partitions)),
            fan_out: args.fan_out,
            // Every stream sends the same number.
            meanwhile_per_s: None,
            backlog_messages: backlog_messages.next_multiple_of(args.connections.max(1).into()),
            verify: !args.no_verify && target != Target::Sink && args.acks.code() != 0,
            generator_cores: args.generator_cores.0.clone(),
            broker_cores: args.child.cores.clone(),
            target,
            run,
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// Refuses what cannot be run, by the flag's name.
    fn check(&self) -> anyhow::Result<()> {
        let size_min = u64::try_from(payload::HEADER_BYTES)?;
        let sizes = self.sizes();
        ensure!(
            sizes.min() >= size_min && sizes.max() <= BATCH_BYTES_MAX,
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
            ("--fan-out", self.fan_out, FAN_OUT_MAX),
            ("--keys", self.keys.unwrap_or(1), u32::MAX),
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
        ensure!(
            !self.idempotent || (self.acks == -1 && self.target != Target::Sink),
            "--idempotent needs a broker and --acks all"
        );
        self.check_shape()
    }

    /// Refuses flags that mean nothing in this kind of run.
    fn check_shape(&self) -> anyhow::Result<()> {
        let is_open = self.rate_per_s.is_some() || self.find_max_p99_ms.is_some();
        let paced = is_open && self.kind != Kind::ConsumeBacklog;
        ensure!(
            paced || self.burst.is_none(),
            "--burst shapes an open loop: it needs --rate"
        );
        ensure!(
            paced || self.linger_ms == 0,
            "--linger waits for what is due: it needs --rate"
        );
        ensure!(
            self.fan_out == 1 || self.kind != Kind::Produce,
            "--fan-out is about consumers: produce has none"
        );
        let Some(p99_ms) = self.find_max_p99_ms else {
            return Ok(());
        };
        ensure!(p99_ms > 0, "--p99-max must be more than 0");
        ensure!(
            matches!(self.kind, Kind::Produce | Kind::EndToEnd),
            "--find-max searches in produce and e2e"
        );
        ensure!(self.acks != 0, "--find-max needs acknowledgements");
        Ok(())
    }

    /// What is done, in a line.
    pub(crate) fn title(&self) -> String {
        let what = match self.kind {
            Kind::Produce => "produce",
            Kind::ConsumeTail => "consume at the tail",
            Kind::ConsumeBacklog => "consume a backlog",
            Kind::EndToEnd => "end to end",
        };
        let what = match self.meanwhile_per_s {
            Some(rate) => format!("{what} while {rate} msg/s are produced"),
            None => what.to_owned(),
        };
        let pace = match self.rate_per_s {
            Some(rate) if self.kind != Kind::ConsumeBacklog => {
                format!("open loop at {rate} msg/s, latency from the intended send time")
            }
            _ => "closed loop".to_owned(),
        };
        let target = match &self.target {
            Target::Child => "child broker",
            Target::Sink => "in-process sink",
            Target::External(address) => address,
        };
        format!("{what}, {}, {target}, {pace}", self.protocol)
    }

    /// What the load looks like, in a line.
    pub(crate) fn shape(&self) -> String {
        let mut shape = format!(
            "{} B messages, batches up to {} B, {} connections x depth {}, {} partitions, acks {}",
            self.sizes(),
            self.batch_bytes,
            self.connections,
            self.depth,
            self.partitions,
            self.acks_name(),
        );
        if self.idempotent {
            shape += ", idempotent";
        }
        if let Some(keys) = self.keys {
            shape += &format!(", {keys} keys");
        }
        if self.compression != Compression::None {
            shape += &format!(", {:?}", self.compression).to_lowercase();
        }
        if let Some(burst) = self.burst {
            let (on, period) = (burst.on_ns, burst.period_ns);
            let [on, period] = [on, period].map(Duration::from_nanos);
            shape += &format!(", in bursts of {on:?} every {period:?}");
        }
        if self.linger_ms > 0 {
            shape += &format!(", linger {} ms", self.linger_ms);
        }
        if self.fan_out > 1 {
            shape += &format!(", read by {} groups", self.fan_out);
        }
        shape
    }

    /// What an acknowledgement waits for, as the flag has it.
    pub(crate) fn acks_name(&self) -> String {
        match self.acks {
            -1 => "all".to_owned(),
            acks => acks.to_string(),
        }
    }

    /// This scenario at one rate of a search.
    pub(crate) fn at_rate(&self, rate_per_s: u64) -> Self {
        Self {
            rate_per_s: Some(rate_per_s),
            // Messages of the probes before must not pass for this one's.
            run: fresh_run(),
            ..self.clone()
        }
    }

    /// A short look at a rate, or at what a closed loop does.
    pub(crate) fn probe(&self, rate_per_s: Option<u64>) -> Self {
        Self {
            rate_per_s,
            burst: self.burst.filter(|_| rate_per_s.is_some()),
            duration_ms: self.duration_ms.min(PROBE_MS),
            warmup_ms: self.warmup_ms.min(PROBE_WARMUP_MS),
            verify: false,
            ..self.at_rate(1)
        }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        let one_size = || Sizes::Fixed(self.message_bytes);
        self.sizes.clone().unwrap_or_else(one_size)
    }

    fn load(&self, messages_max: Option<u64>) -> Load {
        // A backlog is filled as fast as it goes.
        let is_paced = messages_max.is_none();
        let rate_per_s = self.meanwhile_per_s.or(self.rate_per_s);
        Load {
            topic: self.topic.clone(),
            run: self.run,
            sizes: self.sizes(),
            keys: self.keys,
            compression: self.compression,
            batch_bytes: usize::try_from(self.batch_bytes).expect("checked against its max"),
            depth: usize::try_from(self.depth).expect("32 bits fit"),
            acks: self.acks,
            idempotent: self.idempotent,
            rate_per_s: rate_per_s.filter(|_| is_paced),
            burst: self.burst.filter(|_| is_paced),
            linger_ns: self.linger_ms * 1_000_000,
            messages_max,
            streams: self.connections,
        }
    }

    pub(crate) fn producers(&self, topic: &Topic, messages_max: Option<u64>) -> Vec<ProducerPlan> {
        self.producers_from(0, topic, messages_max)
    }

    /// Producers that go on while a backlog is read, whose messages pass for no others.
    pub(crate) fn producers_meanwhile(&self, topic: &Topic) -> Vec<ProducerPlan> {
        match self.meanwhile_per_s {
            Some(_) => self.producers_from(self.connections, topic, None),
            None => Vec::new(),
        }
    }

    /// Producers of streams that are numbered from `first` on.
    fn producers_from(
        &self,
        first: u32,
        topic: &Topic,
        messages_max: Option<u64>,
    ) -> Vec<ProducerPlan> {
        let load = Arc::new(self.load(messages_max));
        (0..self.connections)
            .map(|number| {
                let node = &topic.nodes[usize::try_from(number).unwrap_or(0) % topic.nodes.len()];
                ProducerPlan {
                    load: load.clone(),
                    address: node.address,
                    stream: first + number,
                    partitions: node.partitions.clone(),
                }
            })
            .collect()
    }

    /// Deals the partitions of each node to the consumers that connect to it, once for each of
    /// `groups`.
    pub(crate) fn consumers(&self, topic: &Topic, groups: usize) -> Vec<ConsumerPlan> {
        let nodes = topic.nodes.len();
        let consumers = usize::try_from(self.consumers)
            .expect("32 bits fit")
            .max(nodes);
        let plan = |group, consumer: usize| {
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
                group,
            }
        };
        (0..groups)
            .flat_map(|group| (0..consumers).map(move |consumer| (group, consumer)))
            .map(|(group, consumer)| plan(group, consumer))
            .filter(|plan| !plan.cursors.is_empty())
            .collect()
    }

    /// Producers of all phases: those that go on while a backlog is read are not those that built
    /// it.
    fn streams(&self) -> u32 {
        match self.meanwhile_per_s {
            Some(_) => self.connections * 2,
            None => self.connections,
        }
    }

    /// Messages by which consumers may be behind and have caught up: those of a moment.
    pub(crate) fn lag_messages_max(&self) -> Option<u64> {
        let per_s = self.meanwhile_per_s?;
        Some((per_s * CAUGHT_UP_MS / 1_000).max(1))
    }

    /// Groups that read what is sent.
    pub(crate) fn groups(&self) -> usize {
        usize::try_from(self.fan_out).expect("32 bits fit")
    }

    pub(crate) fn phase(&self, name: &'static str) -> PhasePlan {
        PhasePlan {
            name,
            producers: Vec::new(),
            consumers: Vec::new(),
            threads: usize::try_from(self.threads).expect("32 bits fit"),
            spins: self.spin.is_on,
            cores: self.generator_cores.clone(),
            streams: self.streams(),
            groups: self.groups(),
            warmup_ns: self.warmup_ms * 1_000_000,
            duration_ns: Some(self.duration_ms * 1_000_000),
            backlog: 0,
            lag_messages_max: None,
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

/// How many groups read in files that were written before there could be several.
fn one() -> u32 {
    1
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a duration flag was parsed from milliseconds")
}

/// A number that no other run in reach is likely to have.
pub(crate) fn fresh_run() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let folded = since.as_secs().rotate_left(32) ^ u64::from(since.subsec_nanos());
    let mixed = (folded ^ u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).expect("32 bits are left")
}
