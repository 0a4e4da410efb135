//! The stages that connections add to the shard's: from bytes to commands, and from durability to a
//! reply. See [`millrace_engine::stages`].

use millrace_engine::stages::{Stage, StageReport, Unit};
use millrace_storage::units::{BootTime, Now};

/// Names of the stages, in the order that work passes them.
const ORDER: [&str; 11] = [
    "parse",
    "append",
    "group_open",
    "group_commit",
    "reply",
    "mesh",
    "fetch",
    "log_stall",
    "group_bytes",
    "group_entries",
    "groups_in_flight",
];

/// A worker's own stages.
#[derive(Debug)]
pub(crate) struct Stages {
    /// From the turn that took an arrival of bytes from the kernel to when the last request in it
    /// is the shard's business.
    parse: Stage,
    /// From a batch's durability to the end of the send that says so: one value a send, its oldest.
    reply: Stage,
    /// How long producers are not read because the log takes nothing.
    log_stall: Stage,
    /// Arrivals whose requests were handed over in this turn: when they came, and how many came
    /// then. Empty between turns.
    parsed: Vec<(BootTime, u64)>,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self {
            parse: Stage::new("parse", Unit::Nanoseconds),
            reply: Stage::new("reply", Unit::Nanoseconds),
            log_stall: Stage::new("log_stall", Unit::Nanoseconds),
            parsed: Vec::new(),
        }
    }

    /// The last request in an arrival was handed over.
    pub(crate) fn note_parsed(&mut self, arrived: BootTime) {
        match self.parsed.last_mut() {
            Some((at, count)) if *at == arrived => *count += 1,
            _ => self.parsed.push((arrived, 1)),
        }
    }

    /// What was handed over in this turn had been by `now`.
    pub(crate) fn end_turn(&mut self, now: Now) {
        for (arrived, count) in self.parsed.drain(..) {
            self.parse.record_n(now.boot.since_ns(arrived), count);
        }
    }

    /// A send is out whose oldest acknowledgement is of what was durable at `durable_at`.
    pub(crate) fn note_reply(&mut self, now: Now, durable_at: BootTime) {
        self.reply.record(now.boot.since_ns(durable_at));
    }

    /// Producers are read again, who were not since then because the log took nothing.
    pub(crate) fn note_stall(&mut self, now: Now, since: BootTime) {
        self.log_stall.record(now.boot.since_ns(since));
    }

    /// Its own stages and the shard's, in order.
    pub(crate) fn report(&self, of_shard: Vec<StageReport>) -> Vec<StageReport> {
        let mut stages = of_shard;
        stages.extend([&self.parse, &self.reply, &self.log_stall].map(Stage::report));
        let place = |stage: &StageReport| ORDER.iter().position(|name| *name == stage.name);
        stages.sort_by_key(|stage| place(stage).expect("every stage has a place"));
        stages
    }
}
