//! One shard's thread: the ring around a worker, turn by turn.
//!
//! A turn reads the time, reaps completions, reads the time again, drains the inbox and the mesh,
//! lets the worker do what is due, and hands what the worker asks for to the kernel in one system
//! call, which also waits. Before it waits, an idle driver spins for a while: a message between two
//! cores takes 0.2 µs to somebody who spins and 40 µs to somebody who sleeps. While a commit is on
//! its way it spins for longer: a client waits for it, and the disk's answer is near.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use io_uring::{opcode, types};
use millrace_engine::jobs::JobOp;
use millrace_engine::mesh::port::MeshPort;
use millrace_engine::stages::{self, Stage, Unit};
use millrace_storage::error::StorageError;
use millrace_storage::units::{BootTime, Now, ShardId};

use super::buffers::Buffers;
use super::descriptors::DescriptorPlan;
use super::disk::Disk;
use super::files::Files;
use super::inbox::Remote;
use super::jobs::JobQueue;
use super::listener::Listener;
use super::probe::RingError;
use super::ring::{Completion, Ring};
use super::sockets::Sockets;
use super::spin::Spin;
use super::stall::Stall;
use super::sys;
use super::token::{Kind, Token};
use crate::control::{ControlAnswer, ControlReply};
use crate::io::{IoDone, IoOp, ListenerId};
use crate::worker::Worker;

/// How a driver runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverConfig {
    /// Operations that one turn hands over in one system call; more take another. A power of two.
    pub ring_entries: u32,
    /// Buffers that the kernel receives into; a power of two up to 32768.
    pub receive_buffers: u16,
    /// Size of each, bytes; whole pages.
    pub receive_buffer_bytes: usize,
    /// How long an idle driver spins before it sleeps, microseconds, where that pays.
    pub idle_spin_us: u64,
    /// The same while a commit is on its way to the disk.
    pub commit_spin_us: u64,
    /// Hand accepted connections to all shards in turn, instead of keeping them.
    pub deals_connections: bool,
    /// Log files of each shard, which stay open.
    pub wal_files: usize,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            ring_entries: 1024,
            receive_buffers: 1024,
            receive_buffer_bytes: 16 << 10,
            idle_spin_us: 20,
            commit_spin_us: 200,
            deals_connections: false,
            wal_files: 8,
        }
    }
}

/// What a driver drives.
pub struct DriverParts {
    /// The connections and the shard.
    pub worker: Worker,
    /// The shard's directory, with what start-up left open.
    pub files: Files,
    /// Bound listeners. Their ids index the worker's doors.
    pub listeners: Vec<Listener>,
    /// The shard's end of the mesh.
    pub mesh: MeshPort,
    /// The ways to all shards, in shard order; this one's own among them.
    pub remotes: Vec<Remote>,
    /// The threads for long work.
    pub jobs: JobQueue,
    /// Takes answers to the control thread. Must not block.
    pub replies: Box<dyn FnMut(ControlReply) + Send>,
}

/// One shard's driver.
pub struct Driver {
    // The ring goes first: nothing that the kernel may touch is freed before it.
    ring: Ring,
    sockets: Sockets,
    disk: Disk,
    worker: Worker,
    mesh: MeshPort,
    remotes: Vec<Remote>,
    own: Remote,
    jobs: JobQueue,
    /// Jobs that the pool had no room for.
    waiting_jobs: VecDeque<JobOp>,
    replies: Box<dyn FnMut(ControlReply) + Send>,
    idle_spin: Spin,
    commit_spin: Spin,
    deals_connections: bool,
    /// The shard that the next accepted connection goes to.
    next_shard: usize,
    is_stopping: bool,
    stall: Stall,
    counters: DriverCounters,
    /// How long turns take, the waiting between them left out.
    turn: Stage,
}

/// Why a driver ended.
#[derive(Debug)]
pub enum DriverEnd {
    /// A clean stop was asked for and is through.
    Stopped,
    /// The log failed: nothing more is acknowledged, and the process must end.
    Poisoned(StorageError),
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DriverCounters {
    turns: u64,
    sleeps: u64,
    /// Spins that ended with something to do.
    spins_rewarded: u64,
    spins_in_vain: u64,
    wakes_sent: u64,
    wakes_received: u64,
    connections_dealt: u64,
}

/// What wakes a ring that is polled for it.
const WAKE: Token = Token {
    kind: Kind::Wake,
    index: 0,
    life: 0,
};

/// Messages taken from the mesh in one turn: connections must not starve behind them.
const MESH_MESSAGES_PER_TURN_MAX: usize = 4096;

/// A sleep ends after this even if nothing is due.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// And after this while jobs wait for room in the pool: others' jobs leave it without a word to us.
const JOBS_PAUSE: Duration = Duration::from_millis(1);

/// After the log failed, clients are told what became of their requests for so long.
const LAST_WORDS_MS: u64 = 100;

impl Driver {
    /// Sets the ring up, on any thread.
    ///
    /// # Errors
    /// The kernel refuses the ring, its flags or its buffers, or has too few descriptors for us.
    pub fn new(config: DriverConfig, parts: DriverParts) -> Result<Self, RingError> {
        let ring = Ring::new(config.ring_entries).map_err(RingError::SetUp)?;
        let buffers = Buffers::register(&ring, config.receive_buffers, config.receive_buffer_bytes)
            .map_err(RingError::Buffers)?;
        let descriptors = DescriptorPlan::for_process(parts.remotes.len(), config.wal_files);
        let descriptors = descriptors.map_err(RingError::Descriptors)?;
        let mut files = parts.files;
        files.limit(descriptors.files_open_max);
        let idle_spin = Duration::from_micros(config.idle_spin_us);
        let own = parts.remotes[usize::from(parts.mesh.shard().0)].clone();
        Ok(Self {
            ring,
            sockets: Sockets::new(parts.listeners, buffers, descriptors.sockets_max),
            disk: Disk::new(files),
            worker: parts.worker,
            mesh: parts.mesh,
            remotes: parts.remotes,
            own,
            jobs: parts.jobs,
            waiting_jobs: VecDeque::new(),
            replies: parts.replies,
            idle_spin: Spin::new(idle_spin),
            commit_spin: Spin::new(idle_spin.max(Duration::from_micros(config.commit_spin_us))),
            deals_connections: config.deals_connections,
            next_shard: 0,
            is_stopping: false,
            stall: Stall::new(),
            counters: DriverCounters::default(),
            turn: Stage::new("turn", Unit::Nanoseconds),
        })
    }

    /// Serves until a clean stop is through or the log fails. The calling thread is the shard's
    /// from now on; pinning it is the caller's business.
    ///
    /// # Errors
    /// The ring cannot be enabled.
    pub fn run(mut self) -> io::Result<DriverEnd> {
        self.ring.enable()?;
        self.sockets.start(&mut self.ring);
        self.arm_wake();
        let mut completions = Vec::new();
        let mut last_words_until: Option<BootTime> = None;
        loop {
            let now = sys::now();
            self.turn(now, &mut completions);
            self.turn.record(sys::now().boot.since_ns(now.boot));
            if self.worker.is_stopped() && self.is_quiet() {
                return Ok(DriverEnd::Stopped);
            }
            if let Some(error) = self.worker.poisoned() {
                let until = *last_words_until.get_or_insert(now.boot.after_ms(LAST_WORDS_MS));
                if now.boot >= until {
                    return Ok(DriverEnd::Poisoned(error.clone()));
                }
            }
            self.wait(now, last_words_until);
        }
    }

    /// Whether the kernel has nothing of ours but the wake-up.
    fn is_quiet(&self) -> bool {
        self.sockets.is_quiet() && self.disk.in_flight() == 0
    }

    fn turn(&mut self, now: Now, completions: &mut Vec<Completion>) {
        self.counters.turns += 1;
        self.stall.begin_turn(now.boot);
        self.ring.reap(completions);
        for completion in completions.drain(..) {
            self.handle(now, completion);
        }
        // What was received is handed over by now: the rest of the turn goes by this, so that the
        // first half's time is told (`parse`) and is not counted as the disk's.
        let now = if stages::IS_RECORDING {
            sys::now()
        } else {
            now
        };
        self.drain_inbox(now);
        for _ in 0..MESH_MESSAGES_PER_TURN_MAX {
            let Some((from, message)) = self.mesh.receive() else {
                break;
            };
            self.worker.handle_mesh(now, from, message);
        }
        if self.worker_due().is_some_and(|at| at <= now.boot) {
            self.worker.handle_timeout(now);
        }
        // Operations may be answered at once, and the answers lead to more.
        while {
            self.worker.end_turn(now);
            self.carry_out(now)
        } {}
        self.send_mesh();
        while let Some(mut reply) = self.worker.poll_control() {
            self.add_counters(&mut reply.answer);
            (self.replies)(reply);
        }
        self.sockets.rearm(&mut self.ring, now);
        if self.worker.is_stopping() && !self.is_stopping {
            self.is_stopping = true;
            self.sockets.stop_accepting(&mut self.ring);
        }
    }

    /// When the worker's next deadline is due, or may be looked at after the thread stood still.
    fn worker_due(&self) -> Option<BootTime> {
        self.worker.poll_timeout().map(|at| self.stall.due(at))
    }

    fn handle(&mut self, now: Now, completion: Completion) {
        match completion.token.kind {
            Kind::Disk | Kind::DiskSync => {
                self.disk.handle(&mut self.ring, completion);
                while let Some(done) = self.disk.poll_done() {
                    self.worker.handle_io(now, IoDone::Disk(done));
                }
            }
            Kind::Receive | Kind::ReceiveInto | Kind::Send | Kind::Cancel => {
                let worker = &mut self.worker;
                self.sockets
                    .handle(&mut self.ring, completion, &mut |done| {
                        worker.handle_io(now, done);
                    });
            }
            Kind::Accept => {
                let accepted = self.sockets.handle_accept(&mut self.ring, now, completion);
                if let Some((stream, listener)) = accepted {
                    self.deal(now, stream, listener);
                }
            }
            Kind::Wake if completion.token == WAKE => {
                self.counters.wakes_received += 1;
                if !completion.more {
                    self.arm_wake();
                }
            }
            // The end of a cancelled accept is told by the accept.
            Kind::Wake => {}
        }
    }

    /// Gives an accepted connection to the shard whose turn it is.
    fn deal(&mut self, now: Now, mut stream: std::net::TcpStream, listener: ListenerId) {
        if self.deals_connections {
            let target = self.next_shard;
            self.next_shard = (target + 1) % self.remotes.len();
            if target != usize::from(self.mesh.shard().0) {
                match self.remotes[target].hand_over(stream, listener) {
                    Ok(()) => {
                        self.counters.connections_dealt += 1;
                        return;
                    }
                    // Its hands are full: ours take it.
                    Err(returned) => stream = returned,
                }
            }
        }
        self.adopt(now, stream, listener);
    }

    fn adopt(&mut self, now: Now, stream: std::net::TcpStream, listener: ListenerId) {
        let worker = &mut self.worker;
        self.sockets.adopt(now, stream, listener, &mut |done| {
            worker.handle_io(now, done);
        });
    }

    fn drain_inbox(&mut self, now: Now) {
        while let Some((stream, listener)) = self.own.take_socket() {
            self.adopt(now, stream, listener);
        }
        while let Some(request) = self.own.take_control() {
            self.worker.handle_control(now, request);
        }
        while let Some(done) = self.own.take_job() {
            self.worker.handle_io(now, IoDone::Job(done));
        }
        while let Some(job) = self.waiting_jobs.pop_front() {
            if let Err(job) = self.jobs.push(job, &self.own) {
                self.waiting_jobs.push_front(job);
                break;
            }
        }
    }

    /// Hands the worker's operations to the kernel; whether any was answered at once.
    fn carry_out(&mut self, now: Now) -> bool {
        let mut is_answered = false;
        while let Some(op) = self.worker.poll_io() {
            match op {
                IoOp::Disk(op) => self.disk.submit(&mut self.ring, op),
                IoOp::Job(job) => {
                    if let Err(job) = self.jobs.push(job, &self.own) {
                        self.waiting_jobs.push_back(job);
                    }
                }
                op => {
                    let worker = &mut self.worker;
                    self.sockets.submit(&mut self.ring, op, &mut |done| {
                        is_answered = true;
                        worker.handle_io(now, done);
                    });
                }
            }
        }
        while let Some(done) = self.disk.poll_done() {
            is_answered = true;
            self.worker.handle_io(now, IoDone::Disk(done));
        }
        is_answered
    }

    fn send_mesh(&mut self) {
        while let Some((to, message)) = self.worker.poll_mesh() {
            self.mesh.send(to, message);
        }
        let (remotes, counters) = (&self.remotes, &mut self.counters);
        self.mesh.flush(|ShardId(shard)| {
            counters.wakes_sent += 1;
            remotes[usize::from(shard)].wake();
        });
    }

    /// Submits, and waits for something to do: spinning first where that pays, asleep then.
    fn wait(&mut self, now: Now, wake_at: Option<BootTime>) {
        let time_left = self.time_to_sleep(now, wake_at);
        let look_by = BootTime(now.boot.0 + time_left.as_nanos() as u64);
        self.stall.expect(look_by);
        self.ring.submit_and_run();
        if time_left.is_zero() || self.ring.has_completions() {
            return;
        }
        let is_committing = self.disk.is_committing();
        let worth = self.spin_of(is_committing).worth().min(time_left);
        let began = Instant::now();
        let is_found = !worth.is_zero() && self.spin(began + worth);
        let slept = !is_found && self.sleep(time_left.saturating_sub(worth));
        self.spin_of(is_committing).record(began.elapsed(), slept);
    }

    fn spin_of(&mut self, is_committing: bool) -> &mut Spin {
        if is_committing {
            &mut self.commit_spin
        } else {
            &mut self.idle_spin
        }
    }

    /// Waits in the kernel; whether it did: not if something has come.
    fn sleep(&mut self, time_left: Duration) -> bool {
        // From here on whoever brings work wakes the ring. What came before is seen now.
        if !self.mesh.prepare_sleep() {
            return false;
        }
        let sleeps = self.own.is_empty();
        if sleeps {
            self.counters.sleeps += 1;
            self.ring.submit_and_wait(time_left);
            // A signal ends a sleep before deferred work is done, as when the process was stopped
            // and goes on. What came meanwhile is seen before what is due.
            if self.ring.has_deferred_work() {
                self.ring.submit_and_run();
            }
        }
        self.mesh.wake_up();
        sleeps
    }

    /// Looks for something to do for a while; whether there is. Each look lets others have the
    /// core: the kernel ends a commit in a thread of its own, on the core that took the disk's
    /// interrupt, and a spin that kept it out would wait for itself.
    fn spin(&mut self, until: Instant) -> bool {
        while Instant::now() < until {
            if self.ring.has_deferred_work() {
                self.ring.submit_and_run();
            }
            let has_message = self.mesh.has_received() || !self.own.is_empty();
            if has_message || self.ring.has_completions() {
                self.counters.spins_rewarded += 1;
                return true;
            }
            std::thread::yield_now();
        }
        self.counters.spins_in_vain += 1;
        false
    }

    fn time_to_sleep(&self, now: Now, wake_at: Option<BootTime>) -> Duration {
        let due = [self.worker_due(), self.sockets.poll_timeout(), wake_at];
        let due = due.into_iter().flatten().min();
        let longest = longest_sleep(self.waiting_jobs.len());
        due.map_or(longest, |at| {
            Duration::from_nanos(at.since_ns(now.boot)).min(longest)
        })
    }

    /// Polls the inbox's event counter, for as long as the ring lives.
    fn arm_wake(&mut self) {
        let event = types::Fd(self.own.event_fd());
        let entry = opcode::PollAdd::new(event, libc::POLLIN as u32)
            .multi(true)
            .build();
        // SAFETY: no memory is passed, and `own` keeps the descriptor open.
        unsafe { self.ring.push(entry, WAKE) }
    }

    fn add_counters(&self, answer: &mut ControlAnswer) {
        let ControlAnswer::Report(report) = answer else {
            return;
        };
        report.stages.push(self.turn.report());
        let (driver, ring) = (self.counters, self.ring.counters());
        let sockets = self.sockets.counters();
        report.counters.extend([
            ("driver_turns", driver.turns),
            ("driver_sleeps", driver.sleeps),
            ("driver_spins_rewarded", driver.spins_rewarded),
            ("driver_spins_in_vain", driver.spins_in_vain),
            ("driver_wakes_sent", driver.wakes_sent),
            ("driver_wakes_received", driver.wakes_received),
            ("driver_connections_dealt", driver.connections_dealt),
            ("driver_disk_in_flight_now", self.disk.in_flight() as u64),
            ("ring_enters", ring.enters),
            ("ring_submissions", ring.submissions),
            ("ring_completions", ring.completions),
            ("ring_submission_queue_full", ring.submission_queue_full),
            ("net_accepted", sockets.accepted),
            ("net_accept_errors", sockets.accept_errors),
            (
                "net_dropped_without_descriptor",
                sockets.dropped_without_descriptor,
            ),
            ("net_receives", sockets.receives),
            ("net_received_bytes", sockets.received_bytes),
            (
                "net_receives_without_buffer",
                sockets.receives_without_buffer,
            ),
            ("net_sends", sockets.sends),
            ("net_sent_bytes", sockets.sent_bytes),
            ("net_short_sends", sockets.short_sends),
        ]);
    }
}

/// How long a sleep may be while so many jobs wait for room in the pool.
fn longest_sleep(waiting_jobs: usize) -> Duration {
    if waiting_jobs == 0 {
        SLEEP_MAX
    } else {
        JOBS_PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_wait_for_the_pool_keep_the_driver_looking() {
        assert_eq!(longest_sleep(0), SLEEP_MAX);
        assert_eq!(longest_sleep(1), JOBS_PAUSE);
    }
}
