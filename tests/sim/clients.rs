//! Simulated Kafka clients: bytes out, bytes in, and what they believe goes into the history.

use std::collections::{BTreeMap, VecDeque};

use millrace_storage::testing::Dice;

use crate::batches::{WALL_MS_START, batch, compressed, set_producer};
use crate::churners::{Admin, Churner};
use crate::failure::{Checked, Failure, ensure};
use crate::history::{History, Line, Question, SendId};
use crate::kafka::{self, FetchFrom, Reply, take_frame};
use crate::members::Member;

/// The one topic of a run.
pub(crate) const TOPIC: &str = "sim";

/// What a client does with its connection.
#[derive(Debug)]
pub(crate) enum Role {
    /// Sends, each batch once: an unknown outcome stays unknown.
    Producer(Producer),
    /// Sends with a producer id, and again until it is answered.
    Idempotent(Producer),
    /// Reads all partitions from their start on, forwards.
    Consumer(Consumer),
    /// Asks for offsets by time.
    Seeker(Seeker),
    /// Creates and deletes a topic of its own.
    Admin(Admin),
    /// Writes and reads that topic.
    Churner(Churner),
    /// Shares the partitions with a group.
    Member(Member),
}

/// Sends under way.
#[derive(Debug, Default)]
pub(crate) struct Producer {
    /// Sends without an answer, oldest first.
    pending: VecDeque<Pending>,
    /// Sends that this client may still begin.
    pub(crate) sends_left: u32,
    /// Producer id and epoch, once given.
    identity: Option<(i64, i16)>,
    asks_identity: bool,
    /// Error code of the last reply that was not a success: for the report of a failure.
    last_refusal: Option<i16>,
    /// Connections lost; for an idempotent producer, whose order outlives them, always 0.
    connections: u64,
    /// Next sequence number, by partition.
    sequences: BTreeMap<i32, i32>,
}

#[derive(Debug)]
struct Pending {
    id: SendId,
    partition: i32,
    bytes: Vec<u8>,
    /// Of the request that carries it on this connection.
    correlation: Option<i32>,
}

/// Where a consumer is.
#[derive(Debug, Default)]
pub(crate) struct Consumer {
    /// Next offset, by partition.
    positions: BTreeMap<i32, i64>,
    /// The request under way.
    waits_for: Option<i32>,
}

/// A question under way, with its correlation id.
#[derive(Debug, Default)]
pub(crate) struct Seeker(Option<(i32, Question)>);

/// One client with at most one connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) number: usize,
    role: Role,
    partitions: i32,
    /// Received and not yet a whole frame.
    inbox: Vec<u8>,
    next_correlation: i32,
}

/// Requests that a producer has under way at most.
const PIPELINE_MAX: usize = 5;

impl Client {
    pub(crate) fn new(number: usize, role: Role, partitions: i32) -> Self {
        Self {
            number,
            role,
            partitions,
            inbox: Vec::new(),
            next_correlation: 0,
        }
    }

    /// Nothing is left to send or to wait for. Who only asks never ends by itself.
    pub(crate) fn is_done(&self) -> bool {
        match &self.role {
            Role::Producer(producer) | Role::Idempotent(producer) => {
                producer.pending.is_empty() && producer.sends_left == 0
            }
            Role::Consumer(_) | Role::Seeker(_) | Role::Member(_) => true,
            Role::Admin(admin) => admin.is_done(),
            Role::Churner(churner) => churner.is_done(),
        }
    }

    fn correlation(&mut self) -> i32 {
        self.next_correlation += 1;
        self.next_correlation
    }

    /// The connection is gone: what was under way has no answer any more.
    pub(crate) fn disconnected(&mut self, history: &mut History) {
        self.inbox.clear();
        match &mut self.role {
            Role::Producer(producer) => {
                producer.connections += 1;
                for _ in producer.pending.drain(..) {
                    history.fail();
                }
            }
            Role::Idempotent(producer) => {
                producer.asks_identity = false;
                for pending in &mut producer.pending {
                    pending.correlation = None;
                }
            }
            Role::Consumer(consumer) => consumer.waits_for = None,
            Role::Seeker(seeker) => seeker.0 = None,
            Role::Admin(admin) => admin.disconnected(&mut history.churn),
            Role::Churner(churner) => churner.disconnected(),
            Role::Member(member) => member.disconnected(),
        }
    }

    /// The next request, if the client wants to send one now.
    pub(crate) fn next_request(
        &mut self,
        dice: &mut Dice,
        history: &mut History,
    ) -> Checked<Option<Vec<u8>>> {
        let correlation = self.correlation();
        if let Role::Member(member) = &mut self.role {
            return member.next_request(correlation, dice, &mut history.groups);
        }
        Ok(self.next_of_others(correlation, dice, history))
    }

    fn next_of_others(
        &mut self,
        correlation: i32,
        dice: &mut Dice,
        history: &mut History,
    ) -> Option<Vec<u8>> {
        let (number, partitions) = (self.number, self.partitions);
        match &mut self.role {
            Role::Member(_) => unreachable!("a member has asked already"),
            Role::Consumer(consumer) => consumer.next_request(correlation, partitions, dice),
            Role::Seeker(seeker) => seeker.next_request(correlation, partitions, dice, history),
            Role::Admin(admin) => admin.next_request(correlation, dice, &mut history.churn),
            Role::Churner(churner) => churner.next_request(correlation, dice, history),
            Role::Producer(producer) => {
                producer.begin(number, partitions, dice, history)?;
                producer.resend(correlation)
            }
            Role::Idempotent(producer) => {
                if producer.identity.is_none() {
                    let asks = !std::mem::replace(&mut producer.asks_identity, true);
                    return asks.then(|| kafka::init_producer_id(correlation));
                }
                let unsent = producer
                    .pending
                    .iter()
                    .any(|pending| pending.correlation.is_none());
                if !unsent {
                    producer.begin(number, partitions, dice, history)?;
                }
                producer.resend(correlation)
            }
        }
    }

    /// Takes bytes from the broker. `false`: the client drops the connection.
    pub(crate) fn receive(&mut self, bytes: &[u8], history: &mut History) -> Checked<bool> {
        self.inbox.extend_from_slice(bytes);
        while let Some((correlation, body)) = take_frame(&mut self.inbox) {
            let mut reply = Reply(&body);
            let goes_on = match &mut self.role {
                Role::Consumer(consumer) => consumer.receive(correlation, &mut reply, history)?,
                Role::Seeker(seeker) => {
                    seeker.receive(correlation, &mut reply, history)?;
                    true
                }
                Role::Admin(admin) => {
                    admin.receive(correlation, &mut reply, &mut history.churn)?;
                    true
                }
                Role::Churner(churner) => {
                    churner.receive(correlation, &mut reply, history)?;
                    true
                }
                Role::Member(member) => {
                    member.receive(correlation, &mut reply, &mut history.groups)?;
                    true
                }
                Role::Producer(producer) => {
                    producer.answered(correlation, &mut reply, history)?;
                    true
                }
                Role::Idempotent(producer) => {
                    producer.answered_again(correlation, &mut reply, history)?
                }
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Producer {
    pub(crate) fn new(sends: u32) -> Self {
        Self {
            sends_left: sends,
            ..Self::default()
        }
    }

    /// Begins one more send, if the pipeline and the plan allow it.
    fn begin(
        &mut self,
        client: usize,
        partitions: i32,
        dice: &mut Dice,
        history: &mut History,
    ) -> Option<()> {
        if self.sends_left == 0 || self.pending.len() >= PIPELINE_MAX {
            return None;
        }
        self.sends_left -= 1;
        let partition = i32::try_from(dice.below(partitions.unsigned_abs().into())).ok()?;
        let records = u32::try_from(dice.between(1, 4)).ok()?;
        let line = Line {
            client,
            connection: self.connections,
        };
        let first_ms = history.time_ms() + i64::try_from(dice.below(1_000)).ok()?;
        let id = history.begin(line, partition, (records, first_ms));
        let value_bytes = *dice.pick(&[16, 200, 2_000, 12_000]);
        let mut bytes = batch(id.0, records, value_bytes, first_ms);
        if dice.coin() {
            bytes = compressed(&bytes);
        }
        if let Some((producer_id, epoch)) = self.identity {
            let sequence = self.sequences.entry(partition).or_default();
            set_producer(&mut bytes, producer_id, epoch, *sequence);
            *sequence += i32::try_from(records).ok()?;
        }
        self.pending.push_back(Pending {
            id,
            partition,
            bytes,
            correlation: None,
        });
        Some(())
    }

    /// The oldest send that is not under way on this connection.
    fn resend(&mut self, correlation: i32) -> Option<Vec<u8>> {
        let mut unsent = self
            .pending
            .iter_mut()
            .filter(|pending| pending.correlation.is_none());
        let pending = unsent.next()?;
        pending.correlation = Some(correlation);
        Some(kafka::produce(
            correlation,
            TOPIC,
            pending.partition,
            &pending.bytes,
        ))
    }

    /// Replies come in the order of the requests: the front one is answered.
    fn front(&mut self, correlation: i32) -> Checked<&Pending> {
        let front = self.pending.front();
        ensure!(
            front.is_some_and(|pending| pending.correlation == Some(correlation)),
            "reply {correlation} came, {front:?} was due"
        );
        Ok(front.expect("checked"))
    }

    fn answered(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        history: &mut History,
    ) -> Checked<()> {
        let id = self.front(correlation)?.id;
        let produced = reply.produced();
        ensure!(produced.is_some(), "a produce reply is cut short");
        self.pending.pop_front();
        match produced {
            Some((0, base)) => history.acknowledge(id, base),
            _ => {
                history.fail();
                Ok(())
            }
        }
    }

    fn answered_again(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        history: &mut History,
    ) -> Checked<bool> {
        if self.identity.is_none() {
            let identity = reply.producer_id();
            ensure!(identity.is_some(), "an InitProducerId reply is cut short");
            self.asks_identity = false;
            if let Some((0, id, epoch)) = identity {
                self.identity = Some((id, epoch));
            }
            return Ok(true);
        }
        let id = self.front(correlation)?.id;
        match reply.produced() {
            Some((0, base)) => {
                self.pending.pop_front();
                history.acknowledge(id, base)?;
                Ok(true)
            }
            // Refused or unknown: all that is under way goes out again, in order.
            refused => {
                self.last_refusal = refused.map(|(error, _)| error);
                Ok(false)
            }
        }
    }
}

impl Consumer {
    fn next_request(
        &mut self,
        correlation: i32,
        partitions: i32,
        dice: &mut Dice,
    ) -> Option<Vec<u8>> {
        if self.waits_for.is_some() {
            return None;
        }
        self.waits_for = Some(correlation);
        let from = (0..partitions).map(|partition| FetchFrom {
            partition,
            offset: self.positions.get(&partition).copied().unwrap_or(0),
        });
        let from: Vec<FetchFrom> = from.collect();
        let wait_ms = *dice.pick(&[0, 5, 500]);
        Some(kafka::fetch(correlation, TOPIC, &from, wait_ms))
    }

    fn receive(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        history: &mut History,
    ) -> Checked<bool> {
        ensure!(
            self.waits_for == Some(correlation),
            "reply {correlation} to no question"
        );
        self.waits_for = None;
        let Some(fetched) = reply.fetched() else {
            ensure!(false, "a fetch reply is cut short");
            return Ok(false);
        };
        for fetched in fetched {
            if fetched.error != 0 {
                history.fail();
                continue;
            }
            let position = self.positions.entry(fetched.partition).or_default();
            *position = history.poll(
                fetched.partition,
                *position,
                fetched.high_watermark,
                fetched.records,
            )?;
        }
        Ok(true)
    }
}

impl Seeker {
    fn next_request(
        &mut self,
        correlation: i32,
        partitions: i32,
        dice: &mut Dice,
        history: &History,
    ) -> Option<Vec<u8>> {
        if self.0.is_some() {
            return None;
        }
        let partition = i32::try_from(dice.below(partitions.unsigned_abs().into())).ok()?;
        let span_ms = history.time_ms() - WALL_MS_START + 1_100;
        let since_ms = i64::try_from(dice.below(span_ms.unsigned_abs())).ok()?;
        let question = Question {
            partition,
            time_ms: WALL_MS_START + since_ms,
            known_end: history.known_end(partition),
        };
        self.0 = Some((correlation, question));
        let time_ms = question.time_ms;
        Some(kafka::list_offset(correlation, TOPIC, partition, time_ms))
    }

    fn receive(
        &mut self,
        correlation: i32,
        reply: &mut Reply<'_>,
        history: &mut History,
    ) -> Checked<()> {
        let asked = self.0.take().filter(|(asked, _)| *asked == correlation);
        let Some((_, question)) = asked else {
            return Err(Failure(format!("reply {correlation} to no question")));
        };
        match reply.listed() {
            None => return Err(Failure("a ListOffsets reply is cut short".to_owned())),
            Some((0, _, -1)) => history.find(question, None),
            Some((0, time_ms, offset)) => history.find(question, Some((offset, time_ms))),
            Some(_) => history.fail(),
        }
        Ok(())
    }
}
