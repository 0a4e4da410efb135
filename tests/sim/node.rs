//! One simulated core: a worker with its connections, its jobs, its end of the mesh, and its sleep.
//!
//! A core runs when something completes, when a timer is due, when another core woke it, or while
//! it is awake. Between its turns the others run, so that what they send reaches it awake, about
//! to park, or asleep.

use millrace_engine::jobs::{self, JobOp};
use millrace_engine::mesh::port::MeshPort;
use millrace_net::io::{IoDone, IoOp};
use millrace_net::worker::Worker;
use millrace_storage::testing::{Dice, SimDisk};
use millrace_storage::units::{Now, ShardId};

use crate::failure::{Checked, ensure};
use crate::network::{NetDone, Network};

/// Messages taken in one turn, at most: fewer than come in, so that rings fill.
const MESSAGES_PER_TURN_MAX: u64 = 3;

/// One core.
pub(crate) struct Node {
    pub(crate) worker: Worker,
    pub(crate) network: Network,
    /// Given to the job threads and not done.
    jobs: Vec<JobOp>,
    port: MeshPort,
    is_asleep: bool,
    /// Somebody woke it, and it has not run since.
    is_woken: bool,
    pub(crate) counts: NodeCounts,
}

/// What one or more cores did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeCounts {
    /// Messages taken from the mesh.
    pub(crate) delivered: u64,
    pub(crate) jobs: u64,
    pub(crate) sleeps: u64,
    pub(crate) wakes: u64,
    /// Kept awake by a ring that had no room.
    pub(crate) crowded: u64,
}

impl NodeCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.jobs += other.jobs;
        self.sleeps += other.sleeps;
        self.wakes += other.wakes;
        self.crowded += other.crowded;
    }
}

/// Where a turn takes place.
pub(crate) struct Around<'a> {
    pub(crate) now: Now,
    pub(crate) disk: &'a mut SimDisk,
    pub(crate) dice: &'a mut Dice,
    /// Shards that are to be woken.
    pub(crate) woken: Vec<ShardId>,
}

impl Node {
    pub(crate) fn new(worker: Worker, port: MeshPort) -> Self {
        Self {
            worker,
            network: Network::default(),
            jobs: Vec::new(),
            port,
            is_asleep: false,
            is_woken: false,
            counts: NodeCounts::default(),
        }
    }

    /// Whether a turn may begin although nothing completed.
    pub(crate) fn is_runnable(&self) -> bool {
        !self.is_asleep || self.is_woken
    }

    pub(crate) fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Another shard wakes this one.
    pub(crate) fn wake(&mut self) {
        self.is_woken = true;
    }

    /// A turn that begins with what the disk or a job thread has done.
    pub(crate) fn handle(&mut self, done: IoDone<'_>, around: &mut Around<'_>) {
        self.run(around, |worker, now| worker.handle_io(now, done));
    }

    /// A turn that begins with what the network has done.
    pub(crate) fn tell(&mut self, done: NetDone, around: &mut Around<'_>) {
        self.run(around, |worker, now| {
            done.lend(|done| worker.handle_io(now, done));
        });
    }

    /// A turn without a completion.
    pub(crate) fn turn(&mut self, around: &mut Around<'_>) {
        self.run(around, |_, _| ());
    }

    /// One of the jobs under way ends, any of them.
    pub(crate) fn do_job(&mut self, around: &mut Around<'_>) {
        let job = self.jobs.swap_remove(around.dice.index(self.jobs.len()));
        self.counts.jobs += 1;
        self.handle(IoDone::Job(jobs::perform(job)), around);
    }

    /// The order of the driver: completions, mesh, timers, the worker, and what it wants done.
    fn run(&mut self, around: &mut Around<'_>, first: impl FnOnce(&mut Worker, Now)) {
        let now = around.now;
        self.is_woken = false;
        if std::mem::take(&mut self.is_asleep) {
            self.port.wake_up();
        }
        first(&mut self.worker, now);
        for _ in 0..around.dice.between(0, MESSAGES_PER_TURN_MAX) {
            let Some((from, message)) = self.port.receive() else {
                break;
            };
            self.counts.delivered += 1;
            self.worker.handle_mesh(now, from, message);
        }
        if self
            .worker
            .poll_timeout()
            .is_some_and(|due| due <= now.boot)
        {
            self.worker.handle_timeout(now);
        }
        self.worker.end_turn(now);
        while let Some(op) = self.worker.poll_io() {
            match op {
                IoOp::Disk(op) => around.disk.submit(self.port.shard(), op),
                IoOp::Job(op) => self.jobs.push(op),
                op => self.network.handle(op),
            }
        }
        while let Some((to, message)) = self.worker.poll_mesh() {
            self.port.send(to, message);
        }
        self.port.flush(|shard| around.woken.push(shard));
        self.counts.wakes += around.woken.len() as u64;
    }

    /// Parks, if nothing came in since the last turn.
    pub(crate) fn park(&mut self) {
        if self.is_asleep {
            return;
        }
        self.is_asleep = self.port.prepare_sleep();
        self.counts.sleeps += u64::from(self.is_asleep);
        self.counts.crowded += u64::from(!self.is_asleep && !self.port.has_received());
    }

    /// Nobody sleeps over messages: a core that is not woken would never take them.
    pub(crate) fn check_awake(&self) -> Checked<()> {
        ensure!(
            self.is_runnable() || !self.port.has_received(),
            "shard {} sleeps over messages, and nobody woke it",
            self.port.shard()
        );
        Ok(())
    }
}
