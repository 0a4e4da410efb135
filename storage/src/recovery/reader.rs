//! Reads blocks of WAL files in large steps, and around what cannot be read.

use crate::block::{BLOCK_HEADER_BYTES, BlockError, BlockHeader, FIRST_BLOCK, Seeding};
use crate::blocking::StartDisk;
use crate::buf::AlignedBuf;
use crate::disk::FileName;
use crate::error::StorageError;
use crate::units::{FilePosition, PAGE_BYTES, page_ceil};

/// Bytes of one read, unless a block is larger.
const STEP_BYTES: usize = 4 << 20;

/// Payloads are checked for so many times the file's length: each of the headers that a client made
/// up may claim all of the file.
const CHECKED_FILES_MAX: u64 = 4;

/// One WAL file and the part of it that is in memory.
pub(super) struct FileReader {
    file: FileName,
    file_bytes: u64,
    seeding: Seeding,
    /// Where `window` begins in the file.
    start: u64,
    /// Bytes of `window` that hold file content.
    valid: usize,
    window: AlignedBuf,
}

/// A block whose own checksums match; whether it belongs here is for the caller to judge.
pub(super) struct FoundBlock<'a> {
    pub(super) header: BlockHeader,
    pub(super) header_crc: u32,
    pub(super) payload: &'a [u8],
}

impl FileReader {
    pub(super) fn new(slot: u32, file_bytes: u64, seeding: Seeding) -> Self {
        Self {
            file: FileName::Wal(slot),
            file_bytes,
            seeding,
            start: 0,
            valid: 0,
            window: AlignedBuf::zeroed(page_ceil(step_bytes(file_bytes)).max(PAGE_BYTES)),
        }
    }

    /// The block at `position`, or what stands there instead.
    pub(super) fn block(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
    ) -> Result<Result<FoundBlock<'_>, &'static str>, StorageError> {
        let (header, header_crc) = match self.header(disk, position)? {
            Ok(found) => found,
            Err(found) => return Ok(Err(found)),
        };
        let bytes = header.block_bytes as usize;
        let seeding = self.seeding;
        let Some(block) = self.get(disk, position, bytes)? else {
            return Ok(Err(
                "a block that runs over its file's end or cannot be read",
            ));
        };
        Ok(match header.payload(block, seeding) {
            Ok(payload) => Ok(FoundBlock {
                header,
                header_crc,
                payload,
            }),
            Err(error) => Err(error.found()),
        })
    }

    /// The block header at `position`, or what stands there instead.
    fn header(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
    ) -> Result<Result<(BlockHeader, u32), &'static str>, StorageError> {
        let seeding = self.seeding;
        let Some(page) = self.get(disk, position, PAGE_BYTES)? else {
            return Ok(Err("the file's end or a page that cannot be read"));
        };
        Ok(BlockHeader::decode(page, seeding).map_err(BlockError::found))
    }

    /// Calls `visit` with every whole block header from `position` on, also one that stands at the
    /// wrong place. Payloads are not looked at.
    pub(super) fn scan(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
        visit: &mut dyn FnMut(&BlockHeader),
    ) -> Result<(), StorageError> {
        self.walk(disk, position, 0, visit)
    }

    /// As [`FileReader::scan`], but goes on behind a whole block instead of into it: where nothing
    /// tells which generations are the log's own, what a client sent may look like any.
    pub(super) fn scan_past_payloads(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
        visit: &mut dyn FnMut(&BlockHeader),
    ) -> Result<(), StorageError> {
        let checks_left = CHECKED_FILES_MAX * self.file_bytes;
        self.walk(disk, position, checks_left, visit)
    }

    /// Visits headers page by page, and goes on behind a block that is whole: of `checks_left`
    /// bytes of blocks at most, which have to be read for that.
    fn walk(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
        mut checks_left: u64,
        visit: &mut dyn FnMut(&BlockHeader),
    ) -> Result<(), StorageError> {
        let mut position = position.max(FIRST_BLOCK);
        while position.0 + PAGE_BYTES as u64 <= self.file_bytes {
            let mut step = PAGE_BYTES;
            if let Ok((header, _)) = self.header(disk, position)? {
                visit(&header);
                let left = checks_left.checked_sub(u64::from(header.block_bytes));
                checks_left = left.unwrap_or(0);
                if left.is_some()
                    && let Ok(block) = self.block(disk, position)?
                {
                    step = page_ceil(BLOCK_HEADER_BYTES + block.payload.len());
                }
            }
            position.0 += step as u64;
        }
        Ok(())
    }

    /// `bytes` at `position`; `None` when the file ends before or the disk cannot read them.
    fn get(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
        bytes: usize,
    ) -> Result<Option<&[u8]>, StorageError> {
        let Some(end) = position.0.checked_add(bytes as u64) else {
            return Ok(None);
        };
        if end > self.file_bytes {
            return Ok(None);
        }
        let in_window = position.0 >= self.start && end <= self.start + self.valid as u64;
        if !in_window {
            let whole_pages = step_bytes(self.file_bytes - position.0) / PAGE_BYTES * PAGE_BYTES;
            self.load(disk, position, whole_pages.max(bytes))?;
            if self.valid < bytes {
                // Something in the step cannot be read: perhaps not what is asked for.
                self.load(disk, position, bytes)?;
            }
        }
        let from = usize::try_from(position.0 - self.start).expect("within the window");
        let valid = &self.window[..self.valid];
        Ok(valid.get(from..).and_then(|rest| rest.get(..bytes)))
    }

    fn load(
        &mut self,
        disk: &mut StartDisk<'_, '_>,
        position: FilePosition,
        bytes: usize,
    ) -> Result<(), StorageError> {
        if bytes > self.window.capacity() {
            self.window = AlignedBuf::zeroed(bytes);
        }
        self.window.set_len(bytes);
        let window = std::mem::replace(&mut self.window, AlignedBuf::zeroed(PAGE_BYTES));
        let (window, read) = disk.read(self.file, position, window)?;
        self.window = window;
        self.start = position.0;
        self.valid = read.unwrap_or(0);
        Ok(())
    }
}

/// Bytes of a step when the file has `left` more.
fn step_bytes(left: u64) -> usize {
    usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES))
}
