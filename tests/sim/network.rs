//! A simulated network between clients and workers: a pipe each way, which may deliver one byte at
//! a time, late, or never.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use millrace_engine::command::ConnectionId;
use millrace_net::io::{IoDone, IoOp, ListenerId};
use millrace_storage::testing::Dice;

/// Errors that a broken connection reports.
const ECONNRESET: i32 = 104;
const ECANCELED: i32 = 125;
/// Bytes delivered at once, at most.
const CHUNK_BYTES_MAX: u64 = 16 << 10;

/// An [`IoDone`] that owns its bytes.
#[derive(Debug)]
pub(crate) enum NetDone {
    Accepted(ConnectionId),
    Received(ConnectionId, Vec<u8>),
    ReceivedInto(ConnectionId, Vec<u8>, Result<usize, i32>),
    ReceiveStopped(ConnectionId),
    Ended(ConnectionId, Option<i32>),
    Sent(ConnectionId, Vec<u8>, Result<(), i32>),
    Closed(ConnectionId),
}

impl NetDone {
    /// Hands this to `take` in the form that a worker takes.
    pub(crate) fn lend(self, take: impl FnOnce(IoDone<'_>)) {
        let client = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let broker = SocketAddr::from(([127, 0, 0, 1], 9_092));
        take(match self {
            Self::Accepted(connection) => IoDone::Accepted {
                connection,
                listener: ListenerId(0),
                peer: client,
                local: broker,
            },
            Self::Received(connection, ref bytes) => IoDone::Received { connection, bytes },
            Self::ReceivedInto(connection, buffer, bytes) => IoDone::ReceivedInto {
                connection,
                buffer,
                bytes,
            },
            Self::ReceiveStopped(connection) => IoDone::ReceiveStopped { connection },
            Self::Ended(connection, errno) => IoDone::Ended { connection, errno },
            Self::Sent(connection, buffer, result) => IoDone::Sent {
                connection,
                buffer,
                result,
            },
            Self::Closed(connection) => IoDone::Closed { connection },
        })
    }
}

/// How the broker receives on a connection.
#[derive(Debug, Default)]
enum Receiving {
    #[default]
    No,
    Until {
        stop: bool,
    },
    Into {
        buffer: Vec<u8>,
        from: usize,
        stop: bool,
    },
}

/// One connection, seen from the middle.
#[derive(Debug, Default)]
struct Pipe {
    to_broker: Vec<u8>,
    to_client: Vec<u8>,
    receiving: Receiving,
    /// What the broker is sending, and how much of it went out.
    sending: Option<(Vec<u8>, usize)>,
    /// The client sends nothing more.
    half_closed: bool,
    /// The connection failed.
    is_reset: bool,
    /// The broker was told of the end.
    end_was_told: bool,
    /// The broker wants it closed.
    closing: bool,
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pipes: BTreeMap<ConnectionId, Pipe>,
    next_slot: u32,
}

impl Network {
    /// A client connects.
    pub(crate) fn connect(&mut self) -> (ConnectionId, NetDone) {
        let connection = ConnectionId {
            slot: self.next_slot,
            life: 0,
        };
        self.next_slot += 1;
        self.pipes.insert(connection, Pipe::default());
        (connection, NetDone::Accepted(connection))
    }

    /// Whether the client can still use the connection.
    pub(crate) fn is_open(&self, connection: ConnectionId) -> bool {
        self.pipes
            .get(&connection)
            .is_some_and(|pipe| !pipe.is_reset && !pipe.half_closed)
    }

    /// The client sends.
    pub(crate) fn send(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if let Some(pipe) = self.pipes.get_mut(&connection) {
            pipe.to_broker.extend_from_slice(bytes);
        }
    }

    /// What the client receives, in part.
    pub(crate) fn receive(&mut self, connection: ConnectionId, dice: &mut Dice) -> Vec<u8> {
        let Some(pipe) = self.pipes.get_mut(&connection) else {
            return Vec::new();
        };
        let bytes = chunk(pipe.to_client.len(), dice);
        pipe.to_client.drain(..bytes).collect()
    }

    /// The client closes its side, or the network breaks the connection.
    pub(crate) fn hang_up(&mut self, connection: ConnectionId, reset: bool) {
        if let Some(pipe) = self.pipes.get_mut(&connection) {
            pipe.half_closed = true;
            if reset {
                pipe.is_reset = true;
                pipe.to_broker.clear();
                pipe.to_client.clear();
            }
        }
    }

    /// Performs what a worker asks of the network.
    pub(crate) fn handle(&mut self, op: IoOp) {
        match op {
            IoOp::Receive { connection, .. } => {
                let pipe = self.pipe(connection);
                assert!(
                    matches!(pipe.receiving, Receiving::No),
                    "{connection:?} receives twice"
                );
                pipe.receiving = Receiving::Until { stop: false };
            }
            IoOp::StopReceive { connection } => match &mut self.pipe(connection).receiving {
                Receiving::No => {}
                Receiving::Until { stop } | Receiving::Into { stop, .. } => *stop = true,
            },
            IoOp::ReceiveInto {
                connection,
                buffer,
                from,
            } => {
                let pipe = self.pipe(connection);
                assert!(
                    matches!(pipe.receiving, Receiving::No),
                    "{connection:?} receives twice"
                );
                assert!(from < buffer.len(), "{connection:?} receives into nothing");
                pipe.receiving = Receiving::Into {
                    buffer,
                    from,
                    stop: false,
                };
            }
            IoOp::Send { connection, buffer } => {
                let pipe = self.pipe(connection);
                assert!(pipe.sending.is_none(), "{connection:?} sends twice at once");
                assert!(!buffer.is_empty(), "{connection:?} sends nothing");
                pipe.sending = Some((buffer, 0));
            }
            IoOp::Close { connection } => {
                let pipe = self.pipe(connection);
                assert!(!pipe.closing, "{connection:?} is closed twice");
                pipe.closing = true;
            }
            IoOp::Disk(_) | IoOp::Job(_) => unreachable!("the world performs these"),
        }
    }

    fn pipe(&mut self, connection: ConnectionId) -> &mut Pipe {
        self.pipes
            .get_mut(&connection)
            .expect("an operation names an open connection")
    }

    /// Connections on which something may happen.
    pub(crate) fn connections(&self) -> Vec<ConnectionId> {
        self.pipes.keys().copied().collect()
    }

    /// Lets one thing happen on `connection`, if anything can.
    pub(crate) fn step(&mut self, connection: ConnectionId, dice: &mut Dice) -> Option<NetDone> {
        let pipe = self.pipes.get_mut(&connection)?;
        if pipe.closing {
            return Some(self.close(connection));
        }
        if pipe.sending.is_some() && (pipe.is_reset || dice.coin()) {
            return pipe.progress_send(connection, dice);
        }
        pipe.progress_receive(connection, dice)
    }

    /// A closing connection gives its buffers back one by one, and its name last.
    fn close(&mut self, connection: ConnectionId) -> NetDone {
        let pipe = self.pipe(connection);
        if let Some((buffer, _)) = pipe.sending.take() {
            return NetDone::Sent(connection, buffer, Err(ECANCELED));
        }
        match std::mem::take(&mut pipe.receiving) {
            Receiving::No => {}
            Receiving::Until { .. } => return NetDone::ReceiveStopped(connection),
            Receiving::Into { buffer, .. } => {
                return NetDone::ReceivedInto(connection, buffer, Err(ECANCELED));
            }
        }
        self.pipes.remove(&connection);
        NetDone::Closed(connection)
    }
}

impl Pipe {
    fn progress_send(&mut self, connection: ConnectionId, dice: &mut Dice) -> Option<NetDone> {
        let (buffer, sent) = self.sending.as_mut()?;
        if self.is_reset {
            let (buffer, _) = self.sending.take()?;
            return Some(NetDone::Sent(connection, buffer, Err(ECONNRESET)));
        }
        let bytes = chunk(buffer.len() - *sent, dice);
        self.to_client
            .extend_from_slice(&buffer[*sent..*sent + bytes]);
        *sent += bytes;
        if *sent < buffer.len() {
            return None;
        }
        let (buffer, _) = self.sending.take()?;
        Some(NetDone::Sent(connection, buffer, Ok(())))
    }

    fn progress_receive(&mut self, connection: ConnectionId, dice: &mut Dice) -> Option<NetDone> {
        let ended = self.to_broker.is_empty() && self.half_closed;
        let errno = self.is_reset.then_some(ECONNRESET);
        match &mut self.receiving {
            Receiving::No => None,
            Receiving::Until { stop } if *stop && dice.coin() => {
                self.receiving = Receiving::No;
                Some(NetDone::ReceiveStopped(connection))
            }
            Receiving::Until { .. } if ended => {
                if std::mem::replace(&mut self.end_was_told, true) {
                    return None;
                }
                self.receiving = Receiving::No;
                Some(NetDone::Ended(connection, errno))
            }
            Receiving::Until { .. } if self.to_broker.is_empty() => None,
            // The driver ran out of provided buffers.
            Receiving::Until { .. } if dice.one_in(64) => {
                self.receiving = Receiving::No;
                Some(NetDone::ReceiveStopped(connection))
            }
            Receiving::Until { .. } => {
                let bytes = chunk(self.to_broker.len(), dice);
                let bytes = self.to_broker.drain(..bytes).collect();
                Some(NetDone::Received(connection, bytes))
            }
            Receiving::Into { stop: true, .. } if dice.coin() => self.cancel_own(connection),
            Receiving::Into { .. } => self.receive_into(connection, ended, errno, dice),
        }
    }

    fn cancel_own(&mut self, connection: ConnectionId) -> Option<NetDone> {
        match std::mem::take(&mut self.receiving) {
            Receiving::Into { buffer, .. } => {
                Some(NetDone::ReceivedInto(connection, buffer, Err(ECANCELED)))
            }
            Receiving::No | Receiving::Until { .. } => None,
        }
    }

    fn receive_into(
        &mut self,
        connection: ConnectionId,
        ended: bool,
        errno: Option<i32>,
        dice: &mut Dice,
    ) -> Option<NetDone> {
        if self.to_broker.is_empty() && !ended {
            return None;
        }
        let Receiving::Into {
            mut buffer, from, ..
        } = std::mem::take(&mut self.receiving)
        else {
            return None;
        };
        let bytes = chunk(self.to_broker.len(), dice).min(buffer.len() - from);
        buffer[from..from + bytes].copy_from_slice(&self.to_broker[..bytes]);
        self.to_broker.drain(..bytes);
        let result = match errno {
            Some(errno) if ended => Err(errno),
            _ => Ok(bytes),
        };
        Some(NetDone::ReceivedInto(connection, buffer, result))
    }
}

/// How much of `bytes` arrives at once: often all, sometimes a single byte.
fn chunk(bytes: usize, dice: &mut Dice) -> usize {
    let all = (bytes as u64).min(CHUNK_BYTES_MAX);
    let part = match dice.below(4) {
        0 => all.min(1),
        1 if all > 0 => dice.between(1, all),
        _ => all,
    };
    usize::try_from(part).expect("a part of a buffer")
}
