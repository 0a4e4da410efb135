//! Cold reads: batches of settled data, from packs, through the disk.
//!
//! A read walks one section: its sparse index (kept in a bounded cache), then whole chunks, each
//! checked against the index before a byte of it is served, one operation at a time. The pack is
//! held from the operation's issue to its completion, so nothing is punched or unlinked under it.
//! A damaged index is not "nothing there": it is made anew from the section's batches, which
//! must then have the checksum that the directory states.

mod chunk;
mod goal;
mod indexes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::buf::{AlignedBuf, BufferPool};
use crate::disk::{DiskDone, DiskOp, DiskOutcome, DiskToken, DiskTokens};
use crate::error::ReadError;
use crate::index::SectionIndex;
use crate::packs::{Packs, SectionRef};
use crate::reads::Want;
use crate::record::checksum;
use crate::request::{ReadTicket, Records};
use crate::section::Section;
use crate::units::{FilePosition, Offset, PAGE_BYTES};
use chunk::Rebuild;
use goal::{Goal, Look};
use indexes::Indexes;

pub(crate) use chunk::{Walked, walk};

/// The tag of the cold reads' tokens.
pub(crate) const COLD_TAG: u8 = 32;
/// Bytes that one operation reads at most, unless one chunk is larger.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Free read buffers kept.
const FREE_BUFFERS_MAX: usize = 4;
/// Memory for indexes of sections with more than one chunk.
const INDEX_CACHE_BYTES_MAX: usize = 4 << 20;

/// How a cold read goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cold {
    /// The disk is asked.
    Pending,
    /// Answered.
    Done(Result<Records, ReadError>),
    /// The packs have no answer; the WAL, which holds what follows, may.
    Continue,
    /// What the packs have to set against the WAL: the batch with the largest timestamp, and that.
    Max(i64, Records),
}

/// What cold reads did; counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdCounters {
    /// Reads that asked a pack.
    pub reads: u64,
    /// Bytes read from packs.
    pub bytes: u64,
    /// Indexes read.
    pub indexes: u64,
    /// Damaged indexes made anew.
    pub rebuilt: u64,
    /// Sections that were not what was written there.
    pub damaged: u64,
}

/// Cold reads on their way.
#[derive(Debug)]
pub(crate) struct ColdReads {
    tokens: DiskTokens,
    pool: BufferPool,
    indexes: Indexes,
    jobs: BTreeMap<ReadTicket, Job>,
    in_flight: BTreeMap<DiskToken, InFlight>,
    pub(crate) counters: ColdCounters,
}

/// One read.
#[derive(Debug)]
struct Job {
    want: Want,
    goal: Goal,
    step: Step,
}

/// What the operation in flight brings.
#[derive(Debug)]
enum Step {
    Index(SectionRef),
    Chunks(Look, Arc<SectionIndex>),
    Rebuild(SectionRef, Rebuild),
}

#[derive(Debug)]
struct InFlight {
    ticket: ReadTicket,
    section: SectionRef,
}

/// What a completion led to.
#[derive(Debug)]
pub(crate) struct ColdDone {
    pub(crate) ticket: ReadTicket,
    pub(crate) want: Want,
    pub(crate) outcome: Cold,
}

impl ColdReads {
    pub(crate) fn new() -> Self {
        Self {
            tokens: DiskTokens::new(COLD_TAG),
            pool: BufferPool::new(READ_BYTES_MAX as usize + PAGE_BYTES, FREE_BUFFERS_MAX),
            indexes: Indexes::new(INDEX_CACHE_BYTES_MAX),
            jobs: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            counters: ColdCounters::default(),
        }
    }

    /// Begins a read of a log of which nothing below `start` counts. [`Cold::Pending`] is answered
    /// by [`ColdReads::handle`].
    pub(crate) fn start(
        &mut self,
        ticket: ReadTicket,
        want: Want,
        start: Offset,
        packs: &mut Packs,
        ops: &mut VecDeque<DiskOp>,
    ) -> Cold {
        let goal = Goal::new(&want, start, packs);
        let outcome = self.advance(ticket, want, goal, packs, ops);
        if outcome == Cold::Pending {
            self.counters.reads += 1;
        }
        outcome
    }

    /// Gives a read up; its operation runs to its end.
    pub(crate) fn cancel(&mut self, ticket: ReadTicket) {
        self.jobs.remove(&ticket);
    }

    /// Whether no operation is in flight.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes a completion. `None` when the read goes on, or was given up.
    pub(crate) fn handle(
        &mut self,
        done: DiskDone,
        packs: &mut Packs,
        ops: &mut VecDeque<DiskOp>,
    ) -> Option<ColdDone> {
        let InFlight { ticket, section } = self
            .in_flight
            .remove(&done.token)
            .expect("a completion belongs to a read");
        let outcome = match self.jobs.remove(&ticket) {
            Some(job) => {
                let want = job.want;
                let outcome = self.go_on(ticket, job, done, packs, ops);
                Some((want, outcome))
            }
            None => None,
        };
        // After the next operation took its own hold: the pack stays in between.
        packs.release(section.pack);
        match outcome {
            None | Some((_, Cold::Pending)) => None,
            Some((want, outcome)) => Some(ColdDone {
                ticket,
                want,
                outcome,
            }),
        }
    }

    fn go_on(
        &mut self,
        ticket: ReadTicket,
        job: Job,
        done: DiskDone,
        packs: &mut Packs,
        ops: &mut VecDeque<DiskOp>,
    ) -> Cold {
        let Job {
            want,
            mut goal,
            step,
        } = job;
        let buffer = match (done.result, done.buffer) {
            (Ok(DiskOutcome::Done), Some(buffer)) => buffer,
            (Err(error), _) => return Cold::Done(Err(ReadError::Disk(error))),
            _ => return Cold::Done(Err(self.damaged(packs, step.section(), 0))),
        };
        self.counters.bytes += buffer.len() as u64;
        match step {
            Step::Index(at) => match decode_index(packs.section(at), &buffer) {
                Some(index) => {
                    self.counters.indexes += 1;
                    self.indexes.keep(at, index);
                }
                None => return self.rebuild(ticket, want, goal, (at, packs), ops),
            },
            Step::Rebuild(at, mut rebuild) => match rebuild.take(packs.section(at), &buffer) {
                Ok(None) => {
                    let job = (want, goal, Step::Rebuild(at, rebuild));
                    return self.read_for_rebuild(ticket, job, packs, ops);
                }
                Ok(Some(index)) => {
                    self.counters.rebuilt += 1;
                    self.indexes.keep(at, index);
                }
                Err(position) => return Cold::Done(Err(self.damaged(packs, at, position))),
            },
            Step::Chunks(look, index) => {
                let section = packs.section(look.section);
                let data = self.pool.share(buffer);
                let walked = match walk(section, &index, look.chunks.clone(), &data) {
                    Ok(walked) => walked,
                    Err(at) => return Cold::Done(Err(self.damaged(packs, look.section, at))),
                };
                let read_bytes = data.len();
                drop(data);
                if let Some(outcome) = goal.take(&want, &look, walked, section) {
                    return unpinned(outcome, read_bytes);
                }
            }
        }
        self.advance(ticket, want, goal, packs, ops)
    }

    /// Issues the next operation, or says that none is needed.
    fn advance(
        &mut self,
        ticket: ReadTicket,
        want: Want,
        mut goal: Goal,
        packs: &mut Packs,
        ops: &mut VecDeque<DiskOp>,
    ) -> Cold {
        let Some(at) = goal.section(&want, packs) else {
            return goal.finish();
        };
        let section = packs.section(at);
        let Some(index) = self.indexes.get(packs, at) else {
            let (from, to) = (section.index_position.0, section.index_bytes());
            let job = Job {
                want,
                goal,
                step: Step::Index(at),
            };
            self.issue(ticket, job, (from, from + to), packs, ops);
            return Cold::Pending;
        };
        let Some(look) = goal.look(&want, at, (section, &index), READ_BYTES_MAX) else {
            return goal.finish();
        };
        let first = index
            .range(look.chunks.start)
            .expect("chosen from the index");
        let last = index
            .range(look.chunks.end - 1)
            .expect("chosen from the index");
        let from = section.position.0 + first.start;
        let to = section.position.0 + last.end;
        let step = Step::Chunks(look, index);
        self.issue(ticket, Job { want, goal, step }, (from, to), packs, ops);
        Cold::Pending
    }

    fn rebuild(
        &mut self,
        ticket: ReadTicket,
        want: Want,
        goal: Goal,
        (at, packs): (SectionRef, &mut Packs),
        ops: &mut VecDeque<DiskOp>,
    ) -> Cold {
        let (shard, file) = (packs.shard(), packs.pack(at.pack).file);
        tracing::warn!(%shard, %file, section = at.number, "a damaged index is made anew");
        let step = Step::Rebuild(at, Rebuild::new());
        self.read_for_rebuild(ticket, (want, goal, step), packs, ops)
    }

    fn read_for_rebuild(
        &mut self,
        ticket: ReadTicket,
        (want, goal, step): (Want, Goal, Step),
        packs: &mut Packs,
        ops: &mut VecDeque<DiskOp>,
    ) -> Cold {
        let Step::Rebuild(at, rebuild) = &step else {
            unreachable!("called for a rebuild");
        };
        let range = rebuild.wants(packs.section(*at), READ_BYTES_MAX);
        self.issue(ticket, Job { want, goal, step }, range, packs, ops);
        Cold::Pending
    }

    /// Reads the pages around `from..to` of the section's file.
    fn issue(
        &mut self,
        ticket: ReadTicket,
        job: Job,
        (from, to): (u64, u64),
        packs: &mut Packs,
        ops: &mut VecDeque<DiskOp>,
    ) {
        let section = job.step.section();
        let position = page_floor(from);
        let bytes = usize::try_from(to.next_multiple_of(PAGE_BYTES as u64) - position)
            .expect("a read fits memory");
        let buffer = if bytes * 2 > READ_BYTES_MAX as usize && bytes <= self.pool_bytes() {
            let mut buffer = self.pool.take();
            buffer.set_len(bytes);
            buffer
        } else {
            AlignedBuf::zeroed(bytes)
        };
        packs.hold(section.pack);
        let token = self.tokens.issue();
        self.in_flight.insert(token, InFlight { ticket, section });
        ops.push_back(DiskOp::Read {
            token,
            file: packs.pack(section.pack).file,
            position: FilePosition(position),
            buffer,
        });
        let before = self.jobs.insert(ticket, job);
        assert!(before.is_none(), "tickets are unique");
    }

    fn pool_bytes(&self) -> usize {
        READ_BYTES_MAX as usize + PAGE_BYTES
    }

    fn damaged(&mut self, packs: &Packs, at: SectionRef, position: u64) -> ReadError {
        self.counters.damaged += 1;
        ReadError::Damaged {
            file: packs.pack(at.pack).file,
            position: FilePosition(packs.section(at).position.0 + position),
        }
    }
}

impl Step {
    fn section(&self) -> SectionRef {
        match self {
            Self::Index(at) | Self::Rebuild(at, _) => *at,
            Self::Chunks(look, _) => look.section,
        }
    }
}

/// Gives batches memory of their own when they are the lesser part of what was read: an answer that
/// waits must not keep more memory than its bytes say.
fn unpinned(outcome: Cold, read_bytes: usize) -> Cold {
    let Cold::Done(Ok(mut records)) = outcome else {
        return outcome;
    };
    if records.bytes() < read_bytes / 2 {
        records.unpin();
    }
    Cold::Done(Ok(records))
}

/// The last page boundary at or before `position`.
fn page_floor(position: u64) -> u64 {
    position - position % PAGE_BYTES as u64
}

/// The index of `section`, out of the pages around it.
fn decode_index(section: &Section, pages: &[u8]) -> Option<SectionIndex> {
    let from = usize::try_from(section.index_position.0 % PAGE_BYTES as u64).ok()?;
    let length = usize::try_from(section.index_bytes()).ok()?;
    let encoded = pages.get(from..from.checked_add(length)?)?;
    if checksum(encoded) != section.index_checksum {
        return None;
    }
    SectionIndex::decode(encoded, section.bytes)
}
