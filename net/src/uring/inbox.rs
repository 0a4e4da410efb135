//! How other threads reach a shard's driver: bounded queues and a wake-up.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::{fmt, io};

use crossbeam_queue::ArrayQueue;
use millrace_engine::jobs::JobDone;
use millrace_engine::mesh::SleepFlag;
use millrace_engine::mesh::port::MeshPort;

use super::sys;
use crate::control::ControlRequest;
use crate::io::ListenerId;

/// Connections that another shard accepted and this one has not taken yet, at most.
const SOCKETS_MAX: usize = 1024;
/// Requests of the control thread that wait, at most.
const CONTROL_MAX: usize = 64;
/// Results of jobs that wait, at most. A job thread waits when they reach it.
const JOBS_MAX: usize = 1024;

/// The way to one shard's driver, from any thread. Cloning shares it.
#[derive(Clone)]
pub struct Remote(Arc<Inbox>);

struct Inbox {
    sockets: ArrayQueue<(TcpStream, ListenerId)>,
    control: ArrayQueue<ControlRequest>,
    jobs: ArrayQueue<JobDone>,
    /// The shard's, shared with its mesh rings.
    sleep: Arc<SleepFlag>,
    /// Its ring polls this.
    event: OwnedFd,
}

impl Remote {
    /// The way to the driver that will run the shard of `port`.
    ///
    /// # Errors
    /// The kernel has no descriptor to spare.
    pub fn to(port: &MeshPort) -> io::Result<Self> {
        let event = sys::event_counter().map_err(io::Error::from_raw_os_error)?;
        Ok(Self(Arc::new(Inbox {
            sockets: ArrayQueue::new(SOCKETS_MAX),
            control: ArrayQueue::new(CONTROL_MAX),
            jobs: ArrayQueue::new(JOBS_MAX),
            sleep: port.sleep_flag(),
            event,
        })))
    }

    /// Asks the shard's worker something.
    ///
    /// # Errors
    /// Too many requests wait; this one comes back.
    pub fn control(&self, request: ControlRequest) -> Result<(), ControlRequest> {
        self.0.control.push(request)?;
        self.wake_if_asleep();
        Ok(())
    }

    /// Hands over a connection that was accepted elsewhere.
    ///
    /// # Errors
    /// Too many wait; the connection comes back.
    pub(super) fn hand_over(
        &self,
        stream: TcpStream,
        listener: ListenerId,
    ) -> Result<(), TcpStream> {
        let pushed = self.0.sockets.push((stream, listener));
        pushed.map_err(|(stream, _)| stream)?;
        self.wake_if_asleep();
        Ok(())
    }

    /// Brings a job's result back.
    pub(super) fn job_done(&self, done: JobDone) -> Result<(), JobDone> {
        self.0.jobs.push(done)?;
        self.wake_if_asleep();
        Ok(())
    }

    fn wake_if_asleep(&self) {
        if self.0.sleep.must_wake() {
            self.wake();
        }
    }

    /// Wakes the shard's ring; its sleep flag said that it must be.
    pub(super) fn wake(&self) {
        if let Err(errno) = sys::count_event(self.0.event.as_fd()) {
            unreachable!("an open counter below 2^64 takes one more: errno {errno}");
        }
    }

    /// What the ring polls.
    pub(super) fn event_fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }

    pub(super) fn take_socket(&self) -> Option<(TcpStream, ListenerId)> {
        self.0.sockets.pop()
    }

    pub(super) fn take_control(&self) -> Option<ControlRequest> {
        self.0.control.pop()
    }

    pub(super) fn take_job(&self) -> Option<JobDone> {
        self.0.jobs.pop()
    }

    /// Whether nothing waits in it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.sockets.is_empty() && self.0.control.is_empty() && self.0.jobs.is_empty()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}
