//! One connection: bytes in to its session, replies out, and when to stop reading.
//!
//! Small requests are served from the kernel's shared buffers, in place. A request that does not
//! fit one is received into a window of the connection's own, which grows only as bytes arrive, so
//! a length that a peer declares costs nothing. Back-pressure is a receive that is not armed.
//!
//! ```text
//!         Receive                  frame larger than a shared buffer
//! Idle ------------> Shared ----------------------------------------> Stopping
//!  ^  ^                 | stop: the session is full, or memory is       | ReceiveStopped
//!  |  +-----------------+<----------------------------------------------+
//!  |  ReceiveInto
//!  +-----------------> Own  (stays so while requests keep coming)
//! ```

mod arrivals;
mod buffers;

use std::collections::VecDeque;

use millrace_engine::command::ConnectionId;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::{BootTime, Now};

use crate::io::IoOp;
use crate::session::{
    CommandSink, ConnectionAddresses, Gate, Owed, ProtocolSession, ProtocolViolation,
};
use crate::stages::Stages;
use crate::window::{Budget, Window};
use arrivals::Arrivals;
pub(crate) use buffers::SendBuffers;

/// What one connection may take and how long it may dawdle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// A new connection must complete its first request within this, milliseconds, plus the time
    /// for what has arrived of it at `rate_bytes_per_s_min`.
    pub handshake_ms_max: u64,
    /// A connection on which nothing moved for so long is closed, milliseconds.
    pub idle_ms_max: u64,
    /// A request that has begun must be whole, and a reply taken, after this, milliseconds, plus
    /// the time for what has arrived, or for the reply, at `rate_bytes_per_s_min`.
    pub transfer_ms_max: u64,
    /// The slowest peer that is put up with, bytes a second.
    pub rate_bytes_per_s_min: u64,
    /// Bytes of one send; more replies wait in the session. Reading stops while one of that size
    /// is under way.
    pub send_bytes_max: usize,
    /// Size of the shared buffers, bytes: larger requests are received into a window.
    pub shared_buffer_bytes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            handshake_ms_max: 10_000,
            idle_ms_max: 600_000,
            transfer_ms_max: 30_000,
            rate_bytes_per_s_min: 16 << 10,
            send_bytes_max: 1 << 20,
            shared_buffer_bytes: 16 << 10,
        }
    }
}

impl ConnectionLimits {
    /// When a transfer of `bytes` that began at `since` is too slow.
    fn transfer_deadline(&self, since: BootTime, bytes: usize) -> BootTime {
        since.after_ms(self.transfer_ms_max.saturating_add(self.rate_ms(bytes)))
    }

    /// When a first request of which `bytes` are here is too slow.
    fn handshake_deadline(&self, opened: BootTime, bytes: usize) -> BootTime {
        opened.after_ms(self.handshake_ms_max.saturating_add(self.rate_ms(bytes)))
    }

    fn rate_ms(&self, bytes: usize) -> u64 {
        bytes as u64 * 1000 / self.rate_bytes_per_s_min.max(1)
    }
}

/// What a connection's calls need of its worker.
pub(crate) struct Surroundings<'a> {
    pub(crate) limits: &'a ConnectionLimits,
    pub(crate) budget: &'a mut Budget,
    pub(crate) sink: &'a mut dyn CommandSink,
    pub(crate) stages: &'a mut Stages,
}

/// One connection.
pub(crate) struct Connection<S> {
    id: ConnectionId,
    addresses: ConnectionAddresses,
    session: S,
    window: Window,
    arrivals: Arrivals,
    /// Bytes that the request at the front of the window needs in all, if known.
    need_bytes: usize,
    receive: Receive,
    /// Size of the next window to receive into; doubles as receives fill it.
    own_bytes: usize,
    /// When the request at the front of the window began to arrive, later by what it spent waiting
    /// for memory.
    request_since: Option<BootTime>,
    /// When the window last got a reservation, and what was in it then.
    reserved_since: (BootTime, usize),
    sending: Option<Sending>,
    phase: Phase,
    opened: BootTime,
    last_received: BootTime,
    last_active: BootTime,
    /// Its first request was whole.
    has_spoken: bool,
    /// Since when it waits for the budget.
    starved_since: Option<BootTime>,
    /// Waits until others' sends have ended.
    is_queued: bool,
    /// Waits until the shard accepts this again.
    blocked_by: Option<Gate>,
}

/// The receive that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Idle,
    /// Until stopped, or once.
    Shared {
        once: bool,
    },
    /// Stopping a shared one; its end has not come yet.
    Stopping,
    Own,
    /// Stopping an own one, to give its memory back.
    OwnStopping,
}

/// The send that is under way.
#[derive(Clone, Copy, Debug)]
struct Sending {
    bytes: usize,
    since: BootTime,
    /// When the oldest write that it acknowledges became durable.
    durable_at: Option<BootTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The peer closed its side. What had arrived is served, also where nobody waits for a reply,
    /// as with `acks=0`; then it leaves.
    Ended,
    /// No more input; replies go out as they become ready.
    Finishing,
    /// No more input since then: the peer broke the protocol or closed its side. Replies that are
    /// worth waiting for go out as they become ready; then it drains.
    Leaving {
        since: BootTime,
    },
    /// No more input; what is ready goes out, then it closes.
    Draining,
    /// Closing: the driver has been told.
    Closing,
}

/// Own windows begin with this, bytes.
const OWN_BYTES_MIN: usize = 64 << 10;
/// And grow to this while receives fill them, unless one request needs more.
const OWN_BYTES_MAX: usize = 256 << 10;
/// A window that one request made larger than this is given back after it.
const OWN_KEPT_BYTES_MAX: usize = 2 << 20;
/// A window may be this many times as large as what has arrived of a request.
const GROWTH: usize = 4;
/// Bytes of a large request that must be here before it gets a window of its own: a declared
/// length alone buys nothing.
const OWN_START_BYTES: usize = 4096;
/// Bytes that may wait for a session that is full before the socket is left alone.
const WAITING_BYTES_MAX: usize = 64 << 10;
/// An own window in which nothing arrives for so long is given back.
const OWN_IDLE_MS: u64 = 1_000;
/// A connection that leaves waits so long for a fetch that waits for records, milliseconds: twice
/// what clients let one wait by default.
const LEAVING_FETCH_MS: u64 = 1_000;
/// Replies of up to this many bytes are sent although sends have used up their memory.
const SHORT_SEND_BYTES: usize = 16 << 10;
/// A request with memory reserved may take so long while others wait for memory, milliseconds,
/// and the time for what has arrived of it at this rate, bytes a millisecond.
const RESERVED_MS: u64 = 5_000;
const RESERVED_BYTES_PER_MS: u64 = 1 << 10;

impl<S: ProtocolSession> Connection<S> {
    pub(crate) fn new(
        now: Now,
        id: ConnectionId,
        addresses: ConnectionAddresses,
        session: S,
    ) -> Self {
        Self {
            id,
            addresses,
            session,
            window: Window::default(),
            arrivals: Arrivals::default(),
            need_bytes: 0,
            receive: Receive::Idle,
            own_bytes: OWN_BYTES_MIN,
            request_since: None,
            reserved_since: (now.boot, 0),
            sending: None,
            phase: Phase::Open,
            opened: now.boot,
            last_received: now.boot,
            last_active: now.boot,
            has_spoken: false,
            starved_since: None,
            is_queued: false,
            blocked_by: None,
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn addresses(&self) -> ConnectionAddresses {
        self.addresses
    }

    /// Whether the driver has been told to close it.
    pub(crate) fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Whether it waits for the budget.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved_since.is_some()
    }

    /// When a request that has memory reserved arrives too slowly for those that wait for memory.
    pub(crate) fn receive_deadline(&self) -> Option<BootTime> {
        let is_missing = self.receive == Receive::Own && self.need_bytes > self.window.len();
        // Its replies are not taken, and so we do not go on with what it sent.
        let is_stuck =
            self.receive == Receive::Idle && self.sending.is_some() && self.blocked_by.is_none();
        let is_awaited = self.window.reserved() > 0 && (is_missing || is_stuck);
        let (since, had) = self.reserved_since;
        let arrived = self.window.len().saturating_sub(had);
        is_awaited.then(|| since.after_ms(RESERVED_MS + arrived as u64 / RESERVED_BYTES_PER_MS))
    }

    /// Whether it waits until others' sends have ended.
    pub(crate) fn is_queued(&self) -> bool {
        self.is_queued
    }

    /// Since when its send is under way.
    pub(crate) fn sending_since(&self) -> Option<BootTime> {
        let sending = self.sending.filter(|_| self.phase != Phase::Closing);
        sending.map(|sending| sending.since)
    }

    /// What it waits for.
    pub(crate) fn blocked_by(&self) -> Option<Gate> {
        self.blocked_by
    }

    /// What it waited for is accepted again.
    pub(crate) fn unblock(&mut self) {
        self.blocked_by = None;
    }

    /// Bytes of replies that wait to be sent.
    pub(crate) fn held_bytes(&self) -> usize {
        self.session.held_bytes()
    }

    /// See [`ProtocolSession::remembered_partitions`].
    pub(crate) fn remembered_partitions(&self) -> usize {
        self.session.remembered_partitions()
    }

    /// No more input is taken; what is ready goes out, then it closes.
    pub(crate) fn drain(&mut self) {
        if self.phase != Phase::Closing {
            self.phase = Phase::Draining;
        }
    }

    /// No more input is taken; replies go out as they become ready.
    pub(crate) fn stop_reading(&mut self) {
        if self.takes_input() {
            self.phase = Phase::Finishing;
        }
    }

    /// No more input is taken; what was taken is answered, if it is worth waiting for.
    fn leave(&mut self, now: Now) {
        if self.takes_input() {
            self.phase = Phase::Leaving { since: now.boot };
        }
    }

    /// No more arrives; what is here is still served.
    fn end_input(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Ended;
        }
    }

    /// Whether requests that are here are served.
    fn takes_input(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Ended)
    }

    /// Takes bytes from a shared buffer.
    pub(crate) fn handle_received(
        &mut self,
        now: Now,
        bytes: &[u8],
        around: &mut Surroundings<'_>,
    ) {
        self.note_arrival(now, bytes.len());
        if self.phase != Phase::Open {
            return;
        }
        if !self.window.is_empty() || !self.wants_input(around.limits) {
            self.window.append(bytes, around.budget);
            self.resume(now, around);
            return;
        }
        match self.feed(now, bytes, around) {
            Ok(taken) if taken == bytes.len() => {}
            Ok(taken) => self.window.append(&bytes[taken..], around.budget),
            Err(violation) => self.refuse(now, &violation),
        }
    }

    /// Takes the own window back.
    pub(crate) fn handle_received_into(
        &mut self,
        now: Now,
        (buffer, bytes): (Vec<u8>, Result<usize, i32>),
        around: &mut Surroundings<'_>,
    ) {
        let room = buffer.len() - self.window.len();
        self.window.take_back(buffer, bytes.unwrap_or(0));
        self.receive = Receive::Idle;
        if self.phase == Phase::Closing {
            return;
        }
        match bytes {
            Ok(0) => self.end_input(),
            Ok(bytes) => {
                self.note_arrival(now, bytes);
                if bytes == room {
                    self.own_bytes = (self.own_bytes * 2).min(OWN_BYTES_MAX);
                }
                self.resume(now, around);
                if self.window.is_empty() && bytes < around.limits.shared_buffer_bytes {
                    self.give_window_back(around.budget);
                }
            }
            // Stopped to give the memory back.
            Err(ECANCELED) => self.give_window_back(around.budget),
            Err(_) => self.phase = Phase::Draining,
        }
    }

    /// A shared receive ended by request.
    pub(crate) fn handle_receive_stopped(&mut self) {
        self.receive = Receive::Idle;
    }

    /// The peer closed its side, or the connection failed.
    pub(crate) fn handle_ended(&mut self) {
        self.receive = Receive::Idle;
        self.end_input();
    }

    /// A send ended. Gives its buffer back; after a failure the connection is of no use.
    #[must_use]
    pub(crate) fn handle_sent(
        &mut self,
        now: Now,
        result: Result<(), i32>,
        stages: &mut Stages,
    ) -> bool {
        let sent = self.sending.take();
        self.last_active = now.boot;
        if let Some(durable_at) = sent.and_then(|sent| sent.durable_at)
            && result.is_ok()
        {
            stages.note_reply(now, durable_at);
        }
        result.is_ok()
    }

    /// Takes the outcome of one of its commands.
    pub(crate) fn handle_outcome(
        &mut self,
        now: Now,
        sequence: u64,
        outcome: Result<Outcome, Refusal>,
        around: &mut Surroundings<'_>,
    ) {
        if self.phase == Phase::Closing {
            return;
        }
        self.session
            .handle_outcome(now, sequence, outcome, around.sink);
        self.resume(now, around);
    }

    /// Lets the session go on with what waits, if it wants to; whether that led to anything.
    pub(crate) fn resume(&mut self, now: Now, around: &mut Surroundings<'_>) -> bool {
        // What stands in a lent window is the front of a request whose rest is awaited.
        let is_lent = matches!(self.receive, Receive::Own | Receive::OwnStopping);
        let is_open = self.takes_input() && !is_lent;
        if !is_open || self.window.is_empty() || !self.wants_input(around.limits) {
            return false;
        }
        // The window is out of the connection while the session looks into it.
        let mut window = std::mem::take(&mut self.window);
        let taken = self.feed(now, window.bytes(), around);
        match taken {
            Ok(taken) => {
                window.consume(taken, around.budget);
                self.window = window;
                self.window.shrink_to(OWN_KEPT_BYTES_MAX, around.budget);
                if self.receive != Receive::Idle {
                    self.window.shrink(around.budget);
                }
                taken > 0
            }
            Err(violation) => {
                self.window = window;
                self.refuse(now, &violation);
                true
            }
        }
    }

    /// Shows `input` to the session until it takes no more. Returns what it took.
    fn feed(
        &mut self,
        now: Now,
        input: &[u8],
        around: &mut Surroundings<'_>,
    ) -> Result<usize, ProtocolViolation> {
        let mut taken_in_all = 0;
        // A request that waits for the shard: waiting for the peer would be for bytes that never
        // come.
        self.blocked_by = loop {
            let rest = &input[taken_in_all..];
            let taken = self.session.handle_input(now, rest, around.sink)?;
            assert!(taken.bytes <= rest.len(), "a session takes what is there");
            taken_in_all += taken.bytes;
            self.need_bytes = taken.need_bytes;
            self.has_spoken |= taken.bytes > 0;
            if taken.bytes > 0 {
                self.request_since = None;
            }
            if taken_in_all == input.len() {
                self.need_bytes = 0;
                break None;
            }
            if taken.bytes == 0 || !self.wants_input(around.limits) {
                break taken.waits_for;
            }
        };
        let is_left = taken_in_all < input.len();
        let is_waiting_for_peer = is_left && self.wants_input(around.limits);
        let stages = &mut *around.stages;
        self.arrivals
            .take(taken_in_all, is_waiting_for_peer, |arrived| {
                stages.note_parsed(arrived);
            });
        if is_waiting_for_peer {
            self.request_since.get_or_insert(now.boot);
        } else {
            self.request_since = None;
        }
        Ok(taken_in_all)
    }

    fn wants_input(&self, limits: &ConnectionLimits) -> bool {
        let is_choked = self
            .sending
            .is_some_and(|sending| sending.bytes >= limits.send_bytes_max);
        !is_choked && self.blocked_by.is_none() && self.session.wants_input()
    }

    fn note_arrival(&mut self, now: Now, bytes: usize) {
        self.arrivals.note(now.boot, bytes);
        self.last_received = now.boot;
        self.last_active = now.boot;
    }

    fn refuse(&mut self, now: Now, violation: &ProtocolViolation) {
        let peer = self.addresses.peer;
        tracing::info!("{peer}: closing the connection: {violation}");
        self.leave(now);
    }

    fn give_window_back(&mut self, budget: &mut Budget) {
        self.own_bytes = OWN_BYTES_MIN;
        self.window.shrink(budget);
    }

    /// Emits what is due: a send, a receive, a stop, the close.
    pub(crate) fn poll_io(
        &mut self,
        now: Now,
        around: &mut Surroundings<'_>,
        buffers: &mut SendBuffers,
        ops: &mut VecDeque<IoOp>,
    ) {
        self.poll_send(now, around, buffers, ops);
        // What just left may have made the session want more of what waits here, and what that is
        // answered at once goes out at once: nothing else would call for it.
        while self.resume(now, around) {
            self.poll_send(now, around, buffers, ops);
        }
        let is_served = self.window.is_empty() || self.wants_input(around.limits);
        if self.phase == Phase::Ended && is_served {
            self.leave(now);
        }
        if matches!(self.phase, Phase::Leaving { .. }) {
            self.free_window(around.budget);
            if self.session.owed() == Owed::Nothing {
                self.drain();
                self.poll_send(now, around, buffers, ops);
            }
        }
        if self.phase != Phase::Closing {
            self.poll_receive(now, around, ops);
        }
    }

    fn poll_send(
        &mut self,
        now: Now,
        around: &mut Surroundings<'_>,
        buffers: &mut SendBuffers,
        ops: &mut VecDeque<IoOp>,
    ) {
        if self.phase == Phase::Closing {
            return;
        }
        // Short replies pass: a producer's must not wait for consumers.
        let is_long = self.session.held_bytes() > SHORT_SEND_BYTES;
        self.is_queued = self.sending.is_none() && is_long && buffers.are_spent();
        if self.sending.is_none() && !self.is_queued {
            let mut buffer = buffers.take();
            let durable_at = self
                .session
                .poll_output(&mut buffer, around.limits.send_bytes_max);
            if !buffer.is_empty() {
                self.sending = Some(Sending {
                    bytes: buffer.len(),
                    since: now.boot,
                    durable_at,
                });
                buffers.begin(buffer.capacity());
                let connection = self.id;
                ops.push_back(IoOp::Send { connection, buffer });
            } else {
                buffers.keep(buffer);
                if self.phase == Phase::Draining {
                    self.close(around.budget, ops);
                }
            }
        }
    }

    fn poll_receive(&mut self, now: Now, around: &mut Surroundings<'_>, ops: &mut VecDeque<IoOp>) {
        let starved_since = self.starved_since.take();
        let connection = self.id;
        let wants_input = self.phase == Phase::Open && self.wants_input(around.limits);
        // What fits a shared buffer is always taken: its memory is bounded by the connections.
        let is_over =
            around.budget.is_spent() && self.window.len() >= around.limits.shared_buffer_bytes;
        let is_large = self.need_bytes > around.limits.shared_buffer_bytes;
        match self.receive {
            Receive::Idle if !wants_input => self.window.leave_queue(around.budget),
            Receive::Idle => match self.borrow_window(now, around) {
                Some((buffer, from)) => {
                    self.receive = Receive::Own;
                    ops.push_back(IoOp::ReceiveInto {
                        connection,
                        buffer,
                        from,
                    });
                }
                None if is_over || (is_large && self.wants_own_window(around.limits)) => {
                    self.starved_since = starved_since.or(Some(now.boot));
                }
                None => {
                    self.window.shrink(around.budget);
                    let once = around.budget.is_tight();
                    self.receive = Receive::Shared { once };
                    ops.push_back(IoOp::Receive { connection, once });
                }
            },
            Receive::Shared { once } => {
                let is_full = !wants_input && self.window.len() > WAITING_BYTES_MAX;
                let is_too_large = is_large && self.wants_own_window(around.limits);
                let is_too_open = around.budget.is_tight() && !once;
                if is_full || is_over || is_too_large || is_too_open {
                    self.receive = Receive::Stopping;
                    ops.push_back(IoOp::StopReceive { connection });
                }
            }
            Receive::Stopping | Receive::Own | Receive::OwnStopping => {}
        }
        if let Some(since) = starved_since.filter(|_| self.starved_since.is_none()) {
            self.forgive(now.boot.since_ns(since) / 1_000_000);
        }
    }

    /// Borrows the window for a receive of its own, if one is wanted and there is memory.
    fn borrow_window(
        &mut self,
        now: Now,
        around: &mut Surroundings<'_>,
    ) -> Option<(Vec<u8>, usize)> {
        if !self.wants_own_window(around.limits) {
            return None;
        }
        let before = self.window.reserved();
        // Only who knows that a request is large waits; others take shared buffers.
        let waits = self.need_bytes > around.limits.shared_buffer_bytes;
        let (bytes, need) = (self.window_bytes(), self.need_bytes);
        let lent = self.window.lend(bytes, need, waits, around.budget)?;
        if self.window.reserved() != before {
            self.reserved_since = (now.boot, self.window.len());
        }
        Some(lent)
    }

    /// The time that it waited for memory was not the peer's.
    fn forgive(&mut self, ms: u64) {
        self.request_since = self.request_since.map(|since| since.after_ms(ms));
        self.opened = self.opened.after_ms(ms);
    }

    /// Whether the request under way is worth a window, or the last ones were.
    fn wants_own_window(&self, limits: &ConnectionLimits) -> bool {
        let is_large = self.need_bytes > limits.shared_buffer_bytes;
        let has_window = self.window.capacity() >= OWN_BYTES_MIN;
        has_window || (is_large && self.window.len() >= OWN_START_BYTES)
    }

    /// Size of the window to receive into: enough for the request at the front, but no more than a
    /// few times what has arrived of it.
    fn window_bytes(&self) -> usize {
        let earned = (self.window.len() * GROWTH).max(OWN_BYTES_MIN);
        let wanted = self.need_bytes.max(self.own_bytes);
        wanted
            .min(earned.max(self.own_bytes))
            .max(self.window.len() + 1)
    }

    /// Tells the driver to close it; whatever is under way is of no interest any more.
    pub(crate) fn close(&mut self, budget: &mut Budget, ops: &mut VecDeque<IoOp>) {
        if self.phase == Phase::Closing {
            return;
        }
        self.phase = Phase::Closing;
        self.starved_since = None;
        self.free_window(budget);
        let connection = self.id;
        ops.push_back(IoOp::Close { connection });
    }

    /// Gives up what was not taken, unless the driver receives into it.
    fn free_window(&mut self, budget: &mut Budget) {
        if !matches!(self.receive, Receive::Own | Receive::OwnStopping) {
            self.window.release(budget);
        }
    }

    /// The driver has nothing of it any more.
    pub(crate) fn handle_closed(&mut self, budget: &mut Budget) {
        assert!(self.phase == Phase::Closing, "only we close a connection");
        self.window.release(budget);
    }

    /// Looks at what is due; `Err` says why the connection must be closed at once.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Now,
        limits: &ConnectionLimits,
        ops: &mut VecDeque<IoOp>,
    ) -> Result<(), ProtocolViolation> {
        if self.phase == Phase::Closing {
            return Ok(());
        }
        for (deadline, reason) in self.deadlines(limits).into_iter().flatten() {
            if deadline <= now.boot {
                return Err(ProtocolViolation {
                    reason: reason.to_owned(),
                });
            }
        }
        if self.own_idle_deadline().is_some_and(|at| at <= now.boot) {
            self.receive = Receive::OwnStopping;
            let connection = self.id;
            ops.push_back(IoOp::StopReceive { connection });
        }
        if self.session.poll_timeout().is_some_and(|at| at <= now.boot)
            && self.takes_input()
            && let Err(violation) = self.session.handle_timeout(now)
        {
            self.refuse(now, &violation);
        }
        let leaving = self.leaving_deadline(limits);
        if leaving.is_some_and(|at| at <= now.boot) {
            self.drain();
        }
        Ok(())
    }

    /// When [`Connection::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self, limits: &ConnectionLimits) -> Option<BootTime> {
        if self.phase == Phase::Closing {
            return None;
        }
        let of_session = match self.phase {
            Phase::Open | Phase::Ended => self.session.poll_timeout(),
            Phase::Finishing | Phase::Leaving { .. } | Phase::Draining | Phase::Closing => None,
        };
        let deadlines = self.deadlines(limits).into_iter().flatten();
        deadlines
            .map(|(deadline, _)| deadline)
            .chain(self.own_idle_deadline())
            .chain(self.leaving_deadline(limits))
            .chain(of_session)
            .min()
    }

    fn deadlines(&self, limits: &ConnectionLimits) -> [Option<(BootTime, &'static str)>; 4] {
        let idle = self.last_active.after_ms(limits.idle_ms_max);
        let handshake = limits.handshake_deadline(self.opened, self.window.len());
        // Whoever waits for us is not late.
        let is_read = self.takes_input() && self.starved_since.is_none();
        let is_held_up = !is_read || self.blocked_by.is_some();
        let request = self
            .request_since
            .filter(|_| is_read)
            .map(|since| limits.transfer_deadline(since, self.window.len()));
        let reply = self
            .sending
            .map(|sending| limits.transfer_deadline(sending.since, sending.bytes));
        [
            Some((idle, "idle for too long")),
            (!self.has_spoken && !is_held_up).then_some((handshake, "no whole request in time")),
            request.map(|at| (at, "a request arrived too slowly")),
            reply.map(|at| (at, "a reply was taken too slowly")),
        ]
    }

    /// When one that leaves has waited for its replies long enough.
    fn leaving_deadline(&self, limits: &ConnectionLimits) -> Option<BootTime> {
        let Phase::Leaving { since } = self.phase else {
            return None;
        };
        Some(match self.session.owed() {
            Owed::Nothing => since,
            Owed::Records => since.after_ms(LEAVING_FETCH_MS.min(limits.transfer_ms_max)),
            Owed::Work => since.after_ms(limits.transfer_ms_max),
        })
    }

    fn own_idle_deadline(&self) -> Option<BootTime> {
        let is_idle = self.receive == Receive::Own && self.window.is_empty();
        is_idle.then(|| self.last_received.after_ms(OWN_IDLE_MS))
    }
}

/// The errno of a receive that was stopped.
const ECANCELED: i32 = libc::ECANCELED;

#[cfg(test)]
mod tests;
