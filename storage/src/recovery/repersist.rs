//! Starts the new life that the recovered log goes on in.
//!
//! What recovery read above the last surely durable point may be there only by luck: in a cache,
//! or by a write whose sync never returned. Before anyone is told of it, it is copied into a file
//! of its own. The order is the crash story:
//!
//! 1. The slot's file exists and its name is durable.
//! 2. The tail's blocks are written there under the new generation, same addresses, and synced.
//! 3. The header is written and synced: the commit point. It names the point where the copy
//!    begins; from now on the old tail is never looked at again.
//!
//! A crash before 3 leaves the old chain as it was, and the next recovery does the same again. For
//! that the old chain's files are synced before 1: the header of its last life may be of a start
//! whose write never returned, and 2 overwrites what only that life made superfluous.

use super::chain::ChainFile;
use super::reader::FileReader;
use super::survey::Survey;
use crate::block::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, Seeding};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::disk::{FileName, WriteSync};
use crate::error::StorageError;
use crate::units::{Lsn, PAGE_BYTES};
use crate::wal::WalFile;

/// What is to be copied.
pub(super) struct Tail<'a> {
    /// The chain's files that hold it, oldest first.
    pub(super) files: &'a [ChainFile],
    /// Says how large those files are.
    pub(super) survey: &'a Survey,
    /// Where it begins: a block boundary.
    pub(super) from: Lsn,
    /// Known to be durable; what the copies may record.
    pub(super) durable: Lsn,
}

/// Copies `tail` into the new life that `header` describes and commits it. Returns the life and
/// the checksum of its last block's header.
pub(super) fn begin_life(
    disk: &mut StartDisk<'_, '_>,
    header: &FileHeader,
    tail: &Tail<'_>,
    seeding: Seeding,
) -> Result<(WalFile, u32), StorageError> {
    let mut copy = Copy {
        header,
        file: WalFile::new(header),
        prev_header_crc: header.predecessor.header_crc,
        durable: tail.durable,
        seeding,
    };
    for source in tail.files {
        let slot = source.header.slot;
        let mut reader = FileReader::new(slot, tail.survey.slots[&slot].bytes, seeding);
        for lsn in source.file.block_lsns().filter(|lsn| *lsn >= tail.from) {
            let place = source.file.place(lsn).expect("an accepted block");
            // Accepted a moment ago: if it is not there any more, the disk is failing.
            let block = reader.block(disk, place.position)?;
            let block = block.map_err(|found| StorageError::Corrupt {
                shard: header.shard,
                file: FileName::Wal(slot),
                position: place.position,
                found,
            })?;
            copy.block(disk, &block.header, block.payload)?;
        }
    }
    // A kill may have left a slot whose name is not durable.
    disk.sync_directory()?;
    disk.sync(FileName::Wal(header.slot))?;
    super::write_header(disk, header)?;
    copy.file.header_durable = true;
    Ok((copy.file, copy.prev_header_crc))
}

/// A tail on its way into a new life.
struct Copy<'a> {
    header: &'a FileHeader,
    file: WalFile,
    prev_header_crc: u32,
    durable: Lsn,
    seeding: Seeding,
}

impl Copy<'_> {
    fn block(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        source: &BlockHeader,
        payload: &[u8],
    ) -> Result<(), StorageError> {
        assert_eq!(source.first_lsn, self.file.end_lsn, "addresses stay");
        let mut buffer = AlignedBuf::zeroed(source.block_bytes as usize);
        buffer[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + payload.len()].copy_from_slice(payload);
        let position = self.file.next_position();
        let header = BlockHeader {
            generation: self.header.generation,
            life: self.header.life,
            position,
            durable_lsn: self.durable.min(source.first_lsn),
            payload_crc: self.seeding.payload_crc(self.header.generation, payload),
            prev_header_crc: self.prev_header_crc,
            ..*source
        };
        self.prev_header_crc = header.encode(&mut buffer, self.seeding);
        self.file.push_block(u64::from(source.block_bytes));
        let file = FileName::Wal(self.header.slot);
        disk.write(file, position, buffer, WriteSync::None)?;
        Ok(())
    }
}

/// Bytes that a file needs for a tail of `tail_bytes`: header, tail, and room to go on.
pub(super) fn file_bytes_for(tail_bytes: u64) -> u64 {
    tail_bytes + 4 * PAGE_BYTES as u64
}
