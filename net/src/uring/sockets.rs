//! A shard's listeners and connections on the ring.
//!
//! A connection has at most one receive (into provided buffers, multishot or once, or once into
//! memory of its own) and one send under way. Its slot and its descriptor are free only after every
//! completion is in: closing cancels what is under way and waits.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use millrace_engine::command::ConnectionId;
use millrace_storage::units::{BootTime, Now};

use super::buffers::{Buffers, GROUP};
use super::listener::Listener;
use super::ring::{Completion, Ring};
use super::token::{Kind, LIFE_COUNT, Token};
use crate::io::{IoDone, IoOp, ListenerId};
use crate::refusals::Refusals;

/// Where completions go: the worker.
pub type Deliver<'a> = dyn FnMut(IoDone<'_>) + 'a;

/// A shard's listeners and connections.
pub struct Sockets {
    buffers: Buffers,
    listeners: Vec<Listening>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Connections whose receive ended for want of buffers; armed again once some are back.
    starved: Vec<ConnectionId>,
    /// Kept to be closed when descriptors run out, so that a client can be told so.
    spare: Option<OwnedFd>,
    /// Connections at most: more would take the descriptors of the log.
    sockets_max: usize,
    /// Accepts ended for good: nothing is re-armed any more.
    is_stopping: bool,
    refusals: Refusals,
    counters: SocketCounters,
}

/// Counts since start, but for those ending in `_now`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Connections taken in, from a listener or another shard.
    pub accepted: u64,
    /// Connections open.
    pub connections_now: u64,
    /// Failed accepts.
    pub accept_errors: u64,
    /// Connections dropped at once, because descriptors are short.
    pub dropped_without_descriptor: u64,
    /// Arrivals of bytes.
    pub receives: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Receives that ended for want of provided buffers.
    pub receives_without_buffer: u64,
    /// Sends asked for by the worker.
    pub sends: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Sends that had to be continued.
    pub short_sends: u64,
}

/// A listener and its accept.
struct Listening {
    listener: Listener,
    is_armed: bool,
    /// After a failure, when to accept again.
    retry_at: Option<BootTime>,
}

/// A place in the connection table.
struct Slot {
    life: u32,
    socket: Option<Socket>,
}

/// One connection as the kernel knows it.
struct Socket {
    stream: TcpStream,
    receive: Receive,
    /// Receives into provided buffers take one arrival instead of all of them.
    receives_once: bool,
    sending: Option<Sending>,
    /// Cancellations whose own completions are not in yet.
    cancels: u32,
    is_closing: bool,
}

/// The receive that is under way.
enum Receive {
    None,
    /// Into provided buffers.
    Shared,
    /// Into provided buffers, being cancelled.
    Stopping,
    /// Ended for want of buffers, about to be armed again.
    Starved,
    /// Once, into memory of its own.
    Own(Vec<u8>),
    /// The same, being cancelled.
    OwnStopping(Vec<u8>),
}

/// The send that is under way.
struct Sending {
    buffer: Vec<u8>,
    /// Bytes that are out.
    sent: usize,
}

/// How long accepting pauses after a failure, milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

impl Sockets {
    /// No connections yet; [`Sockets::start`] begins to accept.
    #[must_use]
    pub fn new(listeners: Vec<Listener>, buffers: Buffers, sockets_max: usize) -> Self {
        Self {
            buffers,
            sockets_max,
            listeners: listeners.into_iter().map(Listening::new).collect(),
            slots: Vec::new(),
            free: Vec::new(),
            starved: Vec::new(),
            spare: spare_descriptor(),
            is_stopping: false,
            refusals: Refusals::default(),
            counters: SocketCounters::default(),
        }
    }

    /// Accepts on every listener.
    pub fn start(&mut self, ring: &mut Ring) {
        for index in 0..self.listeners.len() {
            self.arm_accept(ring, index);
        }
    }

    fn arm_accept(&mut self, ring: &mut Ring, index: usize) {
        let listening = &mut self.listeners[index];
        assert!(!listening.is_armed, "one accept at a time");
        listening.is_armed = true;
        listening.retry_at = None;
        let fd = types::Fd(listening.listener.raw_fd());
        let entry = opcode::AcceptMulti::new(fd)
            .flags(libc::SOCK_CLOEXEC)
            .build();
        // SAFETY: no memory is passed, and the listener stays until its accept has ended.
        unsafe { ring.push(entry, accept_token(index)) }
    }

    /// Takes a completion of kind [`Kind::Accept`]; gives the accepted socket, if there is one.
    pub fn handle_accept(
        &mut self,
        ring: &mut Ring,
        now: Now,
        completion: Completion,
    ) -> Option<(TcpStream, ListenerId)> {
        let index = completion.token.index as usize;
        let is_stopping = self.is_stopping;
        let listening = &mut self.listeners[index];
        listening.is_armed = completion.more;
        let accepted = match completion.outcome() {
            Ok(raw) => {
                // SAFETY: the kernel made this descriptor for our accept and told nobody else.
                let descriptor = unsafe { OwnedFd::from_raw_fd(raw as i32) };
                Some((TcpStream::from(descriptor), listening.listener.id))
            }
            Err(libc::ECANCELED) => None,
            Err(errno) => {
                self.counters.accept_errors += 1;
                tracing::warn!(
                    "accept failed: {}",
                    std::io::Error::from_raw_os_error(errno)
                );
                listening.retry_at = Some(now.boot.after_ms(ACCEPT_PAUSE_MS));
                if matches!(errno, libc::EMFILE | libc::ENFILE) {
                    self.drop_waiting(index);
                }
                None
            }
        };
        let listening = &self.listeners[index];
        if !listening.is_armed && listening.retry_at.is_none() && !is_stopping {
            self.arm_accept(ring, index);
        }
        accepted
    }

    /// Spends the spare descriptor on the connections that wait, one after the other: a refused
    /// client knows where it is, a hanging one does not.
    fn drop_waiting(&mut self, index: usize) {
        const DROPPED_AT_ONCE_MAX: usize = 64;
        self.spare = None;
        for _ in 0..DROPPED_AT_ONCE_MAX {
            if !self.listeners[index].listener.accept_and_drop() {
                break;
            }
            self.counters.dropped_without_descriptor += 1;
        }
        self.spare = spare_descriptor();
    }

    /// Takes in a connection, accepted here or by another shard.
    pub fn adopt(
        &mut self,
        now: Now,
        stream: TcpStream,
        listener: ListenerId,
        deliver: &mut Deliver<'_>,
    ) {
        if self.counters.connections_now >= self.sockets_max as u64 {
            self.counters.dropped_without_descriptor += 1;
            if let Some(count) = self.refusals.note(now) {
                let max = self.sockets_max;
                tracing::warn!(
                    "connection refused: the process may open files for {max} of a shard's \
                     connections (RLIMIT_NOFILE); {count} of late"
                );
            }
            return;
        }
        let addresses = stream.set_nodelay(true).and_then(|()| {
            let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
            Ok((peer, local))
        });
        let (peer, local): (SocketAddr, SocketAddr) = match addresses {
            Ok(addresses) => addresses,
            // Gone before we looked: nobody waits for an answer.
            Err(_) => return,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                life: 0,
                socket: None,
            });
            u32::try_from(self.slots.len() - 1).expect("connections fit 32 bits")
        });
        let place = &mut self.slots[slot as usize];
        assert!(place.socket.is_none(), "a free slot is empty");
        place.socket = Some(Socket::new(stream));
        let connection = ConnectionId {
            slot,
            life: place.life,
        };
        self.counters.accepted += 1;
        self.counters.connections_now += 1;
        deliver(IoDone::Accepted {
            connection,
            listener,
            peer,
            local,
        });
    }

    /// Starts a connection's operation.
    pub fn submit(&mut self, ring: &mut Ring, op: IoOp, deliver: &mut Deliver<'_>) {
        match op {
            IoOp::Receive { connection, once } => {
                self.socket(connection).receives_once = once;
                self.arm_receive(ring, connection);
            }
            IoOp::StopReceive { connection } => self.stop_receive(ring, connection, deliver),
            IoOp::ReceiveInto {
                connection,
                buffer,
                from,
            } => self.receive_into(ring, connection, buffer, from),
            IoOp::Send { connection, buffer } => self.send(ring, connection, buffer),
            IoOp::Close { connection } => self.close(ring, connection, deliver),
            IoOp::Disk(_) | IoOp::Job(_) => unreachable!("not a connection's operation"),
        }
    }

    fn arm_receive(&mut self, ring: &mut Ring, connection: ConnectionId) {
        let socket = self.socket(connection);
        assert!(
            matches!(socket.receive, Receive::None | Receive::Starved),
            "one receive at a time"
        );
        socket.receive = Receive::Shared;
        let entry = if socket.receives_once {
            // Length 0: as much as the chosen buffer holds.
            opcode::Recv::new(socket.fd(), std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(socket.fd(), GROUP).build()
        };
        // SAFETY: the kernel fills provided buffers, which outlive the ring's use of them, and the
        // socket stays until the receive has ended.
        unsafe { ring.push(entry, token(Kind::Receive, connection)) }
    }

    fn stop_receive(
        &mut self,
        ring: &mut Ring,
        connection: ConnectionId,
        deliver: &mut Deliver<'_>,
    ) {
        let socket = self.socket(connection);
        match socket.receive {
            Receive::Shared => {
                socket.receive = Receive::Stopping;
                self.cancel_receive(ring, connection, Kind::Receive);
            }
            Receive::Starved => {
                socket.receive = Receive::None;
                deliver(IoDone::ReceiveStopped { connection });
            }
            // It has ended by itself, and that is told.
            Receive::None | Receive::Stopping | Receive::OwnStopping(_) => {}
            // It ends with ECANCELED, or with bytes that came first.
            Receive::Own(ref mut buffer) => {
                let buffer = std::mem::take(buffer);
                socket.receive = Receive::OwnStopping(buffer);
                self.cancel_receive(ring, connection, Kind::ReceiveInto);
            }
        }
    }

    fn cancel_receive(&mut self, ring: &mut Ring, connection: ConnectionId, kind: Kind) {
        self.socket(connection).cancels += 1;
        let target = token(kind, connection).to_user_data();
        let entry = opcode::AsyncCancel::new(target).build();
        // SAFETY: no memory is passed.
        unsafe { ring.push(entry, token(Kind::Cancel, connection)) }
    }

    fn handle_cancelled(
        &mut self,
        ring: &mut Ring,
        connection: ConnectionId,
        completion: Completion,
    ) {
        let socket = self.socket(connection);
        socket.cancels -= 1;
        // A receive that is just running cannot be cancelled (EALREADY, or ENOENT while it moves
        // between the kernel's lists): ask again until it has ended.
        let is_missed = matches!(completion.outcome(), Err(libc::EALREADY | libc::ENOENT));
        let kind = match socket.receive {
            Receive::Stopping => Kind::Receive,
            Receive::OwnStopping(_) => Kind::ReceiveInto,
            Receive::None | Receive::Shared | Receive::Starved | Receive::Own(_) => return,
        };
        if is_missed && !socket.is_closing {
            self.cancel_receive(ring, connection, kind);
        }
    }

    fn receive_into(
        &mut self,
        ring: &mut Ring,
        connection: ConnectionId,
        mut buffer: Vec<u8>,
        from: usize,
    ) {
        let socket = self.socket(connection);
        assert!(
            matches!(socket.receive, Receive::None),
            "one receive at a time"
        );
        let room = &mut buffer[from..];
        assert!(!room.is_empty(), "a receive has room");
        let bytes = u32::try_from(room.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(socket.fd(), room.as_mut_ptr(), bytes).build();
        socket.receive = Receive::Own(buffer);
        // SAFETY: the buffer is owned by the socket's receive until its completion; moving the
        // vector keeps its memory in place.
        unsafe { ring.push(entry, token(Kind::ReceiveInto, connection)) }
    }

    fn send(&mut self, ring: &mut Ring, connection: ConnectionId, buffer: Vec<u8>) {
        self.counters.sends += 1;
        let socket = self.socket(connection);
        assert!(socket.sending.is_none(), "one send at a time");
        assert!(!buffer.is_empty(), "a send has bytes");
        socket.sending = Some(Sending { buffer, sent: 0 });
        self.push_send(ring, connection);
    }

    /// Hands the rest of a send to the kernel.
    fn push_send(&mut self, ring: &mut Ring, connection: ConnectionId) {
        let socket = self.socket(connection);
        let fd = socket.fd();
        let sending = socket.sending.as_ref().expect("a send is under way");
        let rest = &sending.buffer[sending.sent..];
        let bytes = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(fd, rest.as_ptr(), bytes)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        // SAFETY: the buffer is owned by the socket's send until its completion; moving the vector
        // keeps its memory in place.
        unsafe { ring.push(entry, token(Kind::Send, connection)) }
    }

    fn close(&mut self, ring: &mut Ring, connection: ConnectionId, deliver: &mut Deliver<'_>) {
        let socket = self.socket(connection);
        assert!(!socket.is_closing, "a connection is closed once");
        socket.is_closing = true;
        if matches!(socket.receive, Receive::Starved) {
            socket.receive = Receive::None;
        }
        if socket.is_busy() {
            // Shutting down ends what waits; cancelling ends what would wait all the same. A
            // socket that is not connected any more cannot be shut down and need not be.
            let _ = socket.stream.shutdown(Shutdown::Both);
            socket.cancels += 1;
            let all = types::CancelBuilder::fd(socket.fd()).all();
            let entry = opcode::AsyncCancel2::new(all).build();
            // SAFETY: no memory is passed.
            unsafe { ring.push(entry, token(Kind::Cancel, connection)) }
        }
        self.release_if_quiet(connection, deliver);
    }

    /// Takes a completion of a connection.
    pub fn handle(&mut self, ring: &mut Ring, completion: Completion, deliver: &mut Deliver<'_>) {
        let connection = self.connection_of(completion.token);
        match completion.token.kind {
            Kind::Receive => self.handle_received(ring, connection, completion, deliver),
            Kind::ReceiveInto => {
                let socket = self.socket(connection);
                let receive = std::mem::replace(&mut socket.receive, Receive::None);
                let (Receive::Own(buffer) | Receive::OwnStopping(buffer)) = receive else {
                    unreachable!("its completion ends it")
                };
                let bytes = completion.outcome().map(|bytes| bytes as usize);
                self.counters.receives += 1;
                self.counters.received_bytes += bytes.unwrap_or(0) as u64;
                deliver(IoDone::ReceivedInto {
                    connection,
                    buffer,
                    bytes,
                });
            }
            Kind::Send => self.handle_sent(ring, connection, completion, deliver),
            Kind::Cancel => self.handle_cancelled(ring, connection, completion),
            Kind::Disk | Kind::DiskSync | Kind::Accept | Kind::Wake => {
                unreachable!("not a connection's completion")
            }
        }
        self.release_if_quiet(connection, deliver);
    }

    fn handle_received(
        &mut self,
        ring: &mut Ring,
        connection: ConnectionId,
        completion: Completion,
        deliver: &mut Deliver<'_>,
    ) {
        let outcome = completion.outcome();
        if let Some(id) = completion.buffer {
            self.buffers.take(id);
            let bytes = outcome.unwrap_or(0) as usize;
            self.counters.receives += 1;
            self.counters.received_bytes += bytes as u64;
            if bytes > 0 && !self.socket(connection).is_closing {
                let bytes = self.buffers.filled(id, bytes);
                deliver(IoDone::Received { connection, bytes });
            }
            self.buffers.give_back(id);
        }
        if completion.more {
            return;
        }
        let socket = self.socket(connection);
        let was_stopping = matches!(socket.receive, Receive::Stopping);
        let was_enough = was_stopping || socket.receives_once;
        socket.receive = Receive::None;
        if socket.is_closing {
            return;
        }
        match outcome {
            Ok(0) => deliver(IoDone::Ended {
                connection,
                errno: None,
            }),
            Err(libc::ENOBUFS | libc::ECANCELED) if was_stopping => {
                deliver(IoDone::ReceiveStopped { connection });
            }
            Ok(_) if was_enough => deliver(IoDone::ReceiveStopped { connection }),
            Err(libc::ENOBUFS) => {
                socket.receive = Receive::Starved;
                self.counters.receives_without_buffer += 1;
                self.starved.push(connection);
            }
            // The kernel ends a multishot receive when its completion queue overflows.
            Ok(_) => self.arm_receive(ring, connection),
            Err(errno) => deliver(IoDone::Ended {
                connection,
                errno: Some(errno),
            }),
        }
    }

    fn handle_sent(
        &mut self,
        ring: &mut Ring,
        connection: ConnectionId,
        completion: Completion,
        deliver: &mut Deliver<'_>,
    ) {
        let outcome = completion.outcome();
        self.counters.sent_bytes += u64::from(outcome.unwrap_or(0));
        let socket = self.socket(connection);
        let is_closing = socket.is_closing;
        let sending = socket.sending.as_mut().expect("a send is under way");
        let result = match outcome {
            // A send of nothing would never end.
            Ok(0) => Err(libc::EPIPE),
            Ok(bytes) => {
                sending.sent += bytes as usize;
                if sending.sent < sending.buffer.len() && !is_closing {
                    self.counters.short_sends += 1;
                    return self.push_send(ring, connection);
                }
                Ok(())
            }
            Err(libc::EINTR) if !is_closing => return self.push_send(ring, connection),
            Err(errno) => Err(errno),
        };
        let sending = socket.sending.take().expect("a send is under way");
        let is_whole = sending.sent == sending.buffer.len();
        deliver(IoDone::Sent {
            connection,
            buffer: sending.buffer,
            result: result.and(if is_whole {
                Ok(())
            } else {
                Err(libc::ECANCELED)
            }),
        });
    }

    /// Frees a closing connection after its last completion.
    fn release_if_quiet(&mut self, connection: ConnectionId, deliver: &mut Deliver<'_>) {
        let slot = &mut self.slots[connection.slot as usize];
        let is_quiet = slot
            .socket
            .as_ref()
            .is_some_and(|socket| socket.is_closing && !socket.is_busy());
        if !is_quiet {
            return;
        }
        slot.socket = None;
        slot.life = (slot.life + 1) % LIFE_COUNT;
        self.free.push(connection.slot);
        self.counters.connections_now -= 1;
        deliver(IoDone::Closed { connection });
    }

    /// End of a turn, when lent buffers are back: arms the receives that lacked one, and the
    /// accepts whose pause is over.
    pub fn rearm(&mut self, ring: &mut Ring, now: Now) {
        for connection in std::mem::take(&mut self.starved) {
            let slot = &self.slots[connection.slot as usize];
            let is_waiting = slot.life == connection.life
                && slot.socket.as_ref().is_some_and(|socket| {
                    matches!(socket.receive, Receive::Starved) && !socket.is_closing
                });
            if is_waiting {
                self.arm_receive(ring, connection);
            }
        }
        for index in 0..self.listeners.len() {
            let listening = &self.listeners[index];
            let is_due = listening.retry_at.is_some_and(|at| at <= now.boot);
            if is_due && !listening.is_armed && !self.is_stopping {
                self.arm_accept(ring, index);
            }
        }
    }

    /// When [`Sockets::rearm`] has something to do that no completion announces.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let retries = self.listeners.iter().filter(|l| !l.is_armed);
        retries.filter_map(|listening| listening.retry_at).min()
    }

    /// Stops accepting.
    pub fn stop_accepting(&mut self, ring: &mut Ring) {
        self.is_stopping = true;
        for (index, listening) in self.listeners.iter().enumerate() {
            if listening.is_armed {
                let target = accept_token(index).to_user_data();
                let entry = opcode::AsyncCancel::new(target).build();
                // SAFETY: no memory is passed.
                unsafe { ring.push(entry, CANCEL_ACCEPT) }
            }
        }
    }

    /// Whether the kernel has nothing of ours: no accept, no connection.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.counters.connections_now == 0 && self.listeners.iter().all(|l| !l.is_armed)
    }

    /// Counts since start.
    #[must_use]
    pub fn counters(&self) -> SocketCounters {
        self.counters
    }

    fn connection_of(&self, token: Token) -> ConnectionId {
        let life = self.slots[token.index as usize].life;
        assert_eq!(life, token.life, "a completion finds its own connection");
        ConnectionId {
            slot: token.index,
            life,
        }
    }

    fn socket(&mut self, connection: ConnectionId) -> &mut Socket {
        let slot = &mut self.slots[connection.slot as usize];
        assert_eq!(slot.life, connection.life, "a name is used while it lives");
        slot.socket.as_mut().expect("a living name has a socket")
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if !self.is_quiet() {
            // The kernel may still read and write these buffers: their memory is given up.
            std::mem::forget(std::mem::take(&mut self.slots));
            self.buffers.leak();
        }
    }
}

impl Listening {
    fn new(listener: Listener) -> Self {
        Self {
            listener,
            is_armed: false,
            retry_at: None,
        }
    }
}

impl Socket {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            receive: Receive::None,
            receives_once: false,
            sending: None,
            cancels: 0,
            is_closing: false,
        }
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.stream.as_raw_fd())
    }

    /// Whether completions are to come.
    fn is_busy(&self) -> bool {
        let is_receiving = !matches!(self.receive, Receive::None | Receive::Starved);
        is_receiving || self.sending.is_some() || self.cancels > 0
    }
}

fn token(kind: Kind, connection: ConnectionId) -> Token {
    Token {
        kind,
        index: connection.slot,
        life: connection.life,
    }
}

fn accept_token(listener: usize) -> Token {
    Token {
        kind: Kind::Accept,
        index: u32::try_from(listener).expect("listeners are few"),
        life: 0,
    }
}

/// Names the cancellation of an accept. It answers to nobody: the accept's own end is what counts.
const CANCEL_ACCEPT: Token = Token {
    kind: Kind::Wake,
    index: u32::MAX,
    life: 0,
};

/// Any descriptor will do.
fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").map(OwnedFd::from).ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The kernel says so of a receive that is running, and it goes on.
    #[test]
    fn a_cancellation_that_missed_an_own_receive_is_repeated() {
        let mut ring = Ring::new(8).expect("the kernel gives a ring");
        let buffers = Buffers::register(&ring, 16, 4096).expect("the kernel takes buffers");
        let mut sockets = Sockets::new(Vec::new(), buffers, 1);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let _client = TcpStream::connect(address).expect("it listens");
        let (stream, _) = listener.accept().expect("a client came");
        let now = Now {
            boot: BootTime(1),
            wall_ms: 0,
        };
        sockets.adopt(now, stream, ListenerId(0), &mut |_| {});
        let connection = ConnectionId { slot: 0, life: 0 };
        let receive = IoOp::ReceiveInto {
            connection,
            buffer: vec![0; 4096],
            from: 0,
        };
        sockets.submit(&mut ring, receive, &mut |_| {});
        sockets.submit(&mut ring, IoOp::StopReceive { connection }, &mut |_| {});
        for errno in [libc::EALREADY, libc::ENOENT, 0] {
            assert_eq!(sockets.socket(connection).cancels, 1);
            let completion = Completion {
                token: token(Kind::Cancel, connection),
                result: -errno,
                more: false,
                buffer: None,
                more_in_socket: false,
            };
            sockets.handle(&mut ring, completion, &mut |_| {});
        }
        assert_eq!(sockets.socket(connection).cancels, 0, "it hit at last");
    }
}
