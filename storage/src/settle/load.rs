//! Reads one closed WAL file into memory and finds what of it is alive.
//!
//! The whole file is read, 1 MiB at a time, because its batches have to come out sorted by
//! partition; it is the one large allocation of a pass, `wal_file_bytes` at most. Every block is
//! checked as recovery would check it: damage stops the pass, and nothing damaged is settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::block::{BLOCK_HEADER_BYTES, BlockHeader, FIRST_BLOCK, Seeding};
use crate::buf::AlignedBuf;
use crate::disk::{DiskDone, DiskError, DiskOp, DiskOutcome, DiskToken, DiskTokens, FileName};
use crate::entry::{Entries, EntryKind};
use crate::error::ReadError;
use crate::log_index::LogIndex;
use crate::record::BatchHeader;
use crate::units::{FilePosition, Offset, PartitionId, ShardId};
use crate::wal::WalFile;

/// Bytes read, and bytes checked, at a time.
const STEP_BYTES: usize = 1 << 20;
/// Reads on their way at most.
const READS_IN_FLIGHT_MAX: usize = 2;
/// EIO: what a read that ends early counts as.
const SHORT_READ: DiskError = DiskError::Io { errno: 5 };

/// The live batches of one log in the image: stretches of neighbouring entries, in offset order.
#[derive(Debug, Default)]
pub(super) struct LiveRuns {
    pub(super) runs: Vec<(u32, u32)>,
    /// Bytes of the batches.
    pub(super) bytes: u64,
}

/// A WAL file on its way into memory.
#[derive(Debug)]
pub(super) struct Load {
    shard: ShardId,
    seeding: Seeding,
    pub(super) file: WalFile,
    /// The file's blocks; zeros where they were not read yet.
    pub(super) image: Vec<u8>,
    /// Bytes of the image that were asked for.
    asked: usize,
    /// Reads in the order of their positions, up to the first that is not done.
    reads: VecDeque<Part>,
    /// Bytes of the image, from its start, that were read.
    loaded: usize,
    /// Bytes of the image that were checked.
    checked: usize,
    /// For the next reads.
    buffers: Vec<AlignedBuf>,
    pub(super) live: BTreeMap<PartitionId, LiveRuns>,
    /// Logs whose start an entry of the file moved.
    pub(super) starts_moved: BTreeSet<PartitionId>,
}

/// One read.
#[derive(Debug)]
struct Part {
    token: DiskToken,
    position: usize,
    bytes: usize,
    is_done: bool,
}

impl Load {
    pub(super) fn new(shard: ShardId, seeding: Seeding, file: WalFile) -> Self {
        let bytes = usize::try_from(file.end_lsn - file.first_lsn).expect("a file fits memory");
        Self {
            shard,
            seeding,
            image: vec![0; bytes],
            asked: 0,
            reads: VecDeque::new(),
            loaded: 0,
            checked: 0,
            buffers: Vec::new(),
            live: BTreeMap::new(),
            starts_moved: BTreeSet::new(),
            file,
        }
    }

    /// Whether all of the file was read and checked.
    pub(super) fn is_done(&self) -> bool {
        self.checked == self.image.len()
    }

    /// The next read, while few are on their way.
    pub(super) fn poll_disk(&mut self, tokens: &mut DiskTokens) -> Option<DiskOp> {
        let left = self.image.len() - self.asked;
        if left == 0 || self.reads.len() == READS_IN_FLIGHT_MAX {
            return None;
        }
        let bytes = left.min(STEP_BYTES);
        // Every read but the last is of the same size, and the last is smaller.
        let buffer = self.buffers.pop();
        let mut buffer = buffer.unwrap_or_else(|| AlignedBuf::zeroed(bytes));
        buffer.set_len(bytes);
        let (token, position) = (tokens.issue(), self.asked);
        self.asked += bytes;
        self.reads.push_back(Part {
            token,
            position,
            bytes,
            is_done: false,
        });
        Some(DiskOp::Read {
            token,
            file: FileName::Wal(self.file.slot),
            position: FilePosition(FIRST_BLOCK.0 + position as u64),
            buffer,
        })
    }

    /// Takes a read's completion; one of an earlier pass, which was given up, is nothing to it.
    pub(super) fn handle(&mut self, done: DiskDone) -> Result<(), ReadError> {
        let Some(part) = self.reads.iter_mut().find(|part| part.token == done.token) else {
            return Ok(());
        };
        let buffer = match (done.result, done.buffer) {
            (Ok(DiskOutcome::Done), Some(buffer)) => buffer,
            (Err(error), _) => return Err(ReadError::Disk(error)),
            _ => return Err(ReadError::Disk(SHORT_READ)),
        };
        part.is_done = true;
        self.image[part.position..part.position + part.bytes].copy_from_slice(&buffer);
        self.buffers.push(buffer);
        while let Some(part) = self.reads.pop_front_if(|part| part.is_done) {
            self.loaded = part.position + part.bytes;
        }
        Ok(())
    }

    /// Whether there is something to check.
    pub(super) fn has_step(&self) -> bool {
        self.next_block().is_some()
    }

    /// Length of the next block, when it is in the image.
    fn next_block(&self) -> Option<usize> {
        let lsn = self.file.first_lsn + self.checked as u64;
        let place = self.file.place(lsn)?;
        (self.checked + place.block_bytes <= self.loaded).then_some(place.block_bytes)
    }

    /// Checks the next blocks, about [`STEP_BYTES`] of them.
    pub(super) fn step(&mut self, logs: &LogIndex) -> Result<(), ReadError> {
        let end = self.checked + STEP_BYTES;
        while self.checked < end
            && let Some(block_bytes) = self.next_block()
        {
            let damaged = ReadError::Damaged {
                file: FileName::Wal(self.file.slot),
                position: FilePosition(FIRST_BLOCK.0 + self.checked as u64),
            };
            self.check_block(block_bytes, logs).ok_or(damaged)?;
            self.checked += block_bytes;
        }
        Ok(())
    }

    /// Checks one block and notes what of it is alive.
    fn check_block(&mut self, block_bytes: usize, logs: &LogIndex) -> Option<()> {
        let block = self.image.get(self.checked..self.checked + block_bytes)?;
        let (header, _) = BlockHeader::decode(block, self.seeding).ok()?;
        let lsn = self.file.first_lsn + self.checked as u64;
        if !self.file.place(lsn)?.is(&header, self.shard) {
            return None;
        }
        let payload = header.payload(block, self.seeding).ok()?;
        let base = self.checked + BLOCK_HEADER_BYTES;
        for entry in Entries::new(payload, 0) {
            let entry = entry.ok()?;
            match entry.kind {
                EntryKind::Batch => {
                    let partition = PartitionId(u32::try_from(entry.id).ok()?);
                    let batch = BatchHeader::parse(entry.body).ok()?;
                    if batch.batch_bytes != entry.body.len() {
                        return None;
                    }
                    if is_live(logs, partition, batch.next_offset()) {
                        let run = (base + entry.start, base + entry.end);
                        let live = self.live.entry(partition).or_default();
                        live.push(run, entry.body.len());
                    }
                }
                EntryKind::LogStart => {
                    let partition = PartitionId(u32::try_from(entry.id).ok()?);
                    self.starts_moved.insert(partition);
                }
                EntryKind::State => {}
            }
        }
        Some(())
    }
}

/// Whether a log still has records below `next_offset`.
fn is_live(logs: &LogIndex, partition: PartitionId, next_offset: Offset) -> bool {
    logs.get(partition)
        .is_some_and(|log| next_offset > log.start)
}

impl LiveRuns {
    fn push(&mut self, (start, end): (usize, usize), batch_bytes: usize) {
        let start = u32::try_from(start).expect("a WAL file is below 4 GiB");
        let end = u32::try_from(end).expect("a WAL file is below 4 GiB");
        self.bytes += batch_bytes as u64;
        match self.runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.runs.push((start, end)),
        }
    }
}
