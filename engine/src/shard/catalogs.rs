//! The catalog in a shard: shard 0 writes it, every shard applies it; and producer ids from it.

use std::collections::VecDeque;
use std::sync::Arc;

use millrace_storage::error::AppendError;
use millrace_storage::units::{Now, ShardId};

use super::{Shard, log_config};
use crate::catalog::change::CatalogChange;
use crate::catalog::writer::{Answer, Demand};
use crate::catalog::{CatalogEpoch, Effect};
use crate::command::{CatalogRequest, RequestId};
use crate::event::{Outcome, Refusal};
use crate::limits::PRODUCER_ID_BLOCK;
use crate::mesh::MeshMessage;
use crate::partition::PartitionState;
use crate::snapshot::{self, CATALOG_KEY};
use crate::waiters::Promise;

/// This shard's block of producer ids, and who waits for the next one.
#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    /// The next to give away.
    next: i64,
    /// End of the block, exclusive.
    end: i64,
    /// Whether shard 0 was asked for another block.
    asked: bool,
    waiting: VecDeque<RequestId>,
}

impl Shard {
    /// Shard 0: takes a request to change the catalog.
    pub(super) fn write_catalog(&mut self, request: RequestId, change: CatalogRequest) {
        if self.poisoned.is_some() {
            return self.complete(request, Err(Refusal::OutcomeUnknown));
        }
        let queue_max = self.config.limits.catalog_queue_max;
        let writer = self.writer.as_mut();
        let writer = writer.expect("catalog requests go to shard 0");
        if let Err(refusal) = writer.demand(Demand::Write(request, change), queue_max) {
            self.complete(request, Err(refusal));
        }
    }

    /// Shard 0: appends the next change if none is under way, and gives answers that are due.
    pub(super) fn advance_catalog(&mut self, now: Now) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        while self.poisoned.is_none()
            && let Some(change) = writer.poll_append(&self.catalog, &self.config)
        {
            match self.store.append_state(now, CATALOG_KEY, &change.encode()) {
                Ok(lsn) => {
                    writer.note_appended();
                    let early = self.waiters.wait(lsn, Promise::CatalogWritten);
                    assert_eq!(early, None, "nothing is durable when it is appended");
                }
                Err(AppendError::TooLarge { bytes_max, .. }) => {
                    writer.refuse(Refusal::LimitReached {
                        limit: "wal.batch_bytes_max",
                        max: bytes_max as u64,
                    });
                }
                Err(AppendError::Poisoned) => break, // The store's event ends everything.
                Err(AppendError::WalFull | AppendError::DiskFull) => break, // Offered again.
            }
        }
        self.answer_catalog();
    }

    fn answer_catalog(&mut self) {
        while let Some(writer) = &mut self.writer
            && let Some(answer) = writer.poll_answer()
        {
            match answer {
                Answer::Written(request, answers) => {
                    self.complete(request, Ok(Outcome::CatalogWritten(answers)));
                }
                Answer::ProducerIds { to, first } if to == self.id => {
                    self.take_producer_ids(first);
                }
                Answer::ProducerIds { to, first } => {
                    self.send(to, MeshMessage::ProducerIds { first });
                }
            }
        }
    }

    /// Shard 0: the change under way is durable. Applies it here and sends it to everyone.
    pub(super) fn spread_catalog(&mut self) {
        let writer = self.writer.as_mut().expect("only shard 0 writes");
        let change = writer.note_durable();
        writer.note_held(self.id, change.epoch);
        self.install(&change);
        for shard in (1..self.shards).map(ShardId) {
            self.send(shard, MeshMessage::CatalogChanged(Arc::clone(&change)));
        }
    }

    /// Shard 0: another shard has applied the catalog up to `epoch`.
    pub(super) fn note_held(&mut self, from: ShardId, epoch: CatalogEpoch) {
        let writer = self.writer.as_mut().expect("only shard 0 writes");
        writer.note_held(from, epoch);
        self.answer_catalog();
    }

    /// Applies a durable change, and acts on what it means for partitions homed here.
    pub(super) fn install(&mut self, change: &CatalogChange) {
        let applied = self.catalog.apply(change);
        let effects = applied.expect("the writer's changes fit, and arrive in order");
        self.forget_in_groups(&effects);
        for effect in effects {
            match effect {
                Effect::Added(partition) if partition.home == self.id => {
                    self.open_partition(partition.id, PartitionState::new());
                }
                Effect::Removed(partition) if partition.home == self.id => {
                    let removed = self.partitions.remove(&partition.id);
                    let removed = removed.expect("a home has its partitions");
                    self.producers.drop_all(&removed.state.producers);
                    self.store.remove_log(partition.id);
                    self.watches.note_changed(partition.id);
                }
                Effect::Configured(partition) if partition.home == self.id => {
                    let settings = self.settings_of(partition.id);
                    self.store
                        .configure_log(partition.id, log_config(&settings));
                    let found = self.partitions.get_mut(&partition.id);
                    found.expect("a home has its partitions").settings = settings;
                }
                Effect::Added(_) | Effect::Removed(_) | Effect::Configured(_) => {}
            }
        }
    }

    /// Gives away a producer id, from this shard's block or the next one.
    pub(super) fn allocate_producer_id(&mut self, request: RequestId) {
        self.producer_ids.waiting.push_back(request);
        self.give_producer_ids();
    }

    /// Shard 0: reserves a block for another shard.
    pub(super) fn reserve_producer_ids(&mut self, from: ShardId) {
        let queue_max = self.config.limits.catalog_queue_max;
        let writer = self.writer.as_mut().expect("shard 0 reserves ids");
        let taken = writer.demand(Demand::ProducerIds(from), queue_max);
        assert_eq!(taken, Ok(()), "a shard's one demand always has room");
    }

    /// This shard's next block came.
    pub(super) fn take_producer_ids(&mut self, first: i64) {
        let ids = &mut self.producer_ids;
        assert!(
            ids.asked && ids.next == ids.end,
            "a block is asked for when one is used up"
        );
        ids.asked = false;
        ids.next = first;
        ids.end = first + PRODUCER_ID_BLOCK;
        self.give_producer_ids();
    }

    /// Whether requests wait for a block of producer ids.
    pub(super) fn awaits_producer_ids(&self) -> bool {
        !self.producer_ids.waiting.is_empty()
    }

    fn give_producer_ids(&mut self) {
        while self.producer_ids.next < self.producer_ids.end
            && let Some(request) = self.producer_ids.waiting.pop_front()
        {
            let id = self.producer_ids.next;
            self.producer_ids.next += 1;
            self.complete(request, Ok(Outcome::ProducerIdAllocated(id)));
        }
        if self.producer_ids.waiting.is_empty() || self.producer_ids.asked {
            return;
        }
        self.producer_ids.asked = true;
        if self.id == ShardId(0) {
            self.reserve_producer_ids(self.id);
        } else {
            self.send(ShardId(0), MeshMessage::ReserveProducerIds);
        }
    }

    /// This shard's whole state as of everything appended.
    pub(super) fn snapshot(&mut self) -> Vec<u8> {
        let catalog = self.writer.as_ref().map(|_| &self.catalog);
        let appended = self.writer.as_ref().and_then(|writer| writer.appended());
        let partitions = self.partitions.iter();
        let states = partitions.map(|(id, partition)| (*id, &partition.state));
        let bytes = snapshot::encode(catalog, appended, states, self.groups.states());
        self.counters.snapshots += 1;
        self.counters.snapshot_bytes += bytes.len() as u64;
        bytes
    }
}
