//! Finding offsets: the ends at once, by time through the store's index and a look into one batch,
//! or two when records of the first were deleted.

use std::collections::BTreeMap;

use millrace_storage::error::ReadError;
use millrace_storage::record::BatchHeader;
use millrace_storage::units::{BootTime, Now, Offset, PartitionId};
use millrace_storage::{ReadOutcome, ReadTicket, Records, TimePoint, TimeRequest};

use super::Shard;
use super::fetches::refusal_of;
use crate::command::{Isolation, OffsetQuery, RequestId};
use crate::event::{FoundOffset, Outcome, Refusal};
use crate::jobs::{Job, JobDone, JobOp, JobResult, JobToken, RecordQuery};

/// Searches that begin in one turn; the others wait for the next. Each may go through all that is
/// known of where one log's batches are.
const SEARCHES_PER_TURN_MAX: usize = 64;

/// Searches by time.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// The turn that began some last, by its time, and how many.
    begun: (BootTime, usize),
    /// Those that have not begun, by when they came. No more than there are requests: each leaves
    /// with its own.
    waiting: BTreeMap<u64, Lookup>,
    /// Keys of `waiting`.
    waiting_of: BTreeMap<RequestId, u64>,
    next_waiting: u64,
    /// Waiting for the store to find the batch.
    finding: BTreeMap<ReadTicket, Lookup>,
    /// Waiting for a job to find the record in it.
    searching: BTreeMap<JobToken, Searching>,
    /// Bytes of the batches that `searching` holds.
    searching_bytes: usize,
    next_job: u64,
}

/// What searches in progress may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    lookups_max: usize,
    /// Of batches.
    bytes_max: usize,
    /// Bytes that a batch may have.
    batch_bytes_max: usize,
}

/// A search by time.
#[derive(Clone, Copy, Debug)]
struct Lookup {
    request: RequestId,
    partition: PartitionId,
    by: RecordQuery,
    isolation: Isolation,
    /// Batches that end at or below it were looked into, or deleted.
    from: Offset,
    /// The latest of what is left of a batch that lost a later one; `None` but for
    /// [`RecordQuery::MaxTimestamp`].
    best: Option<FoundOffset>,
}

/// A search that a job goes on with.
#[derive(Debug)]
struct Searching {
    lookup: Lookup,
    /// Of the batch that the job looks into.
    header: BatchHeader,
    /// Records at the front of the batch that were deleted.
    deleted: u32,
}

impl Lookups {
    /// How many are in progress: at most `lookups_max`.
    pub(super) fn len(&self) -> usize {
        self.finding.len() + self.searching.len()
    }

    /// How many wait to begin.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn wait(&mut self, lookup: Lookup) {
        let number = self.next_waiting;
        self.next_waiting += 1;
        self.waiting.insert(number, lookup);
        self.waiting_of.insert(lookup.request, number);
    }

    fn pop_waiting(&mut self) -> Option<Lookup> {
        let (_, lookup) = self.waiting.pop_first()?;
        self.waiting_of.remove(&lookup.request);
        Some(lookup)
    }

    /// The next search to begin, if it may begin now.
    fn begin(&mut self, now: Now, room: Room) -> Option<Lookup> {
        if self.begun.0 != now.boot {
            self.begun = (now.boot, 0);
        }
        if self.begun.1 >= SEARCHES_PER_TURN_MAX || !self.fits(room) {
            return None;
        }
        let begun = self.pop_waiting();
        self.begun.1 += usize::from(begun.is_some());
        begun
    }

    /// When the next one may begin: at once, in another turn, if none must end before.
    pub(super) fn due(&self, room: Room) -> Option<BootTime> {
        let may_begin = !self.waiting.is_empty() && self.fits(room);
        may_begin.then_some(BootTime(0))
    }

    /// Whether there is room for another: for one there always is. What the store is looking for
    /// counts as the largest batch that there may be.
    fn fits(&self, room: Room) -> bool {
        let unknown = (self.finding.len() + 1).saturating_mul(room.batch_bytes_max);
        let bytes = self.searching_bytes.saturating_add(unknown);
        self.len() == 0 || self.len() < room.lookups_max && bytes <= room.bytes_max
    }

    /// A request was withdrawn: its search need not begin.
    pub(super) fn forget(&mut self, request: RequestId) {
        if let Some(number) = self.waiting_of.remove(&request) {
            self.waiting.remove(&number);
        }
    }
}

impl Shard {
    /// Finds an offset in a partition homed here.
    pub(super) fn find_offset(
        &mut self,
        now: Now,
        request: RequestId,
        id: PartitionId,
        (at, isolation): (OffsetQuery, Isolation),
    ) {
        let partition = match self.partition(id) {
            Ok(partition) => partition,
            Err(refusal) => return self.complete(request, Err(refusal)),
        };
        let place = |offset, leader_epoch| {
            Some(FoundOffset {
                offset,
                timestamp_ms: None,
                leader_epoch,
            })
        };
        let by = match at {
            OffsetQuery::Earliest => {
                let start = partition.log_start();
                let found = place(start, partition.state.epochs.of(start));
                return self.complete(request, Ok(Outcome::OffsetFound(found)));
            }
            OffsetQuery::Latest => {
                let end = partition.readable_end(isolation);
                let found = place(end, partition.leader_epoch());
                return self.complete(request, Ok(Outcome::OffsetFound(found)));
            }
            OffsetQuery::MaxTimestamp => RecordQuery::MaxTimestamp,
            OffsetQuery::AtOrAfter(time_ms) => RecordQuery::AtOrAfter(time_ms),
        };
        let lookup = Lookup {
            request,
            partition: id,
            by,
            isolation,
            from: Offset(0),
            best: None,
        };
        self.lookups.wait(lookup);
        self.start_searches(now);
    }

    /// Begins searches, in the order in which they came, as far as the bounds allow.
    pub(super) fn start_searches(&mut self, now: Now) {
        let room = self.room_for_lookups();
        while let Some(lookup) = self.lookups.begin(now, room) {
            match self.partition(lookup.partition) {
                Ok(partition) => {
                    let end = partition.readable_end(lookup.isolation);
                    self.start_search(now, lookup, end);
                }
                Err(refusal) => self.complete(lookup.request, Err(refusal)),
            }
        }
    }

    pub(super) fn room_for_lookups(&self) -> Room {
        Room {
            lookups_max: self.config.limits.lookups_max,
            bytes_max: self.config.limits.lookup_bytes_max,
            batch_bytes_max: self.store.entry_bytes_max(),
        }
    }

    fn start_search(&mut self, now: Now, lookup: Lookup, end: Offset) {
        let ticket = self.next_ticket;
        self.next_ticket = ReadTicket(ticket.0 + 1);
        let request = TimeRequest {
            ticket,
            partition: lookup.partition,
            point: match lookup.by {
                RecordQuery::AtOrAfter(time_ms) => TimePoint::AtLeast(time_ms),
                RecordQuery::MaxTimestamp => TimePoint::Max,
            },
            from: lookup.from,
            end,
        };
        match self.store.find_time(now, request) {
            ReadOutcome::Ready(result) => self.look_into(lookup, result),
            ReadOutcome::Pending => {
                self.reads.expect_search(ticket);
                self.lookups.finding.insert(ticket, lookup);
            }
        }
    }

    /// Takes the batch that the store found.
    pub(super) fn finish_find(&mut self, ticket: ReadTicket, result: Result<Records, ReadError>) {
        let lookup = self.lookups.finding.remove(&ticket);
        self.look_into(lookup.expect("the store answers a search once"), result);
    }

    fn look_into(&mut self, lookup: Lookup, result: Result<Records, ReadError>) {
        let partition = match self.partition(lookup.partition) {
            Ok(partition) => partition,
            Err(refusal) => return self.complete(lookup.request, Err(refusal)),
        };
        let batch = match result {
            Ok(records) => records.batches.into_iter().next(),
            Err(error) => {
                let refusal = refusal_of(error, partition);
                return self.complete(lookup.request, Err(refusal));
            }
        };
        let Some(batch) = batch else {
            return self.complete(lookup.request, Ok(Outcome::OffsetFound(lookup.best)));
        };
        let header = BatchHeader::parse(&batch).expect("the store checked it");
        let start = partition.log_start();
        if header.next_offset() <= start {
            return self.search_on(lookup, &header); // It was deleted meanwhile.
        }
        let is_no_later = |best: FoundOffset| best.timestamp_ms >= Some(header.max_timestamp_ms);
        if lookup.best.is_some_and(is_no_later) {
            return self.complete(lookup.request, Ok(Outcome::OffsetFound(lookup.best)));
        }
        let deleted = start.0.saturating_sub(header.base_offset.0);
        let deleted = u32::try_from(deleted).expect("less than a batch has");
        if header.is_append_time() {
            // Every record has the batch's time.
            let found = found(&header, (deleted, header.max_timestamp_ms));
            return self.complete(lookup.request, Ok(Outcome::OffsetFound(Some(found))));
        }
        let token = JobToken(self.lookups.next_job);
        self.lookups.next_job += 1;
        self.lookups.searching_bytes += header.batch_bytes;
        let searching = Searching {
            lookup,
            header,
            deleted,
        };
        self.lookups.searching.insert(token, searching);
        let job = Job::FindRecord {
            batch,
            by: lookup.by,
            first: deleted,
        };
        self.jobs.push_back(JobOp { token, job });
    }

    /// Takes the record that a job found.
    pub(super) fn finish_search(&mut self, done: JobDone) {
        let searching = self.lookups.searching.remove(&done.token);
        let Searching {
            mut lookup,
            header,
            deleted,
        } = searching.expect("a job ends once");
        self.lookups.searching_bytes -= header.batch_bytes;
        let record = match done.result {
            JobResult::FoundRecord(record) => record,
            JobResult::Unreadable(why) => {
                return self.complete(lookup.request, Err(Refusal::Damaged(why)));
            }
        };
        let is_max = lookup.by == RecordQuery::MaxTimestamp;
        let is_as_promised = |record: (u32, i64)| !is_max || record.1 >= header.max_timestamp_ms;
        if deleted > 0 && !record.is_some_and(is_as_promised) {
            // The record that the header promises was deleted.
            lookup.best = record
                .filter(|_| is_max)
                .map(|record| found(&header, record));
            return self.search_on(lookup, &header);
        }
        // If a whole batch has none that fits, the producer wrote a wrong header, and beginning at
        // the batch skips nothing.
        let record = record.unwrap_or((0, header.max_timestamp_ms));
        let found = Outcome::OffsetFound(Some(found(&header, record)));
        self.complete(lookup.request, Ok(found));
    }

    /// Nothing that is left of a batch is the answer: goes on behind it.
    fn search_on(&mut self, lookup: Lookup, header: &BatchHeader) {
        self.lookups.wait(Lookup {
            from: header.next_offset(),
            ..lookup
        });
    }
}

/// A record of a batch, by its offset delta and time.
fn found(header: &BatchHeader, (delta, timestamp_ms): (u32, i64)) -> FoundOffset {
    FoundOffset {
        offset: header.base_offset + u64::from(delta),
        timestamp_ms: Some(timestamp_ms),
        leader_epoch: header.leader_epoch,
    }
}
