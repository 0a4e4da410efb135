//! The shards' threads, and how their ends are told.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;
use millrace_net::uring::driver::{Driver, DriverEnd};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Ended;
use crate::exit::Failure;

/// How one shard ended.
pub(super) type ShardEnd = Result<(), Failure>;

/// A shard's thread. It serves once it is released: a broker has all its shards or none.
#[derive(Debug)]
pub(super) struct ShardThread {
    thread: JoinHandle<()>,
    /// Gone once the thread is released or called off.
    release: Option<Sender<()>>,
}

impl ShardThread {
    /// Starts a shard's thread, kept on `core` if one is given; it waits.
    pub(super) fn start(
        shard: u16,
        core: Option<usize>,
        driver: Driver,
        end: UnboundedSender<ShardEnd>,
    ) -> io::Result<Self> {
        let name = format!("shard-{shard}");
        let (release, released) = channel();
        let thread = thread::Builder::new().name(name).spawn(move || {
            let report = Report(end, shard);
            if released.recv().is_err() {
                return report.send(Ok(()));
            }
            if let Some(id) = core
                && !core_affinity::set_for_current(CoreId { id })
            {
                tracing::warn!(shard, core = id, "the thread cannot be kept on its core");
            }
            report.send(match driver.run() {
                Ok(DriverEnd::Stopped) => Ok(()),
                Ok(DriverEnd::Poisoned(error)) => Err(error.into()),
                Err(error) => Err(Failure::Kernel(format!("shard {shard}: {error}"))),
            });
        })?;
        Ok(Self {
            thread,
            release: Some(release),
        })
    }

    /// Lets the shard serve.
    pub(super) fn release(&mut self) {
        let release = self.release.take().expect("a shard is released once");
        // If its thread died, its end is told.
        let _ = release.send(());
    }

    /// Lets a shard that was not released end, which it tells as any other.
    pub(super) fn call_off(&mut self) {
        drop(self.release.take());
    }

    /// Waits for the thread of a shard that told its end.
    pub(super) fn join(self) {
        let _ = self.thread.join();
    }
}

/// Tells a shard's end, also when its thread panics.
struct Report(UnboundedSender<ShardEnd>, u16);

impl Report {
    fn send(self, end: ShardEnd) {
        // Nobody listens any more when the broker was dropped after another shard's failure.
        let _ = self.0.send(end);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if thread::panicking() {
            let shard = self.1;
            let _ = self.0.send(Err(Failure::Bug(format!(
                "the thread of shard {shard} died"
            ))));
        }
    }
}

/// The ends of all shards, as they come.
#[derive(Debug)]
pub(super) struct ShardEnds {
    ends: UnboundedReceiver<ShardEnd>,
    stopped: usize,
}

impl ShardEnds {
    /// A channel for the shards to be started.
    pub(super) fn new() -> (UnboundedSender<ShardEnd>, Self) {
        let (sender, ends) = unbounded_channel();
        (sender, Self { ends, stopped: 0 })
    }

    /// Waits until one of `shards` failed or all stopped.
    pub(super) async fn next(&mut self, shards: usize) -> Ended {
        while self.stopped < shards {
            match self.ends.recv().await {
                Some(Err(failure)) => return Ended::Failed(failure),
                Some(Ok(())) | None => self.stopped += 1,
            }
        }
        Ended::Cleanly
    }

    /// As [`ShardEnds::next`], blocking the thread.
    pub(super) fn wait(&mut self, shards: usize) -> Ended {
        while self.stopped < shards {
            match self.ends.blocking_recv() {
                Some(Err(failure)) => return Ended::Failed(failure),
                Some(Ok(())) | None => self.stopped += 1,
            }
        }
        Ended::Cleanly
    }
}
