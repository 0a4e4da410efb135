//! Deleting the first records of a partition, on a client's word.
//!
//! The new start takes effect for readers at once and is an entry of the log like any other: it is
//! promised to the client when the log is durable up to it. Retention moves starts without an
//! entry, so what it did is not promised to anybody; a deletion up to there still gets its own.

use millrace_storage::units::{Now, Offset, PartitionId};

use super::Shard;
use super::appends::refusal_of;
use crate::command::RequestId;
use crate::event::{Outcome, Refusal};
use crate::waiters::Promise;

impl Shard {
    /// Deletes what a partition homed here holds below `keep_from`, or all that is readable.
    pub(super) fn delete_records(
        &mut self,
        now: Now,
        request: RequestId,
        partition: PartitionId,
        keep_from: Option<Offset>,
    ) {
        let start = match self.move_start(now, partition, keep_from) {
            Ok(start) => start,
            Err(refusal) => return self.complete(request, Err(refusal)),
        };
        let promise = Promise::RecordsDeleted {
            request,
            partition,
            start,
        };
        // Everything appended so far: the entry that says so, now or earlier, is among it.
        let early = self.waiters.wait(self.store.append_lsn(), promise);
        if early.is_some() {
            self.finish_delete(request, partition, start);
        }
    }

    /// Moves the start, unless the log says already that it lies there or later. Returns the start.
    fn move_start(
        &mut self,
        now: Now,
        id: PartitionId,
        keep_from: Option<Offset>,
    ) -> Result<Offset, Refusal> {
        if self.poisoned.is_some() {
            return Err(Refusal::OutcomeUnknown);
        }
        if self.waiters.len() >= self.config.limits.waiters_max {
            return Err(Refusal::Busy("limits.waiters_max"));
        }
        let partition = self.partitions.get_mut(&id);
        let partition = partition.ok_or(Refusal::UnknownPartition)?;
        let keep_from = keep_from.unwrap_or(partition.high_watermark());
        if keep_from > partition.high_watermark() {
            return Err(Refusal::OffsetOutOfRange {
                first: partition.log_start(),
                next: partition.high_watermark(),
            });
        }
        if !partition.is_start_logged(keep_from) {
            let start = keep_from.max(partition.log_start());
            let appended = self.store.append_log_start(now, id, start);
            appended.map_err(refusal_of)?;
            partition.note_start_logged(start);
        }
        Ok(partition.log_start())
    }

    /// The log is durable up to what a deletion wrote.
    pub(super) fn finish_delete(
        &mut self,
        request: RequestId,
        partition: PartitionId,
        start: Offset,
    ) {
        let outcome = match self.partitions.get(&partition) {
            Some(_) => Ok(Outcome::RecordsDeleted(start)),
            // Deleted meanwhile, with everything in it.
            None => Err(Refusal::UnknownPartition),
        };
        self.complete(request, outcome);
    }
}
