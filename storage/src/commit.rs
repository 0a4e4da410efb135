//! Group commit: appends gather in one open group while earlier groups are on their way.
//!
//! A closed group becomes one block, one write. Several writes may be in flight and complete in
//! any order; the log is durable up to the end of the longest *completed prefix*, and nothing is
//! acknowledged past that. A roll to the next file is a member of the same queue, so blocks of the
//! new file are acknowledged only after its header. Any failure or short write poisons: what the
//! disk then holds is unknown until recovery reads it, so nothing is tried again.
//!
//! A group stays open while as many as allowed are in flight, so groups grow with load and no
//! timer is needed. When the log goes idle, a seal (a block without entries) records how far it
//! is durable: recovery tells a torn tail from damage by that.

use std::collections::VecDeque;

use crate::block::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, Seeding, block_bytes_for};
use crate::buf::{AlignedBuf, BufferPool};
use crate::config::{SeededBug, StoreConfig};
use crate::crc::Known;
use crate::disk::{
    DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName, WriteSync,
};
use crate::entry::{self, EntryKind};
use crate::error::AppendError;
use crate::slots::SHORT_WRITE;
use crate::tail_cache::TailCache;
use crate::units::{BootTime, FilePosition, LifeId, Lsn, Now, PAGE_BYTES, page_ceil};
use crate::wal::{Reserve, Wal};

/// The tag of the commit queue's tokens.
pub(crate) const COMMIT_TAG: u8 = 16;
/// An idle log is sealed after this time.
pub(crate) const SEAL_AFTER_MS: u64 = 10;

/// The open group, and the queue of closed ones in log order.
#[derive(Debug)]
pub(crate) struct Commit {
    sync: WriteSync,
    groups_in_flight_max: usize,
    queue_bytes_max: usize,
    pub(crate) seeding: Seeding,
    retry_failed_sync: bool,
    pool: BufferPool,
    tokens: DiskTokens,
    open: Option<OpenGroup>,
    /// Closed and not yet acknowledged. Invariant: in log order; a waiting flight is behind every
    /// submitted one.
    queue: VecDeque<Flight>,
    /// Blocks of the queue that were submitted and did not complete.
    blocks_in_flight: usize,
    /// Block bytes in the queue.
    queue_bytes: usize,
    /// Everything below is durable. Rises only.
    durable_lsn: Lsn,
    /// The highest durable LSN that a closed block records.
    recorded_lsn: Lsn,
    /// End of the last closed block with entries in it.
    content_end: Lsn,
    /// When an idle log is to be sealed.
    seal_at: Option<BootTime>,
    poisoned: Option<DiskError>,
    /// The end of the last turn.
    turn_ended: BootTime,
    /// Not told yet. At most [`GROUPS_DONE_MAX`]: without a listener the first ones stay.
    groups_done: VecDeque<GroupDone>,
    pub(crate) counters: CommitCounters,
}

/// What the commit path did; counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitCounters {
    /// Blocks made durable, seals included.
    pub groups: u64,
    /// Bytes of those blocks.
    pub group_bytes: u64,
    /// Entries in them.
    pub entries: u64,
    /// Blocks without entries.
    pub seals: u64,
    /// Files rolled to.
    pub rolls: u64,
}

/// What recovery knows of the log's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovered {
    /// The end; everything below is durable.
    pub(crate) end: Lsn,
    /// How far the blocks record that.
    pub(crate) recorded: Lsn,
    /// End of the last block with entries.
    pub(crate) content_end: Lsn,
}

#[derive(Debug)]
struct OpenGroup {
    buffer: AlignedBuf,
    /// Bytes taken, block header included.
    used: usize,
    /// Bytes that the group may grow to: the buffer's, or what the file has left.
    capacity: usize,
    entries: u32,
    first_lsn: Lsn,
    /// When its first entry came; from the end of that turn on, that.
    opened: BootTime,
    /// Parts of the payload whose sums are known.
    known: Vec<Known>,
}

#[derive(Debug)]
struct Flight {
    kind: FlightKind,
    /// End of the log once this flight and all before it are done.
    end_lsn: Lsn,
    state: FlightState,
}

#[derive(Debug)]
enum FlightKind {
    /// A new file's header.
    Header(LifeId),
    Block {
        first_lsn: Lsn,
        bytes: usize,
        entries: u32,
        file: FileName,
        /// As in [`OpenGroup`].
        opened: BootTime,
        /// Set when it goes to the disk.
        submitted: BootTime,
    },
}

/// Groups that wait to be told; one turn makes a few durable.
const GROUPS_DONE_MAX: usize = 256;

/// A commit group that became durable, for whoever keeps histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDone {
    /// The end of the turn in which its first entry came: what else that turn appends keeps it
    /// from nothing.
    pub opened: BootTime,
    /// When its write went to the disk.
    pub submitted: BootTime,
    /// When it and everything before it was durable.
    pub durable: BootTime,
    /// Bytes of the block.
    pub bytes: usize,
    /// Entries in it; a seal has none and is not told.
    pub entries: u32,
    /// Groups on their way to the disk at that moment, this one included.
    pub in_flight: usize,
}

#[derive(Debug)]
enum FlightState {
    Waiting {
        file: FileName,
        position: FilePosition,
        buffer: AlignedBuf,
    },
    Submitted(DiskToken),
    Completed(Option<AlignedBuf>),
}

/// Where an entry went.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    /// Address of the entry's block.
    pub(crate) block: Lsn,
    /// Where the entry starts in the block's payload.
    pub(crate) start: u32,
    /// Where it ends.
    pub(crate) end: u32,
    /// The entry is durable when the log is durable up to here.
    pub(crate) end_lsn: Lsn,
    /// To be filled by the caller at once.
    pub(crate) body: &'a mut [u8],
}

impl Commit {
    /// A log that recovery made durable up to its end.
    pub(crate) fn new(config: &StoreConfig, now: Now, recovered: &Recovered) -> Self {
        // What is not durable at a crash is copied into one file by the recovery.
        let file_max = usize::try_from(config.wal_file_bytes).unwrap_or(usize::MAX);
        let tail_max = file_max - 4 * PAGE_BYTES;
        Self {
            sync: write_sync(config),
            groups_in_flight_max: config.groups_in_flight_max,
            queue_bytes_max: config.commit_queue_bytes_max.min(tail_max),
            seeding: seeding(config),
            retry_failed_sync: config.bug(SeededBug::RetryAfterFailedSync),
            pool: BufferPool::new(config.commit_buffer_bytes, free_buffers_max(config)),
            tokens: DiskTokens::new(COMMIT_TAG),
            open: None,
            queue: VecDeque::new(),
            blocks_in_flight: 0,
            queue_bytes: 0,
            durable_lsn: recovered.end,
            recorded_lsn: recovered.recorded,
            content_end: recovered.content_end,
            seal_at: (recovered.recorded < recovered.content_end)
                .then(|| now.boot.after_ms(SEAL_AFTER_MS)),
            poisoned: None,
            turn_ended: now.boot,
            groups_done: VecDeque::new(),
            counters: CommitCounters::default(),
        }
    }

    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// End of what was appended, the open group included.
    pub(crate) fn append_lsn(&self, wal: &Wal) -> Lsn {
        match &self.open {
            Some(open) => open.first_lsn + open.used as u64,
            None => wal.current().end_lsn,
        }
    }

    pub(crate) fn poisoned(&self) -> Option<DiskError> {
        self.poisoned
    }

    /// Stops acknowledging for good.
    pub(crate) fn poison(&mut self, error: DiskError) {
        self.poisoned.get_or_insert(error);
        self.seal_at = None;
    }

    /// Whether everything appended is durable and recorded, and no write is in flight.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open.is_none() && self.queue.is_empty() && self.seal_at.is_none()
    }

    /// Whether an entry of usual size would be taken now.
    pub(crate) fn has_room(&self, wal: &Wal, reserve: Reserve) -> bool {
        self.queue_takes(self.pool.buffer_bytes()) && self.log_has_room(wal, reserve)
    }

    /// Whether there is a file to put another group into.
    pub(crate) fn log_has_room(&self, wal: &Wal, reserve: Reserve) -> bool {
        wal.room() >= self.pool.buffer_bytes() as u64 || wal.can_roll(reserve)
    }

    /// Whether another block of `bytes` may wait for the disk. One always may.
    fn queue_takes(&self, bytes: usize) -> bool {
        self.queue_bytes == 0 || self.queue_bytes + bytes <= self.queue_bytes_max
    }

    /// Puts the next file into use although the current one has room, so that it can be settled.
    /// Does nothing while a group is open or the next file would be the last.
    pub(crate) fn roll(&mut self, now: Now, wal: &mut Wal, ops: &mut VecDeque<DiskOp>) {
        let is_open = self.open.is_some();
        if is_open || !self.has_content(wal) || !wal.can_roll(Reserve::Kept) {
            return;
        }
        // The header goes first; once it is durable the log is idle again, and sealed.
        self.seal_at = None;
        let header = wal.roll();
        self.counters.rolls += 1;
        self.push_header(&header);
        self.submit(now, ops);
    }

    /// Whether the current file has entries, or gets some.
    pub(crate) fn has_content(&self, wal: &Wal) -> bool {
        self.open.is_some() || self.content_end > wal.current().first_lsn
    }

    /// Takes an entry into the open group, opening or closing groups and files as needed.
    ///
    /// # Errors
    /// [`AppendError::WalFull`] and [`AppendError::Poisoned`].
    pub(crate) fn append(
        &mut self,
        now: Now,
        wal: &mut Wal,
        (kind, id): (EntryKind, u64),
        body_bytes: usize,
        reserve: Reserve,
    ) -> Result<Placed<'_>, AppendError> {
        if self.poisoned.is_some() {
            return Err(AppendError::Poisoned);
        }
        let bytes = entry::entry_bytes(body_bytes);
        let fits = |open: &OpenGroup| open.used + bytes <= open.capacity;
        if !self.open.as_ref().is_some_and(fits) {
            self.close(wal);
            self.open(now, wal, (block_bytes_for(body_bytes), reserve))?;
        }
        let open = self.open.as_mut().expect("opened above");
        let start = open.used;
        open.used += bytes;
        open.entries += 1;
        let in_payload =
            |at: usize| u32::try_from(at - BLOCK_HEADER_BYTES).expect("a block is far below 4 GiB");
        Ok(Placed {
            block: open.first_lsn,
            start: in_payload(start),
            end: in_payload(open.used),
            end_lsn: open.first_lsn + open.used as u64,
            body: entry::encode(&mut open.buffer[start..open.used], kind, id, body_bytes),
        })
    }

    /// Notes the sum of a part of the entry that was just taken, in positions of the payload.
    pub(crate) fn note_known(&mut self, part: Known) {
        let open = self.open.as_mut().expect("an entry was just taken");
        assert!(
            BLOCK_HEADER_BYTES + part.end <= open.used,
            "a part of an entry"
        );
        open.known.push(part);
    }

    /// Opens a group with room for a block of `need` bytes.
    fn open(
        &mut self,
        now: Now,
        wal: &mut Wal,
        (need, reserve): (usize, Reserve),
    ) -> Result<(), AppendError> {
        let usual = self.pool.buffer_bytes();
        if !self.queue_takes(need.max(usual)) {
            return Err(AppendError::WalFull);
        }
        if need as u64 > wal.room() {
            if !wal.can_roll(reserve) {
                return Err(AppendError::WalFull);
            }
            let header = wal.roll();
            self.counters.rolls += 1;
            self.push_header(&header);
        }
        let buffer = if need > usual {
            AlignedBuf::zeroed(need)
        } else {
            self.pool.take()
        };
        let room = usize::try_from(wal.room()).unwrap_or(usize::MAX);
        self.open = Some(OpenGroup {
            capacity: buffer.len().min(room),
            buffer,
            used: BLOCK_HEADER_BYTES,
            entries: 0,
            first_lsn: wal.current().end_lsn,
            opened: now.boot,
            known: Vec::new(),
        });
        self.seal_at = None;
        Ok(())
    }

    fn push_header(&mut self, header: &FileHeader) {
        let mut buffer = AlignedBuf::zeroed(PAGE_BYTES);
        header.encode(&mut buffer);
        self.queue.push_back(Flight {
            kind: FlightKind::Header(header.life),
            end_lsn: header.first_lsn,
            state: FlightState::Waiting {
                file: FileName::Wal(header.slot),
                position: FilePosition(0),
                buffer,
            },
        });
    }

    /// Closes the open group into a block at the end of the queue.
    fn close(&mut self, wal: &mut Wal) {
        let Some(open) = self.open.take() else { return };
        assert!(open.entries > 0, "a group opens with its first entry");
        self.push_block(wal, open);
        self.content_end = wal.current().end_lsn;
    }

    fn push_block(&mut self, wal: &mut Wal, open: OpenGroup) {
        let OpenGroup {
            mut buffer,
            used,
            known,
            opened,
            ..
        } = open;
        let bytes = page_ceil(used);
        buffer[used..bytes].fill(0);
        buffer.set_len(bytes);
        let place = wal.place(bytes as u64);
        assert_eq!(
            place.first_lsn, open.first_lsn,
            "nothing was placed between"
        );
        let fits = "a block is far below 4 GiB";
        let payload = &buffer[BLOCK_HEADER_BYTES..used];
        let header = BlockHeader {
            generation: place.generation,
            life: place.life,
            position: place.position,
            first_lsn: place.first_lsn,
            durable_lsn: self.durable_lsn,
            block_bytes: u32::try_from(bytes).expect(fits),
            payload_bytes: u32::try_from(payload.len()).expect(fits),
            payload_crc: self
                .seeding
                .payload_crc_with(place.generation, payload, &known),
            prev_header_crc: wal.prev_header_crc,
            shard: wal.shard(),
            entries: open.entries,
        };
        wal.prev_header_crc = header.encode(&mut buffer, self.seeding);
        self.recorded_lsn = self.durable_lsn;
        self.queue_bytes += bytes;
        let file = FileName::Wal(place.slot);
        self.queue.push_back(Flight {
            kind: FlightKind::Block {
                first_lsn: place.first_lsn,
                bytes,
                entries: open.entries,
                file,
                opened,
                submitted: opened,
            },
            end_lsn: header.end_lsn(),
            state: FlightState::Waiting {
                file,
                position: place.position,
                buffer,
            },
        });
    }

    /// The end of a turn: closes the open group if it may go to the disk at once, and submits
    /// what may be submitted.
    pub(crate) fn close_group(&mut self, now: Now, wal: &mut Wal, ops: &mut VecDeque<DiskOp>) {
        if self.poisoned.is_some() {
            return;
        }
        self.note_opened(now);
        self.submit(now, ops);
        if self.blocks_in_flight < self.groups_in_flight_max {
            self.close(wal);
            self.submit(now, ops);
        }
    }

    /// Groups that this turn opened begin to wait now.
    fn note_opened(&mut self, now: Now) {
        let turn_ended = std::mem::replace(&mut self.turn_ended, now.boot);
        let closed = self.queue.iter_mut().rev();
        let closed = closed.filter_map(|flight| match &mut flight.kind {
            FlightKind::Block { opened, .. } => Some(opened),
            FlightKind::Header(_) => None,
        });
        let open = self.open.iter_mut().map(|open| &mut open.opened);
        for opened in open.chain(closed).take_while(|at| **at > turn_ended) {
            *opened = now.boot;
        }
    }

    /// Submits waiting flights in log order while fewer blocks than allowed are in flight.
    pub(crate) fn submit(&mut self, now: Now, ops: &mut VecDeque<DiskOp>) {
        if self.poisoned.is_some() {
            return;
        }
        for flight in &mut self.queue {
            if !matches!(flight.state, FlightState::Waiting { .. }) {
                continue;
            }
            let is_block = matches!(flight.kind, FlightKind::Block { .. });
            if is_block && self.blocks_in_flight >= self.groups_in_flight_max {
                break;
            }
            if let FlightKind::Block { submitted, .. } = &mut flight.kind {
                *submitted = now.boot;
            }
            self.blocks_in_flight += usize::from(is_block);
            let token = self.tokens.issue();
            let submitted = FlightState::Submitted(token);
            let waiting = std::mem::replace(&mut flight.state, submitted);
            let FlightState::Waiting {
                file,
                position,
                buffer,
            } = waiting
            else {
                unreachable!("only waiting flights are submitted");
            };
            ops.push_back(DiskOp::Write {
                token,
                file,
                position,
                buffer,
                sync: if is_block {
                    self.sync
                } else {
                    WriteSync::Dsync
                },
            });
        }
    }

    /// Takes a completion; what became durable goes to the cache.
    ///
    /// # Errors
    /// The failure that poisons the log.
    pub(crate) fn handle(
        &mut self,
        now: Now,
        done: DiskDone,
        wal: &mut Wal,
        cache: &mut TailCache,
        ops: &mut VecDeque<DiskOp>,
    ) -> Result<(), DiskError> {
        if self.poisoned.is_some() {
            return Ok(());
        }
        let submitted = |flight: &Flight| match flight.state {
            FlightState::Submitted(token) => token == done.token,
            _ => false,
        };
        let index = self.queue.iter().position(submitted);
        let index = index.expect("a completion belongs to a flight");
        let is_block = matches!(self.queue[index].kind, FlightKind::Block { .. });
        match done.result {
            Ok(DiskOutcome::Done) => {}
            Ok(_) => return Err(SHORT_WRITE),
            Err(_) if self.retry_failed_sync && is_block && done.buffer.is_some() => {
                self.sync_again(index, ops);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.queue[index].state = FlightState::Completed(done.buffer);
        self.blocks_in_flight -= usize::from(is_block);
        while let Some(Flight {
            state: FlightState::Completed(_),
            ..
        }) = self.queue.front()
        {
            let flight = self.queue.pop_front().expect("just seen");
            self.acknowledge(now, flight, wal, cache);
        }
        if self.queue.is_empty() && self.open.is_none() && self.recorded_lsn < self.content_end {
            self.seal_at = Some(now.boot.after_ms(SEAL_AFTER_MS));
        }
        self.submit(now, ops);
        Ok(())
    }

    /// What fsyncgate's victims did: the seeded bug.
    fn sync_again(&mut self, index: usize, ops: &mut VecDeque<DiskOp>) {
        let token = self.tokens.issue();
        let flight = &mut self.queue[index];
        if let FlightKind::Block { file, .. } = flight.kind {
            flight.state = FlightState::Submitted(token);
            ops.push_back(DiskOp::Sync { token, file });
        }
    }

    /// The longest completed prefix grew by `flight`.
    fn acknowledge(&mut self, now: Now, flight: Flight, wal: &mut Wal, cache: &mut TailCache) {
        assert!(flight.end_lsn >= self.durable_lsn, "durable moves forward");
        self.durable_lsn = flight.end_lsn;
        let FlightState::Completed(buffer) = flight.state else {
            unreachable!("only completed flights are acknowledged");
        };
        match flight.kind {
            FlightKind::Header(life) => wal.header_is_durable(life),
            FlightKind::Block {
                first_lsn,
                bytes,
                entries,
                opened,
                submitted,
                ..
            } => {
                if entries > 0 && self.groups_done.len() < GROUPS_DONE_MAX {
                    self.groups_done.push_back(GroupDone {
                        opened,
                        submitted,
                        durable: now.boot,
                        bytes,
                        entries,
                        in_flight: self.blocks_in_flight + 1,
                    });
                }
                self.queue_bytes -= bytes;
                self.counters.groups += 1;
                self.counters.group_bytes += bytes as u64;
                self.counters.entries += u64::from(entries);
                self.counters.seals += u64::from(entries == 0);
                match buffer {
                    Some(buffer) if entries > 0 => {
                        cache.keep_written(first_lsn, buffer, &self.pool);
                    }
                    Some(buffer) => {
                        cache.keep_seal(first_lsn, &buffer);
                        self.pool.give(buffer);
                    }
                    None => {}
                }
            }
        }
    }

    /// The next group that became durable, seals left out.
    pub(crate) fn poll_done(&mut self) -> Option<GroupDone> {
        self.groups_done.pop_front()
    }

    /// When [`Commit::handle_timeout`] is due.
    pub(crate) fn timeout(&self) -> Option<BootTime> {
        self.seal_at
    }

    /// Seals without waiting, if the log is idle and wants it.
    pub(crate) fn seal_now(&mut self, now: Now, wal: &mut Wal, ops: &mut VecDeque<DiskOp>) {
        if let Some(at) = &mut self.seal_at {
            *at = now.boot;
        }
        self.handle_timeout(now, wal, ops);
    }

    /// Seals an idle log. A file without a page to spare is left unsealed: its successor's first
    /// block will record the same.
    pub(crate) fn handle_timeout(&mut self, now: Now, wal: &mut Wal, ops: &mut VecDeque<DiskOp>) {
        if self.seal_at.is_none_or(|at| at > now.boot) {
            return;
        }
        self.seal_at = None;
        if wal.room_for_seal() < PAGE_BYTES as u64 {
            return;
        }
        assert!(self.open.is_none() && self.queue.is_empty(), "idle");
        assert_eq!(self.durable_lsn, wal.current().end_lsn);
        let buffer = AlignedBuf::zeroed(PAGE_BYTES);
        self.push_block(
            wal,
            OpenGroup {
                capacity: buffer.len(),
                buffer,
                used: BLOCK_HEADER_BYTES,
                entries: 0,
                first_lsn: wal.current().end_lsn,
                opened: now.boot,
                known: Vec::new(),
            },
        );
        self.submit(now, ops);
    }
}

/// How this store's blocks become durable.
fn write_sync(config: &StoreConfig) -> WriteSync {
    #[cfg(any(test, feature = "testing"))]
    if config.bug(SeededBug::AckBeforeSync) {
        return config.backend.write_without_sync();
    }
    config.backend.write_sync()
}

/// Free buffers kept: those of groups on their way, and all that passes let go of, which the next
/// burst takes again. Fresh memory would cost it half of its speed.
fn free_buffers_max(config: &StoreConfig) -> usize {
    let kept = config.unsettled_cache_bytes / config.commit_buffer_bytes;
    config.groups_in_flight_max + 2 + kept
}

/// What this store's checksums cover.
pub(crate) fn seeding(config: &StoreConfig) -> Seeding {
    if config.bug(SeededBug::NoGenerationInChecksum) {
        Seeding::Nothing
    } else {
        Seeding::Generation
    }
}
