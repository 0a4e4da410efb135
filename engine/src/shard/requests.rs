//! Requests of this shard's connections that have no end yet: who works on them, and how many may.
//!
//! *Patient* ones wait for records or for members of a group, perhaps for minutes, and are no work
//! meanwhile. The connections bound them, each of which has one of either kind at most, and
//! `fetches_max`; the other bounds leave them out. Counted with the rest, idle readers would pass
//! for a shard that has too much to do, and stop every producer.

use std::collections::BTreeMap;

use millrace_storage::units::{BootTime, ShardId};

use crate::command::{Command, ConnectionId, RequestId};
use crate::gather::GatherId;
use crate::limits::Limits;
use crate::stages::Passage;

/// All of them.
#[derive(Debug)]
pub(super) struct Requests {
    /// But for the patient ones at most `requests_max`.
    all: BTreeMap<RequestId, Request>,
    /// The patient ones of `all`.
    patient: usize,
    /// What each other shard has to end. But for the patient ones at most `mesh_requests_max` each.
    elsewhere: Vec<Elsewhere>,
    /// Bytes of batches that other shards have to append. At most `mesh_append_bytes_max`.
    bytes: usize,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) asked: Asked,
    pub(super) begun: BootTime,
    pub(super) passage: Passage,
    is_patient: bool,
}

/// Who works on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// This shard.
    Here,
    /// A fetch of this shard.
    Fetch(GatherId),
    /// Another shard.
    There {
        home: ShardId,
        /// It may wait for members of a group.
        awaits_members: bool,
        /// Of the batch that went with it.
        bytes: usize,
        /// False once it was cancelled: its end is awaited for the sake of the bounds alone.
        wanted: bool,
    },
}

/// Counts of requests that one other shard has to end.
#[derive(Clone, Copy, Debug, Default)]
struct Elsewhere {
    all: usize,
    patient: usize,
}

impl Request {
    pub(super) fn new(begun: BootTime, command: &Command<'_>) -> Self {
        Self {
            asked: Asked::Here,
            begun,
            passage: match command {
                Command::Append { .. } => Passage::Append,
                Command::Fetch(_) => Passage::Fetch,
                _ => Passage::Other,
            },
            is_patient: match command {
                Command::Fetch(_) => true,
                Command::Group(asked) => asked.awaits_members(),
                _ => false,
            },
        }
    }
}

impl Elsewhere {
    fn busy(self) -> usize {
        self.all - self.patient
    }
}

impl Requests {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            all: BTreeMap::new(),
            patient: 0,
            elsewhere: vec![Elsewhere::default(); usize::from(shards)],
            bytes: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn busy(&self) -> usize {
        self.all.len() - self.patient
    }

    /// Whether half of each bound is left.
    pub(super) fn are_half_free(&self, limits: &Limits) -> bool {
        let mut elsewhere = self.elsewhere.iter();
        self.busy() <= limits.requests_max / 2
            && self.bytes <= limits.mesh_append_bytes_max / 2
            && elsewhere.all(|asked| asked.busy() <= limits.mesh_requests_max / 2)
    }

    /// A request begins.
    ///
    /// # Errors
    /// The limit that is reached: it must end at once.
    pub(super) fn begin(
        &mut self,
        id: RequestId,
        request: Request,
        limits: &Limits,
    ) -> Result<(), &'static str> {
        let is_full = !request.is_patient && self.busy() >= limits.requests_max;
        self.patient += usize::from(request.is_patient);
        let before = self.all.insert(id, request);
        assert!(before.is_none(), "a request is submitted once");
        if is_full {
            return Err("limits.requests_max");
        }
        Ok(())
    }

    /// A request that was just submitted goes to another shard, with a batch of `bytes`.
    ///
    /// # Errors
    /// The limit that is reached: it does not.
    pub(super) fn send(
        &mut self,
        id: RequestId,
        to: ShardId,
        bytes: usize,
        limits: &Limits,
    ) -> Result<(), &'static str> {
        let request = self.all.get_mut(&id);
        let request = request.expect("a request is there until its end");
        let elsewhere = &mut self.elsewhere[usize::from(to.0)];
        if !request.is_patient && elsewhere.busy() >= limits.mesh_requests_max {
            return Err("limits.mesh_requests_max");
        }
        if bytes > 0 && self.bytes + bytes > limits.mesh_append_bytes_max {
            return Err("memory.mesh_append_bytes_max");
        }
        elsewhere.all += 1;
        elsewhere.patient += usize::from(request.is_patient);
        self.bytes += bytes;
        request.asked = Asked::There {
            home: to,
            awaits_members: request.is_patient,
            bytes,
            wanted: true,
        };
        Ok(())
    }

    /// A request that was just submitted is a fetch.
    pub(super) fn set_fetch(&mut self, id: RequestId, gather: GatherId) {
        let request = self.all.get_mut(&id);
        let request = request.expect("a request is there until its end");
        request.asked = Asked::Fetch(gather);
    }

    /// Who works on a request, if it has no end yet.
    pub(super) fn asked(&mut self, id: RequestId) -> Option<&mut Asked> {
        self.all.get_mut(&id).map(|request| &mut request.asked)
    }

    /// Those of a connection.
    pub(super) fn of_connection(
        &self,
        origin: ShardId,
        connection: ConnectionId,
    ) -> Vec<RequestId> {
        let id = |sequence| RequestId {
            origin,
            connection,
            sequence,
        };
        let range = self.all.range(id(0)..=id(u64::MAX));
        range.map(|(request, _)| *request).collect()
    }

    /// Those that wait for members of a group elsewhere.
    pub(super) fn awaiting_members(&self) -> Vec<RequestId> {
        let awaits = |request: &Request| {
            matches!(
                request.asked,
                Asked::There {
                    awaits_members: true,
                    wanted: true,
                    ..
                }
            )
        };
        let found = self.all.iter().filter(|(_, request)| awaits(request));
        found.map(|(id, _)| *id).collect()
    }

    /// Another shard ended a request, which is then removed.
    pub(super) fn note_answered(&mut self, by: ShardId, id: RequestId) {
        let request = self.all.get(&id);
        let request = request.expect("what another shard was asked stays until its end");
        let elsewhere = &mut self.elsewhere[usize::from(by.0)];
        let left = elsewhere.all.checked_sub(1);
        elsewhere.all = left.expect("a reply answers a request");
        elsewhere.patient -= usize::from(request.is_patient);
    }

    /// A request ends; `None`: it was cancelled.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let removed = self.all.remove(&id)?;
        self.patient -= usize::from(removed.is_patient);
        if let Asked::There { bytes, .. } = removed.asked {
            self.bytes -= bytes;
        }
        Some(removed)
    }

    /// Whether other shards have any to end.
    pub(super) fn are_elsewhere(&self) -> bool {
        self.elsewhere.iter().any(|asked| asked.all > 0)
    }
}
