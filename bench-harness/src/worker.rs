//! One thread of the generator: its ring, its connections and what it measures.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::consumer::{Consumer, ConsumerPlan};
use crate::live::Live;
use crate::producer::{Producer, ProducerPlan};
use crate::recorder::{Recorder, Window};
use crate::schedule::Clock;
use crate::transport;
use crate::verify::{Ledger, Sighting};

/// How far a phase has come; only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Producers follow their plan, consumers read.
    Run,
    /// Producers stop sending and wait for what is on its way.
    Stop,
    /// Consumers end too.
    Finish,
}

/// When a phase starts and what of it counts; set when every connection stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) start_ns: u64,
    /// When producers with a time limit stop.
    pub(crate) end_ns: u64,
    pub(crate) window: Window,
}

/// What a thread is to do.
pub(crate) struct WorkerPlan {
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) consumers: Vec<ConsumerPlan>,
    /// Never sleep from the start to the end.
    pub(crate) spins: bool,
    /// Core to run on, if one was chosen.
    pub(crate) core: Option<usize>,
    /// Streams of the whole run.
    pub(crate) streams: u32,
    /// Groups of consumers of the whole run.
    pub(crate) groups: usize,
}

/// How a thread and the main thread speak to each other.
pub(crate) struct Wires {
    pub(crate) clock: Clock,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) start: mpsc::Receiver<Start>,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) live: Arc<Live>,
}

/// What a thread tells the main thread while it runs.
pub(crate) enum Note {
    /// All connections stand, or why not.
    Connected(anyhow::Result<()>),
    /// A producer has ended, well or not.
    ProducerDone,
    /// A connection broke; the run cannot go on.
    Failed(anyhow::Error),
}

/// What a thread brings home.
pub(crate) struct WorkerResult {
    pub(crate) recorder: Recorder,
    /// By group.
    pub(crate) sightings: Vec<Sighting>,
    /// Share of the time, from the start on, in which this thread worked: that it had the CPU, or,
    /// where it spins, that it had something to do.
    pub(crate) busy: f64,
    /// By stream number, for the streams of this thread.
    pub(crate) ledgers: Vec<(u32, Ledger)>,
}

/// What the connections of one thread share.
pub(crate) struct Desk {
    pub(crate) clock: Clock,
    pub(crate) window: Window,
    pub(crate) live: Arc<Live>,
    pub(crate) recorder: RefCell<Recorder>,
    /// By group.
    pub(crate) sightings: RefCell<Vec<Sighting>>,
}

/// Runs the plan to its end. Blocks its thread.
pub(crate) fn run(plan: WorkerPlan, wires: Wires) -> WorkerResult {
    if let Some(id) = plan.core {
        // A core that cannot be had costs precision, not correctness; the report shows lateness.
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    transport::run(run_connections(plan, wires))
}

async fn run_connections(plan: WorkerPlan, wires: Wires) -> WorkerResult {
    let unseen = vec![Sighting::new(plan.streams); plan.groups];
    let nothing = |sightings| WorkerResult {
        recorder: Recorder::new(),
        sightings,
        busy: 0.0,
        ledgers: Vec::new(),
    };
    let spins = plan.spins;
    let connections = connect(plan).await;
    let (producers, consumers) = match connections {
        Ok(connections) => connections,
        Err(error) => {
            tell(&wires.notes, Note::Connected(Err(error)));
            return nothing(unseen);
        }
    };
    tell(&wires.notes, Note::Connected(Ok(())));
    // The main thread hangs up instead when another thread could not connect.
    let Ok(start) = wires.start.recv() else {
        return nothing(unseen);
    };
    let desk = Rc::new(Desk {
        clock: wires.clock,
        window: start.window,
        live: wires.live,
        recorder: RefCell::new(Recorder::new()),
        sightings: RefCell::new(unseen),
    });
    let busy = Busy::start();
    let spinner = spins.then(transport::Spinner::start);
    let mut producing = Vec::new();
    for producer in producers {
        let (desk, stage, notes) = (desk.clone(), wires.stage.clone(), wires.notes.clone());
        producing.push(transport::spawn(async move {
            let (stream, ledger, outcome) = producer.run(desk, start, stage).await;
            if let Err(error) = outcome {
                tell(&notes, Note::Failed(error));
            }
            tell(&notes, Note::ProducerDone);
            (stream, ledger)
        }));
    }
    let mut consuming = Vec::new();
    for consumer in consumers {
        let (desk, stage, notes) = (desk.clone(), wires.stage.clone(), wires.notes.clone());
        consuming.push(transport::spawn(async move {
            if let Err(error) = consumer.run(desk, stage).await {
                tell(&notes, Note::Failed(error));
            }
        }));
    }
    let mut ledgers = Vec::new();
    for task in producing {
        ledgers.push(task.await.expect("a producer task does not panic"));
    }
    for task in consuming {
        task.await.expect("a consumer task does not panic");
    }
    let spun = match spinner {
        Some(spinner) => Some(spinner.stop().await),
        None => None,
    };
    WorkerResult {
        recorder: desk.recorder.replace(Recorder::new()),
        sightings: desk.sightings.take(),
        busy: busy.share(spun),
        ledgers,
    }
}

/// CPU time of this thread against the clock.
struct Busy {
    since: Instant,
    cpu: Duration,
}

impl Busy {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            cpu: thread_cpu(),
        }
    }

    /// The share of the time that was worked. A thread that never slept, but spun in vain for
    /// `spun`, worked for the rest.
    fn share(&self, spun: Option<Duration>) -> f64 {
        let elapsed = self.since.elapsed();
        let worked = match spun {
            Some(spun) => elapsed.saturating_sub(spun),
            None => thread_cpu().saturating_sub(self.cpu),
        };
        worked.as_secs_f64() / elapsed.as_secs_f64()
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

async fn connect(plan: WorkerPlan) -> anyhow::Result<(Vec<Producer>, Vec<Consumer>)> {
    let mut producers = Vec::new();
    for plan in plan.producers {
        producers.push(Producer::connect(plan).await?);
    }
    let mut consumers = Vec::new();
    for plan in plan.consumers {
        consumers.push(Consumer::connect(plan).await?);
    }
    Ok((producers, consumers))
}

fn tell(notes: &mpsc::Sender<Note>, note: Note) {
    // Nobody listens any more only when the main thread has given the run up.
    let _ = notes.send(note);
}
