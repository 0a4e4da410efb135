//! Transcripts: what a connection asks of its driver as bytes come and replies go.

use std::net::SocketAddr;

use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;

use super::*;
use crate::session::{ClusterView, Refused, Taken};

/// A protocol of lines: `^LENGTH:` then as many bytes is one request, answered by its length; `!`
/// breaks the protocol, `#` is answered only by `release`, `.` by nothing at all: only so many of
/// those are taken between two outputs. `%` is at work and `~` waits for records until an outcome
/// comes, and neither holds anything back.
#[derive(Default)]
struct Lines {
    replies: Vec<u8>,
    is_held: bool,
    requests: usize,
    silent: usize,
    owed: Option<Owed>,
    /// What the next output says of durability.
    durable_at: Option<BootTime>,
}

impl ProtocolSession for Lines {
    fn handle_input(
        &mut self,
        _now: Now,
        input: &[u8],
        sink: &mut dyn CommandSink,
    ) -> Result<Taken, ProtocolViolation> {
        let mut taken = Taken::default();
        while let Some(first) = input.get(taken.bytes).filter(|_| self.wants_input()) {
            match first {
                b'.' => {
                    self.silent += 1;
                    taken.bytes += 1;
                }
                b'!' => {
                    return Err(ProtocolViolation {
                        reason: "a line that begins with !".to_owned(),
                    });
                }
                b'#' => {
                    self.is_held = true;
                    taken.bytes += 1;
                }
                b'%' | b'~' => {
                    self.owed = Some(match first {
                        b'%' => Owed::Work,
                        _ => Owed::Records,
                    });
                    taken.bytes += 1;
                }
                b'@' if !sink.accepts_appends() => {
                    taken.waits_for = Some(Gate::Appends);
                    break;
                }
                _ => {
                    let rest = &input[taken.bytes..];
                    let Some(colon) = rest.iter().position(|byte| *byte == b':') else {
                        break;
                    };
                    let text = std::str::from_utf8(&rest[1..colon]).expect("digits");
                    let bytes = colon + 1 + text.parse::<usize>().expect("a length");
                    if rest.len() < bytes {
                        taken.need_bytes = bytes;
                        break;
                    }
                    taken.bytes += bytes;
                    self.requests += 1;
                    self.replies
                        .extend_from_slice(format!("{bytes};").as_bytes());
                }
            }
        }
        Ok(taken)
    }

    fn handle_outcome(
        &mut self,
        _now: Now,
        _sequence: u64,
        _outcome: Result<Outcome, Refusal>,
        _sink: &mut dyn CommandSink,
    ) {
        self.is_held = false;
        if self.owed.take().is_some() {
            self.replies.extend_from_slice(b"%;");
        }
    }

    fn handle_timeout(&mut self, _now: Now) -> Result<(), ProtocolViolation> {
        Ok(())
    }

    fn poll_timeout(&self) -> Option<BootTime> {
        None
    }

    fn poll_output(&mut self, out: &mut Vec<u8>, _out_bytes_max: usize) -> Option<BootTime> {
        out.append(&mut self.replies);
        self.silent = 0;
        self.durable_at.take()
    }

    fn held_bytes(&self) -> usize {
        self.replies.len()
    }

    fn remembered_partitions(&self) -> usize {
        0
    }

    fn wants_input(&self) -> bool {
        !self.is_held && self.silent < SILENT_MAX
    }

    fn owed(&self) -> Owed {
        self.owed.unwrap_or(Owed::Nothing)
    }
}

const SILENT_MAX: usize = 4;

/// Nobody submits commands here.
struct NoCommands {
    accepts_appends: bool,
}

impl CommandSink for NoCommands {
    fn submit(&mut self, _now: Now, _sequence: u64, _command: Command<'_>) {
        unreachable!("lines submit nothing")
    }

    fn cancel(&mut self, _sequence: u64) {
        unreachable!("lines cancel nothing")
    }

    fn catalog(&self) -> &Catalog {
        unreachable!("lines read no catalog")
    }

    fn cluster(&self) -> &ClusterView {
        unreachable!("lines are of no cluster")
    }

    fn addresses(&self) -> ConnectionAddresses {
        unreachable!("lines have no addresses")
    }

    fn accepts_appends(&self) -> bool {
        self.accepts_appends
    }

    fn accepts_questions(&self) -> bool {
        true
    }

    fn note_refusal(&mut self, _now: Now, _what: Refused) -> Option<u64> {
        unreachable!("lines are refused nothing")
    }

    fn remembered_partitions_left(&self) -> usize {
        usize::MAX
    }
}

/// A connection with everything around it.
struct World {
    connection: Connection<Lines>,
    limits: ConnectionLimits,
    budget: Budget,
    buffers: SendBuffers,
    sink: NoCommands,
    stages: Stages,
    now: Now,
}

const ID: ConnectionId = ConnectionId { slot: 3, life: 1 };

impl World {
    fn new(budget_bytes: usize) -> Self {
        let now = Now {
            boot: BootTime(1),
            wall_ms: 0,
        };
        let address: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let addresses = ConnectionAddresses {
            peer: address,
            local: address,
        };
        Self {
            connection: Connection::new(now, ID, addresses, Lines::default()),
            limits: ConnectionLimits::default(),
            budget: Budget::new(budget_bytes),
            buffers: SendBuffers::new(1 << 20),
            sink: NoCommands {
                accepts_appends: true,
            },
            stages: Stages::new(),
            now,
        }
    }

    fn with(&mut self, call: impl FnOnce(&mut Connection<Lines>, Now, &mut Surroundings<'_>)) {
        let mut around = Surroundings {
            limits: &self.limits,
            budget: &mut self.budget,
            sink: &mut self.sink,
            stages: &mut self.stages,
        };
        call(&mut self.connection, self.now, &mut around);
    }

    /// A send went out; whether the connection is of use yet.
    fn end_send(&mut self) -> bool {
        self.connection
            .handle_sent(self.now, Ok(()), &mut self.stages)
    }

    /// The values of a stage, milliseconds, each with its count.
    fn stage_ms(&self, name: &str) -> Vec<[u64; 2]> {
        let told = self.stages.report(Vec::new());
        let stage = told.iter().find(|stage| stage.name == name);
        let values = &stage.expect("a stage is told from the start").histogram;
        let in_ms = |[ns, count]: &[u64; 2]| [(*ns + 500_000) / 1_000_000, *count];
        values.iter().map(in_ms).collect()
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.with(|connection, now, around| connection.handle_received(now, bytes, around));
    }

    fn poll(&mut self) -> Vec<IoOp> {
        let mut ops = VecDeque::new();
        let mut around = Surroundings {
            limits: &self.limits,
            budget: &mut self.budget,
            sink: &mut self.sink,
            stages: &mut self.stages,
        };
        self.connection
            .poll_io(self.now, &mut around, &mut self.buffers, &mut ops);
        ops.into()
    }

    /// Polls and returns what was sent, acknowledging it; the other operations are dropped.
    fn sent(&mut self) -> String {
        let mut text = String::new();
        loop {
            let ops = self.poll();
            let mut is_sent = false;
            for op in ops {
                if let IoOp::Send { buffer, .. } = op {
                    text.push_str(std::str::from_utf8(&buffer).expect("digits"));
                    self.buffers.end(buffer);
                    assert!(self.end_send());
                    is_sent = true;
                }
            }
            if !is_sent {
                return text;
            }
        }
    }

    /// The outcome of what the session waits for.
    fn end_work(&mut self) {
        let outcome = Err(Refusal::UnknownTopic);
        self.with(|connection, now, around| connection.handle_outcome(now, 0, outcome, around));
    }

    fn pass(&mut self, ms: u64) -> Result<(), ProtocolViolation> {
        self.now.boot = self.now.boot.after_ms(ms);
        let mut ops = VecDeque::new();
        self.connection
            .handle_timeout(self.now, &self.limits, &mut ops)
    }
}

fn request(bytes: usize) -> Vec<u8> {
    let mut request = format!("^{bytes}:").into_bytes();
    request.resize(request.len() + bytes, b'x');
    request
}

#[test]
fn requests_cut_anywhere_are_answered_in_order() {
    let mut stream = Vec::new();
    for bytes in [0, 1, 300, 20] {
        stream.extend(request(bytes));
    }
    let whole = {
        let mut world = World::new(1 << 20);
        world.receive(&stream);
        world.sent()
    };
    assert_eq!(whole, "3;4;305;24;");
    for cut in 1..stream.len() {
        let mut world = World::new(1 << 20);
        world.receive(&stream[..cut]);
        world.receive(&stream[cut..]);
        assert_eq!(world.sent(), whole, "cut at {cut}");
        assert!(world.budget.used() <= 4096);
    }
}

#[test]
fn a_declared_length_buys_no_memory() {
    let mut world = World::new(1 << 30);
    assert!(matches!(world.poll()[..], [IoOp::Receive { .. }]));
    world.receive(b"^1000000000:");
    assert!(world.poll().is_empty());
    assert!(world.budget.used() < 100, "{} bytes", world.budget.used());
}

#[test]
fn a_large_request_is_received_into_a_window_that_grows_as_bytes_come() {
    let mut world = World::new(1 << 30);
    world.poll();
    let request = request(900_000);
    let (head, mut rest) = request.split_at(8192);
    world.receive(head);
    assert!(matches!(world.poll()[..], [IoOp::StopReceive { .. }]));
    world.connection.handle_receive_stopped();
    let mut sizes = Vec::new();
    while !rest.is_empty() {
        let ops = world.poll();
        let Some(IoOp::ReceiveInto {
            mut buffer, from, ..
        }) = ops.into_iter().next()
        else {
            panic!("a receive into the window")
        };
        sizes.push(buffer.len());
        let bytes = (buffer.len() - from).min(rest.len());
        buffer[from..from + bytes].copy_from_slice(&rest[..bytes]);
        rest = &rest[bytes..];
        world.with(|connection, now, around| {
            connection.handle_received_into(now, (buffer, Ok(bytes)), around);
        });
    }
    assert_eq!(world.sent(), format!("{};", request.len()));
    assert_eq!(sizes[0], OWN_BYTES_MIN);
    assert!(
        sizes.windows(2).all(|pair| pair[1] <= GROWTH * pair[0]),
        "{sizes:?}"
    );
    // Another one may follow at once; when none does, the memory goes back.
    assert!(world.budget.used() > 0);
}

#[test]
fn an_idle_window_is_given_back() {
    let mut world = World::new(1 << 30);
    world.poll();
    let large = request(30_000);
    world.receive(&large[..20_000]);
    world.poll();
    world.connection.handle_receive_stopped();
    let ops = world.poll();
    let [IoOp::ReceiveInto { .. }] = &ops[..] else {
        panic!("a window, not {ops:?}")
    };
    let Some(IoOp::ReceiveInto {
        mut buffer, from, ..
    }) = ops.into_iter().next()
    else {
        unreachable!("seen above")
    };
    let rest = &large[20_000..];
    buffer[from..from + rest.len()].copy_from_slice(rest);
    let bytes = rest.len();
    world.with(|connection, now, around| {
        connection.handle_received_into(now, (buffer, Ok(bytes)), around);
    });
    assert_eq!(world.sent(), "30007;");
    assert_eq!(
        world.budget.used(),
        0,
        "less than a shared buffer came last"
    );
}

#[test]
fn a_full_session_stops_the_socket_only_when_bytes_pile_up() {
    let mut world = World::new(1 << 30);
    world.poll();
    world.receive(b"#");
    assert!(world.poll().is_empty());
    world.receive(&request(10));
    assert!(world.poll().is_empty());
    world.receive(&request(WAITING_BYTES_MAX));
    assert!(matches!(world.poll()[..], [IoOp::StopReceive { .. }]));
    world.connection.handle_receive_stopped();
    assert!(world.poll().is_empty(), "nothing is armed while it is full");
    let reply = Err(Refusal::UnknownTopic);
    world.with(|connection, now, around| connection.handle_outcome(now, 0, reply, around));
    assert_eq!(world.connection.session.requests, 2);
    let ops = world.poll();
    assert!(matches!(ops[0], IoOp::Send { .. }));
    assert!(ops.len() == 2, "{ops:?}");
}

#[test]
fn a_whole_request_that_the_log_has_no_room_for_waits_for_the_log() {
    let mut world = World::new(1 << 20);
    world.poll();
    world.sink.accepts_appends = false;
    // An append with another behind it: nothing of either is missing.
    let append = b"@1:x@1:x";
    world.receive(append);
    assert!(world.connection.blocked_by().is_some());
    let ops = world.poll();
    assert!(
        !ops.iter().any(|op| matches!(op, IoOp::ReceiveInto { .. })),
        "no window is lent for bytes that never come: {ops:?}"
    );
    assert_eq!(world.connection.session.requests, 0);
    world
        .pass(20_000)
        .expect("the peer's first request is whole");
    world.sink.accepts_appends = true;
    world.connection.unblock();
    world.poll();
    assert_eq!(world.connection.session.requests, 2);
    assert!(world.connection.blocked_by().is_none());
}

#[test]
fn what_stands_behind_requests_without_an_answer_is_served_too() {
    let mut world = World::new(1 << 20);
    let silent = ".".repeat(5 * SILENT_MAX);
    world.receive(format!("{silent}^1:x").as_bytes());
    assert!(matches!(world.poll()[0], IoOp::Send { .. }));
    let mut world = World::new(1 << 20);
    world.receive(format!("{silent}!").as_bytes());
    let closed = world
        .poll()
        .iter()
        .any(|op| matches!(op, IoOp::Close { .. }));
    assert!(closed, "after what cannot be understood");
}

#[test]
fn what_a_resumed_request_is_answered_goes_out_in_the_same_turn() {
    let mut world = World::new(1 << 20);
    world.sink.accepts_appends = false;
    world.receive(b"@1:x");
    assert!(world.poll().is_empty());
    world.sink.accepts_appends = true;
    world.connection.unblock();
    assert!(matches!(world.poll()[0], IoOp::Send { .. }));
}

#[test]
fn a_request_that_is_not_whole_waits_for_its_peer_whatever_the_log_takes() {
    let mut world = World::new(1 << 20);
    world.poll();
    world.sink.accepts_appends = false;
    // Nobody knows yet how long it is.
    world.receive(b"^1");
    assert!(world.connection.blocked_by().is_none());
    world.pass(10_000).expect_err("no request in ten seconds");
}

#[test]
fn a_violation_sends_what_is_ready_and_closes() {
    let mut world = World::new(1 << 20);
    world.poll();
    world.receive(&[request(1), b"!".to_vec(), request(2)].concat());
    let ops = world.poll();
    assert!(matches!(&ops[..], [IoOp::Send { buffer, .. }] if buffer == b"4;"));
    world.receive(b"more");
    assert!(world.end_send());
    assert!(matches!(world.poll()[..], [IoOp::Close { connection: ID }]));
    assert!(world.poll().is_empty());
    world.connection.handle_closed(&mut world.budget);
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn what_came_before_a_violation_or_an_end_is_answered_before_the_close() {
    for violates in [true, false] {
        let mut world = World::new(1 << 20);
        world.poll();
        world.receive(b"%");
        if violates {
            world.receive(&[b"!".to_vec(), request(1)].concat());
        } else {
            world.connection.handle_ended();
        }
        // Longer than a first request may take: it is here.
        world.pass(20_000).expect("the peer owes nothing");
        assert!(world.poll().is_empty(), "it is at work");
        world.end_work();
        let ops = world.poll();
        assert!(matches!(&ops[..], [IoOp::Send { buffer, .. }] if buffer == b"%;"));
        assert!(world.end_send());
        assert!(matches!(world.poll()[..], [IoOp::Close { connection: ID }]));
    }
}

#[test]
fn replies_are_not_awaited_for_ever_when_the_connection_is_to_end() {
    for (request, ms) in [(b"%", 30_000), (b"~", LEAVING_FETCH_MS)] {
        let mut world = World::new(1 << 20);
        world.receive(request);
        world.poll();
        world.connection.handle_ended();
        assert!(world.poll().is_empty());
        let due = world.connection.poll_timeout(&world.limits);
        assert_eq!(due, Some(world.now.boot.after_ms(ms)));
        world.pass(ms - 1).expect("in time");
        assert!(world.poll().is_empty());
        world.pass(1).expect("the peer is not late");
        assert!(matches!(world.poll()[..], [IoOp::Close { connection: ID }]));
    }
}

#[test]
fn a_large_request_behind_a_violation_keeps_no_memory() {
    let mut world = World::new(1 << 20);
    world.receive(&[b"%#!".to_vec(), request(10_000)].concat());
    assert!(world.budget.used() >= 10_000);
    world.connection.session.is_held = false;
    assert!(world.poll().is_empty(), "it leaves");
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn what_arrived_before_the_peer_closed_is_served() {
    let mut world = World::new(1 << 20);
    world.poll();
    // The session is full when the end comes, and a part of a request stands last.
    world.receive(&[b"#".to_vec(), request(1), request(2), b"^9".to_vec()].concat());
    world.connection.handle_ended();
    let ops = world.poll();
    assert!(ops.is_empty(), "it waits for the session: {ops:?}");
    world.with(|connection, now, around| {
        connection.handle_outcome(now, 0, Err(Refusal::UnknownTopic), around);
    });
    assert_eq!(world.connection.session.requests, 2);
    let ops = world.poll();
    assert!(matches!(&ops[..], [IoOp::Send { buffer, .. }] if buffer == b"4;5;"));
    assert!(world.end_send());
    assert!(matches!(world.poll()[..], [IoOp::Close { connection: ID }]));

    let mut world = World::new(1 << 20);
    world.poll();
    world.connection.handle_ended();
    assert!(matches!(world.poll()[..], [IoOp::Close { connection: ID }]));
}

#[test]
fn slow_and_silent_peers_are_closed() {
    let mut world = World::new(1 << 20);
    world.pass(9_999).expect("in time");
    world.pass(1).expect_err("no request in ten seconds");

    let mut world = World::new(1 << 20);
    world.receive(&request(1));
    world.sent();
    // One byte now and then keeps nothing open.
    world.receive(b"^");
    for _ in 0..29 {
        world.receive(b"1");
        world.pass(1_000).expect("in time");
    }
    world.receive(b"1");
    world
        .pass(2_000)
        .expect_err("thirty seconds for one request");

    let mut world = World::new(1 << 20);
    world.receive(&request(1));
    world.sent();
    world.pass(599_999).expect("in time");
    world.pass(1).expect_err("idle for ten minutes");

    let mut world = World::new(1 << 20);
    world.receive(&request(1));
    world.poll();
    world.pass(29_999).expect("in time");
    world.pass(1_000).expect_err("the reply is not taken");
}

#[test]
fn a_spent_budget_makes_large_requests_wait() {
    let mut world = World::new(OWN_BYTES_MIN);
    let mut other = Window::default();
    world.receive(&request(1));
    world.sent();
    let lent = other.lend(40_000, 40_000, true, &mut world.budget);
    let (lent, _) = lent.expect("room");
    world.receive(&request(100_000)[..5_000]);
    world.poll();
    world.connection.handle_receive_stopped();
    assert!(world.poll().is_empty());
    assert!(world.connection.is_starved());
    // The time that it waits for us does not count as its own.
    world.pass(60_000).expect("not the peer's fault");
    other.take_back(lent, 0);
    other.release(&mut world.budget);
    assert!(world.budget.take_released());
    assert!(matches!(world.poll()[..], [IoOp::ReceiveInto { .. }]));
    assert!(!world.connection.is_starved());
    world.pass(29_000).expect("in time");
    world.pass(2_000).expect_err("its own thirty seconds");
}

#[test]
fn a_spent_budget_leaves_small_requests_alone() {
    let mut world = World::new(OWN_BYTES_MIN);
    let mut other = Window::default();
    world.poll();
    let lent = other.lend(OWN_BYTES_MIN, 0, true, &mut world.budget);
    let (lent, _) = lent.expect("room");
    let small = request(10_000);
    world.receive(&small[..9_000]);
    assert!(world.budget.is_spent());
    assert!(matches!(world.poll()[..], [IoOp::StopReceive { .. }]));
    world.connection.handle_receive_stopped();
    assert!(matches!(
        world.poll()[..],
        [IoOp::Receive { once: true, .. }]
    ));
    world.receive(&small[9_000..]);
    assert_eq!(world.sent(), format!("{};", small.len()));
    other.take_back(lent, 0);
    other.release(&mut world.budget);
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn a_slow_request_with_memory_has_its_time_and_what_arrives_adds_to_it() {
    let mut world = World::new(1 << 30);
    world.poll();
    world.receive(&request(10 << 20)[..8_192]);
    world.poll();
    world.connection.handle_receive_stopped();
    assert_eq!(world.connection.receive_deadline(), None);
    let ops = world.poll();
    let Some(IoOp::ReceiveInto { buffer, from, .. }) = ops.into_iter().next() else {
        panic!("a receive into the window")
    };
    let first = world.now.boot.after_ms(RESERVED_MS);
    assert_eq!(world.connection.receive_deadline(), Some(first));
    let bytes = buffer.len() - from;
    world.with(|connection, now, around| {
        connection.handle_received_into(now, (buffer, Ok(bytes)), around);
    });
    world.poll();
    let later = first.after_ms(bytes as u64 / RESERVED_BYTES_PER_MS);
    assert_eq!(world.connection.receive_deadline(), Some(later));
}

#[test]
fn short_replies_are_sent_although_the_memory_of_sends_is_spent() {
    let mut world = World::new(1 << 20);
    world.buffers = SendBuffers::new(0);
    assert!(world.buffers.are_spent());
    world.receive(&request(1));
    assert_eq!(world.sent(), "4;");
}

#[test]
fn sends_wait_for_others_when_their_memory_is_spent() {
    let mut world = World::new(1 << 20);
    world.buffers = SendBuffers::new(1);
    world.poll();
    world.receive(&request(1));
    let Some(IoOp::Send { buffer, .. }) = world.poll().pop() else {
        panic!("a send")
    };
    assert!(world.buffers.are_spent());
    let mut other = World::new(1 << 20);
    std::mem::swap(&mut world.buffers, &mut other.buffers);
    let many = SHORT_SEND_BYTES;
    other.receive(&request(2).repeat(many));
    assert!(matches!(other.poll()[..], [IoOp::Receive { .. }]));
    assert!(other.connection.is_queued());
    other.buffers.end(buffer);
    assert_eq!(other.sent(), "5;".repeat(many));
    assert!(!other.connection.is_queued());
}

#[test]
fn receives_are_for_one_arrival_while_memory_is_tight() {
    let mut world = World::new(OWN_BYTES_MIN);
    assert!(matches!(
        world.poll()[..],
        [IoOp::Receive { once: false, .. }]
    ));
    let mut other = Window::default();
    let lent = other.lend(OWN_BYTES_MIN, 0, true, &mut world.budget);
    let (lent, _) = lent.expect("room");
    assert!(world.budget.take_tightened());
    assert!(!world.budget.take_tightened());
    assert!(matches!(world.poll()[..], [IoOp::StopReceive { .. }]));
    world.connection.handle_receive_stopped();
    assert!(matches!(
        world.poll()[..],
        [IoOp::Receive { once: true, .. }]
    ));
    assert!(world.poll().is_empty());
    world.receive(&request(1));
    world.connection.handle_receive_stopped();
    other.take_back(lent, 0);
    other.release(&mut world.budget);
    let ops = world.poll();
    assert!(
        matches!(
            ops[..],
            [IoOp::Send { .. }, IoOp::Receive { once: false, .. }]
        ),
        "{ops:?}"
    );
}

#[test]
fn a_request_that_waits_for_the_session_is_parsed_when_that_takes_it() {
    let mut world = World::new(1 << 20);
    world.poll();
    world.receive(&request(3));
    world.receive(&[b"#".to_vec(), request(1), request(2)].concat());
    // A part of a request more, which came later than those that wait.
    world.pass(2).expect("in time");
    world.receive(b"^9:x");
    world.stages.end_turn(world.now);
    assert_eq!(
        world.stage_ms("parse"),
        [[2, 1]],
        "the first alone is through"
    );
    world.pass(5).expect("in time");
    world.with(|connection, now, around| {
        connection.handle_outcome(now, 0, Err(Refusal::UnknownTopic), around);
    });
    world.stages.end_turn(world.now);
    assert_eq!(world.stage_ms("parse"), [[2, 1], [7, 1]]);
    // What waited for the peer counts from its last byte.
    world.pass(20).expect("in time");
    world.receive(b"xxxxxxxx");
    world.pass(1).expect("in time");
    world.stages.end_turn(world.now);
    assert_eq!(world.stage_ms("parse"), [[1, 1], [2, 1], [7, 1]]);
}

#[test]
fn a_reply_counts_from_durability_to_the_end_of_its_send() {
    let mut world = World::new(1 << 20);
    world.poll();
    world.receive(&request(1));
    world.connection.session.durable_at = Some(world.now.boot);
    world.pass(3).expect("in time");
    assert!(matches!(world.poll()[..], [IoOp::Send { .. }]));
    world.pass(4).expect("in time");
    assert!(world.end_send());
    assert_eq!(world.stage_ms("reply"), [[7, 1]]);
    // One that acknowledges nothing does not count.
    world.receive(&request(1));
    assert_eq!(world.sent(), "4;");
    assert_eq!(world.stage_ms("reply"), [[7, 1]]);
}
