//! A run: whom to drive, its phases one after the other, and what they cost.
//!
//! `produce` sends and then reads everything back; `consume` reads at the tail while producers
//! send, or fills a backlog and then reads it; `e2e` is the tail with the sending side's figures
//! beside it. Every message of a run is verified unless `--no-verify` or the sink make it moot.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::args::{ChildArgs, LoadArgs};
use crate::child::{self, Broker, ChildPlan};
use crate::interrupt::Interrupts;
use crate::machine::{Storage, Usage};
use crate::phase::{self, PhasePlan, PhaseResult};
use crate::recorder::Flow;
use crate::report::{self, Report, micros};
use crate::scenario::{Kind, Scenario, Target};
use crate::schedule::Clock;
use crate::search::{FindMax, Probe, Search};
use crate::setup::{self, Topic};
use crate::sink::{Behaviour, Sink};
use crate::spin::BrokerCores;
use crate::stages::{Stage, Stages};
use crate::table::{micros_text, rate_text};
use crate::verify::{self, Ledger, Verdict};

/// Runs a scenario from the broker's start to its stop.
pub(crate) fn run(scenario: Scenario, load: &LoadArgs) -> anyhow::Result<Report> {
    ensure!(
        load.target_pid.is_none() || matches!(scenario.target, Target::External(_)),
        "--target-pid needs the address of that broker as --target"
    );
    let interrupts = Interrupts::listen().context("cannot listen for stop signals")?;
    let mut peer = Peer::find(&scenario.target, &load.child, &interrupts)?;
    if let Some(pid) = load.target_pid {
        peer.watch(pid)?;
    }
    let threads = usize::try_from(scenario.threads)?;
    let spin = scenario
        .spin
        .clone()
        .decided(threads, peer.cores(&scenario.target));
    let scenario = Scenario { spin, ..scenario };
    let (scenario, mut outcome) = match scenario.find_max_p99_ms {
        None => {
            let run = Run::prepare(&scenario, &peer, &interrupts)?;
            let outcome = run.measure()?;
            (scenario, outcome)
        }
        Some(p99_max_ms) => find_max(&scenario, p99_max_ms, &peer, &interrupts)?,
    };
    let storage = peer.storage.take();
    if let Err(error) = peer.stop() {
        outcome.result.failures.push(format!("{error:#}"));
    }
    Ok(Report::new(scenario, storage, outcome))
}

/// What a run brought, before it is put into words.
pub(crate) struct Outcome {
    /// The measured phase.
    pub(crate) result: PhaseResult,
    /// The phase that filled a backlog.
    pub(crate) filled: Option<Filled>,
    /// `None` when the run did not verify, or could not.
    pub(crate) verdict: Option<Verdict>,
    /// What the broker, if it is a child, used in the measured phase.
    pub(crate) broker: Option<Usage>,
    /// Its settings in force.
    pub(crate) broker_config: Option<Value>,
    /// What its stages recorded in the measured phase, warm-up included.
    pub(crate) stages: Vec<Stage>,
    /// What the broker wrote to storage from the first message until everything was sent.
    pub(crate) written_bytes: Option<u64>,
    /// What this process used in the measured phase.
    pub(crate) generator: Usage,
    /// How the rate was found, where it was searched.
    pub(crate) find_max: Option<FindMax>,
}

/// How a backlog was built.
pub(crate) struct Filled {
    pub(crate) flow: Flow,
    pub(crate) lasted_ns: u64,
}

/// What answers, for the length of a run.
pub(crate) struct Peer {
    address: SocketAddr,
    broker: Option<Broker>,
    watched: Option<Watched>,
    storage: Option<Storage>,
}

/// A broker's process that somebody else started.
#[derive(Clone, Copy, Debug)]
struct Watched {
    pid: u32,
    /// What it had used before the run.
    before: Usage,
}

impl Peer {
    pub(crate) fn find(
        target: &Target,
        child: &ChildArgs,
        interrupts: &Interrupts,
    ) -> anyhow::Result<Self> {
        let address = match target {
            Target::Child => return Self::start_child(child, interrupts),
            Target::External(target) => setup::resolve(target)?,
            Target::Sink => {
                let sink = Sink::start(Behaviour::default()).context("cannot start the sink")?;
                sink.address
            }
        };
        Ok(Self {
            address,
            broker: None,
            watched: None,
            storage: None,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what process `pid` uses for what the broker uses.
    fn watch(&mut self, pid: u32) -> anyhow::Result<()> {
        let before = Usage::of(Some(pid)).context("--target-pid")?;
        self.watched = Some(Watched { pid, before });
        Ok(())
    }

    /// Ends what was started for the run; fails if a child does not stop cleanly.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.broker.map_or(Ok(()), Broker::stop)
    }

    fn start_child(child: &ChildArgs, interrupts: &Interrupts) -> anyhow::Result<Self> {
        let program = match &child.broker {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot find this executable")?,
        };
        let kept = child.data_dir.clone();
        let remove_directory = kept.is_none();
        let directory = kept.unwrap_or_else(child::default_data_directory);
        let plan = ChildPlan {
            program,
            data_directory: directory.clone(),
            cores: child.cores.clone(),
            remove_directory,
        };
        let broker = Broker::start(plan, interrupts)?;
        let storage = Storage::of(&directory)?;
        eprintln!(
            "broker at {}, data in {} on {} ({})",
            broker.address,
            storage.directory.display(),
            storage.file_system,
            storage.device
        );
        if !storage.durable {
            let file_system = &storage.file_system;
            eprintln!("NOT DURABLE: {file_system} keeps its files in memory");
        }
        Ok(Self {
            address: broker.address,
            broker: Some(broker),
            watched: None,
            storage: Some(storage),
        })
    }

    /// Cores of this machine that the peer takes.
    fn cores(&self, target: &Target) -> BrokerCores {
        match target {
            // One shard a core, of which there is one at least.
            Target::Child => BrokerCores::Known(self.shards().max(1)),
            Target::Sink => BrokerCores::Known(1),
            Target::External(_) => BrokerCores::of_foreign(self.address),
        }
    }

    /// Shards of a child broker, as far as it tells them.
    fn shards(&self) -> usize {
        let metrics = self.broker.as_ref().and_then(|b| b.ask("/metrics.json"));
        let metrics = metrics.unwrap_or_default();
        let names = metrics.as_object().into_iter().flatten();
        names.filter(|(name, _)| name.starts_with("shard-")).count()
    }

    /// What a broker whose process is known has used since it was ready, or since the run began;
    /// `None` for others and for one that has ended.
    fn usage(&self) -> Option<Usage> {
        if let Some(Watched { pid, before }) = self.watched {
            return Some(Usage::of(Some(pid)).ok()?.since(&before));
        }
        let broker = self.broker.as_ref()?;
        broker.usage().ok()
    }

    /// What a child broker's stages have recorded so far.
    fn stages(&self) -> Stages {
        let metrics = self.broker.as_ref().and_then(|b| b.ask("/metrics.json"));
        Stages::read(&metrics.unwrap_or_default())
    }

    fn written_bytes(&self) -> Option<u64> {
        self.usage().map(|usage| usage.storage_written_bytes)
    }
}

/// What a broker writes to storage from one moment on: the same span as the messages that the
/// figure is held against.
struct Written<'a> {
    peer: &'a Peer,
    before: Option<u64>,
}

impl<'a> Written<'a> {
    fn from_now(peer: &'a Peer) -> Self {
        let before = peer.written_bytes();
        Self { peer, before }
    }

    fn until_now(&self) -> Option<u64> {
        Some(self.peer.written_bytes()? - self.before?)
    }
}

/// Usage of both sides from one moment on.
struct Meter<'a> {
    peer: &'a Peer,
    stages: Stages,
    broker: Option<Usage>,
    generator: Usage,
}

impl<'a> Meter<'a> {
    fn start(peer: &'a Peer) -> anyhow::Result<Self> {
        Ok(Self {
            peer,
            // Before the usage: what telling costs the broker is not the measurement's.
            stages: peer.stages(),
            broker: peer.usage(),
            generator: Usage::of(None)?,
        })
    }

    /// What was used until now, with what it was used for.
    fn finish(
        self,
        result: PhaseResult,
        verdict: Option<Verdict>,
        written_bytes: Option<u64>,
    ) -> anyhow::Result<Outcome> {
        let broker = self.peer.usage().zip(self.broker);
        let child = self.peer.broker.as_ref();
        Ok(Outcome {
            result,
            filled: None,
            verdict,
            broker: broker.map(|(now, before)| now.since(&before)),
            broker_config: child.and_then(|broker| broker.ask("/config")),
            stages: self.peer.stages().since(&self.stages),
            written_bytes,
            generator: Usage::of(None)?.since(&self.generator),
            find_max: None,
        })
    }
}

/// A run under way.
struct Run<'a> {
    scenario: &'a Scenario,
    topic: Topic,
    peer: &'a Peer,
    clock: Clock,
    interrupts: &'a Interrupts,
}

impl<'a> Run<'a> {
    /// Makes the topic ready: what lies in it before is not this run's.
    fn prepare(
        scenario: &'a Scenario,
        peer: &'a Peer,
        interrupts: &'a Interrupts,
    ) -> anyhow::Result<Self> {
        let topic = setup::prepare(peer.address, &scenario.topic, scenario.partitions)?;
        let nodes = topic.nodes.len();
        ensure!(
            usize::try_from(scenario.connections)? >= nodes,
            "{nodes} nodes lead the topic's partitions: --connections must be at least {nodes}"
        );
        Ok(Self {
            scenario,
            topic,
            peer,
            clock: Clock::start(),
            interrupts,
        })
    }

    fn measure(&self) -> anyhow::Result<Outcome> {
        match self.scenario.kind {
            Kind::Produce => self.produce(),
            Kind::ConsumeBacklog => self.backlog(),
            Kind::ConsumeTail | Kind::EndToEnd => self.tail(),
        }
    }

    fn produce(&self) -> anyhow::Result<Outcome> {
        let written = Written::from_now(self.peer);
        let plan = PhasePlan {
            producers: self.scenario.producers(&self.topic, None),
            ..self.scenario.phase("produce")
        };
        let meter = Meter::start(self.peer)?;
        let sent = self.phase(plan)?;
        let mut outcome = meter.finish(sent, None, written.until_now())?;
        let sent = &mut outcome.result;
        if self.scenario.verify && !sent.interrupted && sent.failures.is_empty() {
            let read = self.read_all(sent, "verify", 1)?;
            outcome.verdict = self.verdict(sent, &read);
            sent.interrupted |= read.interrupted;
            sent.failures.extend(read.failures);
        }
        Ok(outcome)
    }

    fn backlog(&self) -> anyhow::Result<Outcome> {
        let scenario = self.scenario;
        let per_stream = scenario.backlog_messages / u64::from(scenario.connections);
        let fill = PhasePlan {
            producers: scenario.producers(&self.topic, Some(per_stream)),
            ..scenario.unlimited_phase("fill")
        };
        let written = Written::from_now(self.peer);
        let filled = self.phase(fill)?;
        let mut written_bytes = written.until_now();
        let meter = Meter::start(self.peer)?;
        if filled.interrupted || !filled.failures.is_empty() {
            return meter.finish(filled, None, written_bytes);
        }
        let mut read = self.read_all(&filled, "consume", scenario.groups())?;
        read.recorder.accepted_bytes += filled.recorder.accepted_bytes;
        read.take_ledgers_of(&filled);
        if scenario.meanwhile_per_s.is_some() {
            written_bytes = written.until_now();
        }
        let verdict = self.verdict(&read, &read);
        let mut outcome = meter.finish(read, verdict, written_bytes)?;
        outcome.filled = Some(Filled {
            flow: filled.recorder.acked,
            lasted_ns: filled.measured_ns,
        });
        Ok(outcome)
    }

    fn tail(&self) -> anyhow::Result<Outcome> {
        let is_end_to_end = self.scenario.kind == Kind::EndToEnd;
        let name = if is_end_to_end { "e2e" } else { "consume" };
        let plan = PhasePlan {
            producers: self.scenario.producers(&self.topic, None),
            consumers: self.scenario.consumers(&self.topic, self.scenario.groups()),
            ..self.scenario.phase(name)
        };
        let written = Written::from_now(self.peer);
        let meter = Meter::start(self.peer)?;
        let result = self.phase(plan)?;
        let verdict = self.verdict(&result, &result);
        meter.finish(result, verdict, written.until_now())
    }

    /// Judges a run whose reading side was not stopped half-way. Without acknowledgements nothing
    /// was promised that could be held against what came.
    fn verdict(&self, sent: &PhaseResult, read: &PhaseResult) -> Option<Verdict> {
        let whole = !read.interrupted && read.failures.is_empty();
        (whole && self.scenario.acks != 0).then(|| verify::judge(&sent.ledgers, &read.sightings))
    }

    /// Has every one of `groups` read everything that `sent` had acknowledged.
    fn read_all(
        &self,
        sent: &PhaseResult,
        name: &'static str,
        groups: usize,
    ) -> anyhow::Result<PhaseResult> {
        let plan = PhasePlan {
            producers: self.scenario.producers_meanwhile(&self.topic),
            consumers: self.scenario.consumers(&self.topic, groups),
            groups,
            lag_messages_max: self.scenario.lag_messages_max(),
            backlog: sent.ledgers.iter().map(Ledger::acknowledged).sum(),
            uncertain: !sent.recorder.refused.is_empty() || sent.recorder.unanswered > 0,
            ..self.scenario.unlimited_phase(name)
        };
        self.phase(plan)
    }

    fn phase(&self, plan: PhasePlan) -> anyhow::Result<PhaseResult> {
        phase::run(plan, self.clock, self.interrupts)
    }
}

/// Searches the highest rate that keeps the bound, then measures it; the scenario comes back with
/// that rate.
fn find_max(
    scenario: &Scenario,
    p99_max_ms: u64,
    peer: &Peer,
    interrupts: &Interrupts,
) -> anyhow::Result<(Scenario, Outcome)> {
    let hunt = Hunt {
        scenario,
        p99_max_us: p99_max_ms as f64 * 1e3,
        peer,
        interrupts,
    };
    let closed_loop = hunt.at(None, scenario.probe(None))?;
    let achieved = hunt.achieved_per_s(&closed_loop.1);
    let mut find_max = FindMax {
        p99_max_ms,
        closed_loop_per_s: achieved,
        probes: Vec::new(),
        confirmed_per_s: None,
        generator_limited: false,
    };
    eprintln!("closed loop: {} msg/s", rate_text(achieved));
    let mut last = closed_loop;
    let mut search = Search::new(achieved);
    while let Some(rate) = search.next() {
        if !last.1.result.goes_on() {
            break;
        }
        last = hunt.at(Some(rate), scenario.probe(Some(rate)))?;
        let probe = hunt.judge(rate, &last.1);
        search.note(rate, probe.holds);
        find_max.probes.push(probe);
    }
    let too_high = find_max.probes.iter().filter(|probe| !probe.holds);
    let lowest = too_high.min_by_key(|probe| probe.rate_per_s);
    find_max.generator_limited = lowest.is_some_and(|probe| probe.generator.is_some());
    // A search without an answer, or one that was stopped, shows its last probe.
    while let Some(rate) = search.found().filter(|_| last.1.result.goes_on()) {
        last = hunt.at(Some(rate), scenario.at_rate(rate))?;
        let probe = hunt.judge(rate, &last.1);
        let holds = probe.holds;
        find_max.probes.push(probe);
        if holds {
            find_max.confirmed_per_s = Some(rate);
            break;
        }
        if !search.take_back() {
            break;
        }
    }
    let (scenario, mut outcome) = last;
    outcome.find_max = Some(find_max);
    Ok((scenario, outcome))
}

/// What the probes of a search have in common.
struct Hunt<'a> {
    scenario: &'a Scenario,
    p99_max_us: f64,
    peer: &'a Peer,
    interrupts: &'a Interrupts,
}

impl Hunt<'_> {
    /// Measures `scenario`, a variant of the hunt's own.
    fn at(&self, rate: Option<u64>, scenario: Scenario) -> anyhow::Result<(Scenario, Outcome)> {
        if let Some(rate) = rate {
            eprintln!("trying {} msg/s", rate_text(rate as f64));
        }
        let outcome = Run::prepare(&scenario, self.peer, self.interrupts)?.measure()?;
        Ok((scenario, outcome))
    }

    fn is_end_to_end(&self) -> bool {
        self.scenario.kind == Kind::EndToEnd
    }

    fn achieved_per_s(&self, outcome: &Outcome) -> f64 {
        let recorder = &outcome.result.recorder;
        let messages = if self.is_end_to_end() {
            recorder.delivered.messages / u64::from(self.scenario.fan_out)
        } else {
            recorder.acked.messages
        };
        let measured_s = Duration::from_nanos(outcome.result.measured_ns).as_secs_f64();
        messages as f64 / measured_s.max(f64::MIN_POSITIVE)
    }

    fn judge(&self, rate_per_s: u64, outcome: &Outcome) -> Probe {
        let recorder = &outcome.result.recorder;
        let latency = if self.is_end_to_end() {
            &recorder.delivery
        } else {
            &recorder.ack
        };
        let p99_us = micros(latency.quantile_ns(0.99));
        let is_sound = outcome.verdict.as_ref().is_none_or(Verdict::is_clean);
        let is_whole = recorder.refused.is_empty()
            && recorder.unanswered == 0
            && outcome.result.failures.is_empty()
            && is_sound;
        let holds = latency.count() > 0 && is_whole && p99_us <= self.p99_max_us;
        let probe = Probe {
            rate_per_s,
            p99_us,
            achieved_per_s: self.achieved_per_s(outcome),
            holds,
            generator: report::generator_limit(&outcome.result),
        };
        eprintln!(
            "{} msg/s {}: p99 {}{}",
            rate_text(rate_per_s as f64),
            if holds { "holds" } else { "is too much" },
            micros_text(p99_us),
            if probe.generator.is_some() {
                ", and the generator was short of time"
            } else {
                ""
            }
        );
        probe
    }
}
