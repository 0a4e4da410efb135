//! Reads of batches: from the cache at once, from WAL files through the disk.
//!
//! A read that misses the cache fetches the whole block and its neighbours, checks that they are
//! the blocks that were written there in this life, and starts again through the index with the
//! block at hand: whatever was settled or recycled in between, the index knows. Reads of one block
//! share one fetch. A fetched file is pinned, so its slot is not reused under the fetch.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::block::{BLOCK_HEADER_BYTES, BlockHeader, Seeding};
use crate::buf::AlignedBuf;
use crate::config::{SeededBug, StoreConfig};
use crate::disk::{DiskDone, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName};
use crate::entry::{Entries, EntryKind};
use crate::error::ReadError;
use crate::log_index::{Log, LogIndex, Run};
use crate::record::BatchHeader;
use crate::request::{ReadOutcome, ReadTicket, Records, TimePoint};
use crate::tail_cache::TailCache;
use crate::units::{Lsn, Offset, PartitionId};
use crate::wal::{BlockPlace, Wal};

/// The tag of the reads' tokens.
pub(crate) const READS_TAG: u8 = 18;

/// A fetch takes further blocks of its file along up to this size: a log written slowly has many
/// small blocks, and who reads one of them reads on.
const FETCH_BYTES: usize = 1 << 20;

/// What a read looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) partition: PartitionId,
    /// No batch at or above it.
    pub(crate) end: Offset,
    pub(crate) what: What,
}

/// What is settled now has this version; see [`crate::packs::Packs::version`].
type SettledVersion = u64;

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Batches {
        from: Offset,
        bytes_max: usize,
    },
    Time {
        /// No batch that ends at or below it.
        from: Offset,
        point: TimePoint,
    },
}

impl Want {
    /// Batches of `log` that end at or below it do not count. A read of batches outside the log is
    /// refused instead.
    pub(crate) fn start(&self, log: &Log) -> Offset {
        match self.what {
            What::Batches { .. } => log.start,
            What::Time { from, .. } => log.start.max(from),
        }
    }
}

/// What reading needs of the store.
pub(crate) struct ReadContext<'a> {
    pub(crate) logs: &'a LogIndex,
    pub(crate) cache: &'a mut TailCache,
    pub(crate) wal: &'a mut Wal,
    pub(crate) durable_lsn: Lsn,
    pub(crate) settled: SettledVersion,
    pub(crate) ops: &'a mut VecDeque<DiskOp>,
}

/// Reads on their way.
#[derive(Debug)]
pub(crate) struct Reads {
    seeding: Seeding,
    trust_anything: bool,
    tokens: DiskTokens,
    pending: BTreeMap<ReadTicket, (Want, SettledVersion)>,
    fetches: BTreeMap<DiskToken, Fetch>,
    done: VecDeque<(ReadTicket, Result<Records, ReadError>)>,
    /// Reads that waited while more of the log was settled: the WAL alone has no answer to them.
    pub(crate) rerouted: VecDeque<(ReadTicket, Want)>,
    pub(crate) counters: ReadCounters,
}

/// What reads did; counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounters {
    /// Reads answered from memory alone.
    pub cached: u64,
    /// Reads that asked the disk.
    pub cold: u64,
    /// Blocks fetched from WAL files.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub block_bytes: u64,
    /// Fetches that brought back something else than was written.
    pub damaged: u64,
}

/// Neighbouring blocks on their way from a WAL file.
#[derive(Debug)]
struct Fetch {
    /// Never empty; back to back.
    places: Vec<BlockPlace>,
    /// Who waits, and for which of the blocks.
    waiting: Vec<(ReadTicket, Lsn)>,
}

/// How far a read came.
enum Step {
    Done(Records),
    NeedBlock(Lsn),
}

/// Where blocks are found: one at hand, then the cache.
struct Blocks<'a> {
    at_hand: Option<(Lsn, &'a Bytes)>,
    cache: &'a TailCache,
}

impl Blocks<'_> {
    fn get(&self, lsn: Lsn) -> Option<&Bytes> {
        match self.at_hand {
            Some((at_hand, block)) if at_hand == lsn => Some(block),
            _ => self.cache.get(lsn),
        }
    }
}

impl Reads {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            seeding: crate::commit::seeding(config),
            trust_anything: config.bug(SeededBug::ReadFromRecycledFile),
            tokens: DiskTokens::new(READS_TAG),
            pending: BTreeMap::new(),
            fetches: BTreeMap::new(),
            done: VecDeque::new(),
            rerouted: VecDeque::new(),
            counters: ReadCounters::default(),
        }
    }

    /// Answers from memory or starts a fetch.
    pub(crate) fn read(
        &mut self,
        ticket: ReadTicket,
        want: Want,
        context: &mut ReadContext<'_>,
    ) -> ReadOutcome {
        assert!(!self.pending.contains_key(&ticket), "tickets are unique");
        let step = serve(&want, None, context);
        match step {
            Ok(Step::Done(records)) => {
                self.counters.cached += 1;
                ReadOutcome::Ready(Ok(records))
            }
            Err(error) => ReadOutcome::Ready(Err(error)),
            Ok(Step::NeedBlock(lsn)) => {
                self.counters.cold += 1;
                self.pending.insert(ticket, (want, context.settled));
                self.fetch(lsn, ticket, context);
                ReadOutcome::Pending
            }
        }
    }

    pub(crate) fn poll(&mut self) -> Option<(ReadTicket, Result<Records, ReadError>)> {
        self.done.pop_front()
    }

    /// Gives a read up: no answer follows. Its fetch, if any, runs to its end.
    pub(crate) fn cancel(&mut self, ticket: ReadTicket) {
        self.pending.remove(&ticket);
        self.done.retain(|(done, _)| *done != ticket);
    }

    /// Whether no fetch is in flight.
    pub(crate) fn is_quiet(&self) -> bool {
        self.fetches.is_empty()
    }

    fn fetch(&mut self, lsn: Lsn, ticket: ReadTicket, context: &mut ReadContext<'_>) {
        let brings = |fetch: &&mut Fetch| fetch.places.iter().any(|p| p.first_lsn == lsn);
        if let Some(fetch) = self.fetches.values_mut().find(brings) {
            fetch.waiting.push((ticket, lsn));
            return;
        }
        let durable_lsn = context.durable_lsn;
        let places = context.wal.stretch(lsn, FETCH_BYTES, durable_lsn);
        let waiting = vec![(ticket, lsn)];
        self.start_fetch(Fetch { places, waiting }, context);
    }

    fn start_fetch(&mut self, fetch: Fetch, context: &mut ReadContext<'_>) {
        let first = fetch.places.first().expect("an indexed run is in the WAL");
        let bytes = fetch.places.iter().map(|place| place.block_bytes).sum();
        context.wal.slots.pin(first.slot);
        let token = self.tokens.issue();
        context.ops.push_back(DiskOp::Read {
            token,
            file: FileName::Wal(first.slot),
            position: first.position,
            buffer: AlignedBuf::zeroed(bytes),
        });
        self.fetches.insert(token, fetch);
    }

    /// Takes a fetch's completion and goes on with the reads that waited for it. Who waited for a
    /// block that it did not bring asks for that alone: what is wrong with another is no answer.
    /// Returns the damage that it found.
    pub(crate) fn handle(
        &mut self,
        done: DiskDone,
        context: &mut ReadContext<'_>,
    ) -> Option<(PartitionId, ReadError)> {
        let fetch = self.fetches.remove(&done.token);
        let mut fetch = fetch.expect("a completion belongs to a fetch");
        let first = fetch.places[0];
        let is_for_first = |waiter: &(ReadTicket, Lsn)| waiter.1 == first.first_lsn;
        if done.result != Ok(DiskOutcome::Done) && fetch.places.len() > 1 {
            // Perhaps it is a neighbour that cannot be read.
            fetch.places.truncate(1);
            let waiting = std::mem::take(&mut fetch.waiting);
            let (own, others) = waiting.into_iter().partition(is_for_first);
            fetch.waiting = own;
            self.start_fetch(fetch, context);
            context.wal.slots.unpin(first.slot, context.ops);
            self.fetch_again(others, context);
            return None;
        }
        context.wal.slots.unpin(first.slot, context.ops);
        let brought = self.keep_blocks(&fetch.places, done, context);
        self.counters.damaged += u64::from(brought.is_err());
        let (blocks, error) = match brought {
            Ok(blocks) => (blocks, None),
            Err(error) => (BTreeMap::new(), Some(error)),
        };
        let mut damage = None;
        let mut others = Vec::new();
        for (ticket, lsn) in fetch.waiting {
            if !blocks.contains_key(&lsn) && lsn != first.first_lsn {
                others.push((ticket, lsn));
                continue;
            }
            let Some(want) = self.take_pending(ticket, context) else {
                continue;
            };
            if let Some(error) = error {
                damage = Some((want.partition, error));
                self.done.push_back((ticket, Err(error)));
            } else {
                self.go_on(ticket, want, Some((lsn, &blocks[&lsn])), context);
            }
        }
        self.fetch_again(others, context);
        damage
    }

    /// What a read whose fetch came back wants, unless it was cancelled meanwhile or must look
    /// into the packs again.
    fn take_pending(&mut self, ticket: ReadTicket, context: &ReadContext<'_>) -> Option<Want> {
        let (want, settled) = self.pending.remove(&ticket)?;
        if settled != context.settled && !self.trust_anything {
            self.rerouted.push_back((ticket, want));
            return None;
        }
        Some(want)
    }

    /// Goes on with reads whose blocks did not come, each with a fetch of its own.
    fn fetch_again(&mut self, waiting: Vec<(ReadTicket, Lsn)>, context: &mut ReadContext<'_>) {
        for (ticket, _) in waiting {
            if let Some(want) = self.take_pending(ticket, context) {
                self.go_on(ticket, want, None, context);
            }
        }
    }

    /// Checks and keeps what a fetch brought, up to the first block that is not as it was written:
    /// damage of the very first counts, a damaged neighbour is found again by whoever asks for it.
    fn keep_blocks(
        &mut self,
        places: &[BlockPlace],
        done: DiskDone,
        context: &mut ReadContext<'_>,
    ) -> Result<BTreeMap<Lsn, Bytes>, ReadError> {
        let first = &places[0];
        match done.result {
            Ok(DiskOutcome::Done) => {}
            Ok(_) => return Err(damaged_at(first)),
            Err(error) => return Err(ReadError::Disk(error)),
        }
        let stretch = Bytes::from_owner(done.buffer.expect("a read's buffer comes back"));
        let mut blocks = BTreeMap::new();
        let mut at = 0;
        for place in places {
            let mut block = stretch.slice(at..at + place.block_bytes);
            at += place.block_bytes;
            if !self.is_as_written(place, &block, context.wal) {
                if place == first {
                    return Err(damaged_at(first));
                }
                break;
            }
            if place.block_bytes < stretch.len() {
                // Of its own memory: one kept block of a stretch must not keep the others.
                block = Bytes::copy_from_slice(&block);
            }
            self.counters.blocks += 1;
            self.counters.block_bytes += block.len() as u64;
            context.cache.keep_read(place.first_lsn, block.clone());
            blocks.insert(place.first_lsn, block);
        }
        Ok(blocks)
    }

    /// Whether `block` is what was written at `place` in this life.
    fn is_as_written(&self, place: &BlockPlace, block: &[u8], wal: &Wal) -> bool {
        if self.trust_anything {
            return true;
        }
        let Ok((header, _)) = BlockHeader::decode(block, self.seeding) else {
            return false;
        };
        place.is(&header, wal.shard()) && header.payload(block, self.seeding).is_ok()
    }

    fn go_on(
        &mut self,
        ticket: ReadTicket,
        want: Want,
        at_hand: Option<(Lsn, &Bytes)>,
        context: &mut ReadContext<'_>,
    ) {
        if self.trust_anything
            && let What::Batches { from, .. } = want.what
            && let Some((_, block)) = at_hand
        {
            let records = whatever_is_there(&want, from, block);
            self.done.push_back((ticket, Ok(records)));
            return;
        }
        match serve(&want, at_hand, context) {
            Ok(Step::Done(records)) => self.done.push_back((ticket, Ok(records))),
            Err(error) => self.done.push_back((ticket, Err(error))),
            Ok(Step::NeedBlock(lsn)) => {
                self.pending.insert(ticket, (want, context.settled));
                self.fetch(lsn, ticket, context);
            }
        }
    }
}

/// The batches in `block`, taken for what the index once said is there: a seeded bug.
fn whatever_is_there(want: &Want, from: Offset, block: &Bytes) -> Records {
    let payload = block.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
    let is_wanted = |body: &[u8]| {
        let header = BatchHeader::parse(body);
        header.is_ok_and(|h| h.next_offset() > from && h.base_offset < want.end)
    };
    let batches = Entries::new(payload, 0)
        .map_while(Result::ok)
        .filter(|e| e.kind == EntryKind::Batch && e.id == u64::from(want.partition.0))
        .filter(|entry| is_wanted(entry.body));
    Records {
        batches: batches.map(|entry| block.slice_ref(entry.body)).collect(),
    }
}

fn damaged_at(place: &BlockPlace) -> ReadError {
    ReadError::Damaged {
        file: FileName::Wal(place.slot),
        position: place.position,
    }
}

/// Goes through the index as far as memory allows.
fn serve(
    want: &Want,
    at_hand: Option<(Lsn, &Bytes)>,
    context: &ReadContext<'_>,
) -> Result<Step, ReadError> {
    let log = context
        .logs
        .get(want.partition)
        .ok_or(ReadError::UnknownPartition(want.partition))?;
    let reader = LogReader {
        log,
        want,
        blocks: Blocks {
            at_hand,
            cache: context.cache,
        },
        wal: context.wal,
        durable_lsn: context.durable_lsn,
    };
    match want.what {
        What::Batches { from, bytes_max } => reader.batches(from, bytes_max),
        What::Time { point, .. } => match point {
            TimePoint::AtLeast(timestamp_ms) => reader.first_at_least(timestamp_ms),
            TimePoint::Max => reader.first_with_max(),
        },
    }
    .map(|step| reader.unpinned(step))
}

/// One read on its way through one log.
struct LogReader<'a> {
    log: &'a Log,
    want: &'a Want,
    blocks: Blocks<'a>,
    wal: &'a Wal,
    durable_lsn: Lsn,
}

impl LogReader<'_> {
    fn batches(&self, from: Offset, bytes_max: usize) -> Result<Step, ReadError> {
        if from < self.log.start || from > self.log.end {
            return Err(ReadError::OutOfRange);
        }
        let mut records = Records::default();
        let mut bytes = 0;
        for run in self.log.runs.range(self.log.run_at(from)..) {
            if run.base_offset >= self.want.end || bytes >= bytes_max && bytes > 0 {
                break;
            }
            let Some(batches) = self.run(run)? else {
                if records.batches.is_empty() {
                    return Ok(Step::NeedBlock(run.block));
                }
                break;
            };
            for (header, batch) in batches {
                if header.next_offset() <= from {
                    continue;
                }
                if bytes > 0 && bytes + batch.len() > bytes_max {
                    return Ok(Step::Done(records));
                }
                bytes += batch.len();
                records.batches.push(batch);
            }
        }
        Ok(Step::Done(records))
    }

    fn first_at_least(&self, timestamp_ms: i64) -> Result<Step, ReadError> {
        for run in self.runs() {
            if run.max_timestamp_ms < timestamp_ms {
                continue;
            }
            let Some(batches) = self.run(run)? else {
                return Ok(Step::NeedBlock(run.block));
            };
            let found = batches
                .into_iter()
                .find(|(header, _)| header.max_timestamp_ms >= timestamp_ms);
            if let Some((_, batch)) = found {
                return Ok(one(batch));
            }
        }
        Ok(Step::Done(Records::default()))
    }

    /// The first whole run with the largest timestamp has the batch, or a run of which not all
    /// counts: what is left of that may be earlier than the run says.
    fn first_with_max(&self) -> Result<Step, ReadError> {
        let (start, end) = (self.want.start(self.log), self.want.end);
        let is_whole = |run: &&Run| run.base_offset >= start && run.next_offset <= end;
        let first_max = |best, run: _| if is_later(run, best) { run } else { best };
        let whole = self.runs().filter(is_whole).reduce(first_max);
        let may_be_first = |run: &&Run| whole.is_none_or(|best| !is_later(best, run));
        let cut = self.runs().filter(|run| !is_whole(run));
        let mut found: Option<(BatchHeader, Bytes)> = None;
        for run in cut.filter(may_be_first).chain(whole) {
            let Some(batches) = self.run(run)? else {
                return Ok(Step::NeedBlock(run.block));
            };
            for (header, batch) in batches {
                let place = |h: &BatchHeader| (h.max_timestamp_ms, Reverse(h.base_offset));
                if found
                    .as_ref()
                    .is_none_or(|(h, _)| place(&header) > place(h))
                {
                    found = Some((header, batch));
                }
            }
        }
        Ok(found.map_or(Step::Done(Records::default()), |(_, batch)| one(batch)))
    }

    /// Runs that have batches which count, for a search.
    fn runs(&self) -> impl Iterator<Item = &Run> {
        let first = self.log.run_at(self.want.start(self.log));
        let runs = self.log.runs.range(first..);
        runs.take_while(|run| run.base_offset < self.want.end)
    }

    /// The run's batches that the log still has and the reader may see; `None` when the block is
    /// not in memory.
    fn run(&self, run: &Run) -> Result<Option<Vec<(BatchHeader, Bytes)>>, ReadError> {
        assert!(
            run.block < self.durable_lsn,
            "nothing above durable is ever visible"
        );
        let Some(block) = self.blocks.get(run.block) else {
            return Ok(None);
        };
        let mut batches = Vec::new();
        let payload = block
            .get(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + run.end as usize)
            .ok_or_else(|| self.damaged(run))?;
        for entry in Entries::new(payload, run.start as usize) {
            let entry = entry.map_err(|_| self.damaged(run))?;
            let header = BatchHeader::parse(entry.body).map_err(|_| self.damaged(run))?;
            let is_ours = entry.kind == EntryKind::Batch
                && entry.id == u64::from(self.want.partition.0)
                && header.batch_bytes == entry.body.len()
                && header.base_offset >= run.base_offset
                && header.next_offset() <= run.next_offset;
            if !is_ours {
                return Err(self.damaged(run));
            }
            if header.base_offset >= self.want.end {
                break;
            }
            if header.next_offset() > self.want.start(self.log) {
                batches.push((header, block.slice_ref(entry.body)));
            }
        }
        Ok(Some(batches))
    }

    /// Gives batches memory of their own when they are the lesser part of the blocks that they lie
    /// in: an answer that waits must not keep more memory than its bytes say.
    fn unpinned(&self, step: Step) -> Step {
        let Step::Done(mut records) = step else {
            return step;
        };
        let (Some(first), Some(last)) = (records.batches.first(), records.batches.last()) else {
            return Step::Done(records);
        };
        let base_of = |batch| BatchHeader::parse(batch).map(|header| header.base_offset);
        let (Ok(from), Ok(to)) = (base_of(first), base_of(last)) else {
            unreachable!("batches were parsed on the way");
        };
        let runs = self.log.runs.range(self.log.run_at(from)..);
        let (mut held_bytes, mut before) = (0, None);
        for run in runs.take_while(|run| run.base_offset <= to) {
            if before != Some(run.block) {
                held_bytes += self.blocks.get(run.block).map_or(0, Bytes::len);
            }
            before = Some(run.block);
        }
        if records.bytes() < held_bytes / 2 {
            records.unpin();
        }
        Step::Done(records)
    }

    fn damaged(&self, run: &Run) -> ReadError {
        let place = self.wal.find(run.block);
        damaged_at(&place.expect("an indexed run is in the WAL"))
    }
}

/// Whether `run` has a later timestamp than `other`.
fn is_later(run: &Run, other: &Run) -> bool {
    run.max_timestamp_ms > other.max_timestamp_ms
}

fn one(batch: Bytes) -> Step {
    Step::Done(Records {
        batches: vec![batch],
    })
}
