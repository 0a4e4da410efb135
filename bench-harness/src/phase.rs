//! One phase of a run: threads that connect, start together, work and end, and the main thread
//! that watches them, shows progress and stops them.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::watch;

use crate::consumer::ConsumerPlan;
use crate::interrupt::Interrupts;
use crate::live::{Counter, Live};
use crate::producer::ProducerPlan;
use crate::progress::{Progress, Second};
use crate::recorder::{Recorder, Window};
use crate::schedule::{Clock, SECOND_NS};
use crate::verify::{Ledger, Sighting};
use crate::worker::{self, Note, Stage, Start, Wires, WorkerPlan, WorkerResult};

/// How often the main thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between "all connected" and message 0, so that every thread is ready for it.
const START_AFTER_NS: u64 = 20_000_000;
/// Consumers that are still behind after so long will stay so.
const CATCH_UP_NS_MAX: u64 = 600 * SECOND_NS;
/// Consumers that receive nothing for so long have received all there is.
const QUIET_NS_MAX: u64 = 10 * SECOND_NS;
/// The same when some messages' fate is unknown, so that no exact end can be awaited.
const QUIET_UNCERTAIN_NS_MAX: u64 = SECOND_NS;
/// Consumers that have everything once go on for so long: what is there twice may come at the end.
const DOUBLES_NS: u64 = SECOND_NS / 10;

/// What a phase does.
pub(crate) struct PhasePlan {
    /// What the progress line calls it.
    pub(crate) name: &'static str,
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) consumers: Vec<ConsumerPlan>,
    pub(crate) threads: usize,
    /// Whether the threads look for work without ever sleeping.
    pub(crate) spins: bool,
    /// Cores for the threads, in turn; empty leaves them to the kernel.
    pub(crate) cores: Vec<usize>,
    pub(crate) streams: u32,
    /// Groups of consumers, each of which is to receive everything.
    pub(crate) groups: usize,
    /// Not counted at the beginning.
    pub(crate) warmup_ns: u64,
    /// Counted; `None` lasts until producers are done and consumers have all.
    pub(crate) duration_ns: Option<u64>,
    /// Messages that each group is to receive beside those of this phase.
    pub(crate) backlog: u64,
    /// Producers without an end of their own stop when no group is behind by more.
    pub(crate) lag_messages_max: Option<u64>,
    /// More than the backlog may come: messages that were refused or not answered.
    pub(crate) uncertain: bool,
}

/// What a phase brought.
pub(crate) struct PhaseResult {
    pub(crate) recorder: Recorder,
    /// By group of consumers.
    pub(crate) sightings: Vec<Sighting>,
    /// By generator thread: which share of the time it worked.
    pub(crate) busy: Vec<f64>,
    /// By stream; empty without producers.
    pub(crate) ledgers: Vec<Ledger>,
    /// Length of the part that counts; up to the end of an unlimited phase.
    pub(crate) measured_ns: u64,
    pub(crate) seconds: Vec<Second>,
    /// Stopped by the user.
    pub(crate) interrupted: bool,
    /// What broke, first to last.
    pub(crate) failures: Vec<String>,
}

impl PhaseResult {
    /// Adds what the streams of an earlier phase have sent; this one's streams are others.
    pub(crate) fn take_ledgers_of(&mut self, earlier: &Self) {
        let streams = self.ledgers.len().max(earlier.ledgers.len());
        self.ledgers.resize(streams, Ledger::default());
        for (ledger, before) in self.ledgers.iter_mut().zip(&earlier.ledgers) {
            if before.sent > 0 {
                assert_eq!(ledger.sent, 0, "a stream sends in one phase");
                *ledger = before.clone();
            }
        }
    }

    /// Whether another phase may follow.
    pub(crate) fn goes_on(&self) -> bool {
        !self.interrupted && self.failures.is_empty()
    }
}

/// Runs a phase. Fails only when it could not start.
pub(crate) fn run(
    plan: PhasePlan,
    clock: Clock,
    interrupts: &Interrupts,
) -> anyhow::Result<PhaseResult> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let watched = Watched::launch(plan, clock)?;
    let _measuring = interrupts.measure();
    runtime.block_on(watched.watch(interrupts.clone()))
}

struct Watched {
    name: &'static str,
    clock: Clock,
    start: Start,
    producers: usize,
    consumers: usize,
    backlog: u64,
    lag_messages_max: Option<u64>,
    uncertain: bool,
    streams: u32,
    groups: usize,
    threads: Vec<JoinHandle<WorkerResult>>,
    lives: Vec<Arc<Live>>,
    stage: watch::Sender<Stage>,
    notes: mpsc::Receiver<Note>,
    interrupted: bool,
    failures: Vec<String>,
}

impl Watched {
    /// Starts the threads, waits for their connections and gives the start.
    fn launch(plan: PhasePlan, clock: Clock) -> anyhow::Result<Self> {
        let (stage, stage_receiver) = watch::channel(Stage::Run);
        let (note_sender, notes) = mpsc::channel();
        let (name, streams, groups) = (plan.name, plan.streams, plan.groups);
        let (backlog, uncertain) = (plan.backlog, plan.uncertain);
        let lag_messages_max = plan.lag_messages_max;
        let (producers, consumers) = (plan.producers.len(), plan.consumers.len());
        let (warmup_ns, duration_ns) = (plan.warmup_ns, plan.duration_ns);
        let (mut threads, mut lives, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for (number, plan) in share(plan).into_iter().enumerate() {
            let live = Arc::new(Live::new());
            let (start_sender, start) = mpsc::channel();
            let wires = Wires {
                clock,
                stage: stage_receiver.clone(),
                start,
                notes: note_sender.clone(),
                live: live.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("bench-{number}"));
            threads.push(thread.spawn(move || worker::run(plan, wires))?);
            lives.push(live);
            starts.push(start_sender);
        }
        for _ in &threads {
            match notes.recv().context("a generator thread ended early")? {
                Note::Connected(outcome) => outcome?,
                Note::Failed(error) => return Err(error),
                Note::ProducerDone => return Err(anyhow!("a producer ended before the start")),
            }
        }
        let now_ns = clock.now_ns();
        let start_ns = now_ns + START_AFTER_NS;
        // Without a limit everything counts, also what consumers receive before message 0 is due.
        let (window_start_ns, end_ns) = match duration_ns {
            Some(duration_ns) => (start_ns + warmup_ns, start_ns + warmup_ns + duration_ns),
            None => (now_ns, u64::MAX),
        };
        let window = Window {
            start_ns: window_start_ns,
            end_ns,
        };
        let start = Start {
            start_ns,
            end_ns,
            window,
        };
        for sender in starts {
            // A thread that died is found by its missing notes.
            let _ = sender.send(start);
        }
        Ok(Self {
            name,
            clock,
            start,
            producers,
            consumers,
            backlog,
            lag_messages_max,
            uncertain,
            streams,
            groups,
            threads,
            lives,
            stage,
            notes,
            interrupted: false,
            failures: Vec::new(),
        })
    }

    /// Watches until all is done, then collects.
    async fn watch(mut self, mut interrupts: Interrupts) -> anyhow::Result<PhaseResult> {
        let mut progress = Progress::new(self.name, self.start);
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut producers_left = self.producers;
        let mut quiet_since = (0, self.clock.now_ns());
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = interrupts.interrupted(), if !self.interrupted => {
                    self.interrupted = true;
                    progress.say("stopping; what is measured so far follows");
                    self.raise(Stage::Stop);
                }
            }
            producers_left -= self.take_notes();
            let now_ns = self.clock.now_ns();
            progress.tick(now_ns, &self.lives);
            let delivered = self.sum(|live| &live.delivered);
            if delivered != quiet_since.0 {
                quiet_since = (delivered, now_ns);
            }
            let quiet_ns = now_ns - quiet_since.1;
            self.stop_if_caught_up(delivered, now_ns);
            if producers_left == 0 && self.have_consumers_all(delivered, quiet_ns) {
                break;
            }
            if self.threads.iter().all(JoinHandle::is_finished) {
                break;
            }
        }
        self.raise(Stage::Finish);
        let seconds = progress.finish(self.clock.now_ns(), &self.lives);
        self.collect(seconds)
    }

    /// Takes what the threads have to tell; returns how many producers ended.
    fn take_notes(&mut self) -> usize {
        let mut ended = 0;
        while let Ok(note) = self.notes.try_recv() {
            match note {
                Note::Connected(_) => {}
                Note::ProducerDone => ended += 1,
                Note::Failed(error) => {
                    self.failures.push(format!("{error:#}"));
                    self.raise(Stage::Stop);
                }
            }
        }
        ended
    }

    /// Ends producers that go on until consumers have caught up, or are not going to.
    fn stop_if_caught_up(&mut self, delivered: u64, now_ns: u64) {
        let Some(lag_messages_max) = self.lag_messages_max else {
            return;
        };
        if self.expected() <= delivered + lag_messages_max {
            self.lag_messages_max = None;
            self.raise(Stage::Stop);
        } else if now_ns > self.start.start_ns + CATCH_UP_NS_MAX {
            self.lag_messages_max = None;
            let minutes = CATCH_UP_NS_MAX / SECOND_NS / 60;
            self.failures.push(format!(
                "consumers did not catch up within {minutes} minutes"
            ));
            self.raise(Stage::Stop);
        }
    }

    /// Messages that all groups together are to receive, as far as is known now.
    fn expected(&self) -> u64 {
        let groups = u64::try_from(self.groups).expect("64-bit targets only");
        (self.sum(|live| &live.acked) + self.backlog) * groups
    }

    fn have_consumers_all(&self, delivered: u64, quiet_ns: u64) -> bool {
        if self.consumers == 0 || (self.interrupted && quiet_ns > QUIET_UNCERTAIN_NS_MAX) {
            return true;
        }
        let expected = self.expected();
        let refused = self.sum(|live| &live.refused) > 0;
        let uncertain = self.uncertain || refused || !self.failures.is_empty();
        let quiet_ns_max = if uncertain {
            QUIET_UNCERTAIN_NS_MAX
        } else {
            QUIET_NS_MAX
        };
        let is_all_there = delivered >= expected && !uncertain && quiet_ns > DOUBLES_NS;
        is_all_there || quiet_ns > quiet_ns_max
    }

    fn sum(&self, counter: impl Fn(&Live) -> &Counter) -> u64 {
        self.lives.iter().map(|live| counter(live).get()).sum()
    }

    fn raise(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let rises = stage > *current;
            *current = stage.max(*current);
            rises
        });
    }

    fn collect(mut self, seconds: Vec<Second>) -> anyhow::Result<PhaseResult> {
        let mut recorder = Recorder::new();
        let mut sightings = vec![Sighting::new(self.streams); self.groups];
        let mut busy = Vec::new();
        let mut ledgers = Vec::new();
        if self.producers > 0 {
            ledgers.resize(
                usize::try_from(self.streams).expect("32 bits fit"),
                Ledger::default(),
            );
        }
        for thread in std::mem::take(&mut self.threads) {
            let result = thread
                .join()
                .map_err(|_| anyhow!("a generator thread panicked"))?;
            recorder.merge(&result.recorder);
            for (sighting, found) in sightings.iter_mut().zip(&result.sightings) {
                sighting.merge(found);
            }
            busy.push(result.busy);
            for (stream, ledger) in result.ledgers {
                ledgers[usize::try_from(stream).expect("32 bits fit")] = ledger;
            }
        }
        self.take_notes();
        let window = self.start.window;
        let last_ns = recorder.acked.last_ns.max(recorder.delivered.last_ns);
        // A limited phase that was stopped early lasted until its last message.
        let cut = window.end_ns == u64::MAX || self.interrupted || !self.failures.is_empty();
        let end_ns = if cut {
            last_ns.min(window.end_ns)
        } else {
            window.end_ns
        };
        Ok(PhaseResult {
            recorder,
            sightings,
            busy,
            ledgers,
            measured_ns: end_ns.saturating_sub(window.start_ns),
            seconds,
            interrupted: self.interrupted,
            failures: self.failures,
        })
    }
}

/// Deals the connections to the threads.
fn share(plan: PhasePlan) -> Vec<WorkerPlan> {
    let threads = plan
        .threads
        .min(plan.producers.len() + plan.consumers.len())
        .max(1);
    let mut plans: Vec<WorkerPlan> = (0..threads)
        .map(|thread| WorkerPlan {
            producers: Vec::new(),
            consumers: Vec::new(),
            spins: plan.spins,
            core: plan.cores.get(thread % plan.cores.len().max(1)).copied(),
            streams: plan.streams,
            groups: plan.groups,
        })
        .collect();
    let dealt = plan.producers.len();
    for (number, producer) in plan.producers.into_iter().enumerate() {
        plans[number % threads].producers.push(producer);
    }
    for (number, consumer) in plan.consumers.into_iter().enumerate() {
        plans[(dealt + number) % threads].consumers.push(consumer);
    }
    plans
}

#[cfg(test)]
mod tests;
