//! One core without its kernel: the connections and the shard.
//!
//! The io_uring driver and the simulator both run it. A turn: hand it everything that happened
//! (`handle_*`), call [`Worker::end_turn`] once, then take out what is to be done (`poll_*`).

mod blocked;
mod deliver;
mod sink;
mod slow;
mod stop;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_engine::Shard;
use millrace_engine::command::{Command, ConnectionId, Isolation, RequestId};
use millrace_engine::mesh::MeshMessage;
use millrace_storage::error::StorageError;
use millrace_storage::units::{BootTime, Now, ShardId};

use crate::connection::{Connection, ConnectionLimits, SendBuffers, Surroundings};
use crate::control::{ControlAnswer, ControlAsk, ControlCommand, ControlReply, ControlRequest};
use crate::io::{IoDone, IoOp, ListenerId};
use crate::kafka::{self, KafkaConfig};
use crate::refusals::{Refusals, RequestRefusals};
use crate::session::{ClusterView, ConnectionAddresses, Gate, Session};
use crate::stages::Stages;
use crate::window::Budget;
use blocked::Blocked;
use deliver::Postponed;
use sink::Sink;
use stop::Stop;

/// What a worker serves and what it may take.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// By [`ListenerId`]: what is spoken there. The same list on every worker.
    pub doors: Vec<Door>,
    /// Of each connection.
    pub connection: ConnectionLimits,
    /// Connections of this worker.
    pub connections_max: usize,
    /// Connections of this worker from one address.
    pub connections_per_address_max: usize,
    /// Requests that are being received, bytes over all connections.
    pub assembly_bytes_max: usize,
    /// Replies that are being sent, bytes over all connections; one reply may exceed it.
    pub sending_bytes_max: usize,
    /// Partitions of all fetch sessions; past it readers name theirs in each request.
    pub remembered_partitions_max: usize,
    /// A clean stop waits so long for other shards, and then for clients to take their replies,
    /// milliseconds.
    pub stop_ms_max: u64,
}

/// What a listener leads to.
#[derive(Clone, Debug)]
pub struct Door {
    /// What is spoken.
    pub protocol: Protocol,
    /// The broker as it is seen through this listener.
    pub cluster: ClusterView,
}

/// A protocol with its settings.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Kafka.
    Kafka(Arc<KafkaConfig>),
}

impl Protocol {
    fn open(&self) -> Session {
        match self {
            Self::Kafka(config) => {
                Session::Kafka(Box::new(kafka::Session::new(Arc::clone(config))))
            }
        }
    }
}

/// Counts since start, but for those ending in `_now`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    connections_refused: u64,
    connections_timed_out: u64,
    receives_blocked_by_log: u64,
    receives_blocked_by_answers: u64,
    receives_starved_of_memory: u64,
    sends_starved_of_memory: u64,
}

/// One core's connections and its shard.
pub struct Worker {
    config: WorkerConfig,
    shard: Shard,
    /// By slot, as the driver numbers them.
    table: Vec<Option<Entry>>,
    /// Entries of `table`.
    connections: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Connections that are refused by a limit.
    refusals: Refusals,
    /// What sessions refuse.
    requests_refused: RequestRefusals,
    budget: Budget,
    buffers: SendBuffers,
    /// Slots whose connection may have something to do, each once.
    dirty: Vec<u32>,
    /// Connections that wait for the log or for memory for answers, and for memory to receive into.
    blocked: Blocked,
    starved: BTreeSet<u32>,
    /// Connections that wait until others' sends have ended.
    queued: BTreeSet<u32>,
    /// Bytes of replies that sessions hold, and partitions that they remember.
    held: Held,
    /// Answers that sessions have no room for.
    postponed: Postponed,
    /// Since when there is no memory for answers while somebody waits for it.
    answers_awaited_since: Option<BootTime>,
    /// One entry a connection: when to look at it, at the latest.
    timers: BTreeSet<(BootTime, u32)>,
    /// When slow transfers are looked for next, if others wait for their memory.
    next_slow_check: BootTime,
    ops: VecDeque<IoOp>,
    control: Control,
    stop: Stop,
    /// When the present step of a clean stop has lasted too long; `None` before its first turn.
    stop_until: Option<BootTime>,
    counters: Counters,
    stages: Stages,
}

/// A connection with the worker's notes on it.
struct Entry {
    connection: Connection<Session>,
    door: usize,
    /// Its part of the worker's.
    held: Held,
    /// Its place in `timers`.
    timer: Option<BootTime>,
    is_dirty: bool,
}

/// What sessions keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    reply_bytes: usize,
    partitions: usize,
}

impl Held {
    /// Replaces a connection's part of it.
    fn recount(&mut self, part: &mut Self, now: Self) {
        self.reply_bytes = self.reply_bytes - part.reply_bytes + now.reply_bytes;
        self.partitions = self.partitions - part.partitions + now.partitions;
        *part = now;
    }
}

impl Entry {
    fn held_now(&self) -> Held {
        Held {
            reply_bytes: self.connection.held_bytes(),
            partitions: self.connection.remembered_partitions(),
        }
    }
}

/// The control thread's requests.
#[derive(Default)]
struct Control {
    /// Sequence of the next command submitted for it.
    next_sequence: u64,
    /// Tokens of what was asked of the shard, by sequence.
    asked: HashMap<u64, u64>,
    replies: VecDeque<ControlReply>,
}

impl Worker {
    /// A worker without connections.
    #[must_use]
    pub fn new(config: WorkerConfig, shard: Shard) -> Self {
        assert!(!config.doors.is_empty(), "a worker has a listener");
        Self {
            budget: Budget::new(config.assembly_bytes_max),
            buffers: SendBuffers::new(config.sending_bytes_max),
            config,
            shard,
            table: Vec::new(),
            connections: 0,
            by_address: HashMap::new(),
            refusals: Refusals::default(),
            requests_refused: RequestRefusals::default(),
            dirty: Vec::new(),
            blocked: Blocked::default(),
            starved: BTreeSet::new(),
            queued: BTreeSet::new(),
            held: Held::default(),
            postponed: Postponed::default(),
            answers_awaited_since: None,
            timers: BTreeSet::new(),
            next_slow_check: BootTime(0),
            ops: VecDeque::new(),
            control: Control::default(),
            stop: Stop::Running,
            stop_until: None,
            counters: Counters::default(),
            stages: Stages::new(),
        }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The failure after which nothing more is acknowledged: the process must end.
    #[must_use]
    pub fn poisoned(&self) -> Option<&StorageError> {
        self.shard.poisoned()
    }

    // In.

    /// Takes what the driver has to tell.
    pub fn handle_io(&mut self, now: Now, done: IoDone<'_>) {
        match done {
            IoDone::Accepted {
                connection,
                listener,
                peer,
                local,
            } => self.accept(
                now,
                connection,
                listener,
                ConnectionAddresses { peer, local },
            ),
            IoDone::Received { connection, bytes } => {
                self.with(connection, |open, around| {
                    open.handle_received(now, bytes, around);
                });
            }
            IoDone::ReceivedInto {
                connection,
                buffer,
                bytes,
            } => self.with(connection, |open, around| {
                open.handle_received_into(now, (buffer, bytes), around);
            }),
            IoDone::ReceiveStopped { connection } => {
                self.with(connection, |open, _| open.handle_receive_stopped());
            }
            IoDone::Ended { connection, errno } => self.handle_ended(connection, errno),
            IoDone::Sent {
                connection,
                buffer,
                result,
            } => {
                self.buffers.end(buffer);
                let mut is_alive = true;
                self.with(connection, |open, around| {
                    is_alive = open.handle_sent(now, result, around.stages);
                });
                if !is_alive {
                    self.close(connection);
                }
            }
            IoDone::Closed { connection } => self.forget(connection),
            IoDone::Disk(done) => self.shard.handle_disk(now, done),
            IoDone::Job(done) => self.shard.handle_job(now, done),
        }
    }

    /// Takes a message from another shard.
    pub fn handle_mesh(&mut self, now: Now, from: ShardId, message: MeshMessage) {
        self.shard.handle_mesh(now, from, message);
    }

    /// Takes a request of the control thread.
    pub fn handle_control(&mut self, now: Now, request: ControlRequest) {
        match request.ask {
            ControlAsk::Report => self.submit_control(now, request.token, Command::Report),
            ControlAsk::Command(command) => {
                let command = match *command {
                    ControlCommand::Group(group) => Command::Group(group),
                    ControlCommand::FindOffset { partition, at } => Command::FindOffset {
                        partition,
                        at,
                        isolation: Isolation::Uncommitted,
                    },
                    ControlCommand::Fetch(fetch) => Command::Fetch(fetch),
                };
                self.submit_control(now, request.token, command);
            }
            ControlAsk::Groups => self.control.replies.push_back(ControlReply {
                token: request.token,
                answer: ControlAnswer::Groups(self.shard.group_reports()),
            }),
            ControlAsk::Catalog => self.control.replies.push_back(ControlReply {
                token: request.token,
                answer: ControlAnswer::Catalog(Box::new(self.shard.catalog().clone())),
            }),
            ControlAsk::Stop => self.stop(),
        }
    }

    fn submit_control(&mut self, now: Now, token: u64, command: Command<'_>) {
        let sequence = self.control.next_sequence;
        self.control.next_sequence += 1;
        self.control.asked.insert(sequence, token);
        let id = RequestId {
            origin: self.shard.id(),
            connection: ConnectionId::CONTROL,
            sequence,
        };
        self.shard.submit(now, id, command);
    }

    /// Begins a clean stop: nothing new is read, what was accepted is made durable and answered,
    /// connections close. Ends with [`Worker::is_stopped`].
    pub fn stop(&mut self) {
        if self.stop != Stop::Running {
            return;
        }
        self.stop = Stop::Settling;
        for entry in self.table.iter_mut().flatten() {
            entry.connection.stop_reading();
        }
    }

    /// Whether a stop was asked for: accept no more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop != Stop::Running
    }

    /// Whether a clean stop is through.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let is_done = match self.stop {
            Stop::Running | Stop::Settling => false,
            Stop::Draining => !self.shard.is_asked_by_others(),
            Stop::Ending => true,
        };
        is_done && self.connections == 0 && self.ops.is_empty() && self.shard.is_quiet()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.shard.handle_timeout(now);
        self.end_slow_transfers(now);
        while let Some(&(at, slot)) = self.timers.first() {
            if at > now.boot {
                break;
            }
            self.timers.pop_first();
            let entry = self.table[slot as usize].as_mut();
            let entry = entry.expect("a timer's connection is open");
            entry.timer = None;
            let limits = &self.config.connection;
            let id = entry.connection.id();
            let checked = entry.connection.handle_timeout(now, limits, &mut self.ops);
            self.touch(slot);
            if let Err(violation) = checked {
                self.counters.connections_timed_out += 1;
                self.log_close(id, &violation.reason);
                self.close(id);
            }
        }
    }

    /// Ends a turn: carries outcomes to sessions, lets them go on, closes the commit group, and
    /// emits what connections have to send and receive.
    pub fn end_turn(&mut self, now: Now) {
        loop {
            self.settle(now);
            self.shard.note_answers_taken();
            self.shard.end_turn(now);
            let is_resumed = self.unblock_accepted(now);
            if self.budget.take_tightened() {
                for slot in 0..self.table.len() {
                    self.touch(slot as u32);
                }
            }
            if self.budget.take_released() {
                for slot in std::mem::take(&mut self.starved) {
                    self.touch(slot);
                }
            }
            if !self.buffers.are_spent() {
                for slot in std::mem::take(&mut self.queued) {
                    self.touch(slot);
                }
            }
            let is_quiet = !is_resumed && self.dirty.is_empty() && !self.deliver(now);
            if is_quiet {
                break;
            }
        }
        self.note_answers_awaited(now);
        self.advance_stop(now);
        self.stages.end_turn(now);
    }

    /// Lets those go on that wait for what the shard accepts again, those first that wait longest,
    /// and as long as what each of them takes leaves something. Says whether there were any.
    fn unblock_accepted(&mut self, now: Now) -> bool {
        let mut is_any = false;
        for gate in [Gate::Appends, Gate::Questions] {
            let was_open = self.accepts(gate);
            let before = self.blocked.next_number();
            while self.accepts(gate)
                && let Some(slot) = self.blocked.open(gate, before)
            {
                is_any = true;
                if gate == Gate::Questions {
                    self.answers_awaited_since = None;
                }
                let entry = self.table[slot as usize].as_mut();
                let entry = entry.expect("who is gone waits for nothing");
                entry.connection.unblock();
                self.look_at(now, slot);
            }
            if gate == Gate::Appends
                && was_open
                && let Some(since) = self.blocked.end_stall(now)
            {
                self.stages.note_stall(now, since);
            }
        }
        is_any
    }

    fn accepts(&self, gate: Gate) -> bool {
        match gate {
            Gate::Appends => self.shard.accepts_appends(),
            Gate::Questions => self.shard.accepts_questions(),
        }
    }

    // Out.

    /// The next operation for the driver.
    pub fn poll_io(&mut self) -> Option<IoOp> {
        if let Some(op) = self.shard.poll_disk() {
            return Some(IoOp::Disk(op));
        }
        if let Some(op) = self.shard.poll_job() {
            return Some(IoOp::Job(op));
        }
        self.ops.pop_front()
    }

    /// The next message for another shard.
    pub fn poll_mesh(&mut self) -> Option<(ShardId, MeshMessage)> {
        self.shard.poll_mesh()
    }

    /// The next answer for the control thread.
    pub fn poll_control(&mut self) -> Option<ControlReply> {
        self.control.replies.pop_front()
    }

    /// When [`Worker::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let connections = self.timers.first().map(|(at, _)| *at);
        let times = [
            connections,
            self.slow_deadline(),
            self.stop_until,
            self.shard.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    // Between.

    fn accept(
        &mut self,
        now: Now,
        id: ConnectionId,
        listener: ListenerId,
        addresses: ConnectionAddresses,
    ) {
        let from_there = self.by_address.entry(addresses.peer.ip()).or_default();
        let config = &self.config;
        let limit = if self.connections >= config.connections_max {
            Some(("limits.connections_max", config.connections_max))
        } else if *from_there >= config.connections_per_address_max {
            let max = config.connections_per_address_max;
            Some(("limits.connections_per_address_max", max))
        } else {
            None
        };
        if let Some((name, max)) = limit
            && let Some(count) = self.refusals.note(now)
        {
            let peer = addresses.peer;
            tracing::warn!("{peer}: connection refused by {name} = {max}; {count} of late");
        }
        if limit.is_some() || self.stop != Stop::Running {
            if *from_there == 0 {
                self.by_address.remove(&addresses.peer.ip());
            }
            self.counters.connections_refused += 1;
            self.ops.push_back(IoOp::Close { connection: id });
            return;
        }
        *from_there += 1;
        let slot = id.slot as usize;
        if self.table.len() <= slot {
            self.table.resize_with(slot + 1, || None);
        }
        assert!(
            self.table[slot].is_none(),
            "a slot is used by one at a time"
        );
        let door = usize::from(listener.0);
        let session = self.config.doors[door].protocol.open();
        self.table[slot] = Some(Entry {
            connection: Connection::new(now, id, addresses, session),
            door,
            held: Held::default(),
            timer: None,
            is_dirty: false,
        });
        self.connections += 1;
        self.touch(id.slot);
    }

    /// Calls a connection with everything around it, and looks at it again at the end of the turn.
    /// One that was refused at the door is not in the table, and nothing is to be done with it.
    fn with(
        &mut self,
        id: ConnectionId,
        call: impl FnOnce(&mut Connection<Session>, &mut Surroundings<'_>),
    ) {
        let entry = self.table.get(id.slot as usize).and_then(Option::as_ref);
        let Some(entry) = entry else {
            return;
        };
        assert_eq!(entry.connection.id(), id, "a slot's lives are apart");
        self.call(id.slot, |connection, around, _, _| call(connection, around));
        self.touch(id.slot);
    }

    /// Calls the connection in a slot, and counts anew what it holds.
    fn call(
        &mut self,
        slot: u32,
        call: impl FnOnce(
            &mut Connection<Session>,
            &mut Surroundings<'_>,
            &mut SendBuffers,
            &mut VecDeque<IoOp>,
        ),
    ) {
        let entry = &mut self.table[slot as usize];
        let entry = entry.as_mut().expect("the caller found it");
        let mut sink = Sink {
            shard: &mut self.shard,
            cluster: &self.config.doors[entry.door].cluster,
            connection: entry.connection.id(),
            addresses: entry.connection.addresses(),
            remembered_partitions_left: self
                .config
                .remembered_partitions_max
                .saturating_sub(self.held.partitions),
            refusals: &mut self.requests_refused,
        };
        let mut around = Surroundings {
            limits: &self.config.connection,
            budget: &mut self.budget,
            sink: &mut sink,
            stages: &mut self.stages,
        };
        let (buffers, ops) = (&mut self.buffers, &mut self.ops);
        call(&mut entry.connection, &mut around, buffers, ops);
        let held = entry.held_now();
        self.held.recount(&mut entry.held, held);
        self.note_held();
    }

    /// Tells the shard what of its answers is held here: it is asked for more all the time.
    fn note_held(&mut self) {
        let bytes = self.held.reply_bytes + self.postponed.bytes();
        self.shard.note_answers_held(bytes);
    }

    /// Notes that a connection may have something to do.
    fn touch(&mut self, slot: u32) {
        let entry = self.table[slot as usize].as_mut();
        if let Some(entry) = entry.filter(|entry| !entry.is_dirty) {
            entry.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Delivers outcomes and lets connections go on until nothing moves.
    fn settle(&mut self, now: Now) {
        loop {
            let is_delivered = self.deliver(now);
            if !is_delivered && self.dirty.is_empty() {
                return;
            }
            for slot in std::mem::take(&mut self.dirty) {
                self.look_at(now, slot);
            }
        }
    }

    fn counters(&self) -> [(&'static str, u64); 12] {
        let counters = &self.counters;
        [
            ("net_connections_now", self.connections as u64),
            ("net_connections_refused", counters.connections_refused),
            ("net_connections_timed_out", counters.connections_timed_out),
            ("net_assembly_bytes_now", self.budget.used() as u64),
            (
                "net_receives_blocked_by_log",
                counters.receives_blocked_by_log,
            ),
            (
                "net_receives_blocked_by_answers",
                counters.receives_blocked_by_answers,
            ),
            ("net_held_reply_bytes_now", self.held.reply_bytes as u64),
            ("net_remembered_partitions_now", self.held.partitions as u64),
            (
                "net_receives_starved_of_memory",
                counters.receives_starved_of_memory,
            ),
            ("net_sending_bytes_now", self.buffers.used() as u64),
            (
                "net_sends_starved_of_memory",
                counters.sends_starved_of_memory,
            ),
            ("net_timers_now", self.timers.len() as u64),
        ]
    }

    /// Takes from a connection what it has to do, and notes what it waits for.
    fn look_at(&mut self, now: Now, slot: u32) {
        let Some(entry) = &mut self.table[slot as usize] else {
            return;
        };
        entry.is_dirty = false;
        let was_closing = entry.connection.is_closing();
        self.call(slot, |connection, around, buffers, ops| {
            connection.poll_io(now, around, buffers, ops);
        });
        let entry = self.table[slot as usize].as_mut().expect("just called");
        if entry.connection.is_closing() && !was_closing {
            self.shard.cancel_connection(entry.connection.id());
        }
        if let Some(gate) = entry.connection.blocked_by()
            && self.blocked.insert(now, gate, slot)
        {
            match gate {
                Gate::Appends => self.counters.receives_blocked_by_log += 1,
                Gate::Questions => self.counters.receives_blocked_by_answers += 1,
            }
        }
        if !entry.connection.is_starved() {
            self.starved.remove(&slot);
        } else if self.starved.insert(slot) {
            self.counters.receives_starved_of_memory += 1;
        }
        if !entry.connection.is_queued() {
            self.queued.remove(&slot);
        } else if self.queued.insert(slot) {
            self.counters.sends_starved_of_memory += 1;
        }
        // A timer may be early, never late: it is moved only towards now, and looked at anew when
        // it fires.
        let due = entry.connection.poll_timeout(&self.config.connection);
        if let Some(due) = due.filter(|due| entry.timer.is_none_or(|timer| *due < timer)) {
            if let Some(timer) = entry.timer.replace(due) {
                self.timers.remove(&(timer, slot));
            }
            self.timers.insert((due, slot));
        }
    }

    fn handle_ended(&mut self, id: ConnectionId, errno: Option<i32>) {
        match errno {
            None => self.with(id, |open, _| open.handle_ended()),
            Some(errno) => {
                self.with(id, |open, _| open.handle_ended());
                self.log_close(id, &std::io::Error::from_raw_os_error(errno).to_string());
                self.close(id);
            }
        }
    }

    fn log_close(&self, id: ConnectionId, reason: &str) {
        if let Some(Some(entry)) = self.table.get(id.slot as usize) {
            let peer = entry.connection.addresses().peer;
            tracing::info!("{peer}: closing the connection: {reason}");
        }
    }

    /// Closes a connection at once.
    fn close(&mut self, id: ConnectionId) {
        if let Some(Some(entry)) = self.table.get_mut(id.slot as usize)
            && !entry.connection.is_closing()
        {
            entry.connection.close(&mut self.budget, &mut self.ops);
            self.shard.cancel_connection(id);
        }
    }

    /// The driver has nothing of a connection any more.
    fn forget(&mut self, id: ConnectionId) {
        let Some(mut entry) = self.table.get_mut(id.slot as usize).and_then(Option::take) else {
            return;
        };
        entry.connection.handle_closed(&mut self.budget);
        self.held.recount(&mut entry.held, Held::default());
        self.note_held();
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, id.slot));
        }
        self.blocked.forget(id.slot);
        self.starved.remove(&id.slot);
        self.queued.remove(&id.slot);
        self.connections -= 1;
        let address = entry.connection.addresses().peer.ip();
        let from_there = self.by_address.get_mut(&address);
        let from_there = from_there.expect("every connection is counted");
        *from_there -= 1;
        if *from_there == 0 {
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests;
