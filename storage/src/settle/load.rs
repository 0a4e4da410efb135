//! Reads one closed WAL file into memory and finds what of it is alive.
//!
//! The whole file is read, 1 MiB at a time, because its batches have to come out sorted by
//! partition; it is the one large allocation of a pass, `wal_file_bytes` at most. Every block is
//! checked as recovery would check it: damage stops the pass, and nothing damaged is settled.

use std::collections::{BTreeMap, BTreeSet};

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
    /// The file's blocks as far as they were read; reserved for all of them.
    pub(super) image: Vec<u8>,
    /// Bytes of the image that were checked.
    checked: usize,
    in_flight: Option<DiskToken>,
    /// For the next read.
    buffer: Option<AlignedBuf>,
    pub(super) live: BTreeMap<PartitionId, LiveRuns>,
    /// Logs whose start an entry of the file moved.
    pub(super) starts_moved: BTreeSet<PartitionId>,
}

impl Load {
    pub(super) fn new(shard: ShardId, seeding: Seeding, file: WalFile) -> Self {
        let bytes = usize::try_from(file.end_lsn - file.first_lsn).expect("a file fits memory");
        Self {
            shard,
            seeding,
            image: Vec::with_capacity(bytes),
            checked: 0,
            in_flight: None,
            buffer: None,
            live: BTreeMap::new(),
            starts_moved: BTreeSet::new(),
            file,
        }
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.file.end_lsn - self.file.first_lsn).expect("a file fits memory")
    }

    /// Whether all of the file was read and checked.
    pub(super) fn is_done(&self) -> bool {
        self.checked == self.bytes()
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The next read.
    pub(super) fn poll_disk(&mut self, tokens: &mut DiskTokens) -> Option<DiskOp> {
        let left = self.bytes() - self.image.len();
        if left == 0 || self.in_flight.is_some() || self.has_step() {
            return None;
        }
        let buffer_bytes = left.min(STEP_BYTES);
        // Every read but the last is of the same size, and the last is smaller.
        let buffer = self.buffer.take();
        let mut buffer = buffer.unwrap_or_else(|| AlignedBuf::zeroed(buffer_bytes));
        buffer.set_len(buffer_bytes);
        let token = tokens.issue();
        self.in_flight = Some(token);
        Some(DiskOp::Read {
            token,
            file: FileName::Wal(self.file.slot),
            position: FilePosition(FIRST_BLOCK.0 + self.image.len() as u64),
            buffer,
        })
    }

    /// Takes a read's completion.
    pub(super) fn handle(&mut self, done: DiskDone) -> Result<(), ReadError> {
        assert_eq!(self.in_flight.take(), Some(done.token), "one in flight");
        match (done.result, done.buffer) {
            (Ok(DiskOutcome::Done), Some(buffer)) => {
                self.image.extend_from_slice(&buffer);
                self.buffer = Some(buffer);
                Ok(())
            }
            (Err(error), _) => Err(ReadError::Disk(error)),
            _ => Err(ReadError::Disk(DiskError::Io { errno: 5 })),
        }
    }

    /// Whether there is something to check.
    pub(super) fn has_step(&self) -> bool {
        self.next_block().is_some()
    }

    /// Length of the next block, when it is in the image.
    fn next_block(&self) -> Option<usize> {
        let lsn = self.file.first_lsn + self.checked as u64;
        let place = self.file.place(lsn)?;
        (self.checked + place.block_bytes <= self.image.len()).then_some(place.block_bytes)
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
