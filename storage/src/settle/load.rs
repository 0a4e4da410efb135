//! Brings one closed WAL file into memory and finds what of it is alive.
//!
//! The whole file is needed, because its batches have to come out sorted by partition: block by
//! block from the cache, and piece by piece from the disk what that no longer has. The pieces stay
//! where they were read, about `wal_file_bytes` of memory at most, and as much again while the next
//! file is read in advance.
//! Every block is checked as recovery would check it: damage stops the pass, and nothing damaged
//! is settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::block::{BLOCK_HEADER_BYTES, BlockHeader, FIRST_BLOCK, Seeding};
use crate::buf::AlignedBuf;
use crate::disk::{DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName};
use crate::entry::{Entries, EntryKind};
use crate::error::{ReadError, StorageError};
use crate::log_index::{Log, LogIndex};
use crate::record::BatchHeader;
use crate::tail_cache::TailCache;
use crate::units::{FilePosition, Lsn, Offset, PartitionId, ShardId};
use crate::wal::WalFile;

/// Bytes checked at a time.
const STEP_BYTES: usize = 1 << 20;
/// Buffers are made in multiples of this, so that the next pass finds some that fit.
const BUFFER_STEP_BYTES: usize = 256 << 10;
/// Fewer cached bytes than this in a row are read along with their neighbours: each gap between
/// them would be an operation, and a buffer, of its own.
const KEPT_BYTES_MIN: usize = BUFFER_STEP_BYTES;
/// EIO: what a read that ends early counts as.
pub(crate) const SHORT_READ: DiskError = DiskError::Io { errno: 5 };

/// The live batches of one log in the file: stretches of neighbouring entries, in offset order.
#[derive(Debug, Default)]
pub(super) struct LiveRuns {
    pub(super) runs: Vec<Run>,
    /// Bytes of the batches.
    pub(super) bytes: u64,
    /// A section takes no further batch beyond this size.
    pub(super) section_bytes: u64,
    /// Bytes of each section that the batches come to.
    pub(super) sections: Vec<u64>,
}

/// Neighbouring entries of one log in one piece of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Index of the piece.
    pub(super) piece: usize,
    /// Where the entries begin and end in it.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A WAL file on its way into memory.
#[derive(Debug)]
pub(super) struct Load {
    shard: ShardId,
    seeding: Seeding,
    pub(super) file: WalFile,
    /// What was asked for so far, in file order.
    pieces: Vec<Piece>,
    /// End of what was asked for.
    asked: Lsn,
    /// Blocks below are checked.
    checked: Lsn,
    /// The piece that `checked` lies in.
    checking: usize,
    /// Buffers for the next reads.
    spare: Vec<AlignedBuf>,
    pub(super) live: BTreeMap<PartitionId, LiveRuns>,
    /// Logs whose start an entry of the file moved, or lies above some of what the file has: it is
    /// not settled, and the entry that says why may not be durable yet.
    pub(super) starts_moved: BTreeSet<PartitionId>,
}

/// Whole blocks that are read, and stay, together.
#[derive(Debug)]
struct Piece {
    first_lsn: Lsn,
    bytes: usize,
    state: PieceState,
}

#[derive(Debug)]
enum PieceState {
    Reading(DiskToken),
    Read(AlignedBuf),
    /// One block, shared with the cache.
    Kept(Bytes),
}

impl Piece {
    /// Its content, once that is here.
    fn content(&self) -> Option<&[u8]> {
        match &self.state {
            PieceState::Reading(_) => None,
            PieceState::Read(buffer) => Some(buffer),
            PieceState::Kept(block) => Some(block),
        }
    }

    fn is_read_by(&self, token: DiskToken) -> bool {
        matches!(self.state, PieceState::Reading(own) if own == token)
    }
}

impl Load {
    /// Begins with `file`, in the buffers of an earlier pass as far as they fit: fresh memory costs
    /// a fault a page.
    pub(super) fn new(
        shard: ShardId,
        seeding: Seeding,
        file: WalFile,
        spare: Vec<AlignedBuf>,
    ) -> Self {
        Self {
            shard,
            seeding,
            pieces: Vec::new(),
            asked: file.first_lsn,
            checked: file.first_lsn,
            checking: 0,
            spare,
            live: BTreeMap::new(),
            starts_moved: BTreeSet::new(),
            file,
        }
    }

    /// Whether all of the file was read and checked.
    pub(super) fn is_done(&self) -> bool {
        self.checked == self.file.end_lsn
    }

    /// The content of a piece that was read.
    pub(super) fn piece(&self, index: usize) -> &[u8] {
        let piece = &self.pieces[index];
        piece
            .content()
            .expect("live entries lie in pieces that were read")
    }

    /// Gives the memory up.
    pub(super) fn into_buffers(self) -> Vec<AlignedBuf> {
        let read = self
            .pieces
            .into_iter()
            .filter_map(|piece| match piece.state {
                PieceState::Read(buffer) => Some(buffer),
                PieceState::Reading(_) | PieceState::Kept(_) => None,
            });
        read.chain(self.spare).collect()
    }

    /// Whether a part of the file was not asked for yet.
    pub(super) fn wants_more(&self) -> bool {
        self.asked < self.file.end_lsn
    }

    /// Whether everything that was asked for is here and checked.
    pub(super) fn is_all_checked(&self) -> bool {
        self.checked == self.asked
    }

    /// How many operations of `op_bytes` are begun, and not both here and checked.
    pub(super) fn unchecked(&self, op_bytes: usize) -> usize {
        let bytes = self.asked - self.checked;
        usize::try_from(bytes).map_or(usize::MAX, |bytes| bytes.div_ceil(op_bytes))
    }

    /// Takes the next blocks from `cache`, about `op_bytes` of them; returns how many bytes those
    /// are, 0 when it does not have the next one.
    pub(super) fn take_kept(&mut self, op_bytes: usize, cache: &TailCache) -> usize {
        let mut bytes = 0;
        while bytes < op_bytes
            && let Some(place) = self.file.place(self.asked)
            && let Some(block) = cache.get(self.asked)
        {
            assert_eq!(
                block.len(),
                place.block_bytes,
                "the block that begins there"
            );
            self.pieces.push(Piece {
                first_lsn: self.asked,
                bytes: block.len(),
                state: PieceState::Kept(block.clone()),
            });
            self.asked = self.asked + block.len() as u64;
            bytes += block.len();
        }
        bytes
    }

    /// Whether `cache` has enough from `lsn` on to end a read there.
    fn is_kept(&self, lsn: Lsn, cache: &TailCache) -> bool {
        let mut bytes = 0;
        while bytes < KEPT_BYTES_MIN {
            let at = lsn + bytes as u64;
            match self.file.place(at) {
                Some(place) if cache.get(at).is_some() => bytes += place.block_bytes,
                _ => return false,
            }
        }
        true
    }

    /// Asks for the next blocks, about `op_bytes` of them, up to many in a row that `cache` has;
    /// returns how many bytes those are.
    pub(super) fn read_next(
        &mut self,
        op_bytes: usize,
        tokens: &mut DiskTokens,
        cache: &TailCache,
        ops: &mut VecDeque<DiskOp>,
    ) -> usize {
        let first_lsn = self.asked;
        let mut bytes = 0;
        while let Some(place) = self.file.place(first_lsn + bytes as u64)
            && (bytes == 0 || bytes + place.block_bytes <= op_bytes)
            && (bytes == 0 || !self.is_kept(first_lsn + bytes as u64, cache))
        {
            bytes += place.block_bytes;
        }
        assert!(bytes > 0, "blocks lie back to back up to the file's end");
        self.asked = first_lsn + bytes as u64;
        let token = tokens.issue();
        self.pieces.push(Piece {
            first_lsn,
            bytes,
            state: PieceState::Reading(token),
        });
        let buffer = self.buffer(bytes);
        ops.push_back(DiskOp::Read {
            token,
            file: FileName::Wal(self.file.slot),
            position: self.position(first_lsn),
            buffer,
        });
        bytes
    }

    fn buffer(&mut self, bytes: usize) -> AlignedBuf {
        let fits = |buffer: &AlignedBuf| buffer.capacity() >= bytes;
        let mut buffer = match self.spare.iter().position(fits) {
            Some(index) => self.spare.swap_remove(index),
            None => {
                // One that is too small makes room for it.
                drop(self.spare.pop());
                AlignedBuf::zeroed(bytes.next_multiple_of(BUFFER_STEP_BYTES))
            }
        };
        buffer.set_len(bytes);
        buffer
    }

    /// Where the block at `lsn` lies in the file.
    fn position(&self, lsn: Lsn) -> FilePosition {
        FilePosition(FIRST_BLOCK.0 + (lsn - self.file.first_lsn))
    }

    /// Whether it waits for the read under `token`.
    pub(super) fn awaits(&self, token: DiskToken) -> bool {
        let checking = self.checking.min(self.pieces.len());
        let mut waiting = self.pieces[checking..].iter();
        waiting.any(|piece| piece.is_read_by(token))
    }

    /// Takes a read's completion; one of an earlier pass, which was given up, is nothing to it.
    pub(super) fn handle(&mut self, done: DiskDone) -> Result<(), ReadError> {
        let checking = self.checking.min(self.pieces.len());
        let mut waiting = self.pieces[checking..].iter_mut();
        let Some(piece) = waiting.find(|piece| piece.is_read_by(done.token)) else {
            return Ok(());
        };
        let buffer = match (done.result, done.buffer) {
            (Ok(DiskOutcome::Done), Some(buffer)) => buffer,
            (Err(error), _) => return Err(ReadError::Disk(error)),
            _ => return Err(ReadError::Disk(SHORT_READ)),
        };
        piece.state = PieceState::Read(buffer);
        Ok(())
    }

    /// Whether there is something to check.
    pub(super) fn has_step(&self) -> bool {
        let next = self.pieces.get(self.checking);
        next.is_some_and(|piece| piece.content().is_some())
    }

    /// Checks the next blocks, about [`STEP_BYTES`] of them.
    pub(super) fn step(&mut self, logs: &LogIndex) -> Result<(), ReadError> {
        let end = self.checked + STEP_BYTES as u64;
        while self.checked < end && self.has_step() {
            let damaged = ReadError::Damaged {
                file: FileName::Wal(self.file.slot),
                position: self.position(self.checked),
            };
            let block_bytes = self.check_block(logs).ok_or(damaged)?;
            self.checked = self.checked + block_bytes as u64;
            let piece = &self.pieces[self.checking];
            if self.checked == piece.first_lsn + piece.bytes as u64 {
                self.checking += 1;
            }
        }
        Ok(())
    }

    /// What `error` comes to when it is final.
    pub(super) fn lost(&self, error: ReadError) -> StorageError {
        let (shard, from) = (self.shard, self.checked);
        match error {
            ReadError::Damaged { file, position } => StorageError::DamagedLog {
                shard,
                from,
                to: (self.file.place(from)).map_or(from, |block| from + block.block_bytes as u64),
                file,
                position,
            },
            error => StorageError::Io {
                shard,
                file: FileName::Wal(self.file.slot).to_string(),
                error: match error {
                    ReadError::Disk(error) => error,
                    _ => SHORT_READ,
                },
            },
        }
    }

    /// Checks the next block and notes what of it is alive; returns its length.
    fn check_block(&mut self, logs: &LogIndex) -> Option<usize> {
        let place = self.file.place(self.checked)?;
        let index = self.checking;
        let piece = &self.pieces[index];
        let buffer = piece.content().expect("the caller saw it");
        let start = usize::try_from(self.checked - piece.first_lsn).ok()?;
        let block = buffer.get(start..start + place.block_bytes)?;
        let (header, _) = BlockHeader::decode(block, self.seeding).ok()?;
        if !place.is(&header, self.shard) {
            return None;
        }
        let payload = header.payload(block, self.seeding).ok()?;
        let base = start + BLOCK_HEADER_BYTES;
        for entry in Entries::new(payload, 0) {
            let entry = entry.ok()?;
            match entry.kind {
                EntryKind::Batch => {
                    let partition = PartitionId(u32::try_from(entry.id).ok()?);
                    let batch = BatchHeader::parse(entry.body).ok()?;
                    if batch.batch_bytes != entry.body.len() {
                        return None;
                    }
                    if let Some(log) = live_log(logs, partition, batch.next_offset()) {
                        let run = Run {
                            piece: index,
                            start: base + entry.start,
                            end: base + entry.end,
                        };
                        let live = self.live.entry(partition);
                        let live = live.or_insert_with(|| LiveRuns::of(log));
                        live.push(run, entry.body.len());
                    } else {
                        self.starts_moved.insert(partition);
                    }
                }
                EntryKind::LogStart => {
                    let partition = PartitionId(u32::try_from(entry.id).ok()?);
                    self.starts_moved.insert(partition);
                }
                EntryKind::State => {}
            }
        }
        Some(place.block_bytes)
    }
}

/// The log, if it still has records below `next_offset`.
fn live_log(logs: &LogIndex, partition: PartitionId, next_offset: Offset) -> Option<&Log> {
    logs.get(partition).filter(|log| next_offset > log.start)
}

impl LiveRuns {
    fn of(log: &Log) -> Self {
        Self {
            section_bytes: log.config.section_bytes(),
            ..Self::default()
        }
    }

    fn push(&mut self, run: Run, batch_bytes: usize) {
        let bytes = batch_bytes as u64;
        self.bytes += bytes;
        match self.sections.last_mut() {
            Some(last) if *last + bytes <= self.section_bytes => *last += bytes,
            _ => self.sections.push(bytes),
        }
        match self.runs.last_mut() {
            Some(last) if last.piece == run.piece && last.end == run.start => last.end = run.end,
            _ => self.runs.push(run),
        }
    }
}
