//! The only room that talks to the kernel: rings, sockets, files, clocks and threads' wake-ups.
//!
//! It performs the [`crate::io::IoOp`]s of one worker on one io_uring and hands the outcomes back
//! as [`crate::io::IoDone`]s. What the bytes mean is decided elsewhere. All unsafe code of this
//! crate is here, and one rule makes it sound: memory that the kernel may read or write is owned
//! by the in-flight entry of its operation, and leaves it only with the operation's last
//! completion.
//!
//! ```text
//! probe     what a start needs of kernel and file system, tried out
//! ring      one io_uring: set-up, submission, completions
//! token     what an operation is called while the kernel has it, and the table of such entries
//! buffers   the provided buffers that multishot receives fill
//! sys       the system calls that have no place in a ring, each as a safe function
//! files     one shard's directory: names, descriptors, and its operations one at a time
//! disk      the same operations on the ring
//! descriptors  how the process's descriptors are shared out
//! listener  listening sockets
//! sockets   accepts, receives, sends and closes on the ring
//! jobs      a few threads for long work
//! stall     whether a driver stood still, and may have missed what came in time
//! inbox     how other threads reach a driver, and wake it
//! driver    one shard's thread: the ring around a worker, turn by turn
//! ```
#![allow(unsafe_code)]

pub mod buffers;
pub mod descriptors;
pub mod disk;
pub mod driver;
pub mod files;
pub mod inbox;
pub mod jobs;
pub mod listener;
pub mod probe;
pub mod ring;
pub mod sockets;
pub mod spin;
mod stall;
pub mod sys;
pub mod token;
