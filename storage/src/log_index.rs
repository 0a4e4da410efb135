//! Where each log's batches are in the WAL: runs, ascending by offset.
//!
//! A run is a stretch of neighbouring entries of one log in one block; batches that land next to
//! each other share one run, so that the index grows with blocks and logs, not with batches.

use std::collections::{BTreeMap, VecDeque};

use crate::record::BatchHeader;
use crate::units::{Lsn, Offset, PartitionId};

/// A run takes no further batch beyond this size: a reader looks through one run at most.
const RUN_BYTES_MAX: u32 = 64 << 10;

/// A log whose sections are asked to be smaller gets sections of this size: each costs a page of
/// padding and an entry in its pack's directory, whoever asks for it.
pub(crate) const SECTION_BYTES_MIN: u64 = 1 << 20;

/// How one log is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Records older than this may go, milliseconds; `None`: kept for ever.
    pub retention_ms: Option<u64>,
    /// The oldest records go while the log is larger, bytes; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// A settled section of this log takes no further batch beyond this size, bytes; at least
    /// 1 MiB. `None`: the store's default.
    pub segment_bytes: Option<u64>,
}

impl LogConfig {
    /// The size at which sections are cut, so that retention has something to drop.
    pub(crate) fn section_bytes(&self) -> u64 {
        self.segment_bytes
            .map_or(u64::MAX, |asked| asked.max(SECTION_BYTES_MIN))
    }
}

/// What a store knows of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// First offset kept.
    pub start: Offset,
    /// Offset that the next record gets.
    pub end: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// How it is kept.
    pub config: LogConfig,
}

/// Neighbouring batches of one log in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Address of the block.
    pub(crate) block: Lsn,
    /// Where the first entry starts in the block's payload.
    pub(crate) start: u32,
    /// Where the last entry ends.
    pub(crate) end: u32,
    /// Of the first batch.
    pub(crate) base_offset: Offset,
    /// After the last batch.
    pub(crate) next_offset: Offset,
    /// Largest of the batches', milliseconds since the Unix epoch.
    pub(crate) max_timestamp_ms: i64,
}

/// One log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) config: LogConfig,
    /// First offset kept.
    pub(crate) start: Offset,
    /// After the last batch.
    pub(crate) end: Offset,
    /// Ascending and disjoint, by offset and by address.
    pub(crate) runs: VecDeque<Run>,
    /// Bytes of the runs, entry headers included.
    pub(crate) wal_bytes: u64,
}

impl Log {
    /// Notes a batch at the end.
    pub(crate) fn push(&mut self, block: Lsn, (start, end): (u32, u32), header: &BatchHeader) {
        assert!(
            header.base_offset >= self.end,
            "offsets of a log only rise: {} after {}",
            header.base_offset,
            self.end
        );
        let next_offset = header.next_offset();
        self.end = next_offset;
        self.wal_bytes += u64::from(end - start);
        if let Some(last) = self.runs.back_mut() {
            let adjacent = last.block == block
                && last.end == start
                && last.next_offset == header.base_offset
                && end - last.start <= RUN_BYTES_MAX;
            if adjacent {
                last.end = end;
                last.next_offset = next_offset;
                last.max_timestamp_ms = last.max_timestamp_ms.max(header.max_timestamp_ms);
                return;
            }
        }
        self.runs.push_back(Run {
            block,
            start,
            end,
            base_offset: header.base_offset,
            next_offset,
            max_timestamp_ms: header.max_timestamp_ms,
        });
    }

    /// Records below `offset` are gone. Returns whether that changed anything.
    pub(crate) fn raise_start(&mut self, offset: Offset) -> bool {
        if offset <= self.start {
            return false;
        }
        self.start = offset;
        self.end = self.end.max(offset);
        while let Some(run) = self.runs.front().filter(|run| run.next_offset <= offset) {
            self.wal_bytes -= u64::from(run.end - run.start);
            self.runs.pop_front();
        }
        true
    }

    /// Records below `offset` are gone, as the manifest knows; they may come all the same, because
    /// the WAL still holds them. [`LogIndex::apply_starts`] follows when all have come.
    pub(crate) fn expect_start(&mut self, offset: Offset) {
        self.start = self.start.max(offset);
    }

    /// Forgets the runs in blocks below `lsn`: they are settled.
    pub(crate) fn drop_runs_below(&mut self, lsn: Lsn) {
        while let Some(run) = self.runs.front().filter(|run| run.block < lsn) {
            self.wal_bytes -= u64::from(run.end - run.start);
            self.runs.pop_front();
        }
    }

    /// Index of the first run that ends above `offset`.
    pub(crate) fn run_at(&self, offset: Offset) -> usize {
        self.runs.partition_point(|run| run.next_offset <= offset)
    }

    pub(crate) fn status(&self) -> LogStatus {
        LogStatus {
            start: self.start,
            end: self.end,
            bytes: self.wal_bytes,
            config: self.config,
        }
    }
}

/// Every log of the shard.
#[derive(Debug, Default)]
pub(crate) struct LogIndex {
    logs: BTreeMap<PartitionId, Log>,
}

impl LogIndex {
    /// Drops what came although it lies below its log's start.
    pub(crate) fn apply_starts(&mut self) {
        for log in self.logs.values_mut() {
            let start = std::mem::take(&mut log.start);
            log.raise_start(start);
        }
    }

    /// Forgets the runs in blocks below `lsn`: they are settled.
    pub(crate) fn drop_runs_below(&mut self, lsn: Lsn) {
        for log in self.logs.values_mut() {
            log.drop_runs_below(lsn);
        }
    }

    pub(crate) fn get(&self, partition: PartitionId) -> Option<&Log> {
        self.logs.get(&partition)
    }

    pub(crate) fn get_mut(&mut self, partition: PartitionId) -> Option<&mut Log> {
        self.logs.get_mut(&partition)
    }

    /// The log, made if it is not there.
    pub(crate) fn entry(&mut self, partition: PartitionId) -> &mut Log {
        self.logs.entry(partition).or_default()
    }

    pub(crate) fn remove(&mut self, partition: PartitionId) -> bool {
        self.logs.remove(&partition).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PartitionId, &Log)> {
        self.logs.iter().map(|(partition, log)| (*partition, log))
    }
}
