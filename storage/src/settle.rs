//! Settle passes: what is still alive in a closed WAL file goes into packs, and the file is free.
//!
//! A pass is a state machine that takes one bounded step of CPU work (about 1 MiB) a turn, and asks
//! the disk for no more than [`pace`] allows, so that produce goes on beside it. The crash story:
//! 1. The WAL file is read, but for what the cache still has, and checked. Nothing changes on disk.
//! 2. Packs are written, synced, their names synced ([`output`]). No manifest names them: a crash
//!    leaves files that the next start removes.
//! 3. The log is durable up to the snapshot's LSN: the snapshot has the effect of entries below
//!    that, so it must not outlive them.
//! 4. One manifest edit moves `settled_lsn`, the chain's start, the packs and the snapshot
//!    together. Before it the WAL file counts, after it the packs do; never both, never neither.
//!    The start of each log that keeps a batch out of the packs is in it too: the entry that moved
//!    the start may not be durable yet.
//! 5. Only then is the WAL file's slot free, as soon as no read holds it.
//!
//! While the log runs out of files, the file after the pass's own is read beside 2 to 4: read and
//! write take turns on a disk that could do both. It changes nothing on disk.
//!
//! A pass that fails before 4 has lost nothing: its files go, and it starts again from the WAL.
//! Only a WAL file that is damaged, or cannot be read however often, ends that: the log would fill
//! up behind it in silence. A start judges it, by the rule that it has for acknowledged data.

mod feed;
mod load;
mod output;
mod pace;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;

use crate::block::Seeding;
use crate::buf::AlignedBuf;
use crate::config::StoreConfig;
use crate::disk::{DiskDone, DiskError, DiskOp, DiskTokens};
use crate::error::{ReadError, StorageError};
use crate::log_index::LogIndex;
use crate::manifest::{ChainStart, EditTicket, Manifest, ManifestEdit, SnapshotRef};
use crate::packs::{Packs, SectionRef};
use crate::section::SectionKind;
use crate::tail_cache::TailCache;
use crate::units::{BootTime, LifeId, Lsn, Now, Offset, PartitionId, ShardId};
use crate::wal::{Wal, WalFile};
use feed::{Feed, Snapshot};
use load::Load;
use pace::Pacer;

pub(crate) use load::SHORT_READ;
pub(crate) use output::{Output, Written};
pub(crate) use pace::Demand;

/// The tag of the tokens that read the WAL.
pub(crate) const SETTLE_TAG: u8 = 34;
/// The tag of the tokens that write packs.
pub(crate) const SETTLE_OUTPUT_TAG: u8 = 35;
/// How long a failed pass waits before the next try; doubles with each failure.
const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 60_000;
/// Passes over one WAL file that find it damaged before that is believed: one may misread.
const DAMAGED_PASSES_MAX: u32 = 2;
/// Passes over one WAL file that the disk fails to read before it counts as lost; with the waits
/// between them that takes about 100 s.
const UNREADABLE_PASSES_MAX: u32 = 11;

/// What settling did; counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettleCounters {
    /// WAL files settled.
    pub passes: u64,
    /// Passes given up before their manifest edit.
    pub discarded: u64,
    /// Bytes of those WAL files.
    pub wal_bytes: u64,
    /// Bytes of the packs and segments written.
    pub pack_bytes: u64,
}

/// What a pass needs of the store.
pub(crate) struct SettleContext<'a> {
    pub(crate) logs: &'a LogIndex,
    pub(crate) cache: &'a TailCache,
    pub(crate) packs: &'a mut Packs,
    pub(crate) manifest: &'a mut Manifest,
    pub(crate) wal: &'a Wal,
    pub(crate) durable_lsn: Lsn,
    pub(crate) demand: Demand,
    pub(crate) ops: &'a mut VecDeque<DiskOp>,
}

/// A pass that its manifest edit made true: the store takes it over.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) settled_lsn: Lsn,
    /// Files of earlier lives are released.
    pub(crate) chain_start: LifeId,
    pub(crate) written: Vec<Written>,
    pub(crate) snapshot: Option<SectionRef>,
}

/// Why a pass was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettleFailure {
    /// The WAL file could not be read, or is damaged.
    Source(ReadError),
    /// A pack could not be written.
    Output(DiskError),
}

/// Settling, one pass at a time.
#[derive(Debug)]
pub(crate) struct Settle {
    shard: ShardId,
    seeding: Seeding,
    segment_bytes_min: u64,
    tokens: DiskTokens,
    phase: Phase,
    /// Of the present pass.
    pacer: Pacer,
    /// The file of the next pass, read in advance.
    ahead: Option<Ahead>,
    /// It could not be read in advance; its own pass finds out why.
    ahead_failed: Option<LifeId>,
    /// When a pass that is held back goes on.
    pace_at: Option<BootTime>,
    /// Memory of the last pass, kept while the next one follows at once.
    spare: Vec<AlignedBuf>,
    /// The engine's answer, once it came.
    provided: Option<Snapshot>,
    /// Reads of the WAL on their way, also those of a pass that was given up.
    loads_in_flight: usize,
    retry_ms: u64,
    /// No pass begins before.
    retry_at: Option<BootTime>,
    /// Passes in a row that could not read the oldest WAL file.
    source_failures: u32,
    /// Why that file can never be settled.
    lost: Option<StorageError>,
    pub(crate) counters: SettleCounters,
}

/// A file that is read before its pass begins.
#[derive(Debug)]
struct Ahead {
    load: Load,
    pacer: Pacer,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Loading(Load),
    /// The file is loaded; the engine has not given its snapshot yet.
    WaitingForSnapshot(Load),
    Writing(Feed, Output),
    Committing(EditTicket, Box<Settled>, u64),
    Discarding(Output),
}

impl Settle {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            shard: config.shard,
            seeding: crate::commit::seeding(config),
            segment_bytes_min: config.segment_bytes_min,
            tokens: DiskTokens::new(SETTLE_TAG),
            phase: Phase::Idle,
            pacer: Pacer::default(),
            ahead: None,
            ahead_failed: None,
            pace_at: None,
            spare: Vec::new(),
            provided: None,
            loads_in_flight: 0,
            retry_ms: RETRY_MS_MIN,
            retry_at: None,
            source_failures: 0,
            lost: None,
            counters: SettleCounters::default(),
        }
    }

    /// Whether a pass may begin.
    pub(crate) fn is_ready(&self, now: Now) -> bool {
        self.is_idle() && self.retry_at.is_none_or(|at| at <= now.boot)
    }

    /// Whether no pass is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether no operation is on its way either. `is_stuck`: the manifest's edit that ends a pass
    /// does not come.
    pub(crate) fn is_quiet(&self, is_stuck: bool) -> bool {
        let is_committing = matches!(self.phase, Phase::Committing(..));
        (self.is_idle() || is_stuck && is_committing) && self.loads_in_flight == 0
    }

    /// A clean stop begins: a pass that is not committed is given up; the log has it all.
    pub(crate) fn abandon(&mut self, ops: &mut VecDeque<DiskOp>) {
        self.ahead = None;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Loading(_) | Phase::WaitingForSnapshot(_) => Phase::Idle,
            Phase::Writing(_, output) => Self::discard(output, ops),
            phase => phase,
        };
    }

    fn discard(mut output: Output, ops: &mut VecDeque<DiskOp>) -> Phase {
        output.discard(ops);
        match output.is_discarded() {
            true => Phase::Idle,
            false => Phase::Discarding(output),
        }
    }

    /// When a pass that failed may be tried again.
    pub(crate) fn timeout(&self) -> Option<BootTime> {
        self.retry_at
    }

    /// When a pass that has time goes on.
    pub(crate) fn pace_timeout(&self) -> Option<BootTime> {
        self.pace_at
    }

    /// Whether [`Settle::step`] has work that no completion brings about.
    pub(crate) fn has_step(&self) -> bool {
        let is_ahead = self
            .ahead
            .as_ref()
            .is_some_and(|ahead| ahead.load.has_step());
        match &self.phase {
            Phase::Loading(load) => load.has_step(),
            Phase::Writing(_, output) => output.wants_batches() || is_ahead,
            _ => is_ahead,
        }
    }

    /// Begins a pass over the oldest closed file. The engine must be asked for its snapshot now.
    pub(crate) fn begin(&mut self, demand: Demand, file: WalFile) {
        assert!(self.is_idle(), "one pass at a time");
        self.retry_at = None;
        self.provided = None;
        let ahead = self
            .ahead
            .take()
            .filter(|ahead| ahead.load.file.life == file.life);
        let Ahead { load, pacer } = ahead.unwrap_or_else(|| self.load(demand, file));
        self.pacer = pacer;
        self.phase = Phase::Loading(load);
    }

    fn load(&mut self, demand: Demand, file: WalFile) -> Ahead {
        let memory = std::mem::take(&mut self.spare);
        Ahead {
            pacer: Pacer::new(demand, file.end_lsn - file.first_lsn),
            load: Load::new(self.shard, self.seeding, file, memory),
        }
    }

    /// The engine's whole state, with the effect of everything appended below `as_of`. Without a
    /// pass that waits for it, it is of no use.
    pub(crate) fn provide_snapshot(&mut self, as_of: Lsn, bytes: Vec<u8>) {
        if matches!(self.phase, Phase::Loading(_) | Phase::WaitingForSnapshot(_)) {
            self.provided = Some(Snapshot { as_of, bytes });
        }
    }

    /// One turn's work, and what it leads to. Returns why the pass was given up, if it was.
    pub(crate) fn step(
        &mut self,
        now: Now,
        context: &mut SettleContext<'_>,
    ) -> Result<(), SettleFailure> {
        match &mut self.phase {
            Phase::Loading(load) => {
                if let Err(error) = load.step(context.logs) {
                    return self.give_up_source(now, error, context.ops);
                }
            }
            Phase::Writing(feed, output) if output.wants_batches() => feed.step(output),
            _ => self.step_ahead(context.logs),
        }
        self.go_on(context);
        Ok(())
    }

    /// Damage that is met in advance is for the file's own pass to find.
    fn step_ahead(&mut self, logs: &LogIndex) {
        if let Some(ahead) = &mut self.ahead
            && ahead.load.step(logs).is_err()
        {
            self.drop_ahead();
        }
    }

    fn drop_ahead(&mut self) {
        self.ahead_failed = self.ahead.take().map(|ahead| ahead.load.file.life);
    }

    /// Issues what is due and takes the transitions that are due; no work to speak of.
    pub(crate) fn go_on(&mut self, context: &mut SettleContext<'_>) {
        self.issue(context);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Loading(load) if load.is_done() => Phase::WaitingForSnapshot(load),
            phase => phase,
        };
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::WaitingForSnapshot(load) if self.provided.is_some() => {
                // An engine without state gives an empty one: there is nothing to keep.
                let snapshot = self.provided.take().filter(|s| !s.bytes.is_empty());
                let segment = self.segment_bytes_min;
                let mut feed = Feed::new(load, snapshot, segment, context.packs);
                let buffer_bytes = self.pacer.op_bytes();
                let mut output = Output::new(self.shard, SETTLE_OUTPUT_TAG, buffer_bytes);
                feed.begin_next(&mut output, context.ops);
                Phase::Writing(feed, output)
            }
            Phase::Writing(mut feed, mut output) if output.is_idle() => {
                feed.begin_next(&mut output, context.ops);
                Phase::Writing(feed, output)
            }
            phase => phase,
        };
        self.commit_when_due(context);
    }

    /// Hands to the disk what the pace allows, and notes when it allows more.
    fn issue(&mut self, context: &mut SettleContext<'_>) {
        self.begin_ahead(context);
        let (demand, pacer) = (context.demand, &mut self.pacer);
        let own = match &mut self.phase {
            Phase::Loading(load) => {
                self.loads_in_flight += fill(load, pacer, &mut self.tokens, context);
                load.wants_more() && load.is_all_checked()
            }
            Phase::Writing(_, output) => {
                while output.wants_write() && pacer.allows(demand, output.in_flight()) {
                    pacer.note(output.write_next(context.ops));
                }
                output.sync_when_flushed(context.ops);
                output.wants_write() && output.in_flight() == 0
            }
            _ => false,
        };
        let own = own.then(|| pacer.due(demand));
        let ahead = self.ahead.as_mut().and_then(|Ahead { load, pacer }| {
            self.loads_in_flight += fill(load, pacer, &mut self.tokens, context);
            let is_held_back = load.wants_more() && load.is_all_checked();
            is_held_back.then(|| pacer.due(demand))
        });
        self.pace_at = [own, ahead].into_iter().flatten().min();
    }

    /// Reads the next file in advance when the log waits for it: that costs as much memory again.
    fn begin_ahead(&mut self, context: &SettleContext<'_>) {
        let Phase::Writing(feed, _) = &self.phase else {
            return;
        };
        if self.ahead.is_some() || !context.demand.is_hurried {
            return;
        }
        let after = feed.load.file.life;
        let next = context.wal.closed().iter().find(|file| file.life > after);
        let next = next.filter(|file| Some(file.life) != self.ahead_failed);
        if let Some(file) = next.filter(|file| file.end_lsn <= context.durable_lsn) {
            self.ahead = Some(self.load(context.demand, file.clone()));
        }
    }

    /// Step 3 and 4 of the crash story.
    fn commit_when_due(&mut self, context: &mut SettleContext<'_>) {
        let Phase::Writing(feed, output) = &mut self.phase else {
            return;
        };
        let file = &feed.load.file;
        let needed = feed.as_of().unwrap_or(file.end_lsn).max(file.end_lsn);
        let next = successor(context.wal, file.life);
        if !output.is_durable() || context.durable_lsn < needed || !next.header_durable {
            return;
        }
        let written = output.take_written();
        let snapshot = feed.as_of().map(|as_of| snapshot_ref(&written, as_of));
        let moved = feed.load.starts_moved.iter();
        let log_starts: Vec<(PartitionId, Offset)> = moved
            .filter_map(|partition| Some((*partition, context.logs.get(*partition)?.start)))
            .collect();
        let packs = written.iter().map(|w| (w.id, w.entry.clone())).collect();
        let edit = ManifestEdit::Settled {
            settled_lsn: file.end_lsn,
            chain_start: ChainStart {
                slot: next.slot,
                life: next.life,
                generation: next.generation,
            },
            packs,
            snapshot,
            log_starts,
        };
        let settled = Box::new(Settled {
            settled_lsn: file.end_lsn,
            chain_start: next.life,
            written,
            snapshot: snapshot.map(|snapshot| SectionRef {
                pack: snapshot.pack,
                number: snapshot.section,
            }),
        });
        let wal_bytes = file.end_lsn - file.first_lsn;
        let ticket = context.manifest.submit(vec![edit]);
        let committing = Phase::Committing(ticket, settled, wal_bytes);
        let written = std::mem::replace(&mut self.phase, committing);
        self.spare = match written {
            Phase::Writing(feed, _) if context.wal.closed().len() > 1 => feed.load.into_buffers(),
            _ => Vec::new(),
        };
    }

    /// The manifest's edit under `ticket` is durable.
    pub(crate) fn handle_edit(&mut self, ticket: EditTicket) -> Option<Settled> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Committing(own, settled, wal_bytes) if own == ticket => {
                self.counters.passes += 1;
                self.counters.wal_bytes += wal_bytes;
                let bytes = settled.written.iter().map(|written| written.entry.bytes);
                self.counters.pack_bytes += bytes.sum::<u64>();
                self.retry_ms = RETRY_MS_MIN;
                self.source_failures = 0;
                Some(*settled)
            }
            phase => {
                self.phase = phase;
                None
            }
        }
    }

    /// Takes a completion under [`SETTLE_TAG`]: a part of the WAL file.
    pub(crate) fn handle_load(
        &mut self,
        now: Now,
        done: DiskDone,
        context: &mut SettleContext<'_>,
    ) -> Result<(), SettleFailure> {
        self.loads_in_flight -= 1;
        match &mut self.phase {
            Phase::Loading(load) if load.awaits(done.token) => {
                if let Err(error) = load.handle(done) {
                    return self.give_up_source(now, error, context.ops);
                }
            }
            // What was given up while the read was on its way is nobody's.
            _ => {
                if let Some(ahead) = &mut self.ahead
                    && ahead.load.handle(done).is_err()
                {
                    self.drop_ahead();
                }
            }
        }
        self.go_on(context);
        Ok(())
    }

    /// Takes a completion under [`SETTLE_OUTPUT_TAG`].
    pub(crate) fn handle_output(
        &mut self,
        now: Now,
        done: DiskDone,
        context: &mut SettleContext<'_>,
    ) -> Result<(), SettleFailure> {
        match &mut self.phase {
            Phase::Writing(_, output) => {
                if let Err(error) = output.handle(done, context.ops) {
                    return self.give_up(now, SettleFailure::Output(error), context.ops);
                }
                self.go_on(context);
            }
            Phase::Discarding(output) => {
                output
                    .handle(done, context.ops)
                    .expect("nothing can fail that is given up");
                if output.is_discarded() {
                    self.phase = Phase::Idle;
                }
            }
            _ => unreachable!("only writing and discarding have output"),
        }
        Ok(())
    }

    /// Gives a pass up whose WAL file could not be read. If that was so too often, the file is
    /// lost: see [`Settle::take_lost`].
    fn give_up_source(
        &mut self,
        now: Now,
        error: ReadError,
        ops: &mut VecDeque<DiskOp>,
    ) -> Result<(), SettleFailure> {
        let Phase::Loading(load) = &self.phase else {
            unreachable!("only loading reads the log");
        };
        self.source_failures += 1;
        let passes_max = match error {
            ReadError::Damaged { .. } => DAMAGED_PASSES_MAX,
            _ => UNREADABLE_PASSES_MAX,
        };
        if self.source_failures >= passes_max {
            self.lost = Some(load.lost(error));
        }
        self.give_up(now, SettleFailure::Source(error), ops)
    }

    /// Why the oldest WAL file can never be settled, once that is certain: nothing that comes
    /// after it can be either.
    pub(crate) fn take_lost(&mut self) -> Option<StorageError> {
        self.lost.take()
    }

    /// Gives the pass up: what it wrote goes, and it starts again later.
    fn give_up(
        &mut self,
        now: Now,
        failure: SettleFailure,
        ops: &mut VecDeque<DiskOp>,
    ) -> Result<(), SettleFailure> {
        self.counters.discarded += 1;
        self.provided = None;
        self.ahead = None;
        self.retry_at = Some(now.boot.after_ms(self.retry_ms));
        self.retry_ms = (2 * self.retry_ms).min(RETRY_MS_MAX);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Writing(_, output) => Self::discard(output, ops),
            Phase::Loading(_) => Phase::Idle,
            phase => unreachable!("{phase:?} cannot fail"),
        };
        Err(failure)
    }
}

/// Takes what the pace allows, out of the cache or from the disk; how many reads those are.
fn fill(
    load: &mut Load,
    pacer: &mut Pacer,
    tokens: &mut DiskTokens,
    context: &mut SettleContext<'_>,
) -> usize {
    let op_bytes = pacer.op_bytes();
    let mut reads = 0;
    while load.wants_more() && pacer.allows(context.demand, load.unchecked(op_bytes)) {
        let kept = load.take_kept(op_bytes, context.cache);
        pacer.note(kept);
        if kept == 0 {
            pacer.note(load.read_next(op_bytes, tokens, context.cache, context.ops));
            reads += 1;
        }
    }
    reads
}

/// The file that the chain begins with once `life` is settled.
fn successor(wal: &Wal, life: LifeId) -> &WalFile {
    let mut later = wal.closed().iter().filter(|file| file.life > life);
    later.next().unwrap_or_else(|| wal.current())
}

/// Where the snapshot as of `as_of` was written.
fn snapshot_ref(written: &[Written], as_of: Lsn) -> SnapshotRef {
    let found = written.iter().find_map(|written| {
        let mut sections = written.directory.sections.iter();
        let number = sections.position(|section| section.kind == SectionKind::Snapshot)?;
        Some((written.id, number))
    });
    let (pack, number) = found.expect("a pass with a snapshot wrote it");
    SnapshotRef {
        pack,
        section: u32::try_from(number).expect("sections are counted in 32 bits"),
        as_of,
    }
}
