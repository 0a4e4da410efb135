//! The running broker: a thread for each shard, one for control, a small pool for long work.
//!
//! [`Broker::start`] takes the directory, recovers everything in it and only then listens. The
//! handle stops it cleanly; a shard whose log failed is told by [`Broker::ended`].

pub mod directories;
pub(crate) mod identity;
mod kafka_view;
mod listen;
pub mod losses;
mod shards;
mod start;
mod translate;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use millrace_net::control::{ControlAsk, ControlRequest};
use millrace_net::uring::inbox::Remote;
use millrace_net::uring::jobs::JobPool;

use crate::config::Resolved;
use crate::control::{ControlThread, Facts};
use crate::exit::Failure;
use crate::lock::DirectoryLock;
use losses::AcceptedLosses;
use shards::{ShardEnds, ShardThread};

/// Pause before a request is offered again to a full inbox.
const INBOX_PAUSE: Duration = Duration::from_millis(5);

/// A broker that serves. Dropping it stops it cleanly.
#[derive(Debug)]
pub struct Broker {
    facts: Facts,
    warnings: Vec<String>,
    started_in: Duration,
    remotes: Vec<Remote>,
    threads: Vec<ShardThread>,
    ends: ShardEnds,
    /// Whether the shards were asked to stop.
    is_stopping: bool,
    /// Whether a shard failed: the others may wait for it for ever.
    has_failed: bool,
    // Dropped in this order: nothing asks the shards when they are gone, and the directory is
    // given back last.
    control: Option<ControlThread>,
    jobs: Option<JobPool>,
    _lock: DirectoryLock,
}

/// How a broker ended by itself.
#[derive(Debug)]
pub enum Ended {
    /// All shards stopped on request.
    Cleanly,
    /// A shard failed: nothing more is acknowledged, and the process should end.
    Failed(Failure),
}

impl Broker {
    /// Starts a broker: when this returns it listens, and everything in its directory is served.
    ///
    /// # Errors
    /// See [`Failure`]; nothing that was acknowledged is lost by it.
    pub fn start(settings: Resolved) -> Result<Self, Failure> {
        Self::start_accepting(settings, AcceptedLosses::default())
    }

    /// As [`Broker::start`], without the damaged ranges that the operator gives up.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_accepting(settings: Resolved, losses: AcceptedLosses) -> Result<Self, Failure> {
        start::start(settings, &losses, Instant::now())
    }

    /// Addresses that Kafka clients reach, one a node; the first is the bootstrap.
    #[must_use]
    pub fn kafka(&self) -> &[SocketAddr] {
        &self.facts.kafka
    }

    /// The addresses as scripts read them: `kafka=ADDR:PORT`.
    #[must_use]
    pub fn addresses(&self) -> String {
        format!("kafka={}", self.facts.kafka[0])
    }

    /// What the operator should know of: an open port, a directory in memory.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where it listens, on which cores, where its data is and what its acknowledgements mean.
    #[must_use]
    pub fn banner(&self) -> String {
        let facts = &self.facts;
        let listed = |items: Vec<String>| items.join(", ");
        let kafka = listed(facts.kafka.iter().map(ToString::to_string).collect());
        let cores = listed(facts.cores.iter().map(ToString::to_string).collect());
        let pinned = if facts.settings.config.server.pin {
            ""
        } else {
            " (not pinned)"
        };
        let mut out = String::new();
        let _ = writeln!(out, "millrace {}", env!("CARGO_PKG_VERSION"));
        let _ = writeln!(out, "  kafka          {kafka}");
        let _ = writeln!(out, "  cores          {cores}{pinned}, one shard each");
        let _ = writeln!(
            out,
            "  data           {} ({})",
            facts.data_dir.display(),
            facts.file_system
        );
        let _ = writeln!(out, "  acknowledged   {}", facts.acknowledgement);
        let _ = writeln!(
            out,
            "  ready          after {} ms",
            self.started_in.as_millis()
        );
        for warning in &self.warnings {
            let _ = writeln!(out, "  WARNING        {warning}");
        }
        out
    }

    /// Waits until the broker ends by itself.
    pub async fn ended(&mut self) -> Ended {
        let ended = self.ends.next(self.threads.len()).await;
        self.has_failed = matches!(ended, Ended::Failed(_));
        ended
    }

    /// Begins a clean stop, of which [`Broker::ended`] tells the end.
    pub fn begin_stop(&mut self) {
        drop(self.control.take());
        if self.has_failed || self.is_stopping {
            return;
        }
        self.is_stopping = true;
        for thread in &mut self.threads {
            thread.call_off();
        }
        for remote in &self.remotes {
            let mut stop = ControlRequest {
                token: 0,
                ask: ControlAsk::Stop,
            };
            while let Err(returned) = remote.control(stop) {
                stop = returned;
                std::thread::sleep(INBOX_PAUSE);
            }
        }
        self.remotes.clear();
    }

    /// Stops cleanly: what was accepted becomes durable and is answered, connections close.
    ///
    /// # Errors
    /// A shard failed meanwhile.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), Failure> {
        self.begin_stop();
        if self.has_failed {
            return Ok(());
        }
        let ended = self.ends.wait(self.threads.len());
        if let Ended::Failed(failure) = ended {
            self.has_failed = true;
            return Err(failure);
        }
        for thread in self.threads.drain(..) {
            thread.join();
        }
        drop(self.jobs.take());
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(failure) = self.shut_down() {
            tracing::error!(%failure, "a shard failed while the broker stopped");
        }
    }
}

#[cfg(test)]
mod tests;
