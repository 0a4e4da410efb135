//! One producing connection: it sends when the schedule or the window says so, and takes replies.
//!
//! Open loop: messages are due by the clock, whatever the broker does. What is due at one moment
//! goes into one batch, as a client with a linger of 0 does; while all `depth` requests are on
//! their way messages wait, and their latency counts from when they were due. Closed loop: a full
//! batch follows whenever one of `depth` requests is answered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use tokio::sync::{Notify, watch};

use crate::client::{Append, Client, Decoded, Refusal, Reply};
use crate::connection::Connection;
use crate::payload::{Stamp, Template};
use crate::schedule::Schedule;
use crate::transport::{ReadBuffer, Stream, Timer};
use crate::verify::Ledger;
use crate::worker::{Desk, Stage, Start};

/// Requests are gathered into one write up to about this size.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// How long replies are awaited when all is sent.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// The same after the run was stopped early.
const DRAIN_STOPPED_MAX: Duration = Duration::from_secs(2);
/// So many refusals in a row, without one success, end the run.
const REFUSALS_MAX: u32 = 1_000;

/// What all producers of a phase have in common.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) topic: String,
    pub(crate) run: u32,
    pub(crate) message_bytes: usize,
    pub(crate) batch_bytes: usize,
    /// Requests on their way per connection.
    pub(crate) depth: usize,
    pub(crate) acks: i16,
    /// Messages per second over all streams; `None` is a closed loop.
    pub(crate) rate_per_s: Option<u64>,
    /// Messages that each stream sends; `None` sends until the phase's end.
    pub(crate) messages_max: Option<u64>,
    pub(crate) streams: u32,
}

/// One producer of a phase.
pub(crate) struct ProducerPlan {
    pub(crate) load: Arc<Load>,
    pub(crate) address: SocketAddr,
    pub(crate) stream: u32,
    /// Written in turn, one per request; not empty.
    pub(crate) partitions: Vec<u32>,
}

/// A connected producer.
pub(crate) struct Producer {
    plan: ProducerPlan,
    connection: Connection,
}

impl Producer {
    pub(crate) async fn connect(plan: ProducerPlan) -> anyhow::Result<Self> {
        assert!(
            !plan.partitions.is_empty(),
            "a producer has somewhere to write"
        );
        let client = Client::kafka(&plan.load.topic, plan.load.acks);
        let connection = Connection::open(plan.address, client).await?;
        Ok(Self { plan, connection })
    }

    /// Sends and receives until the plan's end; the ledger is true whatever the outcome.
    pub(crate) async fn run(
        self,
        desk: Rc<Desk>,
        start: Start,
        stage: watch::Receiver<Stage>,
    ) -> (u32, Ledger, anyhow::Result<()>) {
        let Self { plan, connection } = self;
        let Connection {
            stream,
            client,
            buffer,
        } = connection;
        let (number, address) = (plan.stream, plan.address);
        let sending = Sending::new(plan, desk, start, client);
        let outcome = tokio::select! {
            biased;
            error = sending.receive(&stream, buffer) => Err(error),
            outcome = sending.send(&stream, stage) => outcome,
        };
        stream.close();
        sending.count_unanswered();
        let outcome = outcome.with_context(|| format!("connection {number} to {address}"));
        (number, sending.state.into_inner().ledger, outcome)
    }
}

/// A request on its way.
struct InFlight {
    first: u64,
    count: u32,
    /// When a closed loop began it.
    begun_ns: u64,
    /// Index into the plan's partitions.
    slot: usize,
    batch_bytes: u64,
}

/// What sending and receiving share.
struct State {
    client: Client,
    in_flight: VecDeque<InFlight>,
    ledger: Ledger,
    /// Offset that the next acknowledgement must reach, by slot.
    next_offsets: Vec<u64>,
    next_slot: usize,
    refusals_in_row: u32,
}

struct Sending {
    plan: ProducerPlan,
    desk: Rc<Desk>,
    start: Start,
    schedule: Option<Schedule>,
    template: Template,
    batch_messages_max: u32,
    state: RefCell<State>,
    /// Told after replies were taken.
    replied: Notify,
}

impl Sending {
    fn new(plan: ProducerPlan, desk: Rc<Desk>, start: Start, client: Client) -> Self {
        let load = &plan.load;
        let schedule = load
            .rate_per_s
            .map(|rate| Schedule::new(start.start_ns, rate, load.streams, plan.stream));
        let slots = plan.partitions.len();
        let stream = usize::try_from(plan.stream).expect("32 bits fit");
        Self {
            schedule,
            template: Template::new(load.message_bytes, load.run),
            batch_messages_max: client.messages_per_batch(load.batch_bytes, load.message_bytes),
            state: RefCell::new(State {
                client,
                in_flight: VecDeque::new(),
                ledger: Ledger::default(),
                next_offsets: vec![0; slots],
                // Connections begin at different partitions, so that they do not all queue at one.
                next_slot: stream % slots,
                refusals_in_row: 0,
            }),
            replied: Notify::new(),
            plan,
            desk,
            start,
        }
    }

    async fn send(&self, stream: &Stream, mut stage: watch::Receiver<Stage>) -> anyhow::Result<()> {
        let timer = Timer::new().context("no timer")?;
        let mut out = Vec::with_capacity(WRITE_BYTES_MAX + self.plan.load.batch_bytes);
        let mut next = 0;
        while self.wait_for_work(next, &timer, &mut stage).await? {
            next = self.gather(next, &mut out);
            out = stream.write(out).await.context("sending failed")?;
            if self.plan.load.acks == 0 {
                self.settle_without_replies();
            }
        }
        self.drain(stage).await
    }

    /// Waits until a message may be sent; `false` when there are no more.
    async fn wait_for_work(
        &self,
        next: u64,
        timer: &Timer,
        stage: &mut watch::Receiver<Stage>,
    ) -> anyhow::Result<bool> {
        let mut slept = false;
        loop {
            let now_ns = self.desk.clock.now_ns();
            if *stage.borrow_and_update() > Stage::Run || self.left(next, now_ns) == 0 {
                return Ok(false);
            }
            if self.is_window_full() {
                slept = false;
                tokio::select! {
                    () = self.replied.notified() => {}
                    _ = stage.changed() => {}
                }
                continue;
            }
            let due_ns = self
                .schedule
                .map_or(self.start.start_ns, |s| s.due_ns(next));
            if due_ns <= now_ns {
                if slept && self.desk.window.contains(due_ns) {
                    self.desk
                        .recorder
                        .borrow_mut()
                        .wake
                        .record(now_ns - due_ns, 1);
                }
                return Ok(true);
            }
            slept = true;
            tokio::select! {
                slept = timer.sleep(due_ns - now_ns) => slept.context("the timer failed")?,
                _ = stage.changed() => {}
            }
        }
    }

    /// Messages that the plan still has after `next`.
    fn left(&self, next: u64, now_ns: u64) -> u64 {
        match (self.plan.load.messages_max, self.schedule) {
            (Some(messages_max), _) => messages_max - next,
            (None, Some(schedule)) => schedule.due_by(self.start.end_ns - 1) - next,
            (None, None) if now_ns < self.start.end_ns => u64::MAX,
            (None, None) => 0,
        }
    }

    fn is_window_full(&self) -> bool {
        self.state.borrow().in_flight.len() >= self.plan.load.depth
    }

    /// Builds as many requests as are due and fit into the window and one write.
    fn gather(&self, mut next: u64, out: &mut Vec<u8>) -> u64 {
        while !self.is_window_full() && out.len() < WRITE_BYTES_MAX {
            let now_ns = self.desk.clock.now_ns();
            let due = self
                .schedule
                .map_or(u64::MAX, |s| s.due_by(now_ns).saturating_sub(next));
            let count = due
                .min(self.left(next, now_ns))
                .min(self.batch_messages_max.into());
            if count == 0 {
                break;
            }
            self.put_request(
                next,
                u32::try_from(count).expect("bounded above"),
                now_ns,
                out,
            );
            next += count;
        }
        next
    }

    fn put_request(&self, first: u64, count: u32, begun_ns: u64, out: &mut Vec<u8>) {
        let mut state = self.state.borrow_mut();
        let load = &self.plan.load;
        let slot = state.next_slot;
        state.next_slot = (slot + 1) % self.plan.partitions.len();
        let append = Append {
            partition: self.plan.partitions[slot],
            count,
            value_bytes: load.message_bytes,
            now_ms: wall_ms(),
        };
        let batch_bytes = state.client.append(out, append, |number, out| {
            let sequence = first + u64::from(number);
            let due_ns = self.schedule.map_or(begun_ns, |s| s.due_ns(sequence));
            let stamp = Stamp {
                run: load.run,
                stream: self.plan.stream,
                sequence,
                due_ns,
            };
            self.template.put(out, stamp);
        });
        let batch_bytes = u64::try_from(batch_bytes).expect("64-bit targets only");
        state.ledger.sent += u64::from(count);
        state.in_flight.push_back(InFlight {
            first,
            count,
            begun_ns,
            slot,
            batch_bytes,
        });
        self.desk.live.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes replies until the connection fails.
    async fn receive(&self, stream: &Stream, mut buffer: ReadBuffer) -> anyhow::Error {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return anyhow!("the broker closed the connection"),
                Ok(_) => {}
                Err(error) => return anyhow::Error::new(error).context("receiving failed"),
            }
            if let Err(error) = self.take_replies(&mut buffer) {
                return error;
            }
            self.replied.notify_one();
        }
    }

    fn take_replies(&self, buffer: &mut ReadBuffer) -> anyhow::Result<()> {
        let now_ns = self.desk.clock.now_ns();
        let mut state = self.state.borrow_mut();
        loop {
            let taken = match state.client.decode(buffer.bytes())? {
                Decoded::Incomplete { need_bytes } => {
                    buffer.need(need_bytes);
                    return Ok(());
                }
                Decoded::Complete {
                    value: Reply::Appended(outcome),
                    bytes,
                } => {
                    let sent = state.in_flight.pop_front();
                    let sent = sent.context("a reply to nothing")?;
                    self.desk.live.in_flight.fetch_sub(1, Ordering::Relaxed);
                    self.settle(&mut state, &sent, outcome, now_ns)?;
                    bytes
                }
                Decoded::Complete { .. } => bail!("a reply to something else than an append"),
            };
            buffer.take(taken);
        }
    }

    /// With `acks=0` a message counts when the kernel has taken it.
    fn settle_without_replies(&self) {
        let now_ns = self.desk.clock.now_ns();
        let mut state = self.state.borrow_mut();
        while let Some(sent) = state.in_flight.pop_front() {
            self.desk.live.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.count_acknowledged(&sent, now_ns);
        }
    }

    /// Notes the outcome of one request.
    fn settle(
        &self,
        state: &mut State,
        sent: &InFlight,
        outcome: Result<u64, Refusal>,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let count = u64::from(sent.count);
        match outcome {
            Ok(base_offset) => {
                state.refusals_in_row = 0;
                state.ledger.acknowledge(sent.first, count);
                let next_offset = &mut state.next_offsets[sent.slot];
                if base_offset < *next_offset {
                    self.desk.recorder.borrow_mut().offsets_not_rising += 1;
                }
                *next_offset = base_offset + count;
                self.count_acknowledged(sent, now_ns);
            }
            Err(refusal) => {
                self.desk
                    .recorder
                    .borrow_mut()
                    .refuse("append", refusal, count);
                self.desk.live.refused.fetch_add(count, Ordering::Relaxed);
                state.refusals_in_row += 1;
                if state.refusals_in_row >= REFUSALS_MAX {
                    bail!("{REFUSALS_MAX} appends in a row were refused: {refusal}");
                }
            }
        }
        Ok(())
    }

    fn count_acknowledged(&self, sent: &InFlight, now_ns: u64) {
        let count = u64::from(sent.count);
        let message_bytes = u64::try_from(self.plan.load.message_bytes).expect("64-bit targets");
        let mut recorder = self.desk.recorder.borrow_mut();
        recorder.accepted_bytes += sent.batch_bytes;
        if self.desk.window.contains(now_ns) {
            recorder.acked.add(count, count * message_bytes, now_ns);
        }
        self.each_due(sent, |due_ns, count| {
            let latency_ns = now_ns.saturating_sub(due_ns);
            recorder.ack.record(latency_ns, count);
            self.desk.live.record(latency_ns, count);
        });
        self.desk.live.acked.fetch_add(count, Ordering::Relaxed);
    }

    /// Calls `each` with when the request's messages were due, those inside the window.
    fn each_due(&self, sent: &InFlight, mut each: impl FnMut(u64, u64)) {
        let Some(schedule) = self.schedule else {
            if self.desk.window.contains(sent.begun_ns) {
                each(sent.begun_ns, sent.count.into());
            }
            return;
        };
        for sequence in sent.first..sent.first + u64::from(sent.count) {
            let due_ns = schedule.due_ns(sequence);
            if self.desk.window.contains(due_ns) {
                each(due_ns, 1);
            }
        }
    }

    /// Waits for the replies that are still due.
    async fn drain(&self, mut stage: watch::Receiver<Stage>) -> anyhow::Result<()> {
        let drained = async {
            while !self.state.borrow().in_flight.is_empty() {
                self.replied.notified().await;
            }
        };
        let given_up = async {
            let stopped = stage.wait_for(|stage| *stage > Stage::Run);
            if tokio::time::timeout(DRAIN_MAX, stopped).await.is_ok() {
                tokio::time::sleep(DRAIN_STOPPED_MAX).await;
            }
        };
        tokio::select! {
            biased;
            () = drained => Ok(()),
            () = given_up => {
                let waiting = self.state.borrow().in_flight.len();
                Err(anyhow!("{waiting} requests were still unanswered at the end"))
            }
        }
    }

    /// Counts what never was answered at the age that it has reached: a lower bound of its
    /// latency, where leaving it out would hide the worst.
    fn count_unanswered(&self) {
        let now_ns = self.desk.clock.now_ns();
        let mut recorder = self.desk.recorder.borrow_mut();
        for sent in self.state.borrow_mut().in_flight.drain(..) {
            self.desk.live.in_flight.fetch_sub(1, Ordering::Relaxed);
            recorder.unanswered += u64::from(sent.count);
            self.each_due(&sent, |due_ns, count| {
                recorder.ack.record(now_ns.saturating_sub(due_ns), count);
            });
        }
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).expect("milliseconds fit for 292 million years")
}
