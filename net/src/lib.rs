//! Wires: the io_uring driver, connections, and one room per protocol.
//!
//! [`io`] is the seam to the driver, [`session`] the seam to the protocol rooms.

pub mod connection;
pub mod control;
pub mod io;
pub mod kafka;
mod refusals;
pub mod reply_order;
pub mod session;
mod stages;
pub mod uring;
mod window;
pub mod worker;
