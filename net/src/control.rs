//! The seam between the control thread and a worker: requests come through the driver's inbox,
//! replies go out by `poll_control`. Bounded by the control thread, which asks one thing at a time.

use millrace_engine::catalog::Catalog;
use millrace_engine::command::{FetchRequest, OffsetQuery};
use millrace_engine::event::{Outcome, Refusal};
use millrace_engine::group::GroupRequest;
use millrace_engine::report::{GroupReport, ShardReport};
use millrace_engine::stages::StageReport;
use millrace_storage::units::PartitionId;

/// Something the control thread asks of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRequest {
    /// Comes back with the reply.
    pub token: u64,
    /// What it wants.
    pub ask: ControlAsk,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAsk {
    /// What the worker holds and has done.
    Report,
    /// A copy of its catalog.
    Catalog,
    /// The groups at home on its shard.
    Groups,
    /// A command, as a client's.
    Command(Box<ControlCommand>),
    /// Stop cleanly: close connections, make what was acknowledged and accepted durable, end the
    /// thread. Not replied to: the thread's end is the answer.
    Stop,
}

/// What the control thread may do that clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// See [`millrace_engine::command::Command::Group`].
    Group(GroupRequest),
    /// See [`millrace_engine::command::Command::FindOffset`], of what everyone may read.
    FindOffset {
        /// Where.
        partition: PartitionId,
        /// Which.
        at: OffsetQuery,
    },
    /// See [`millrace_engine::command::Command::Fetch`].
    Fetch(FetchRequest),
}

/// A worker's answer.
#[derive(Clone, Debug)]
pub struct ControlReply {
    /// The request's token.
    pub token: u64,
    /// What was asked for.
    pub answer: ControlAnswer,
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum ControlAnswer {
    /// To [`ControlAsk::Report`].
    Report(Box<WorkerReport>),
    /// To [`ControlAsk::Catalog`].
    Catalog(Box<Catalog>),
    /// To [`ControlAsk::Groups`], by name.
    Groups(Vec<GroupReport>),
    /// To [`ControlAsk::Command`].
    Ended(Box<Result<Outcome, Refusal>>),
}

/// One worker's state at one moment.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport {
    /// Its shard, with its stages moved to those below.
    pub shard: ShardReport,
    /// The connections' counters by name, each monotone since start unless its name ends in
    /// `_now`.
    pub counters: Vec<(&'static str, u64)>,
    /// Histograms of the stages, in the order that work passes them; the driver's stand last.
    pub stages: Vec<StageReport>,
}
