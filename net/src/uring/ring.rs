//! One io_uring: set-up, submission, completions.
//!
//! The ring is created disabled, on any thread, and enabled by the thread that will run it: from
//! then on the kernel accepts submissions from that thread alone and runs completion work only
//! when it asks (`SINGLE_ISSUER`, `DEFER_TASKRUN`).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, Submitter, cqueue, opcode};

use super::token::Token;

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The operation.
    pub token: Token,
    /// A byte count or another positive answer, or a negative errno.
    pub result: i32,
    /// The operation has more completions to come.
    pub more: bool,
    /// The provided buffer that was filled.
    pub buffer: Option<u16>,
    /// More bytes were waiting in the socket when this receive ended.
    pub more_in_socket: bool,
}

impl Completion {
    /// The answer or the errno.
    ///
    /// # Errors
    /// The errno that the kernel answered with.
    pub fn outcome(&self) -> Result<u32, i32> {
        u32::try_from(self.result).map_err(|_| self.result.saturating_neg())
    }
}

/// What the ring has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// System calls into the ring.
    pub enters: u64,
    /// Operations pushed.
    pub submissions: u64,
    /// Completions reaped.
    pub completions: u64,
    /// Times that the submission queue filled within a turn and was flushed early.
    pub submission_queue_full: u64,
}

/// One io_uring.
pub struct Ring {
    ring: IoUring,
    counters: RingCounters,
}

impl Ring {
    /// A disabled ring with room for `entries` submissions and four times as many completions:
    /// one multishot receive answers many times.
    ///
    /// # Errors
    /// The kernel refuses the ring or its flags.
    pub fn new(entries: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(entries * 4)
            .build(entries)?;
        Ok(Self {
            ring,
            counters: RingCounters::default(),
        })
    }

    /// Makes the calling thread the ring's own.
    ///
    /// # Errors
    /// The ring was enabled before.
    pub fn enable(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    /// The first of our operations or features that the kernel does not have.
    pub(super) fn lacking(&self) -> io::Result<Option<&'static str>> {
        let params = self.ring.params();
        if !params.is_feature_nodrop() {
            return Ok(Some("IORING_FEAT_NODROP"));
        }
        if !params.is_feature_ext_arg() {
            return Ok(Some("IORING_FEAT_EXT_ARG"));
        }
        let mut probe = Probe::new();
        self.ring.submitter().register_probe(&mut probe)?;
        let mut operations = OPERATIONS.iter();
        let lacking = operations.find(|(operation, _)| !probe.is_supported(*operation));
        Ok(lacking.map(|(_, name)| *name))
    }

    /// Hands what is queued to the kernel and waits for a completion: for a trial, which does not
    /// assume that it works.
    pub(super) fn try_enter(&mut self, timeout: Duration) -> io::Result<()> {
        let timespec = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timespec);
        loop {
            match self.ring.submitter().submit_with_args(1, &arguments) {
                Ok(_) => return Ok(()),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// The ring's descriptor.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Counts since the ring was made.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Queues `entry` for the next submission.
    ///
    /// # Safety
    /// Memory and descriptors that `entry` names stay valid until its last completion.
    pub unsafe fn push(&mut self, entry: Entry, token: Token) {
        let entry = entry.user_data(token.to_user_data());
        // SAFETY: the caller's promise.
        unsafe { self.push_all(std::slice::from_ref(&entry)) }
    }

    /// Queues a chain: each entry but the last carries a link flag, all reach the kernel in one
    /// submission, which is what keeps the chain whole.
    ///
    /// # Safety
    /// As [`Ring::push`], for each entry.
    pub unsafe fn push_all(&mut self, entries: &[Entry]) {
        let room = {
            let queue = self.ring.submission();
            queue.capacity() - queue.len()
        };
        if room < entries.len() {
            self.counters.submission_queue_full += 1;
            self.submit();
        }
        self.counters.submissions += entries.len() as u64;
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.submission().push_multiple(entries) };
        assert!(pushed.is_ok(), "a flushed submission queue has room");
    }

    /// Hands what is queued to the kernel without waiting for anything.
    pub fn submit(&mut self) {
        loop {
            self.counters.enters += 1;
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => panic!("io_uring_enter failed: {error}"),
            }
            if self.ring.submission().is_empty() {
                return;
            }
        }
    }

    /// Hands what is queued to the kernel and waits for a completion, at most for `timeout`.
    pub fn submit_and_wait(&mut self, timeout: Duration) {
        self.counters.enters += 1;
        let timespec = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// Hands what is queued to the kernel and lets it finish what it can, without waiting.
    pub fn submit_and_run(&mut self) {
        self.counters.enters += 1;
        let queued = self.ring.submission().len() as u32;
        let (wait_for, no_argument) = (0, None::<&libc::sigset_t>);
        // SAFETY: the call takes no memory from us: deferred work runs because of GETEVENTS.
        let answer = unsafe {
            self.ring
                .submitter()
                .enter(queued, wait_for, ENTER_GETEVENTS, no_argument)
        };
        match answer {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// Whether completions can be reaped.
    pub fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Whether the kernel has work that it does when entered, and that may complete something.
    pub fn has_deferred_work(&mut self) -> bool {
        self.ring.submission().taskrun()
    }

    /// Moves the completions that are there to the end of `completions`.
    pub fn reap(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        for entry in self.ring.completion() {
            let flags = entry.flags();
            completions.push(Completion {
                token: Token::from_user_data(entry.user_data()),
                result: entry.result(),
                more: cqueue::more(flags),
                buffer: cqueue::buffer_select(flags),
                more_in_socket: cqueue::sock_nonempty(flags),
            });
        }
        self.counters.completions += (completions.len() - before) as u64;
    }
}

/// Every operation that the other files of this room push.
const OPERATIONS: [(u8, &str); 14] = [
    (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::Fallocate::CODE, "IORING_OP_FALLOCATE"),
    (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
    (opcode::LinkAt::CODE, "IORING_OP_LINKAT"),
    (opcode::Nop::CODE, "IORING_OP_NOP"),
    (opcode::OpenAt::CODE, "IORING_OP_OPENAT"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    (opcode::Read::CODE, "IORING_OP_READ"),
    (opcode::Recv::CODE, "IORING_OP_RECV"),
    (opcode::RenameAt::CODE, "IORING_OP_RENAMEAT"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::UnlinkAt::CODE, "IORING_OP_UNLINKAT"),
    (opcode::Write::CODE, "IORING_OP_WRITE"),
];

/// `IORING_ENTER_GETEVENTS`: run deferred work and look for completions.
const ENTER_GETEVENTS: u32 = 1;

/// Whether io_uring_enter may simply be called again: a signal, or a completion queue that
/// overflowed and drains as soon as it is reaped.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
    )
}
