//! Appending: from a client's bytes to a promise, and from durability to an answer.
//!
//! Budget: the batch is checked in place and copied once, into the commit group; nothing is
//! allocated on the way but the waiter's slot.

use std::collections::VecDeque;

use bytes::Bytes;
use millrace_storage::Append;
use millrace_storage::error::AppendError;
use millrace_storage::record::Batch;
use millrace_storage::units::{BootTime, Now, PartitionId};

use super::Shard;
use crate::command::RequestId;
use crate::event::{Appended, Outcome, Refusal};
use crate::partition::admit::admit;
use crate::partition::producers::Verdict;
use crate::waiters::Promise;

/// Appends that the log had no free file for, in the order of their arrival. While there are any,
/// later ones queue behind them, and producers are not read.
#[derive(Debug, Default)]
pub(super) struct PendingAppends {
    queue: VecDeque<(RequestId, PartitionId, Bytes)>,
    /// Of the batches in `queue`. At most `pending_append_bytes_max`, or one batch.
    bytes: usize,
}

impl PendingAppends {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Ends them all; returns the requests.
    pub(super) fn abandon(&mut self) -> Vec<RequestId> {
        self.bytes = 0;
        self.queue.drain(..).map(|(request, ..)| request).collect()
    }
}

/// Idle producers forgotten in one go.
const EXPIRED_MAX: usize = 4_096;

/// What became of an attempt to append.
enum Attempt {
    /// The log has it, or had it; the answer comes with durability.
    Taken,
    /// It was repeated and is durable: this is the answer.
    Done(Appended),
    /// No free file: try again later.
    LogFull,
}

impl Shard {
    /// Appends a batch to a partition homed here.
    pub(super) fn append(
        &mut self,
        now: Now,
        request: RequestId,
        partition: PartitionId,
        bytes: &[u8],
    ) {
        if !self.pending.is_empty() {
            self.hold(request, partition, bytes);
            return;
        }
        match self.try_append(now, request, partition, bytes) {
            Ok(Attempt::Taken) => {}
            Ok(Attempt::Done(answer)) => self.complete(request, Ok(Outcome::Appended(answer))),
            Ok(Attempt::LogFull) => self.hold(request, partition, bytes),
            Err(refusal) => self.complete(request, Err(refusal)),
        }
    }

    fn hold(&mut self, request: RequestId, partition: PartitionId, bytes: &[u8]) {
        let bytes_max = self.config.limits.pending_append_bytes_max;
        if !self.pending.is_empty() && self.pending.bytes + bytes.len() > bytes_max {
            let busy = Refusal::Busy("memory.pending_append_bytes_max");
            self.complete(request, Err(busy));
            return;
        }
        self.pending.bytes += bytes.len();
        let held = (request, partition, Bytes::copy_from_slice(bytes));
        self.pending.queue.push_back(held);
    }

    /// Appends what was held, as far as the log takes it.
    pub(super) fn retry_appends(&mut self, now: Now) {
        while self.store.accepts_appends()
            && let Some((request, partition, bytes)) = self.pending.queue.pop_front()
        {
            match self.try_append(now, request, partition, &bytes) {
                Ok(Attempt::LogFull) => {
                    self.pending.queue.push_front((request, partition, bytes));
                    return;
                }
                Ok(Attempt::Taken) => {}
                Ok(Attempt::Done(answer)) => self.complete(request, Ok(Outcome::Appended(answer))),
                Err(refusal) => self.complete(request, Err(refusal)),
            }
            self.pending.bytes -= bytes.len();
        }
    }

    fn try_append(
        &mut self,
        now: Now,
        request: RequestId,
        id: PartitionId,
        bytes: &[u8],
    ) -> Result<Attempt, Refusal> {
        let limits = &self.config.limits;
        if self.poisoned.is_some() {
            return Err(Refusal::OutcomeUnknown);
        }
        if self.waiters.len() >= limits.waiters_max {
            return Err(Refusal::Busy("limits.waiters_max"));
        }
        let partition = self.partitions.get_mut(&id);
        let partition = partition.ok_or(Refusal::UnknownPartition)?;
        let batch = admit(bytes, &partition.settings, now.wall_ms)?;
        match partition.state.producers.check(batch.header())? {
            Verdict::New => self.append_new(now, request, id, batch),
            Verdict::Unknown => Err(Refusal::UnknownProducer {
                log_start: partition.log_start(),
            }),
            Verdict::Forgotten { lsn } => {
                // Its producer takes the refusal for success, so it waits like one.
                match self.waiters.wait(lsn, Promise::Forgotten { request }) {
                    None => Ok(Attempt::Taken),
                    Some(_) => Err(Refusal::DuplicateSequence),
                }
            }
            Verdict::Repeated(first) => {
                self.counters.repeated_batches += 1;
                let answer = Appended {
                    base_offset: first.base_offset,
                    append_time_ms: first.append_time_ms,
                    log_start: partition.log_start(),
                    durable_at: now.boot,
                };
                let promise = Promise::Repeated { request, answer };
                Ok(match self.waiters.wait(first.lsn, promise) {
                    None => Attempt::Taken,
                    Some(_) => Attempt::Done(answer),
                })
            }
        }
    }

    fn append_new(
        &mut self,
        now: Now,
        request: RequestId,
        id: PartitionId,
        batch: Batch<'_>,
    ) -> Result<Attempt, Refusal> {
        let partition = self.partitions.get_mut(&id).expect("the caller found it");
        let state = &mut partition.state;
        let append_time_ms = partition
            .settings
            .append_time
            .then(|| state.stamp(now.wall_ms));
        let append = Append {
            partition: id,
            base_offset: state.next(),
            leader_epoch: state.epochs.current(),
            append_time_ms,
            batch,
        };
        let lsn = match self.store.append(now, append) {
            Ok(lsn) => lsn,
            Err(AppendError::WalFull) => return Ok(Attempt::LogFull),
            Err(error) => return Err(refusal_of(error)),
        };
        let base_offset = state.note_appended(batch.header(), append_time_ms, lsn);
        let producer = batch.header().producer_id;
        self.producers
            .renew(id, &mut state.producers, producer, now.boot);
        let promise = Promise::Appended {
            request,
            partition: id,
            answer: Appended {
                base_offset,
                append_time_ms,
                log_start: partition.log_start(),
                durable_at: now.boot,
            },
            end: partition.state.next(),
            bytes: batch.bytes().len(),
        };
        let early = self.waiters.wait(lsn, promise);
        assert_eq!(early, None, "nothing is durable when it is appended");
        self.counters.appended_batches += 1;
        self.counters.appended_bytes += batch.bytes().len() as u64;
        if self.producers.len() > self.config.limits.producers_max {
            self.forget_producers(now);
        }
        Ok(Attempt::Taken)
    }

    /// Keeps the promises that the log's durability made true.
    pub(super) fn release(&mut self) {
        let durable = self.store.durable_lsn();
        let durable_at = self.stages.durable_at();
        while let Some(promise) = self.waiters.release(durable) {
            match promise {
                Promise::Appended {
                    request,
                    partition,
                    answer,
                    end,
                    bytes,
                } => {
                    let outcome = match self.partitions.get_mut(&partition) {
                        Some(found) => {
                            found.raise_high_watermark(end);
                            self.watches.note_readable(partition, bytes);
                            let answer = Appended {
                                durable_at,
                                ..answer
                            };
                            Ok(Outcome::Appended(answer))
                        }
                        // Deleted meanwhile, with everything in it.
                        None => Err(Refusal::UnknownPartition),
                    };
                    self.complete(request, outcome);
                }
                Promise::Repeated { request, answer } => {
                    let answer = Appended {
                        durable_at,
                        ..answer
                    };
                    self.complete(request, Ok(Outcome::Appended(answer)));
                }
                Promise::Forgotten { request } => {
                    self.complete(request, Err(Refusal::DuplicateSequence));
                }
                Promise::RecordsDeleted {
                    request,
                    partition,
                    start,
                } => self.finish_delete(request, partition, start),
                Promise::CatalogWritten => self.spread_catalog(),
                Promise::GroupAnswered => self.answer_group(),
            }
        }
    }

    /// When the next idle producer is to be forgotten.
    pub(super) fn producers_due(&self) -> Option<BootTime> {
        let idle = self.producers.first()?;
        Some(idle.at.after_ms(self.config.limits.producer_expiry_ms))
    }

    /// Forgets producers that were idle for too long, and those beyond what may be remembered.
    pub(super) fn forget_producers(&mut self, now: Now) {
        let producers_max = self.config.limits.producers_max;
        let mut expired_max = EXPIRED_MAX;
        loop {
            let is_excess = self.producers.len() > producers_max;
            let is_expired = self.producers_due().is_some_and(|due| due <= now.boot);
            if !is_excess && (!is_expired || expired_max == 0) {
                return;
            }
            expired_max = expired_max.saturating_sub(1);
            self.counters.evicted_producers += u64::from(!is_expired);
            let idle = self.producers.pop().expect("there is one");
            let partition = self.partitions.get_mut(&idle.partition);
            let partition = partition.expect("the order knows the producers of partitions");
            partition.state.producers.forget(idle.producer);
        }
    }
}

pub(super) fn refusal_of(error: AppendError) -> Refusal {
    match error {
        AppendError::WalFull => Refusal::Busy("wal.files"),
        AppendError::DiskFull => Refusal::DiskFull,
        AppendError::TooLarge { bytes, bytes_max } => Refusal::BatchTooLarge { bytes, bytes_max },
        AppendError::Poisoned => Refusal::OutcomeUnknown,
    }
}
