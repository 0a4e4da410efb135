//! Fetching: the origin's side, which gathers, and the home's side, which reads.
//!
//! Local and remote homes are asked the same things in the same order; only the way differs.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_storage::error::ReadError;
use millrace_storage::record::BatchHeader;
use millrace_storage::units::{Now, Offset, PartitionId, ShardId};
use millrace_storage::{ReadOutcome, ReadRequest, ReadTicket, Records};

use super::Shard;
use super::answers::READ_BYTES_MIN;
use crate::command::{FetchPartition, FetchRequest, Isolation, RequestId};
use crate::event::{Fetched, FetchedPartition, Outcome, Refusal};
use crate::gather::{Gather, GatherId, Next, WatchOrder};
use crate::mesh::MeshMessage;
use crate::partition::Partition;
use crate::watches::Watcher;

/// Reads at this home, for fetches of any shard.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// In progress.
    reads: BTreeMap<ReadId, HomeRead>,
    next: ReadId,
    /// What each of the store's pending reads is for.
    tickets: BTreeMap<ReadTicket, Ticket>,
}

/// A read of several partitions at their home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct ReadId(u64);

/// What a pending read of the store is for.
#[derive(Clone, Copy, Debug)]
enum Ticket {
    Fetch {
        read: ReadId,
        /// Index into the read's partitions.
        place: usize,
        /// Bytes set aside for it.
        reserved: usize,
        /// The partition when the read began: the batches end where its offsets say.
        seen: Seen,
    },
    Search,
}

/// Partitions being read one after the other, as many at a time as the bytes asked for allow: what
/// is found and what may still be found never exceeds them by more than one partition's share.
#[derive(Debug)]
struct HomeRead {
    reader: (ShardId, GatherId),
    isolation: Isolation,
    partitions: Vec<FetchPartition>,
    found: Vec<Option<FetchedPartition>>,
    /// The first partition that was not begun.
    begun: usize,
    /// Bytes that may still be returned.
    left: usize,
    /// Bytes set aside for reads under way.
    reserved: usize,
    under_way: usize,
}

impl HomeRead {
    /// The next partition to begin and the bytes to ask for, if there is room for it.
    fn next(&self) -> Option<(usize, FetchPartition, usize)> {
        let wanted = *self.partitions.get(self.begun)?;
        let room = self.left.saturating_sub(self.reserved);
        if self.under_way > 0 && room < set_aside(wanted.bytes_max).min(self.left) {
            return None; // Until it is known what the reads under way leave.
        }
        Some((self.begun, wanted, wanted.bytes_max.min(room)))
    }

    fn is_done(&self) -> bool {
        self.begun == self.partitions.len() && self.under_way == 0
    }
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    pub(super) fn expect_search(&mut self, ticket: ReadTicket) {
        self.tickets.insert(ticket, Ticket::Search);
    }
}

// The origin's side.
impl Shard {
    pub(super) fn start_fetch(&mut self, now: Now, request: RequestId, fetch: FetchRequest) {
        let limits = &self.config.limits;
        let refusal = if fetch.partitions.len() > limits.fetch_partitions_max {
            Some(Refusal::LimitReached {
                limit: "limits.fetch_partitions_max",
                max: limits.fetch_partitions_max as u64,
            })
        } else if self.gathers.len() >= limits.fetches_max {
            Some(Refusal::Busy("limits.fetches_max"))
        } else if self.fetched_partitions + fetch.partitions.len() > limits.fetched_partitions_max {
            Some(Refusal::Busy("limits.fetched_partitions_max"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.complete(request, Err(refusal));
            return;
        }
        let id = self.next_gather;
        self.next_gather = GatherId(id.0 + 1);
        let gather = Gather::new(request, fetch, |partition| {
            self.catalog.place(partition).map(|place| place.home)
        });
        self.deadlines.insert((gather.deadline(), id));
        self.fetched_partitions += gather.fetch().partitions.len();
        self.gathers.insert(id, gather);
        self.requests.set_fetch(request, id);
        self.run_fetch(now, id);
    }

    /// Begins a round of a fetch that waits, or lets it wait until there is room for its answer.
    fn run_fetch(&mut self, now: Now, id: GatherId) {
        let is_first = self.answers.first_waiting().is_none();
        if !is_first || !self.begin_fetch(now, id) {
            let gather = self.gathers.get_mut(&id).expect("it waits to be run");
            gather.waits_for_room = true;
            self.answers.wait(id, now.boot);
        }
    }

    /// Runs the fetches that waited for room, as long as there is some.
    pub(super) fn run_waiting_fetches(&mut self, now: Now) {
        while let Some((id, _)) = self.answers.first_waiting() {
            let is_done = !self.gathers.contains_key(&id) || self.begin_fetch(now, id);
            if !is_done {
                return;
            }
            self.answers.pop_waiting();
        }
    }

    /// Begins a round of a fetch; `false` if there is no room for what it may bring.
    fn begin_fetch(&mut self, now: Now, id: GatherId) -> bool {
        let gather = self.gathers.get_mut(&id).expect("it waits to be run");
        let Some(allowance) = self
            .answers
            .allow(gather.wanted_bytes(), gather.homes().count())
        else {
            return false;
        };
        let (bytes_max, isolation) = (allowance.home_bytes_max, gather.fetch().isolation);
        for (home, partitions) in gather.begin_round(allowance) {
            if home == self.id {
                self.read_for(now, (home, id), partitions, (bytes_max, isolation));
            } else {
                self.send(
                    home,
                    MeshMessage::Read {
                        gather: id,
                        partitions,
                        bytes_max,
                        isolation,
                    },
                );
            }
        }
        self.judge_fetch(now, id);
        true
    }

    /// Takes a home's part of a round.
    pub(super) fn take_read(
        &mut self,
        now: Now,
        home: ShardId,
        id: GatherId,
        partitions: Vec<FetchedPartition>,
    ) {
        if let Some(gather) = self.gathers.get_mut(&id) {
            gather.take(home, partitions);
            self.judge_fetch(now, id);
        } // Else it was cancelled.
    }

    fn judge_fetch(&mut self, now: Now, id: GatherId) {
        let Some(gather) = self.gathers.get_mut(&id) else {
            return; // Answered from within its own round.
        };
        match gather.judge(now) {
            Next::Wait => {}
            Next::Answer(partitions) => {
                let gather = self.forget_fetch(id);
                let found = partitions.iter().map(found_bytes).sum();
                self.answers.end(gather.allowance(), found);
                self.complete(gather.request, Ok(Outcome::Fetched(partitions)));
            }
            Next::Drop => {
                let gather = self.forget_fetch(id);
                self.answers.end(gather.allowance(), 0);
            }
            Next::Park(orders) => {
                self.answers.end(gather.allowance(), 0);
                let isolation = gather.fetch().isolation;
                self.counters.parked_fetches += 1;
                for order in orders {
                    self.order_watch(id, order, isolation);
                }
            }
        }
    }

    fn order_watch(&mut self, id: GatherId, order: WatchOrder, isolation: Isolation) {
        let WatchOrder {
            home,
            partitions,
            bytes_wanted,
        } = order;
        if home == self.id {
            self.watch_for((home, id), partitions, (bytes_wanted, isolation));
        } else {
            self.send(
                home,
                MeshMessage::Watch {
                    gather: id,
                    partitions,
                    bytes_wanted,
                    isolation,
                },
            );
        }
    }

    /// Reads again for a parked fetch: something came, or time is up.
    pub(super) fn wake_fetch(&mut self, now: Now, id: GatherId) {
        let Some(gather) = self.gathers.get(&id) else {
            return; // Answered or cancelled meanwhile.
        };
        if gather.is_reading() || gather.waits_for_room {
            return; // Another home told first.
        }
        self.unwatch(id);
        self.run_fetch(now, id);
    }

    /// Ends the fetches whose time is up: each reads once more and answers with what is there.
    pub(super) fn expire_fetches(&mut self, now: Now) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now.boot
        {
            // A fetch that is reading answers when its homes did.
            self.deadlines.remove(&(at, id));
            self.wake_fetch(now, id);
        }
    }

    /// Forgets a fetch whose answer is no longer wanted.
    pub(super) fn drop_fetch(&mut self, id: GatherId) {
        let Some(gather) = self.gathers.get_mut(&id) else {
            return;
        };
        if gather.is_reading() {
            // What its homes read for it takes memory until they are done.
            gather.give_up();
            return;
        }
        self.unwatch(id);
        self.forget_fetch(id);
    }

    fn forget_fetch(&mut self, id: GatherId) -> Gather {
        let gather = self.gathers.remove(&id).expect("a fetch ends once");
        self.deadlines.remove(&(gather.deadline(), id));
        self.fetched_partitions -= gather.fetch().partitions.len();
        gather
    }

    /// Takes back what a fetch asked its homes to tell.
    fn unwatch(&mut self, id: GatherId) {
        let homes: Vec<ShardId> = self.gathers[&id].homes().collect();
        for home in homes {
            if home == self.id {
                self.unwatch_for(home, id);
            } else {
                self.send(home, MeshMessage::Unwatch { gather: id });
            }
        }
    }
}

// The home's side.
impl Shard {
    /// Reads partitions homed here for a fetch.
    pub(super) fn read_for(
        &mut self,
        now: Now,
        reader: (ShardId, GatherId),
        partitions: Vec<FetchPartition>,
        (bytes_max, isolation): (usize, Isolation),
    ) {
        let id = self.reads.next;
        self.reads.next = ReadId(id.0 + 1);
        let read = HomeRead {
            reader,
            isolation,
            found: vec![None; partitions.len()],
            partitions,
            begun: 0,
            left: bytes_max,
            reserved: 0,
            under_way: 0,
        };
        self.reads.reads.insert(id, read);
        self.advance_read(now, id);
    }

    fn advance_read(&mut self, now: Now, id: ReadId) {
        let read = self.reads.reads.get_mut(&id).expect("reads end here");
        while let Some((place, wanted, bytes_max)) = read.next() {
            read.begun += 1;
            let ticket = self.next_ticket;
            self.next_ticket = ReadTicket(ticket.0 + 1);
            let partition = self.partitions.get(&wanted.partition);
            let seen = match begin(partition, wanted, read.isolation) {
                Ok(seen) => seen,
                Err(refusal) => {
                    read.found[place] = Some(failed(wanted.partition, refusal));
                    continue;
                }
            };
            let end = seen.end;
            if bytes_max == 0 || wanted.from >= end {
                let has_more = wanted.from < end;
                read.found[place] = Some(seen.with(Vec::new(), has_more));
                continue;
            }
            let request = ReadRequest {
                ticket,
                partition: wanted.partition,
                from: wanted.from,
                end,
                bytes_max,
            };
            match self.store.read(now, request) {
                ReadOutcome::Ready(result) => {
                    let found = finish(partition, seen, result);
                    read.left = read.left.saturating_sub(found_bytes(&found));
                    read.found[place] = Some(found);
                }
                ReadOutcome::Pending => {
                    self.counters.pending_reads += 1;
                    read.under_way += 1;
                    read.reserved += set_aside(bytes_max);
                    let ticket_for = Ticket::Fetch {
                        read: id,
                        place,
                        reserved: set_aside(bytes_max),
                        seen,
                    };
                    self.reads.tickets.insert(ticket, ticket_for);
                }
            }
        }
        if read.is_done() {
            let read = self.reads.reads.remove(&id).expect("just seen");
            self.deliver(now, read);
        }
    }

    /// Takes the store's answer to a pending read.
    pub(super) fn finish_read(
        &mut self,
        now: Now,
        ticket: ReadTicket,
        result: Result<Records, ReadError>,
    ) {
        let used = self.reads.tickets.remove(&ticket);
        match used.expect("the store answers what it was asked") {
            Ticket::Search => self.finish_find(ticket, result),
            Ticket::Fetch {
                read: id,
                place,
                reserved,
                seen,
            } => {
                let read = self.reads.reads.get_mut(&id).expect("it waits for this");
                let partition = self.partitions.get(&seen.partition);
                let found = finish(partition, seen, result);
                read.under_way -= 1;
                read.reserved -= reserved;
                read.left = read.left.saturating_sub(found_bytes(&found));
                read.found[place] = Some(found);
                self.advance_read(now, id);
            }
        }
    }

    fn deliver(&mut self, now: Now, read: HomeRead) {
        let (origin, gather) = read.reader;
        let found = read.found.into_iter();
        let partitions: Vec<FetchedPartition> = found
            .map(|partition| partition.expect("a read that is done found everything"))
            .collect();
        if origin == self.id {
            self.take_read(now, origin, gather, partitions);
        } else {
            self.send(origin, MeshMessage::ReadDone { gather, partitions });
        }
    }

    /// Watches partitions homed here for a fetch. What came since they were read counts.
    pub(super) fn watch_for(
        &mut self,
        (origin, gather): (ShardId, GatherId),
        partitions: Vec<(PartitionId, Offset)>,
        (bytes_wanted, isolation): (usize, Isolation),
    ) {
        let watcher = Watcher { origin, gather };
        let unchanged = |(partition, read_to): &(PartitionId, Offset)| {
            let found = self.partitions.get(partition);
            found.is_some_and(|found| found.readable_end(isolation) == *read_to)
        };
        let changed = !partitions.iter().all(unchanged);
        let ids = partitions.into_iter().map(|(partition, _)| partition);
        self.watches.add(watcher, ids.collect(), bytes_wanted);
        if changed {
            self.watches.fire(watcher);
        }
    }

    pub(super) fn unwatch_for(&mut self, origin: ShardId, gather: GatherId) {
        self.watches.remove(Watcher { origin, gather });
    }
}

/// A partition as a reader saw it when its read began.
#[derive(Clone, Copy, Debug)]
struct Seen {
    partition: PartitionId,
    high_watermark: Offset,
    last_stable: Offset,
    log_start: Offset,
    /// Where the read ends: which of them the reader may read up to.
    end: Offset,
}

impl Seen {
    /// The answer.
    fn with(self, batches: Vec<Bytes>, has_more: bool) -> FetchedPartition {
        FetchedPartition {
            partition: self.partition,
            result: Ok(Fetched {
                high_watermark: self.high_watermark,
                last_stable: self.last_stable,
                log_start: self.log_start,
                batches,
                has_more,
            }),
        }
    }

    /// The answer of a read that brought `records`. The store brings as much as it has at hand, so
    /// they may end below the end, and have a gap before it; nothing at all means nothing is there.
    fn with_records(self, records: Records) -> FetchedPartition {
        let last = records.batches.last();
        let has_more = last.is_some_and(|batch| {
            let header = BatchHeader::parse(batch).expect("the store checked it");
            header.next_offset() < self.end
        });
        self.with(records.batches, has_more)
    }
}

/// Checks what a reader wants of a partition.
fn begin(
    partition: Option<&Partition>,
    wanted: FetchPartition,
    isolation: Isolation,
) -> Result<Seen, Refusal> {
    let partition = partition.ok_or(Refusal::UnknownPartition)?;
    partition.state.epochs.check_reader(wanted.leader_epoch)?;
    partition.check_offset(wanted.from)?;
    Ok(Seen {
        partition: wanted.partition,
        high_watermark: partition.readable_end(Isolation::Uncommitted),
        last_stable: partition.readable_end(Isolation::Committed),
        log_start: partition.log_start(),
        end: partition.readable_end(isolation),
    })
}

/// The answer for a partition that was read; it may be gone by now.
fn finish(
    partition: Option<&Partition>,
    seen: Seen,
    result: Result<Records, ReadError>,
) -> FetchedPartition {
    match (partition, result) {
        (None, _) => failed(seen.partition, Refusal::UnknownPartition),
        (Some(_), Ok(records)) => seen.with_records(records),
        (Some(found), Err(error)) => failed(seen.partition, refusal_of(error, found)),
    }
}

fn failed(partition: PartitionId, refusal: Refusal) -> FetchedPartition {
    FetchedPartition {
        partition,
        result: Err(refusal),
    }
}

/// What a reader is told is reached when the kernel had no descriptor or no memory for a read. It
/// is no setting of ours.
const SHORTAGE: &str = "the process's limit of open files, or of memory,";

/// How a reader is told what the store could not read.
pub(super) fn refusal_of(error: ReadError, partition: &Partition) -> Refusal {
    match error {
        ReadError::UnknownPartition(_) => Refusal::UnknownPartition,
        // Retention went past it while it was being read.
        ReadError::OutOfRange => Refusal::OffsetOutOfRange {
            first: partition.log_start(),
            next: partition.high_watermark(),
        },
        // Nothing is wrong with what is stored.
        ReadError::Disk(error) if error.is_shortage() => Refusal::Busy(SHORTAGE),
        ReadError::Damaged { .. } | ReadError::Disk(_) => Refusal::Damaged(error.to_string()),
    }
}

/// Bytes that a read under way counts for: however few are wanted, a batch comes, and with it what
/// was read around it.
fn set_aside(bytes_max: usize) -> usize {
    bytes_max.max(READ_BYTES_MIN)
}

fn found_bytes(found: &FetchedPartition) -> usize {
    let batches = found.result.as_ref().map(|fetched| &fetched.batches);
    batches.map_or(0, |batches| batches.iter().map(Bytes::len).sum())
}
