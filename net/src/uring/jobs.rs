//! A few threads for work that is too long for a shard's turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{collections::VecDeque, io};

use millrace_engine::jobs::{JobDone, JobOp};

use super::inbox::Remote;

/// Jobs of all shards that may wait for a thread; what exceeds it waits in its shard's driver.
const QUEUE_MAX: usize = 256;

/// Pause of a job thread whose shard has no room for the result yet.
const RESULT_PAUSE: Duration = Duration::from_millis(1);

/// What a job thread does with a job.
pub type Perform = fn(JobOp) -> JobDone;

/// The threads. Dropping it ends them after the job that each has at hand.
#[derive(Debug)]
pub struct JobPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A driver's way to the pool.
#[derive(Clone, Debug)]
pub struct JobQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<VecDeque<(JobOp, Remote)>>,
    /// A job was queued, or the end was declared.
    changed: Condvar,
    is_ending: AtomicBool,
}

impl JobPool {
    /// Starts `threads` threads that run `perform`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(threads: usize, perform: Perform) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(VecDeque::new()),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
        });
        let threads = (0..threads)
            .map(|number| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("job-{number}"))
                    .spawn(move || shared.work(perform))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// For a driver.
    #[must_use]
    pub fn queue(&self) -> JobQueue {
        JobQueue(Arc::clone(&self.shared))
    }
}

impl Drop for JobPool {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Release);
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let is_well = thread.join().is_ok();
            assert!(is_well || thread::panicking(), "a job thread panicked");
        }
    }
}

impl JobQueue {
    /// Gives a job away; its result comes to `home`.
    ///
    /// # Errors
    /// Too many wait; this one comes back.
    pub(super) fn push(&self, job: JobOp, home: &Remote) -> Result<(), JobOp> {
        let mut queue = self.0.lock();
        if queue.len() >= QUEUE_MAX {
            return Err(job);
        }
        queue.push_back((job, home.clone()));
        drop(queue);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(JobOp, Remote)>> {
        self.queue.lock().expect("nobody panics with the queue")
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    fn work(&self, perform: Perform) {
        while let Some((job, home)) = self.next() {
            let mut result = home.job_done(perform(job));
            while let Err(done) = result {
                if self.is_ending() {
                    return;
                }
                thread::sleep(RESULT_PAUSE);
                result = home.job_done(done);
            }
        }
    }

    /// The next job; `None` at the end.
    fn next(&self) -> Option<(JobOp, Remote)> {
        let mut queue = self.lock();
        loop {
            if self.is_ending() {
                return None;
            }
            if let Some(next) = queue.pop_front() {
                return Some(next);
            }
            queue = self
                .changed
                .wait(queue)
                .expect("nobody panics with the queue");
        }
    }
}
