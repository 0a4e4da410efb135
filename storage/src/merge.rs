//! Merging: many small packs become one, and a shared pack that is mostly dead gives its space
//! back. Offsets stay as they are.
//!
//! The live sections of the sources are copied section by section, each checked against its
//! checksum, into one new pack; neighbours in a log become one section, as large as the log's own
//! limit allows. The crash story is a settle pass's: the new pack is durable, then one manifest
//! edit takes the sources' place, then their files go. Until the edit the sources count and are
//! held, so nothing of them is punched; what dies of them meanwhile is told to the manifest only if
//! the merge is given up.

mod copy;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::config::StoreConfig;
use crate::disk::{DiskDone, DiskOp, DiskTokens};
use crate::error::ReadError;
use crate::log_index::LogIndex;
use crate::manifest::{EditTicket, Manifest, ManifestEdit};
use crate::packs::Packs;
use crate::settle::{Output, SettleFailure, Written};
use crate::units::{BootTime, Now, PackId, ShardId};
use copy::Copy;

/// The tag of the tokens that read the sources.
pub(crate) const MERGE_TAG: u8 = 37;
/// The tag of the tokens that write the new pack.
pub(crate) const MERGE_OUTPUT_TAG: u8 = 38;
/// Live bytes that one merge copies at most.
const MERGE_BYTES_MAX: u64 = 256 << 20;
/// Dead bytes for which a shared pack is rewritten.
const DEAD_BYTES_MIN: u64 = 1 << 20;
/// Bytes of one write, small so that commits wait behind little.
const WRITE_BYTES: usize = 256 << 10;
/// Writes on their way at most.
const WRITES_IN_FLIGHT_MAX: usize = 2;
/// How long a merge that failed waits.
const RETRY_MS: u64 = 60_000;

/// What merging did; counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounters {
    /// Merges whose manifest edit is durable.
    pub merges: u64,
    /// Packs that went into them.
    pub sources: u64,
    /// Merges given up.
    pub discarded: u64,
    /// Bytes of the packs written.
    pub pack_bytes: u64,
}

/// Merging, one at a time.
#[derive(Debug)]
pub(crate) struct Merge {
    shard: ShardId,
    /// Packs with fewer live bytes are small. Any two of them fit one merge, and what comes of as
    /// many as fit is not small.
    small_bytes: u64,
    small_packs_max: usize,
    tokens: DiskTokens,
    phase: Phase,
    retry_at: Option<BootTime>,
    /// Reads of sources on their way, also those of a merge that was given up.
    reads_in_flight: usize,
    pub(crate) counters: MergeCounters,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Copying(Copy, Output),
    Committing(EditTicket, Merged),
    Discarding(Output),
}

/// A merge that its manifest edit made true.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) sources: Vec<PackId>,
    pub(crate) written: Vec<Written>,
}

/// What a merge needs of the store.
pub(crate) struct MergeContext<'a> {
    pub(crate) logs: &'a LogIndex,
    pub(crate) packs: &'a mut Packs,
    pub(crate) manifest: &'a mut Manifest,
    pub(crate) ops: &'a mut VecDeque<DiskOp>,
}

impl Merge {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            shard: config.shard,
            small_bytes: config.segment_bytes_min.min(MERGE_BYTES_MAX / 2),
            small_packs_max: config.small_packs_max,
            tokens: DiskTokens::new(MERGE_TAG),
            phase: Phase::Idle,
            retry_at: None,
            reads_in_flight: 0,
            counters: MergeCounters::default(),
        }
    }

    /// Whether no merge is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether no operation is on its way either. `is_stuck`: the manifest's edit that ends a
    /// merge does not come.
    pub(crate) fn is_quiet(&self, is_stuck: bool) -> bool {
        let is_committing = matches!(self.phase, Phase::Committing(..));
        (self.is_idle() || is_stuck && is_committing) && self.reads_in_flight == 0
    }

    /// A clean stop begins: a merge that is not committed is given up.
    pub(crate) fn abandon(&mut self, context: &mut MergeContext<'_>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Copying(copy, output) => self.discard(&copy, output, context),
            phase => self.phase = phase,
        }
    }

    fn discard(&mut self, copy: &Copy, mut output: Output, context: &mut MergeContext<'_>) {
        context.packs.end_merge(copy.sources());
        output.discard(context.ops);
        if !output.is_discarded() {
            self.phase = Phase::Discarding(output);
        }
    }

    /// Whether [`Merge::step`] has work that no completion brings about.
    pub(crate) fn has_step(&self) -> bool {
        match &self.phase {
            Phase::Copying(copy, output) => output.wants_batches() && copy.has_step(),
            _ => false,
        }
    }

    /// Begins a merge if one is worth it.
    pub(crate) fn begin_if_due(&mut self, now: Now, context: &mut MergeContext<'_>) {
        if !self.is_idle() || self.retry_at.is_some_and(|at| at > now.boot) {
            return;
        }
        let sources = self.choose(context.packs);
        if sources.is_empty() {
            return;
        }
        self.retry_at = None;
        context.packs.begin_merge(&sources);
        let copy = Copy::new(sources, self.small_bytes, context.logs, context.packs);
        let mut output = Output::new(self.shard, MERGE_OUTPUT_TAG, WRITE_BYTES);
        let file = copy.file();
        output.begin(file, copy.file_bytes_max(), context.ops);
        self.phase = Phase::Copying(copy, output);
    }

    /// The packs to merge, oldest first; none most of the time.
    fn choose(&self, packs: &Packs) -> Vec<PackId> {
        let free = packs.iter().filter(|(id, _)| packs.may_merge(*id));
        let small: Vec<(PackId, u64)> = free
            .clone()
            .map(|(id, pack)| (id, pack.live_bytes()))
            .filter(|(_, live)| *live < self.small_bytes)
            .collect();
        // One alone would come out as it went in.
        if small.len() > self.small_packs_max.max(1) {
            let mut bytes = 0;
            let chosen = small.iter().take_while(|(_, live)| {
                bytes += live;
                bytes <= MERGE_BYTES_MAX
            });
            return chosen.map(|(id, _)| *id).collect();
        }
        // A pack of one shard alone has given its dead bytes back already.
        let mut wasteful = free.filter(|(_, pack)| {
            let dead = pack.bytes - pack.live_bytes();
            pack.shared && dead >= DEAD_BYTES_MIN && dead > pack.bytes / 2
        });
        wasteful.next().map(|(id, _)| id).into_iter().collect()
    }

    /// One turn's work. Returns why the merge was given up, if it was.
    pub(crate) fn step(
        &mut self,
        now: Now,
        context: &mut MergeContext<'_>,
    ) -> Result<(), SettleFailure> {
        if let Phase::Copying(copy, output) = &mut self.phase {
            if let Err(error) = copy.step(output, context.packs) {
                return self.give_up(now, SettleFailure::Source(error), context);
            }
            if let Some(op) = copy.poll_disk(&mut self.tokens, context.packs) {
                self.reads_in_flight += 1;
                context.ops.push_back(op);
            }
        }
        self.go_on(context);
        Ok(())
    }

    fn go_on(&mut self, context: &mut MergeContext<'_>) {
        let Phase::Copying(copy, output) = &mut self.phase else {
            return;
        };
        while output.wants_write() && output.in_flight() < WRITES_IN_FLIGHT_MAX {
            output.write_next(context.ops);
        }
        output.sync_when_flushed(context.ops);
        if copy.is_done() && output.is_idle() {
            output.end(context.ops);
        }
        if !output.is_durable() {
            return;
        }
        let merged = Merged {
            sources: copy.sources().to_vec(),
            written: output.take_written(),
        };
        let added = merged.written.iter().map(|w| (w.id, w.entry.clone()));
        let ticket = context.manifest.submit(vec![ManifestEdit::Merged {
            removed: merged.sources.clone(),
            added: added.collect(),
            snapshot: None,
        }]);
        self.phase = Phase::Committing(ticket, merged);
    }

    /// The manifest's edit under `ticket` is durable.
    pub(crate) fn handle_edit(&mut self, ticket: EditTicket) -> Option<Merged> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Committing(own, merged) if own == ticket => {
                self.counters.merges += 1;
                self.counters.sources += merged.sources.len() as u64;
                let bytes = merged.written.iter().map(|written| written.entry.bytes);
                self.counters.pack_bytes += bytes.sum::<u64>();
                Some(merged)
            }
            phase => {
                self.phase = phase;
                None
            }
        }
    }

    /// Takes a completion under [`MERGE_TAG`].
    pub(crate) fn handle_copy(
        &mut self,
        now: Now,
        done: DiskDone,
        context: &mut MergeContext<'_>,
    ) -> Result<(), SettleFailure> {
        self.reads_in_flight -= 1;
        let Phase::Copying(copy, _) = &mut self.phase else {
            return Ok(()); // Given up while the read was on its way.
        };
        if !copy.owns(done.token) {
            return Ok(()); // As above, and another merge began since.
        }
        match copy.handle(done, context.packs) {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(now, SettleFailure::Source(error), context),
        }
    }

    /// Takes a completion under [`MERGE_OUTPUT_TAG`].
    pub(crate) fn handle_output(
        &mut self,
        now: Now,
        done: DiskDone,
        context: &mut MergeContext<'_>,
    ) -> Result<(), SettleFailure> {
        match &mut self.phase {
            Phase::Copying(_, output) => {
                if let Err(error) = output.handle(done, context.ops) {
                    return self.give_up(now, SettleFailure::Output(error), context);
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
            _ => unreachable!("only copying and discarding have output"),
        }
        Ok(())
    }

    fn give_up(
        &mut self,
        now: Now,
        failure: SettleFailure,
        context: &mut MergeContext<'_>,
    ) -> Result<(), SettleFailure> {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let Phase::Copying(copy, output) = phase else {
            unreachable!("only copying fails");
        };
        self.counters.discarded += 1;
        self.retry_at = Some(now.boot.after_ms(RETRY_MS));
        // A shortage passes, and says nothing about the pack.
        if let (SettleFailure::Source(error), Some(id)) = (failure, copy.source())
            && !matches!(error, ReadError::Disk(error) if error.is_shortage())
        {
            context.packs.refuse_merge(id);
        }
        self.discard(&copy, output, context);
        Err(failure)
    }
}
