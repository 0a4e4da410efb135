//! Tells the engine what the chain holds, and notes in the index where it lies.

use super::chain::Visit;
use crate::block::{BLOCK_HEADER_BYTES, BlockHeader};
use crate::disk::FileName;
use crate::entry::{Entries, Entry, EntryError, EntryKind};
use crate::error::StorageError;
use crate::log_index::LogIndex;
use crate::record::BatchHeader;
use crate::request::Replayed;
use crate::units::{Lsn, Offset, PartitionId, ShardId};

/// One replay of a chain.
pub(super) struct Replay<'a> {
    shard: ShardId,
    /// Entries below are in packs already.
    settled: Lsn,
    logs: &'a mut LogIndex,
    tell: &'a mut dyn FnMut(Replayed<'_>),
    /// End of the last block with entries.
    content_end: Lsn,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        shard: ShardId,
        settled: Lsn,
        logs: &'a mut LogIndex,
        tell: &'a mut dyn FnMut(Replayed<'_>),
    ) -> Self {
        Self {
            shard,
            settled,
            logs,
            tell,
            content_end: settled,
        }
    }

    pub(super) fn content_end(&self) -> Lsn {
        self.content_end
    }

    pub(super) fn loss_accepted(&mut self, from: Lsn, to: Lsn) {
        (self.tell)(Replayed::LossAccepted { from, to });
    }

    pub(super) fn visit(&mut self, visit: Visit<'_>) -> Result<(), StorageError> {
        match visit {
            Visit::Jump { from, to } => {
                self.loss_accepted(from, to);
                Ok(())
            }
            Visit::Block {
                slot,
                header,
                payload,
            } => {
                if header.end_lsn() <= self.settled {
                    return Ok(());
                }
                self.block(header, payload)
                    .map_err(|found| StorageError::Corrupt {
                        shard: self.shard,
                        file: FileName::Wal(slot),
                        position: header.position,
                        found,
                    })
            }
        }
    }

    /// The block's checksums vouch for it: what does not fit was written so.
    fn block(&mut self, header: &BlockHeader, payload: &[u8]) -> Result<(), &'static str> {
        let mut entries = 0;
        for entry in Entries::new(payload, 0) {
            self.entry(header, &entry.map_err(EntryError::found)?)?;
            entries += 1;
        }
        if entries != header.entries {
            return Err("a block with another number of entries than it says");
        }
        if entries > 0 {
            self.content_end = header.end_lsn();
        }
        Ok(())
    }

    fn entry(&mut self, block: &BlockHeader, entry: &Entry<'_>) -> Result<(), &'static str> {
        let lsn = block.first_lsn + (BLOCK_HEADER_BYTES + entry.end) as u64;
        match entry.kind {
            EntryKind::Batch => self.batch(block, entry, lsn),
            EntryKind::State => {
                (self.tell)(Replayed::State {
                    lsn,
                    key: entry.id,
                    bytes: entry.body,
                });
                Ok(())
            }
            EntryKind::LogStart => {
                let partition = partition(entry.id)?;
                let offset = entry
                    .body
                    .try_into()
                    .map_err(|_| "a log start of odd size")?;
                let offset = Offset(u64::from_le_bytes(offset));
                self.logs.entry(partition).raise_start(offset);
                (self.tell)(Replayed::LogStart {
                    lsn,
                    partition,
                    offset,
                });
                Ok(())
            }
        }
    }

    fn batch(
        &mut self,
        block: &BlockHeader,
        entry: &Entry<'_>,
        lsn: Lsn,
    ) -> Result<(), &'static str> {
        let partition = partition(entry.id)?;
        let header = BatchHeader::parse(entry.body).map_err(|_| "an entry that is no batch")?;
        if header.batch_bytes != entry.body.len() {
            return Err("a batch of another length than its entry");
        }
        let log = self.logs.entry(partition);
        if header.base_offset < log.end {
            return Err("a batch below the end of its log");
        }
        let fits = "a payload is far below 4 GiB";
        let start = u32::try_from(entry.start).map_err(|_| fits)?;
        let end = u32::try_from(entry.end).map_err(|_| fits)?;
        log.push(block.first_lsn, (start, end), &header);
        (self.tell)(Replayed::Batch {
            lsn,
            partition,
            header,
            bytes: entry.body,
        });
        Ok(())
    }
}

fn partition(id: u64) -> Result<PartitionId, &'static str> {
    let number = u32::try_from(id).map_err(|_| "a partition number that is none")?;
    Ok(PartitionId(number))
}
