//! The last things that happened on a simulated disk, for the report of a failure.

use std::collections::VecDeque;
use std::fmt;

use super::faults::Fault;
use crate::disk::{DiskError, DiskOp, FileName, WriteSync};
use crate::units::ShardId;

/// Events kept.
const EVENTS_MAX: usize = 48;

/// What an operation was, without its buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Summary {
    Create(FileName, u64),
    Write(FileName, u64, usize, WriteSync),
    Read(FileName, u64, usize),
    Sync(FileName),
    SyncDirectory,
    Rename(FileName, FileName),
    Link(ShardId, FileName, FileName),
    Remove(FileName),
    PunchHole(FileName, u64, u64),
    List,
    Space,
}

impl Summary {
    pub(super) fn of(op: &DiskOp) -> Self {
        match op {
            DiskOp::Create { file, bytes, .. } => Self::Create(*file, *bytes),
            DiskOp::Write {
                file,
                position,
                buffer,
                sync,
                ..
            } => Self::Write(*file, position.0, buffer.len(), *sync),
            DiskOp::Read {
                file,
                position,
                buffer,
                ..
            } => Self::Read(*file, position.0, buffer.len()),
            DiskOp::Sync { file, .. } => Self::Sync(*file),
            DiskOp::SyncDirectory { .. } => Self::SyncDirectory,
            DiskOp::Rename { from, to, .. } => Self::Rename(*from, *to),
            DiskOp::Link {
                from_shard,
                from,
                to,
                ..
            } => Self::Link(*from_shard, *from, *to),
            DiskOp::Remove { file, .. } => Self::Remove(*file),
            DiskOp::PunchHole {
                file,
                position,
                bytes,
                ..
            } => Self::PunchHole(*file, position.0, *bytes),
            DiskOp::List { .. } => Self::List,
            DiskOp::Space { .. } => Self::Space,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(file, bytes) => write!(f, "create {file} of {bytes} bytes"),
            Self::Write(file, position, bytes, sync) => {
                write!(
                    f,
                    "write {file} at {position}, {bytes} bytes, sync {sync:?}"
                )
            }
            Self::Read(file, position, bytes) => {
                write!(f, "read {file} at {position}, {bytes} bytes")
            }
            Self::Sync(file) => write!(f, "sync {file}"),
            Self::SyncDirectory => f.write_str("sync the directory"),
            Self::Rename(from, to) => write!(f, "rename {from} to {to}"),
            Self::Link(shard, from, to) => write!(f, "link {from} of shard {shard} as {to}"),
            Self::Remove(file) => write!(f, "remove {file}"),
            Self::PunchHole(file, position, bytes) => {
                write!(f, "punch {file} at {position}, {bytes} bytes")
            }
            Self::List => f.write_str("list"),
            Self::Space => f.write_str("space"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TraceEvent {
    pub(super) number: u64,
    pub(super) shard: ShardId,
    pub(super) op: Summary,
    pub(super) fault: Option<Fault>,
    pub(super) error: Option<DiskError>,
}

/// The last [`EVENTS_MAX`] operations in the order in which they took effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(VecDeque<TraceEvent>);

impl Trace {
    pub(super) fn record(&mut self, event: TraceEvent) {
        if self.0.len() == EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.0 {
            write!(f, "  #{} shard {}: {}", event.number, event.shard, event.op)?;
            if let Some(fault) = event.fault {
                write!(f, " [{fault:?}]")?;
            }
            if let Some(error) = event.error {
                write!(f, " -> {error}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
