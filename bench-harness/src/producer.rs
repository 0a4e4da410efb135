//! One producing connection: it sends when the schedule or the window says so, and takes replies.
//!
//! Open loop: messages are due by the clock, whatever the broker does. What is due at one moment
//! goes into one batch, or what becomes due while the first one lingers; while all `depth` requests
//! are on their way messages wait, and their latency counts from when they were due. Closed loop: a
//! full batch follows whenever one of `depth` requests is answered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use tokio::sync::{Notify, watch};

use crate::args::Compression;
use crate::client::{Append, Client, Decoded, Refusal, Reply};
use crate::connection::Connection;
use crate::payload::{Filler, Stamp, Template};
use crate::recorder::Latency;
use crate::schedule::{Burst, DueTimes, Schedule};
use crate::sizes::{Sizes, mix};
use crate::transport::{ReadBuffer, Stream, Timer};
use crate::verify::Ledger;
use crate::worker::{Desk, Stage, Start};

/// Requests are gathered into one write up to about this size.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// How long replies are awaited when all is sent.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// The same after the run was stopped early.
const DRAIN_STOPPED_MAX: Duration = Duration::from_secs(2);
/// A write that takes longer waited for the broker.
const WRITE_HELD_NS_MIN: u64 = 1_000_000;
/// A key: all digits that a number below 2^32 may have.
const KEY_BYTES: usize = 8;
/// How often and how long an idempotent producer's identity is asked for.
const IDENTITY_RETRY: Duration = Duration::from_millis(100);
const IDENTITY_RETRIES_MAX: u32 = 150;
/// So many refusals in a row, without one success, end the run.
const REFUSALS_MAX: u32 = 1_000;

/// What all producers of a phase have in common.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) topic: String,
    pub(crate) run: u32,
    pub(crate) sizes: Sizes,
    /// Different keys, chosen by the message's number; `None` sends without keys.
    pub(crate) keys: Option<u32>,
    pub(crate) compression: Compression,
    pub(crate) batch_bytes: usize,
    /// Requests on their way per connection.
    pub(crate) depth: usize,
    pub(crate) acks: i16,
    /// Whether batches carry their producer's identity and their place in its order.
    pub(crate) idempotent: bool,
    /// Messages per second over all streams; `None` is a closed loop.
    pub(crate) rate_per_s: Option<u64>,
    pub(crate) burst: Option<Burst>,
    /// How long an open loop's message may wait for others of its batch.
    pub(crate) linger_ns: u64,
    /// Messages that each stream sends; `None` sends until the phase's end.
    pub(crate) messages_max: Option<u64>,
    /// Of the phase.
    pub(crate) streams: u32,
}

impl Load {
    /// Bytes of the value of a stream's message.
    fn value_bytes(&self, stream: u32, sequence: u64) -> u64 {
        match &self.sizes {
            Sizes::Fixed(bytes) => *bytes,
            sizes => sizes.draw(seed(stream, sequence)),
        }
    }

    /// The key of a stream's message: its number in hexadecimal digits.
    fn key(&self, stream: u32, sequence: u64) -> Option<[u8; KEY_BYTES]> {
        let keys = u64::from(self.keys?);
        // Another draw than the size's, so that sizes and keys are independent.
        let mut number = mix(!seed(stream, sequence)) % keys;
        let mut key = [b'0'; KEY_BYTES];
        for digit in key.iter_mut().rev() {
            let value = u32::try_from(number % 16).expect("one digit");
            let character = char::from_digit(value, 16).expect("one digit");
            *digit = u8::try_from(character).expect("ASCII");
            number /= 16;
        }
        Some(key)
    }

    fn record_bytes(&self, value_bytes: u64) -> usize {
        let key_bytes = if self.keys.is_some() { KEY_BYTES } else { 0 };
        in_memory(value_bytes) + key_bytes
    }
}

/// Stands for one message of a run in every draw.
fn seed(stream: u32, sequence: u64) -> u64 {
    (u64::from(stream) << 40) ^ sequence
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a message is bounded by --size")
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
        let mut connection = Connection::open(plan.address, client).await?;
        if plan.load.idempotent {
            identify(&mut connection).await?;
        }
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
            ..
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

/// Gets the connection an identity, which a fresh broker may not have to give at once.
async fn identify(connection: &mut Connection) -> anyhow::Result<()> {
    for retries_left in (0..IDENTITY_RETRIES_MAX).rev() {
        let mut out = Vec::new();
        connection.client.identify(&mut out);
        let identified = connection.exchange(out, |reply| match reply {
            Reply::Identified(identified) => Some(identified),
            _ => None,
        });
        match identified.await? {
            Ok(()) => break,
            Err(refusal) if refusal.is_not_ready_yet() && retries_left > 0 => {
                tokio::time::sleep(IDENTITY_RETRY).await;
            }
            Err(refusal) => bail!("the broker gives an idempotent producer no identity: {refusal}"),
        }
    }
    Ok(())
}

/// A request on its way.
struct InFlight {
    first: u64,
    count: u32,
    /// Of the messages' values.
    value_bytes: u64,
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
    /// Until when the broker held the next message up: a full window, a socket that took no more.
    held_until_ns: u64,
}

struct Sending {
    plan: ProducerPlan,
    desk: Rc<Desk>,
    start: Start,
    schedule: Option<Schedule>,
    template: Template,
    /// How many messages of the mean size make a batch.
    batch_messages: u32,
    state: RefCell<State>,
    /// Told after replies were taken.
    replied: Notify,
}

impl Sending {
    fn new(plan: ProducerPlan, desk: Rc<Desk>, start: Start, client: Client) -> Self {
        let load = &plan.load;
        let schedule = load.rate_per_s.map(|rate| {
            // Streams of a later phase are numbered on.
            let place = plan.stream % load.streams;
            let even = Schedule::new(start.start_ns, rate, load.streams, place);
            even.with_burst(load.burst)
        });
        let filler = match load.compression {
            Compression::None => Filler::Noise,
            _ => Filler::Words,
        };
        let mean = std::iter::repeat(load.record_bytes(load.sizes.mean()));
        let slots = plan.partitions.len();
        let stream = usize::try_from(plan.stream).expect("32 bits fit");
        Self {
            schedule,
            template: Template::new(in_memory(load.sizes.max()), load.run, filler),
            batch_messages: client.messages_per_batch(load.batch_bytes, mean),
            state: RefCell::new(State {
                client,
                in_flight: VecDeque::new(),
                ledger: Ledger::default(),
                next_offsets: vec![0; slots],
                // Connections begin at different partitions, so that they do not all queue at one.
                next_slot: stream % slots,
                refusals_in_row: 0,
                held_until_ns: start.start_ns,
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
            let begun_ns = self.desk.clock.now_ns();
            out = stream.write(out).await.context("sending failed")?;
            let now_ns = self.desk.clock.now_ns();
            if now_ns - begun_ns > WRITE_HELD_NS_MIN {
                self.state.borrow_mut().held_until_ns = now_ns;
            }
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
        loop {
            let now_ns = self.desk.clock.now_ns();
            if *stage.borrow_and_update() > Stage::Run || self.left(next, now_ns) == 0 {
                return Ok(false);
            }
            if self.is_window_full() {
                tokio::select! {
                    () = self.replied.notified() => {}
                    _ = stage.changed() => {}
                }
                self.state.borrow_mut().held_until_ns = self.desk.clock.now_ns();
                continue;
            }
            let ready_ns = self.ready_ns(next);
            if ready_ns <= now_ns {
                return Ok(true);
            }
            tokio::select! {
                slept = timer.sleep(ready_ns - now_ns) => slept.context("the timer failed")?,
                _ = stage.changed() => {}
            }
        }
    }

    /// When a batch that begins with message `next` may leave: when it is full, or when its first
    /// message has lingered.
    fn ready_ns(&self, next: u64) -> u64 {
        let Some(schedule) = self.schedule else {
            return self.start.start_ns;
        };
        let due_ns = schedule.due_ns(next);
        match self.plan.load.linger_ns {
            0 => due_ns,
            linger_ns => {
                let full_ns = schedule.due_ns(next + u64::from(self.batch_messages) - 1);
                full_ns.min(due_ns + linger_ns)
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
            if self.ready_ns(next) > now_ns {
                break;
            }
            let due = self
                .schedule
                .map_or(u64::MAX, |s| s.due_by(now_ns).saturating_sub(next));
            let count = due.min(self.left(next, now_ns));
            if count == 0 {
                break;
            }
            let count = self.fitting(next, count);
            self.note_lateness(next, now_ns);
            self.put_request(next, count, now_ns, out);
            next += u64::from(count);
        }
        next
    }

    /// How many of the `available` messages from `next` on make one batch; at least one.
    fn fitting(&self, next: u64, available: u64) -> u32 {
        let load = &self.plan.load;
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        if let Sizes::Fixed(_) = load.sizes {
            return self.batch_messages.min(available);
        }
        let sizes = (next..next + u64::from(available))
            .map(|sequence| load.record_bytes(load.value_bytes(self.plan.stream, sequence)));
        let state = self.state.borrow();
        state.client.messages_per_batch(load.batch_bytes, sizes)
    }

    /// Notes how late an open loop's batch is begun through nobody's fault but the generator's.
    fn note_lateness(&self, first: u64, now_ns: u64) {
        let ready_ns = self.ready_ns(first);
        if self.schedule.is_some() && self.desk.window.contains(ready_ns) {
            let free_ns = ready_ns.max(self.state.borrow().held_until_ns);
            let late_ns = now_ns.saturating_sub(free_ns);
            self.desk.recorder.borrow_mut().late.record(late_ns, 1);
        }
    }

    fn put_request(&self, first: u64, count: u32, begun_ns: u64, out: &mut Vec<u8>) {
        let mut state = self.state.borrow_mut();
        let (load, stream) = (&self.plan.load, self.plan.stream);
        let slot = state.next_slot;
        state.next_slot = (slot + 1) % self.plan.partitions.len();
        let append = Append {
            partition: self.plan.partitions[slot],
            count,
            compression: load.compression,
            now_ms: wall_ms(),
        };
        let mut due = self.schedule.map(|schedule| schedule.due_from(first));
        let mut value_bytes = 0;
        let batch_bytes = state.client.append(out, append, |number, slot| {
            let sequence = first + u64::from(number);
            let stamp = Stamp {
                run: load.run,
                stream,
                sequence,
                due_ns: due.as_mut().map_or(begun_ns, DueTimes::next_ns),
            };
            let bytes = load.value_bytes(stream, sequence);
            value_bytes += bytes;
            let bytes = in_memory(bytes);
            let key = load.key(stream, sequence);
            slot.put(key.as_ref().map(|key| &key[..]), bytes, |out| {
                self.template.put(out, stamp, bytes);
            });
        });
        let batch_bytes = u64::try_from(batch_bytes).expect("64-bit targets only");
        state.ledger.sent += u64::from(count);
        state.in_flight.push_back(InFlight {
            first,
            count,
            value_bytes,
            begun_ns,
            slot,
            batch_bytes,
        });
        self.desk.live.requested.add(1);
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
                    self.desk.live.answered.add(1);
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
            self.desk.live.answered.add(1);
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
                self.desk.live.refused.add(count);
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
        let live = &self.desk.live;
        let mut recorder = self.desk.recorder.borrow_mut();
        recorder.accepted_bytes += sent.batch_bytes;
        if self.desk.window.contains(now_ns) {
            recorder.acked.add(count, sent.value_bytes, now_ns);
        }
        self.record(sent, now_ns, &mut recorder.ack, |latency_ns, count| {
            live.ack.record(latency_ns, count);
        });
        live.acked.add(count);
    }

    /// Records the latencies of the request's messages at `now_ns`, of those that were due inside
    /// the window, and calls `each` with every latency and its count.
    fn record(
        &self,
        sent: &InFlight,
        now_ns: u64,
        latency: &mut Latency,
        mut each: impl FnMut(u64, u64),
    ) {
        let window = self.desk.window;
        let Some(schedule) = self.schedule else {
            if window.contains(sent.begun_ns) {
                let latency_ns = now_ns.saturating_sub(sent.begun_ns);
                latency.record(latency_ns, sent.count.into());
                each(latency_ns, sent.count.into());
            }
            return;
        };
        let mut due = schedule.due_from(sent.first);
        let due = (0..sent.count).map(|_| due.next_ns());
        let due = due.filter(|due_ns| window.contains(*due_ns));
        latency.record_runs(due.map(|due_ns| now_ns.saturating_sub(due_ns)), each);
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
            self.desk.live.answered.add(1);
            recorder.unanswered += u64::from(sent.count);
            self.record(&sent, now_ns, &mut recorder.ack, |_, _| {});
        }
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).expect("milliseconds fit for 292 million years")
}
