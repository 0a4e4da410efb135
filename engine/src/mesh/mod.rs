//! What shards say to each other.
//!
//! Requests and replies travel on rings of their own: a shard that has no room for more requests
//! still takes every reply, so two shards that wait for each other always get on. How the messages
//! travel is [`port`]'s business; in simulation it is the world's.

pub mod port;
mod sleep;
#[cfg(test)]
mod sleep_model;

/// What [`sleep`] is built on; its model is built on loom's.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};
}

pub use sleep::SleepFlag;

use std::sync::Arc;

use bytes::Bytes;
use millrace_storage::units::{LeaderEpoch, Offset, PartitionId};

use crate::catalog::CatalogEpoch;
use crate::catalog::change::CatalogChange;
use crate::command::{CatalogRequest, FetchPartition, Isolation, OffsetQuery, RequestId};
use crate::event::{FetchedPartition, Outcome, Refusal};
use crate::gather::GatherId;
use crate::group::GroupRequest;

/// A message from one shard to another. Record bytes are shared, never copied.
#[derive(Clone, Debug)]
pub enum MeshMessage {
    /// A command for its home. Answered by one `Ended`.
    Request {
        /// The request, which names the shard to answer.
        request: RequestId,
        /// What to do.
        command: RemoteCommand,
    },
    /// Nobody waits any more for the end of a `Request` that waits for members of a group. Its
    /// `Ended` comes all the same.
    Withdrawn {
        /// Which.
        request: RequestId,
    },
    /// The end of a `Request`.
    Ended {
        /// Which.
        request: RequestId,
        /// What became of it.
        outcome: Result<Outcome, Refusal>,
    },
    /// Part of a fetch. Answered by one `ReadDone`.
    Read {
        /// The fetch.
        gather: GatherId,
        /// This home's partitions of it.
        partitions: Vec<FetchPartition>,
        /// Bytes to return of all of them together, except that one batch always goes.
        bytes_max: usize,
        /// How far to read.
        isolation: Isolation,
    },
    /// The end of a `Read`, in its order.
    ReadDone {
        /// The fetch.
        gather: GatherId,
        /// What there was.
        partitions: Vec<FetchedPartition>,
    },
    /// Tell when more can be read. Answered by one `Woken`, unless taken back by `Unwatch`.
    Watch {
        /// The fetch.
        gather: GatherId,
        /// Each partition with the offset up to which it was read.
        partitions: Vec<(PartitionId, Offset)>,
        /// Bytes that must have come, in all of them together.
        bytes_wanted: usize,
        /// What counts as readable.
        isolation: Isolation,
    },
    /// Enough is there.
    Woken {
        /// The fetch.
        gather: GatherId,
    },
    /// The fetch waits no more.
    Unwatch {
        /// The fetch.
        gather: GatherId,
    },
    /// Asks shard 0 for producer ids. Answered by one `ProducerIds`.
    ReserveProducerIds,
    /// A block of producer ids for the shard alone.
    ProducerIds {
        /// The first of them.
        first: i64,
    },
    /// The catalog's next change, durable. Answered by one `CatalogHeld`.
    CatalogChanged(Arc<CatalogChange>),
    /// The shard has the catalog up to this epoch.
    CatalogHeld(CatalogEpoch),
    /// The shard stops, and every `Request` of its own has ended: it sends no more of them.
    AsksNoMore,
}

/// A command that another shard executes.
#[derive(Clone, Debug)]
pub enum RemoteCommand {
    /// See [`crate::command::Command::Append`].
    Append {
        /// Where to.
        partition: PartitionId,
        /// One batch, unchecked.
        batch: Bytes,
    },
    /// See [`crate::command::Command::FindOffset`].
    FindOffset {
        /// Where.
        partition: PartitionId,
        /// Which.
        at: OffsetQuery,
        /// Bounds the search.
        isolation: Isolation,
    },
    /// See [`crate::command::Command::FindEpochEnd`].
    FindEpochEnd {
        /// Where.
        partition: PartitionId,
        /// The epoch asked for.
        epoch: LeaderEpoch,
    },
    /// See [`crate::command::Command::DeleteRecords`].
    DeleteRecords {
        /// Where.
        partition: PartitionId,
        /// First offset to keep; `None` keeps nothing that is readable now.
        keep_from: Option<Offset>,
    },
    /// See [`crate::command::Command::ListProducers`].
    ListProducers {
        /// Where.
        partition: PartitionId,
    },
    /// See [`crate::command::Command::MeasureLogs`].
    MeasureLogs,
    /// See [`crate::command::Command::WriteCatalog`]; shard 0 alone writes.
    WriteCatalog(CatalogRequest),
    /// See [`crate::command::Command::Group`].
    Group(GroupRequest),
    /// See [`crate::command::Command::ListGroups`].
    ListGroups,
}

/// Which ring a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Asks for something.
    Requests,
    /// Answers; always makes progress.
    Replies,
}

impl MeshMessage {
    /// Which ring the message takes.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Request { .. }
            | Self::Withdrawn { .. }
            | Self::Read { .. }
            | Self::Watch { .. }
            | Self::Unwatch { .. }
            | Self::ReserveProducerIds
            | Self::CatalogChanged(_)
            | Self::AsksNoMore => Lane::Requests,
            Self::Ended { .. }
            | Self::ReadDone { .. }
            | Self::Woken { .. }
            | Self::ProducerIds { .. }
            | Self::CatalogHeld(_) => Lane::Replies,
        }
    }
}
