//! The seam between a worker and whoever performs its I/O: the io_uring driver or the simulator.
//!
//! Buffers move with an operation and come back with its completion. Received bytes are lent for
//! one call: small requests are served straight from the kernel's buffer. A large request is
//! received into memory of its own, so that its body is copied only once, into the log.

use std::net::SocketAddr;

use millrace_engine::command::ConnectionId;
use millrace_engine::jobs::{JobDone, JobOp};
use millrace_storage::disk::{DiskDone, DiskOp};

/// Which configured listener a connection came in on: its protocol and advertised address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// An operation for the driver.
#[derive(Debug)]
pub enum IoOp {
    /// Receive until told to stop; each arrival is one [`IoDone::Received`]. At most one kind of
    /// receive is under way on a connection.
    Receive {
        connection: ConnectionId,
        /// One arrival is enough: the driver may end it then, with [`IoDone::ReceiveStopped`].
        once: bool,
    },
    /// Stop receiving. Arrivals may still come until [`IoDone::ReceiveStopped`]. A
    /// [`IoOp::ReceiveInto`] comes back with ECANCELED, or with bytes that came first.
    StopReceive { connection: ConnectionId },
    /// Receive once into `buffer[from..]`. Comes back as [`IoDone::ReceivedInto`].
    ReceiveInto {
        connection: ConnectionId,
        buffer: Vec<u8>,
        from: usize,
    },
    /// Send all of `buffer`. At most one send is under way on a connection.
    Send {
        connection: ConnectionId,
        buffer: Vec<u8>,
    },
    /// Cancel what is under way and close. [`IoDone::Closed`] comes last, after every buffer.
    Close { connection: ConnectionId },
    /// Storage's business.
    Disk(DiskOp),
    /// Work too long for a turn.
    Job(JobOp),
}

/// Something happened.
#[derive(Debug)]
pub enum IoDone<'a> {
    /// A client connected. Nothing is received until [`IoOp::Receive`].
    Accepted {
        /// Its name until [`IoDone::Closed`].
        connection: ConnectionId,
        /// Where it came in.
        listener: ListenerId,
        /// The client's address.
        peer: SocketAddr,
        /// The address that the client reached us by.
        local: SocketAddr,
    },
    /// Bytes arrived; lent until the call returns.
    Received {
        connection: ConnectionId,
        bytes: &'a [u8],
    },
    /// A [`IoOp::ReceiveInto`] ended with `bytes` more in the buffer; 0 is the end of the stream.
    ReceivedInto {
        connection: ConnectionId,
        buffer: Vec<u8>,
        bytes: Result<usize, i32>,
    },
    /// A [`IoOp::Receive`] ended, by request or for want of buffers; nothing more arrives until
    /// the next one.
    ReceiveStopped { connection: ConnectionId },
    /// The peer closed its side, or the connection failed with this errno. Ends a
    /// [`IoOp::Receive`] as [`IoDone::ReceiveStopped`] does.
    Ended {
        connection: ConnectionId,
        errno: Option<i32>,
    },
    /// A [`IoOp::Send`] ended: all of it went out, or the connection failed with this errno.
    Sent {
        connection: ConnectionId,
        buffer: Vec<u8>,
        result: Result<(), i32>,
    },
    /// The connection is gone and its name is free.
    Closed { connection: ConnectionId },
    /// Storage's business.
    Disk(DiskDone),
    /// A job's result.
    Job(JobDone),
}
