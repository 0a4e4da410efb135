//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use super::descriptors::DescriptorPlan;
use super::sys;
use crate::io::ListenerId;

/// A bound, listening socket.
#[derive(Debug)]
pub struct Listener {
    /// Its name to the worker.
    pub id: ListenerId,
    socket: TcpListener,
}

/// After a SIGKILL an address may stay busy for some milliseconds: binding is retried so long.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// Pause between two attempts to bind.
const BIND_PAUSE: Duration = Duration::from_millis(20);

impl Listener {
    /// Binds and listens (`SO_REUSEADDR`), retrying for two seconds while the address is in use.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(id: ListenerId, address: SocketAddr) -> io::Result<Self> {
        let give_up_at = Instant::now() + BIND_RETRY;
        let socket = loop {
            match TcpListener::bind(address) {
                Ok(socket) => break socket,
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up_at =>
                {
                    thread::sleep(BIND_PAUSE);
                }
                Err(error) => return Err(error),
            }
        };
        let backlog = DescriptorPlan::for_process(1, 0)?.backlog as i32;
        sys::listen(socket.as_fd(), backlog).map_err(io::Error::from_raw_os_error)?;
        // Not blocking, so that dropping a connection for want of descriptors never waits.
        socket.set_nonblocking(true)?;
        Ok(Self { id, socket })
    }

    /// The address that it is bound to, with the port that the kernel picked if none was asked for.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Accepts and drops one connection, so that its client sees an end and not a hang.
    pub(super) fn accept_and_drop(&self) -> bool {
        sys::accept_and_drop(self.socket.as_fd()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_busy_address_is_waited_for() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = Listener::bind(ListenerId(0), any).expect("a free port");
        let address = first.address().expect("bound");
        let holder = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        let second = Listener::bind(ListenerId(1), address).expect("free after a moment");
        TcpStream::connect(address).expect("listening");
        holder.join().expect("the holder ran");
        assert_eq!(second.id, ListenerId(1));
    }
}
