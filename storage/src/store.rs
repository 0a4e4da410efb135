//! One shard's durable log: appends in, acknowledgements and batches out.
//!
//! [`Store`] is a state machine. Appends go to the open commit group and return an LSN; the caller
//! closes the group once a turn ([`Store::close_group`]), carries [`DiskOp`]s to a driver
//! ([`Store::poll_disk`]) and completions back ([`Store::handle_disk`]). What was appended below
//! [`Store::durable_lsn`] survives anything; nothing else may be acknowledged.

mod owner;
mod rehome;
mod settled;

use std::collections::VecDeque;

use crate::cold::{COLD_TAG, ColdCounters, ColdReads};
use crate::commit::{COMMIT_TAG, Commit, CommitCounters, GroupDone, Placed, Recovered};
use crate::config::StoreConfig;
use crate::disk::{BlockingDisk, DiskDone, DiskError, DiskOp};
use crate::entry::{ENTRY_HEADER_BYTES, EntryKind};
use crate::error::{AppendError, ReadError, StorageError};
use crate::log_index::{Log, LogConfig, LogIndex, LogStatus};
use crate::manifest::{MANIFEST_TAG, Manifest};
use crate::merge::{MERGE_OUTPUT_TAG, MERGE_TAG, Merge, MergeCounters};
use crate::packs::{PACKS_TAG, Packs};
use crate::reads::{READS_TAG, ReadContext, ReadCounters, Reads, Want, What};
use crate::record::{self, BatchHeader};
use crate::recovery::{self, Opened};
use crate::request::{
    Append, ReadOutcome, ReadRequest, ReadTicket, Records, Replayed, StoreEvent, TimeRequest,
};
use crate::settle::{SETTLE_OUTPUT_TAG, SETTLE_TAG, Settle, SettleCounters};
use crate::slots::{SHORT_WRITE, SLOTS_TAG};
use crate::space::{SPACE_TAG, Space};
use crate::tail_cache::TailCache;
use crate::units::{BootTime, Lsn, Now, Offset, PartitionId};
use crate::wal::{Reserve, Wal};
pub use owner::Tenancy;
pub use rehome::Exported;
use settled::Schedule;

/// One shard's log and everything stored in it.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    wal: Wal,
    commit: Commit,
    cache: TailCache,
    logs: LogIndex,
    reads: Reads,
    manifest: Manifest,
    packs: Packs,
    cold: ColdReads,
    settle: Settle,
    merge: Merge,
    schedule: Schedule,
    space: Space,
    /// Answers to reads that went through packs.
    read_done: VecDeque<(ReadTicket, Result<Records, ReadError>)>,
    /// Operations that no driver took yet.
    ops: VecDeque<DiskOp>,
    events: VecDeque<StoreEvent>,
    accepted_bytes: u64,
}

/// What a store did since it was opened; counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Bytes of batches and state taken.
    pub accepted_bytes: u64,
    /// The commit path.
    pub commit: CommitCounters,
    /// The read path.
    pub reads: ReadCounters,
    /// Reads from packs.
    pub cold: ColdCounters,
    /// Settle passes.
    pub settle: SettleCounters,
    /// Merges of packs.
    pub merge: MergeCounters,
    /// Bytes of dead sections and packs given back to the file system.
    pub returned_bytes: u64,
}

impl Store {
    /// Opens the shard's directory, recovering whatever a crash left, and tells `replay` what is
    /// to be applied. When this returns, everything told is durable.
    ///
    /// # Errors
    /// [`StorageError::Quarantine`] when acknowledged data is damaged; the other variants as they
    /// say.
    pub fn open(
        config: StoreConfig,
        now: Now,
        disk: &mut BlockingDisk<'_>,
        replay: &mut dyn FnMut(Replayed<'_>),
    ) -> Result<Self, StorageError> {
        config.assert_sound();
        let Opened {
            wal,
            manifest,
            packs,
            has_reserve,
            logs,
            recorded,
            content_end,
        } = recovery::open(&config, disk, replay)?;
        let recovered = Recovered {
            end: wal.current().end_lsn,
            recorded,
            content_end,
        };
        let mut store = Self {
            commit: Commit::new(&config, now, &recovered),
            cache: TailCache::new(&config),
            reads: Reads::new(&config),
            wal,
            logs,
            manifest,
            packs,
            cold: ColdReads::new(),
            settle: Settle::new(&config),
            merge: Merge::new(&config),
            schedule: Schedule::default(),
            space: Space::new(&config, now, has_reserve),
            read_done: VecDeque::new(),
            ops: VecDeque::new(),
            events: VecDeque::new(),
            accepted_bytes: 0,
            config,
        };
        store.wal.slots.maintain(now, &mut store.ops);
        store.forget_dead();
        Ok(store)
    }

    // Appends.

    /// Takes a batch into the open commit group: one copy, stamped in place. Returns the address
    /// after it: the batch is durable when [`Store::durable_lsn`] has reached that.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was taken.
    pub fn append(&mut self, now: Now, append: Append<'_>) -> Result<Lsn, AppendError> {
        let log = self.logs.get_mut(append.partition);
        let log = log.expect("a log is created before it is written");
        let bytes = append.batch.bytes();
        check_size(&self.config, bytes)?;
        if self.space.is_full() {
            return Err(AppendError::DiskFull);
        }
        let id = (EntryKind::Batch, u64::from(append.partition.0));
        let placed = self
            .commit
            .append(now, &mut self.wal, id, bytes.len(), Reserve::Kept)?;
        let Placed {
            block,
            start,
            end,
            end_lsn,
            body,
        } = placed;
        body.copy_from_slice(bytes);
        record::stamp(
            body,
            append.base_offset,
            append.leader_epoch,
            append.append_time_ms,
        );
        let header = BatchHeader::parse(body).expect("a checked batch");
        log.push(block, (start, end), &header);
        let body_start = start as usize + ENTRY_HEADER_BYTES;
        if let Some(part) = record::known_part(&header, body, body_start) {
            self.commit.note_known(part);
        }
        self.accepted_bytes += bytes.len() as u64;
        Ok(end_lsn)
    }

    /// Takes a change of the engine's state, which [`Replayed::State`] gives back. May use the
    /// file that is kept back for recovery: acknowledgements and deletes go on when the log is
    /// full.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was taken.
    pub fn append_state(&mut self, now: Now, key: u64, bytes: &[u8]) -> Result<Lsn, AppendError> {
        self.put_state(now, key, bytes, Reserve::Used)
    }

    /// As [`Store::append_state`], for state that clients write without end: it leaves alone what
    /// is kept for recovery, and waits for a free file as batches do.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was taken.
    pub fn append_client_state(
        &mut self,
        now: Now,
        key: u64,
        bytes: &[u8],
    ) -> Result<Lsn, AppendError> {
        self.put_state(now, key, bytes, Reserve::Kept)
    }

    fn put_state(
        &mut self,
        now: Now,
        key: u64,
        bytes: &[u8],
        reserve: Reserve,
    ) -> Result<Lsn, AppendError> {
        check_size(&self.config, bytes)?;
        let id = (EntryKind::State, key);
        let placed = self
            .commit
            .append(now, &mut self.wal, id, bytes.len(), reserve)?;
        placed.body.copy_from_slice(bytes);
        let lsn = placed.end_lsn;
        self.accepted_bytes += bytes.len() as u64;
        Ok(lsn)
    }

    /// The largest entry that the log takes, bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        self.config.batch_bytes_max
    }

    /// Deletes the records of a log below `offset`. The log's end follows where the owner of its
    /// offsets has gone past it, as after an accepted loss. Takes effect for readers at once;
    /// durable like any append.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was taken.
    pub fn append_log_start(
        &mut self,
        now: Now,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Lsn, AppendError> {
        let log = self.logs.get_mut(partition);
        let log = log.expect("a log is created before it is written");
        let body = offset.0.to_le_bytes();
        let id = (EntryKind::LogStart, u64::from(partition.0));
        let placed = self
            .commit
            .append(now, &mut self.wal, id, body.len(), Reserve::Used)?;
        placed.body.copy_from_slice(&body);
        let lsn = placed.end_lsn;
        log.raise_start(offset);
        self.start_moved(partition, offset);
        Ok(lsn)
    }

    /// The end of a turn: the open group goes to the disk unless as many as allowed are on their
    /// way, in which case it stays open and grows.
    pub fn close_group(&mut self, now: Now) {
        self.commit.close_group(now, &mut self.wal, &mut self.ops);
        self.maintain_slots(now);
        self.background(now);
    }

    /// Everything below is on the disk. Rises only.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.commit.durable_lsn()
    }

    /// End of everything appended.
    #[must_use]
    pub fn append_lsn(&self) -> Lsn {
        self.commit.append_lsn(&self.wal)
    }

    /// The next group that became durable.
    pub fn poll_group(&mut self) -> Option<GroupDone> {
        self.commit.poll_done()
    }

    /// The failure after which nothing more is acknowledged.
    #[must_use]
    pub fn is_poisoned(&self) -> Option<DiskError> {
        self.commit.poisoned()
    }

    /// Whether a batch of usual size would be answered for now: taken, or refused for want of disk
    /// space, which producers have to hear. While not, the caller stops reading from them; it asks
    /// again after completions.
    #[must_use]
    pub fn accepts_appends(&self) -> bool {
        let is_answered = self.space.is_full() || self.commit.has_room(&self.wal, Reserve::Kept);
        self.commit.poisoned().is_none() && is_answered
    }

    // Logs.

    /// Makes a log known, or gives a known one another configuration.
    pub fn create_log(&mut self, partition: PartitionId, config: LogConfig) {
        self.logs.entry(partition).config = config;
    }

    /// Gives a log another configuration. Returns whether it is known.
    pub fn configure_log(&mut self, partition: PartitionId, config: LogConfig) -> bool {
        match self.logs.get_mut(partition) {
            Some(log) => {
                log.config = config;
                true
            }
            None => false,
        }
    }

    /// Forgets a log; its space comes back as files are settled. Returns whether it was known.
    pub fn remove_log(&mut self, partition: PartitionId) -> bool {
        let known = self.logs.remove(partition);
        self.logs_removed(vec![partition]);
        known
    }

    /// Every log that anything is held of, ascending.
    #[must_use]
    pub fn held_logs(&self) -> Vec<PartitionId> {
        let known = self.logs.iter().map(|(partition, _)| partition);
        let mut all: Vec<PartitionId> = known.chain(self.packs.logs_after(None)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Forgets every log that `keep` does not know: what a start found of logs that are gone.
    pub fn retain_logs(&mut self, keep: &mut dyn FnMut(PartitionId) -> bool) {
        let mut gone = self.held_logs();
        gone.retain(|partition| !keep(*partition));
        for partition in &gone {
            self.logs.remove(*partition);
        }
        self.logs_removed(gone);
    }

    /// What is known of a log.
    #[must_use]
    pub fn log(&self, partition: PartitionId) -> Option<LogStatus> {
        let log = self.logs.get(partition)?;
        Some(self.status(partition, log))
    }

    fn status(&self, partition: PartitionId, log: &Log) -> LogStatus {
        let mut status = log.status();
        status.bytes += self.packs.log_bytes(partition);
        status
    }

    /// Every log.
    pub fn logs(&self) -> impl Iterator<Item = (PartitionId, LogStatus)> + '_ {
        self.logs
            .iter()
            .map(|(partition, log)| (partition, self.status(partition, log)))
    }

    // Reads.

    /// Reads batches of a log.
    pub fn read(&mut self, _now: Now, request: ReadRequest) -> ReadOutcome {
        let what = What::Batches {
            from: request.from,
            bytes_max: request.bytes_max,
        };
        let want = Want {
            partition: request.partition,
            end: request.end,
            what,
        };
        self.route_read(request.ticket, want)
    }

    /// Looks for a place in a log by time: at most one batch, none if there is no such place.
    pub fn find_time(&mut self, _now: Now, request: TimeRequest) -> ReadOutcome {
        let want = Want {
            partition: request.partition,
            end: request.end,
            what: What::Time {
                from: request.from,
                point: request.point,
            },
        };
        self.route_read(request.ticket, want)
    }

    /// The next answer to a read that was pending.
    pub fn poll_read(&mut self) -> Option<(ReadTicket, Result<Records, ReadError>)> {
        self.reads.poll().or_else(|| self.read_done.pop_front())
    }

    /// Gives a pending read up: no answer follows.
    pub fn cancel_read(&mut self, ticket: ReadTicket) {
        self.reads.cancel(ticket);
        self.cold.cancel(ticket);
        self.read_done.retain(|(done, _)| *done != ticket);
    }

    fn read_wal(&mut self, ticket: ReadTicket, want: Want) -> ReadOutcome {
        let mut context = ReadContext {
            logs: &self.logs,
            cache: &mut self.cache,
            wal: &mut self.wal,
            durable_lsn: self.commit.durable_lsn(),
            settled: self.packs.version(),
            ops: &mut self.ops,
        };
        self.reads.read(ticket, want, &mut context)
    }

    // The driver's side.

    /// The next operation for the disk.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        self.ops.pop_front().or_else(|| self.manifest.poll_disk())
    }

    /// Takes an operation's completion.
    pub fn handle_disk(&mut self, now: Now, done: DiskDone) {
        match done.token.tag() {
            COMMIT_TAG => {
                let (wal, cache) = (&mut self.wal, &mut self.cache);
                let handled = self.commit.handle(now, done, wal, cache, &mut self.ops);
                self.poison_on(handled);
            }
            SLOTS_TAG => {
                let found_no_room = done.result == Err(DiskError::NoSpace);
                let handled = self.wal.slots.handle(now, done, &mut self.ops);
                self.poison_on(handled);
                // Producers are to hear that they wait for room on the disk.
                if found_no_room && self.wanted_room() > 0 {
                    self.out_of_space();
                }
            }
            READS_TAG => self.handle_read(done),
            MANIFEST_TAG => {
                if let Err(error) = self.manifest.handle_disk(done) {
                    self.poison_by(&error);
                }
                self.take_edits();
            }
            COLD_TAG => self.handle_cold(done),
            PACKS_TAG => {
                self.packs.handle_cleanup(&done);
                self.packs.clean(&mut self.ops);
            }
            SPACE_TAG => self.handle_space(&done),
            SETTLE_TAG => self.handle_load(now, done),
            MERGE_TAG => self.handle_merge(now, done),
            MERGE_OUTPUT_TAG => self.handle_merge_output(now, done),
            SETTLE_OUTPUT_TAG => self.handle_output(now, done),
            tag => unreachable!("no component issues tokens with tag {tag}"),
        }
    }

    fn handle_read(&mut self, done: DiskDone) {
        let mut context = ReadContext {
            logs: &self.logs,
            cache: &mut self.cache,
            wal: &mut self.wal,
            durable_lsn: self.commit.durable_lsn(),
            settled: self.packs.version(),
            ops: &mut self.ops,
        };
        if let Some((partition, error)) = self.reads.handle(done, &mut context) {
            self.events
                .push_back(StoreEvent::Damaged { partition, error });
        }
        self.reroute();
    }

    fn poison_on(&mut self, handled: Result<(), DiskError>) {
        let Err(error) = handled else { return };
        if self.commit.poisoned().is_some() {
            return;
        }
        let shard = self.config.shard;
        self.poison_with(error, StorageError::Poisoned { shard, error });
    }

    /// Stops everything: `error` to those who append, `reason` to those who run the store.
    fn poison_with(&mut self, error: DiskError, reason: StorageError) {
        self.commit.poison(error);
        self.events.push_back(StoreEvent::Poisoned(reason));
    }

    /// A manifest that cannot be written makes everything after it unknowable too.
    fn poison_by(&mut self, error: &StorageError) {
        let error = match error {
            StorageError::Io { error, .. } | StorageError::Poisoned { error, .. } => *error,
            StorageError::Quarantine { .. }
            | StorageError::DamagedLog { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Apart { .. } => SHORT_WRITE,
        };
        self.poison_on(Err(error));
    }

    /// When [`Store::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        // A clean stop begins nothing that is due, and goes on by completions.
        let is_closing = self.schedule.closing;
        let background = (!is_closing).then(|| self.background_timeout()).flatten();
        [self.commit.timeout(), self.wal.slots.timeout(), background]
            .into_iter()
            .flatten()
            .min()
    }

    /// When a settle pass that has time goes on.
    #[cfg(test)]
    pub(crate) fn pace_timeout(&self) -> Option<BootTime> {
        self.settle.pace_timeout()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.commit
            .handle_timeout(now, &mut self.wal, &mut self.ops);
        self.maintain_slots(now);
        if !self.schedule.closing {
            self.space.tick(now, &mut self.ops);
        }
        self.background_work(now);
        self.background(now);
    }

    /// Keeps files ready, unless the log is poisoned: the failure may have been one of theirs, and
    /// would be met again and again.
    fn maintain_slots(&mut self, now: Now) {
        if self.commit.poisoned().is_none() {
            let log_bytes = self.config.wal_file_bytes * u64::from(self.config.wal_files);
            let is_staying = !self.schedule.moving && !self.schedule.closing;
            let has_plenty = is_staying && self.space.has_plenty(log_bytes);
            self.wal.slots.press(self.wal.is_pressed());
            self.wal.slots.allow_stock(has_plenty);
            self.wal.slots.maintain(now, &mut self.ops);
        }
    }

    /// The next thing that happened unasked.
    pub fn poll_event(&mut self) -> Option<StoreEvent> {
        self.events.pop_front()
    }

    /// A clean stop begins: closes the open group and, once idle, seals the log without waiting.
    /// The caller carries operations and completions, calling this once a turn, until
    /// [`Store::is_quiet`].
    pub fn close(&mut self, now: Now) {
        self.schedule.closing = true;
        self.wal.slots.stop();
        self.background(now);
        self.commit.close_group(now, &mut self.wal, &mut self.ops);
        self.commit.seal_now(now, &mut self.wal, &mut self.ops);
    }

    /// Whether everything appended is durable and sealed and no operation is on its way. A
    /// poisoned store never is.
    ///
    /// A clean stop does not wait for room on the disk, nor for a descriptor: a manifest that finds
    /// none keeps what it says, as after a crash, and the next start finds the rest out again.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let is_stuck = self.schedule.closing && self.manifest.blocked_by().is_some();
        self.commit.is_quiet()
            && self.ops.is_empty()
            && self.reads.is_quiet()
            && (self.manifest.is_quiet() || is_stuck)
            && self.cold.is_quiet()
            && self.packs.cleanup.is_quiet()
            && self.settle.is_quiet(is_stuck)
            && self.merge.is_quiet(is_stuck)
            && self.space.is_quiet()
            && self.wal.slots.is_quiet()
    }

    /// What the store did so far.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        StoreCounters {
            accepted_bytes: self.accepted_bytes,
            commit: self.commit.counters,
            reads: self.reads.counters,
            cold: self.cold.counters,
            settle: self.settle.counters,
            merge: self.merge.counters,
            returned_bytes: self.packs.cleanup.returned_bytes,
        }
    }
}

fn check_size(config: &StoreConfig, bytes: &[u8]) -> Result<(), AppendError> {
    if bytes.len() > config.batch_bytes_max {
        return Err(AppendError::TooLarge {
            bytes: bytes.len(),
            bytes_max: config.batch_bytes_max,
        });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
