//! A run: whom to drive, its phases one after the other, and what they cost.
//!
//! `produce` sends and then reads everything back; `consume` reads at the tail while producers
//! send, or fills a backlog and then reads it; `e2e` is the tail with the sending side's figures
//! beside it. Every message of a run is verified unless `--no-verify` or the sink make it moot.

use std::net::SocketAddr;

use anyhow::{Context, ensure};

use crate::args::ChildArgs;
use crate::child::{self, Broker, ChildPlan};
use crate::interrupt::Interrupts;
use crate::machine::{Storage, Usage};
use crate::phase::{self, PhasePlan, PhaseResult};
use crate::report::Report;
use crate::scenario::{Kind, Scenario, Target};
use crate::schedule::Clock;
use crate::setup::{self, Topic};
use crate::sink::{Behaviour, Sink};
use crate::verify::{self, Ledger, Verdict};

/// Runs a scenario from the broker's start to its stop.
pub(crate) fn run(scenario: Scenario, child: &ChildArgs) -> anyhow::Result<Report> {
    let interrupts = Interrupts::listen().context("cannot listen for stop signals")?;
    let mut peer = Peer::find(&scenario.target, child, &interrupts)?;
    let topic = setup::prepare(peer.address, &scenario.topic, scenario.partitions)?;
    let nodes = topic.nodes.len();
    ensure!(
        usize::try_from(scenario.connections)? >= nodes,
        "{nodes} nodes lead the topic's partitions: --connections must be at least {nodes}"
    );
    let run = Run {
        scenario: &scenario,
        topic,
        peer: &peer,
        clock: Clock::start(),
        interrupts,
    };
    let mut outcome = match scenario.kind {
        Kind::Produce => run.produce()?,
        Kind::ConsumeBacklog => run.backlog()?,
        Kind::ConsumeTail | Kind::EndToEnd => run.tail()?,
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

/// What answers, for the length of a run.
struct Peer {
    address: SocketAddr,
    broker: Option<Broker>,
    storage: Option<Storage>,
}

impl Peer {
    fn find(target: &Target, child: &ChildArgs, interrupts: &Interrupts) -> anyhow::Result<Self> {
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
            storage: None,
        })
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
            storage: Some(storage),
        })
    }

    /// What a child broker has used since it was ready; `None` for others and for a dead child.
    fn usage(&self) -> Option<Usage> {
        let broker = self.broker.as_ref()?;
        broker.usage().ok()
    }

    fn written_bytes(&self) -> Option<u64> {
        self.usage().map(|usage| usage.storage_written_bytes)
    }
}

/// Usage of both sides from one moment on.
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

    /// What was used until now, with what it was used for.
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

/// A run under way.
struct Run<'a> {
    scenario: &'a Scenario,
    topic: Topic,
    peer: &'a Peer,
    clock: Clock,
    interrupts: Interrupts,
}

impl Run<'_> {
    fn produce(&self) -> anyhow::Result<Outcome> {
        let plan = PhasePlan {
            producers: self.scenario.producers(&self.topic, None),
            ..self.scenario.phase("produce")
        };
        let meter = Meter::start(self.peer)?;
        let sent = self.phase(plan)?;
        let mut outcome = meter.finish(sent, None, self.peer.written_bytes())?;
        let sent = &mut outcome.result;
        if self.scenario.verify && !sent.interrupted && sent.failures.is_empty() {
            let read = self.read_all(sent, "verify")?;
            outcome.verdict = verdict(sent, &read);
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
        let filled = self.phase(fill)?;
        let written_bytes = self.peer.written_bytes();
        let meter = Meter::start(self.peer)?;
        if filled.interrupted || !filled.failures.is_empty() {
            return meter.finish(filled, None, written_bytes);
        }
        let mut read = self.read_all(&filled, "consume")?;
        read.recorder.accepted_bytes = filled.recorder.accepted_bytes;
        let verdict = verdict(&filled, &read);
        meter.finish(read, verdict, written_bytes)
    }

    fn tail(&self) -> anyhow::Result<Outcome> {
        let is_end_to_end = self.scenario.kind == Kind::EndToEnd;
        let name = if is_end_to_end { "e2e" } else { "consume" };
        let plan = PhasePlan {
            producers: self.scenario.producers(&self.topic, None),
            consumers: self.scenario.consumers(&self.topic),
            ..self.scenario.phase(name)
        };
        let meter = Meter::start(self.peer)?;
        let result = self.phase(plan)?;
        let verdict = verdict(&result, &result);
        meter.finish(result, verdict, self.peer.written_bytes())
    }

    /// Reads everything that `sent` had acknowledged.
    fn read_all(&self, sent: &PhaseResult, name: &'static str) -> anyhow::Result<PhaseResult> {
        let plan = PhasePlan {
            consumers: self.scenario.consumers(&self.topic),
            backlog: sent.ledgers.iter().map(Ledger::acknowledged).sum(),
            uncertain: !sent.recorder.refused.is_empty() || sent.recorder.unanswered > 0,
            ..self.scenario.unlimited_phase(name)
        };
        self.phase(plan)
    }

    fn phase(&self, plan: PhasePlan) -> anyhow::Result<PhaseResult> {
        phase::run(plan, self.clock, &self.interrupts)
    }
}

/// Judges a run whose reading side was not stopped half-way.
fn verdict(sent: &PhaseResult, read: &PhaseResult) -> Option<Verdict> {
    let whole = !read.interrupted && read.failures.is_empty();
    whole.then(|| verify::judge(&sent.ledgers, &read.sighting))
}
