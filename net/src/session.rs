//! What a protocol room gives the connection, and what it gets.
//!
//! A session turns bytes into commands and outcomes into bytes. It owns no socket and reads no
//! clock: a transcript in, a transcript out.

use std::net::SocketAddr;

use millrace_engine::catalog::Catalog;
use millrace_engine::command::Command;
use millrace_engine::event::{Outcome, Refusal};
use millrace_storage::units::{BootTime, Now, ShardId};

use crate::kafka;

/// A protocol's side of a connection.
pub trait ProtocolSession {
    /// Takes whole requests from the front of `input`. Called again with what was not taken, and
    /// more behind it.
    ///
    /// # Errors
    /// The peer broke the protocol: the connection closes once what is owed is sent.
    fn handle_input(
        &mut self,
        now: Now,
        input: &[u8],
        sink: &mut dyn CommandSink,
    ) -> Result<Taken, ProtocolViolation>;

    /// Takes the terminal outcome of the command submitted under `sequence`.
    fn handle_outcome(
        &mut self,
        now: Now,
        sequence: u64,
        outcome: Result<Outcome, Refusal>,
        sink: &mut dyn CommandSink,
    );

    /// The time came that `poll_timeout` asked for.
    ///
    /// # Errors
    /// The peer did not do in time what the protocol asks of it.
    fn handle_timeout(&mut self, now: Now) -> Result<(), ProtocolViolation>;

    /// When to call `handle_timeout`.
    fn poll_timeout(&self) -> Option<BootTime>;

    /// Moves finished replies, in request order, to the end of `out`, until nothing is ready or
    /// `out` holds `out_bytes_max`; one reply may exceed it. Returns when the oldest of the writes
    /// that these replies acknowledge became durable.
    fn poll_output(&mut self, out: &mut Vec<u8>, out_bytes_max: usize) -> Option<BootTime>;

    /// Bytes of replies that wait for `poll_output`.
    fn held_bytes(&self) -> usize;

    /// Partitions that a reader's next requests need not name again, in memory until it is gone.
    fn remembered_partitions(&self) -> usize;

    /// Whether another request may be read now. `false` stops reading from the socket: the
    /// pipeline is full, or an earlier request must end first.
    fn wants_input(&self) -> bool;

    /// What a connection that takes no more input waits for before it closes.
    fn owed(&self) -> Owed;
}

/// The protocol that a connection speaks.
#[derive(Debug)]
pub enum Session {
    /// Kafka.
    Kafka(Box<kafka::Session>),
}

impl ProtocolSession for Session {
    fn handle_input(
        &mut self,
        now: Now,
        input: &[u8],
        sink: &mut dyn CommandSink,
    ) -> Result<Taken, ProtocolViolation> {
        match self {
            Self::Kafka(session) => session.handle_input(now, input, sink),
        }
    }

    fn handle_outcome(
        &mut self,
        now: Now,
        sequence: u64,
        outcome: Result<Outcome, Refusal>,
        sink: &mut dyn CommandSink,
    ) {
        match self {
            Self::Kafka(session) => session.handle_outcome(now, sequence, outcome, sink),
        }
    }

    fn handle_timeout(&mut self, now: Now) -> Result<(), ProtocolViolation> {
        match self {
            Self::Kafka(session) => session.handle_timeout(now),
        }
    }

    fn poll_timeout(&self) -> Option<BootTime> {
        match self {
            Self::Kafka(session) => session.poll_timeout(),
        }
    }

    fn poll_output(&mut self, out: &mut Vec<u8>, out_bytes_max: usize) -> Option<BootTime> {
        match self {
            Self::Kafka(session) => session.poll_output(out, out_bytes_max),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Kafka(session) => session.held_bytes(),
        }
    }

    fn remembered_partitions(&self) -> usize {
        match self {
            Self::Kafka(session) => session.remembered_partitions(),
        }
    }

    fn wants_input(&self) -> bool {
        match self {
            Self::Kafka(session) => session.wants_input(),
        }
    }

    fn owed(&self) -> Owed {
        match self {
            Self::Kafka(session) => session.owed(),
        }
    }
}

/// What `handle_input` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes taken from the front of the input.
    pub bytes: usize,
    /// Bytes that the request now at the front needs in all, if known; already within the
    /// protocol's limit. 0: unknown, or the session stopped by choice (`wants_input` is false), or
    /// it waits for a gate.
    pub need_bytes: usize,
    /// The request now at the front is whole and waits for this; `wants_input` is true all the
    /// same.
    pub waits_for: Option<Gate>,
}

/// What replies that are not ready wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// There are none, or they stand behind one that only other clients can bring about, or that
    /// cannot be made.
    Nothing,
    /// Only the last is awaited, and that waits for records.
    Records,
    /// The broker is at work on them.
    Work,
}

/// What a shard may not accept for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// The log takes no appends.
    Appends,
    /// There is no memory for answers.
    Questions,
}

/// Why a connection is closed on the peer's account. Logged, with the peer's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ProtocolViolation {
    /// What the peer did and what to do about it.
    pub reason: String,
}

/// Where a session's commands go: the worker's shard.
pub trait CommandSink {
    /// Submits a command. Its outcome comes back under `sequence`, which the session chooses,
    /// each one once; never before this call returns.
    fn submit(&mut self, now: Now, sequence: u64, command: Command<'_>);

    /// Withdraws a command whose outcome is no longer wanted; none will come.
    fn cancel(&mut self, sequence: u64);

    /// The shard's copy of the catalog.
    fn catalog(&self) -> &Catalog;

    /// Who answers where, as this connection should see it.
    fn cluster(&self) -> &ClusterView;

    /// The connection's own addresses.
    fn addresses(&self) -> ConnectionAddresses;

    /// Whether the log takes appends; `false`: leave produce requests in the socket.
    fn accepts_appends(&self) -> bool;

    /// Whether there is memory for answers; `false`: leave requests in the socket whose answer may
    /// be long.
    fn accepts_questions(&self) -> bool;

    /// Notes that a client was refused something that whoever runs the broker should hear of. How
    /// many times of late, if it is time for a line in the log.
    fn note_refusal(&mut self, now: Now, what: Refused) -> Option<u64>;

    /// Partitions that sessions of this shard may yet remember, all together.
    fn remembered_partitions_left(&self) -> usize;
}

/// What a client was refused. Each has lines of its own in the log, and none is silent for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A topic that was only asked for, past the limit of those.
    Creation,
    /// To write in transactions.
    Transactions,
    /// A setting, or a value of it.
    Setting,
    /// More replicas than there are, or a place that is none.
    Placement,
}

impl Refused {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Placement as usize + 1;
}

/// A connection's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionAddresses {
    /// The client's.
    pub peer: SocketAddr,
    /// Ours, as the client reached it: what an unset advertised address stands for.
    pub local: SocketAddr,
}

/// The broker as clients see it: one node, or one a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Kafka's cluster id: kept in the catalog from the first start on.
    pub cluster_id: String,
    /// The nodes in shard order; exactly one in one-port mode.
    pub nodes: Vec<Node>,
    /// Index into `nodes` of the one that this connection came in on.
    pub own: usize,
}

/// A broker node as a Kafka client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Node id: shard + 1; 1 in one-port mode.
    pub id: i32,
    /// The shard that it fronts; `None` in one-port mode, where one node fronts all.
    pub shard: Option<ShardId>,
    /// Advertised host; `None`: the address that the connection came in on.
    pub host: Option<String>,
    /// Advertised port.
    pub port: u16,
}
