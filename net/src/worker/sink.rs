//! What a session sees of its worker: the way to the shard.

use millrace_engine::Shard;
use millrace_engine::catalog::Catalog;
use millrace_engine::command::{Command, ConnectionId, RequestId};
use millrace_storage::units::Now;

use crate::refusals::RequestRefusals;
use crate::session::{ClusterView, CommandSink, ConnectionAddresses, Refused};

/// A session's way to the shard.
pub(super) struct Sink<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) cluster: &'a ClusterView,
    pub(super) connection: ConnectionId,
    pub(super) addresses: ConnectionAddresses,
    pub(super) remembered_partitions_left: usize,
    /// Told to clients of all connections.
    pub(super) refusals: &'a mut RequestRefusals,
}

impl Sink<'_> {
    fn request(&self, sequence: u64) -> RequestId {
        RequestId {
            origin: self.shard.id(),
            connection: self.connection,
            sequence,
        }
    }
}

impl CommandSink for Sink<'_> {
    fn submit(&mut self, now: Now, sequence: u64, command: Command<'_>) {
        let request = self.request(sequence);
        self.shard.submit(now, request, command);
    }

    fn cancel(&mut self, sequence: u64) {
        let request = self.request(sequence);
        self.shard.cancel(request);
    }

    fn catalog(&self) -> &Catalog {
        self.shard.catalog()
    }

    fn cluster(&self) -> &ClusterView {
        self.cluster
    }

    fn addresses(&self) -> ConnectionAddresses {
        self.addresses
    }

    fn accepts_appends(&self) -> bool {
        self.shard.accepts_appends()
    }

    fn accepts_questions(&self) -> bool {
        self.shard.accepts_questions()
    }

    fn note_refusal(&mut self, now: Now, what: Refused) -> Option<u64> {
        self.refusals.note(now, what)
    }

    fn remembered_partitions_left(&self) -> usize {
        self.remembered_partitions_left
    }
}
