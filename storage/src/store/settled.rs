//! The store's settled side: passes, packs, cold reads, retention.

use std::collections::BTreeSet;

use super::Store;
use crate::cold::{Cold, ColdDone};
use crate::disk::{DiskDone, DiskError, DiskOutcome, DiskSpace};
use crate::error::ReadError;
use crate::manifest::ManifestEdit;
use crate::merge::{Merge, MergeContext};
use crate::packs::Packs;
use crate::reads::{Want, What};
use crate::request::{ReadOutcome, ReadTicket, StoreEvent, TimePoint};
use crate::retention::{Kept, new_start};
use crate::settle::{Demand, SHORT_READ, Settle, SettleContext, SettleFailure, Settled, Written};
use crate::space::SpaceNews;
use crate::units::{BootTime, Now, Offset, PartitionId};
use crate::wal::Reserve;

/// Logs that one turn of retention looks at.
const RETENTION_LOGS_MAX: usize = 256;

/// When background work is due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Since when the oldest data in the WAL waits for settling.
    wal_since: Option<BootTime>,
    /// The next round of retention.
    retention_at: Option<BootTime>,
    /// Logs up to this one were looked at in the present round.
    retention_cursor: Option<PartitionId>,
    /// Everything is to be settled, however young.
    settle_all: bool,
    /// Why the last pass failed that did.
    pub(super) last_failure: Option<SettleFailure>,
    /// The last turn that looked whether a pass can begin.
    checked_at: BootTime,
    /// The next look for packs to merge.
    merge_at: BootTime,
    /// A clean stop began: nothing new is.
    pub(super) closing: bool,
    /// A start moves logs. Packs stay as they are: a shard that has linked some already knows them
    /// by who wrote them, also after a start that was cut short.
    pub(super) moving: bool,
}

/// How long after a turn that could not begin a due pass the next one looks again.
const CHECK_AGAIN_MS: u64 = 100;
/// How often packs are looked through for a merge.
const MERGE_CHECK_MS: u64 = 1000;

impl Store {
    /// One turn's share of work that takes time: about one buffer's worth. A turn does this once,
    /// in [`Store::handle_timeout`], however often it ends.
    pub(super) fn background_work(&mut self, now: Now) {
        if self.commit.poisoned().is_some() || self.schedule.closing {
            return;
        }
        if self.settle.has_step() {
            let (settle, mut context) = self.settle_parts(now);
            let stepped = settle.step(now, &mut context);
            self.note_failure(stepped);
            self.stop_if_lost();
        } else if !self.schedule.moving {
            self.merge(now);
        }
    }

    /// Keeps the background going at the end of a turn; no work to speak of.
    pub(super) fn background(&mut self, now: Now) {
        if self.commit.poisoned().is_some() {
            return;
        }
        self.schedule.checked_at = now.boot;
        if self.schedule.closing {
            self.stop_background();
        } else {
            self.begin_pass(now);
            self.go_on_with_pass(now);
            self.retain(now);
        }
        if self.manifest.is_out_of_space() {
            self.out_of_space();
        }
        self.submit_deaths();
        self.packs.clean(&mut self.ops);
        self.take_edits();
    }

    fn stop_background(&mut self) {
        self.settle.abandon(&mut self.ops);
        let (merge, mut context) = self.merge_parts();
        merge.abandon(&mut context);
    }

    /// Merges packs when that is due, in turns that settling leaves free.
    fn merge(&mut self, now: Now) {
        let is_due = self.schedule.merge_at <= now.boot;
        if is_due {
            self.schedule.merge_at = now.boot.after_ms(MERGE_CHECK_MS);
        }
        let (merge, mut context) = self.merge_parts();
        if is_due {
            merge.begin_if_due(now, &mut context);
        }
        let stepped = merge.step(now, &mut context);
        self.note_merge(stepped);
    }

    fn merge_parts(&mut self) -> (&mut Merge, MergeContext<'_>) {
        let context = MergeContext {
            logs: &self.logs,
            packs: &mut self.packs,
            manifest: &mut self.manifest,
            ops: &mut self.ops,
        };
        (&mut self.merge, context)
    }

    pub(super) fn handle_merge(&mut self, now: Now, done: DiskDone) {
        let (merge, mut context) = self.merge_parts();
        let handled = merge.handle_copy(now, done, &mut context);
        self.note_merge(handled);
    }

    pub(super) fn handle_merge_output(&mut self, now: Now, done: DiskDone) {
        let (merge, mut context) = self.merge_parts();
        let handled = merge.handle_output(now, done, &mut context);
        self.note_merge(handled);
    }

    fn settle_parts(&mut self, now: Now) -> (&mut Settle, SettleContext<'_>) {
        let demand = self.demand(now);
        let context = SettleContext {
            logs: &self.logs,
            cache: &self.cache,
            packs: &mut self.packs,
            manifest: &mut self.manifest,
            wal: &self.wal,
            durable_lsn: self.commit.durable_lsn(),
            demand,
            ops: &mut self.ops,
        };
        (&mut self.settle, context)
    }

    /// How urgently the log needs its files back.
    fn demand(&self, now: Now) -> Demand {
        let waiting = self.wal.closed().len().saturating_sub(1);
        let is_behind = waiting > self.config.settle_files_max;
        Demand {
            now,
            appended: self.append_lsn(),
            is_hurried: is_behind || self.is_held_up() || self.schedule.settle_all,
        }
    }

    /// Whether no further file can be put into use, and none is on its way.
    fn is_held_up(&self) -> bool {
        !self.wal.can_roll(Reserve::Kept) && !self.wal.slots.is_making()
    }

    /// Begins a pass when enough files wait, or old data does.
    fn begin_pass(&mut self, now: Now) {
        if self.is_wal_empty() {
            self.schedule.wal_since = None;
            return;
        }
        let since = *self.schedule.wal_since.get_or_insert(now.boot);
        let is_old = since.after_ms(self.config.settle_after_ms) <= now.boot;
        let is_due = is_old || self.schedule.settle_all;
        if is_due && self.wal.closed().is_empty() && self.settle.is_ready(now) {
            self.commit.roll(now, &mut self.wal, &mut self.ops);
        }
        let files = self.wal.closed().len();
        // A limit above the number of files must not hold the log up.
        let may_begin = self.config.settle_files_max < usize::MAX;
        let enough = files >= self.config.settle_files_max || self.is_held_up() && may_begin;
        let durable = self.commit.durable_lsn();
        let oldest = self.wal.closed().front();
        let Some(file) = oldest.filter(|file| file.end_lsn <= durable) else {
            return;
        };
        if self.settle.is_ready(now) && (enough || is_due) {
            let file = file.clone();
            let demand = self.demand(now);
            self.settle.begin(demand, file);
            self.events.push_back(StoreEvent::WantsSnapshot);
        }
    }

    fn go_on_with_pass(&mut self, now: Now) {
        let (settle, mut context) = self.settle_parts(now);
        settle.go_on(&mut context);
    }

    /// Answers [`StoreEvent::WantsSnapshot`]: the engine's whole state, with the effect of every
    /// entry appended so far. Empty when the engine keeps none.
    pub fn provide_snapshot(&mut self, now: Now, bytes: Vec<u8>) {
        let as_of = self.append_lsn();
        self.settle.provide_snapshot(as_of, bytes);
        self.go_on_with_pass(now);
    }

    /// Asks for everything to be settled now, however young: before a shard's data moves.
    pub fn settle_all(&mut self) {
        self.schedule.settle_all = true;
    }

    /// Whether no entry is left in the WAL.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_wal_empty() && self.settle.is_idle()
    }

    fn is_wal_empty(&self) -> bool {
        self.wal.closed().is_empty() && !self.commit.has_content(&self.wal)
    }

    /// A merge is no must: one that finds no room waits, and leaves the reserve to what is.
    fn note_merge(&mut self, result: Result<(), SettleFailure>) {
        if result == Err(SettleFailure::Output(DiskError::NoSpace)) {
            tracing::warn!(shard = %self.config.shard, "no space to merge; trying again later");
        } else {
            self.note_failure(result);
        }
    }

    /// A failed pass or merge costs time, nothing else: say so and go on.
    fn note_failure(&mut self, result: Result<(), SettleFailure>) {
        let shard = self.config.shard;
        self.schedule.last_failure = result.err().or(self.schedule.last_failure);
        match result {
            Ok(()) => {}
            Err(SettleFailure::Output(DiskError::NoSpace)) => {
                tracing::warn!(%shard, "no space to settle; trying again later");
                self.out_of_space();
            }
            Err(SettleFailure::Output(error)) => {
                tracing::error!(%shard, %error, "writing a pack failed; trying again later");
            }
            Err(SettleFailure::Source(error)) => {
                tracing::error!(%shard, %error, "a file to settle or merge cannot be read");
            }
        }
    }

    /// A log that can never be settled again would fill up and hold its producers for ever: the
    /// process ends instead, with the reason.
    fn stop_if_lost(&mut self) {
        if let Some(reason) = self.settle.take_lost()
            && self.commit.poisoned().is_none()
        {
            self.poison_with(SHORT_READ, reason);
        }
    }

    /// Takes the manifest's durable edits to those who wait for them.
    pub(super) fn take_edits(&mut self) {
        while let Some(ticket) = self.manifest.poll_done() {
            self.packs.cleanup.handle_edit(ticket);
            if let Some(settled) = self.settle.handle_edit(ticket) {
                self.take_over(settled);
            }
            if let Some(merged) = self.merge.handle_edit(ticket) {
                self.packs.replace(&merged.sources);
                self.add_packs(merged.written);
            }
        }
    }

    /// The packs count now, the WAL files do not any more: in one go, as readers see it.
    fn take_over(&mut self, settled: Settled) {
        self.add_packs(settled.written);
        if let Some(snapshot) = settled.snapshot {
            self.packs.set_snapshot(snapshot);
        }
        self.logs.drop_runs_below(settled.settled_lsn);
        self.cache.settled_below(settled.settled_lsn);
        self.wal.release_before(settled.chain_start, &mut self.ops);
        self.schedule.wal_since = None;
        if self.is_wal_empty() {
            self.schedule.settle_all = false;
        }
        let settled_lsn = settled.settled_lsn;
        self.events.push_back(StoreEvent::Settled { settled_lsn });
    }

    fn add_packs(&mut self, written: Vec<Written>) {
        for Written {
            id,
            entry,
            directory,
        } in written
        {
            let sections = directory.sections.iter();
            let logs: BTreeSet<PartitionId> = sections.map(|section| section.partition).collect();
            self.packs.add(id, &entry, directory);
            for partition in logs {
                self.forget_dead_of(partition);
            }
        }
    }

    /// What of a log's sections is below its start, or of no log at all, is dead: logs move and
    /// go while packs are written, and while nobody runs.
    fn forget_dead_of(&mut self, partition: PartitionId) {
        match self.logs.get(partition) {
            Some(log) => self.packs.kill_below(partition, log.start),
            None => self.packs.kill_log(partition),
        }
    }

    /// The same for every log.
    pub(super) fn forget_dead(&mut self) {
        let logs: Vec<PartitionId> = self.packs.logs_after(None).collect();
        for partition in logs {
            self.forget_dead_of(partition);
        }
    }

    /// Looks whether logs have too much, a bounded number of them a turn.
    fn retain(&mut self, now: Now) {
        let at = *(self.schedule.retention_at)
            .get_or_insert(now.boot.after_ms(self.config.retention_check_ms));
        if now.boot < at {
            return;
        }
        let cursor = self.schedule.retention_cursor;
        let logs: Vec<PartitionId> = self
            .packs
            .logs_after(cursor)
            .take(RETENTION_LOGS_MAX)
            .collect();
        for partition in &logs {
            self.retain_log(now, *partition);
        }
        self.schedule.retention_cursor = logs.last().copied();
        if logs.len() < RETENTION_LOGS_MAX {
            self.schedule.retention_cursor = None;
            self.schedule.retention_at = None;
        }
    }

    fn retain_log(&mut self, now: Now, partition: PartitionId) {
        let Some(log) = self.logs.get_mut(partition) else {
            return;
        };
        let sections = self.packs.sections(partition).map(|(_, section)| Kept {
            base_offset: section.base_offset,
            bytes: section.bytes,
            max_timestamp_ms: section.max_timestamp_ms,
        });
        let rest = log.runs.front().map_or(log.end, |run| run.base_offset);
        let wal = (log.wal_bytes, rest);
        let sections: Vec<Kept> = sections.collect();
        let start = new_start(&log.config, now.wall_ms, sections.iter().copied(), wal);
        if let Some(offset) = start
            && log.raise_start(offset)
        {
            self.packs.kill_below(partition, offset);
            self.events
                .push_back(StoreEvent::LogStartMoved { partition, offset });
        }
    }

    pub(super) fn handle_space(&mut self, done: &DiskDone) {
        let is_question = matches!(done.result, Ok(DiskOutcome::Space(_)));
        let wanted = self.wanted_room();
        let news = self.space.handle(done, wanted, &mut self.ops);
        self.note_space(news);
        if is_question || news != SpaceNews::Nothing {
            self.manifest.retry_rewrite();
        }
    }

    /// Bytes that the log waits for: those of a file, where it has none to go on in and nothing
    /// is closed that a pass could free.
    pub(super) fn wanted_room(&self) -> u64 {
        let has_room = self.commit.log_has_room(&self.wal, Reserve::Kept);
        if has_room || !self.wal.closed().is_empty() {
            return 0;
        }
        self.config.wal_file_bytes
    }

    pub(super) fn out_of_space(&mut self) {
        let news = self.space.out_of_space(&mut self.ops);
        self.note_space(news);
    }

    fn note_space(&mut self, news: SpaceNews) {
        if let SpaceNews::Full(is_full) = news {
            self.events.push_back(StoreEvent::DiskFull(is_full));
        }
    }

    /// What the file system that holds the shard said last of its room.
    #[must_use]
    pub fn disk_space(&self) -> Option<DiskSpace> {
        self.space.last()
    }

    /// Tells the manifest which sections died.
    fn submit_deaths(&mut self) {
        if self.packs.has_edits() {
            let edits = self.packs.take_edits();
            let ticket = self.manifest.submit(edits);
            self.packs.edits_submitted(ticket);
        }
    }

    /// The log's start moved: sections below it are dead.
    pub(super) fn start_moved(&mut self, partition: PartitionId, start: Offset) {
        self.packs.kill_below(partition, start);
    }

    /// Logs are gone: so are their sections, and what the manifest says of them.
    pub(super) fn logs_removed(&mut self, partitions: Vec<PartitionId>) {
        for partition in &partitions {
            self.packs.kill_log(*partition);
        }
        let known = &self.manifest.state().log_starts;
        let said: Vec<_> = partitions
            .into_iter()
            .filter(|partition| known.contains_key(partition))
            .collect();
        if !said.is_empty() {
            self.manifest.submit(vec![ManifestEdit::LogsRemoved(said)]);
        }
    }

    /// Whether a turn has work to do that no completion brings about.
    #[must_use]
    pub fn has_work_now(&self) -> bool {
        let has_step = self.settle.has_step() || self.merge.has_step();
        has_step && !self.schedule.closing && self.commit.poisoned().is_none()
    }

    /// When [`Store::background`] has something to do.
    pub(super) fn background_timeout(&self) -> Option<BootTime> {
        if self.has_work_now() {
            return Some(BootTime(0));
        }
        let since = self.schedule.wal_since.filter(|_| self.settle.is_idle());
        let age = since.map(|since| since.after_ms(self.config.settle_after_ms));
        // What is due and could not begin waits for completions, or for a while.
        let again = self.schedule.checked_at.after_ms(CHECK_AGAIN_MS);
        let begin = [self.settle.timeout(), age].into_iter().flatten().min();
        let begin = begin.map(|at| {
            if at <= self.schedule.checked_at {
                again
            } else {
                at
            }
        });
        let pace = self.settle.pace_timeout();
        [
            begin,
            pace,
            self.schedule.retention_at,
            self.space.timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // Reads.

    /// Starts a read where its data is: in packs, or in what follows them.
    pub(super) fn route_read(&mut self, ticket: ReadTicket, want: Want) -> ReadOutcome {
        let Some(log) = self.logs.get(want.partition) else {
            return self.read_wal(ticket, want);
        };
        let start = want.start(log);
        if !is_settled(&want, (start, log.end), &self.packs) {
            return self.read_wal(ticket, want);
        }
        let packs = &mut self.packs;
        let outcome = self.cold.start(ticket, want, start, packs, &mut self.ops);
        self.finish_cold(ticket, want, outcome)
    }

    fn finish_cold(&mut self, ticket: ReadTicket, want: Want, outcome: Cold) -> ReadOutcome {
        match outcome {
            Cold::Pending => ReadOutcome::Pending,
            Cold::Done(result) => ReadOutcome::Ready(result),
            Cold::Continue => self.read_wal(ticket, want),
            Cold::Max(time, records) => {
                if self.latest_in_wal(&want) > time {
                    self.read_wal(ticket, want)
                } else {
                    ReadOutcome::Ready(Ok(records))
                }
            }
        }
    }

    fn latest_in_wal(&self, want: &Want) -> i64 {
        let runs = self.logs.get(want.partition).into_iter();
        let runs = runs.flat_map(|log| &log.runs);
        let visible = runs.filter(|run| run.base_offset < want.end);
        let times = visible.map(|run| run.max_timestamp_ms);
        times.max().unwrap_or(i64::MIN)
    }

    pub(super) fn handle_cold(&mut self, done: DiskDone) {
        let done = self.cold.handle(done, &mut self.packs, &mut self.ops);
        if let Some(ColdDone {
            ticket,
            want,
            outcome,
        }) = done
        {
            let partition = want.partition;
            let outcome = self.finish_cold(ticket, want, outcome);
            if let ReadOutcome::Ready(result) = outcome {
                if let Err(error @ ReadError::Damaged { .. }) = result {
                    self.events
                        .push_back(StoreEvent::Damaged { partition, error });
                }
                self.read_done.push_back((ticket, result));
            }
        }
        self.packs.clean(&mut self.ops);
    }

    /// Reads that waited for a WAL file while their data was settled begin again.
    pub(super) fn reroute(&mut self) {
        while let Some((ticket, want)) = self.reads.rerouted.pop_front() {
            if let ReadOutcome::Ready(result) = self.route_read(ticket, want) {
                self.read_done.push_back((ticket, result));
            }
        }
    }

    /// Takes a completion that belongs to a pass.
    pub(super) fn handle_load(&mut self, now: Now, done: DiskDone) {
        let (settle, mut context) = self.settle_parts(now);
        let handled = settle.handle_load(now, done, &mut context);
        self.note_failure(handled);
        self.stop_if_lost();
    }

    /// Takes a completion that belongs to a pass's files.
    pub(super) fn handle_output(&mut self, now: Now, done: DiskDone) {
        let (settle, mut context) = self.settle_parts(now);
        let handled = settle.handle_output(now, done, &mut context);
        self.note_failure(handled);
    }
}

/// Whether the packs have something to say to a read of a log that spans `range`.
fn is_settled(want: &Want, (start, end): (Offset, Offset), packs: &Packs) -> bool {
    match want.what {
        What::Batches { from, .. } => {
            // Outside the log the answer is the same everywhere.
            (start..=end).contains(&from) && packs.section_at(want.partition, from).is_some()
        }
        What::Time {
            point: TimePoint::AtLeast(timestamp_ms),
            ..
        } => packs
            .sections(want.partition)
            .any(|(_, section)| section.max_timestamp_ms >= timestamp_ms),
        What::Time {
            point: TimePoint::Max,
            ..
        } => packs.section_at(want.partition, start).is_some(),
    }
}
