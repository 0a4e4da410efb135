//! What an offline reader may ask of a file's bytes. It reads files one by one and judges nothing:
//! what a start would make of them together is recovery's business.

use crate::block::{BlockError, BlockHeader, FIRST_BLOCK, FileHeader, Seeding};
use crate::manifest::{self, ManifestState, PackEntry};
use crate::packs::decode_directory;
use crate::record::checksum;
use crate::section::{Directory, Section};
use crate::units::{FilePosition, PAGE_BYTES, ShardId};

/// What `manifest-number` of `shard` says, from the whole file's bytes; and where a copy of
/// something is damaged whose twin is good.
///
/// # Errors
/// What is damaged for good, and where.
pub fn manifest(
    shard: ShardId,
    number: u64,
    file: &[u8],
) -> Result<(ManifestState, Option<FilePosition>), String> {
    manifest::read(shard, number, file)
        .map_err(|(position, found)| format!("at byte {position}: {found}"))
}

/// The directory of a pack or segment, from the whole file's bytes and its manifest entry; and
/// what is wrong with one of its two copies.
///
/// # Errors
/// What is damaged for good.
pub fn pack(
    file: &[u8],
    entry: &PackEntry,
) -> Result<(Directory, Option<&'static str>), &'static str> {
    crate::pack::decode_header(file)?;
    let bytes = u64::from(entry.footer_bytes);
    let padded = bytes.next_multiple_of(PAGE_BYTES as u64);
    let copy = |position| {
        let footer = range(file, FilePosition(position), bytes);
        decode_directory(footer.ok_or("the file ends before its directory")?, entry)
    };
    let second = entry.footer.0.checked_add(padded);
    let second = second.ok_or("the manifest's entry contradicts itself")?;
    match (copy(entry.footer.0), copy(second)) {
        (Ok(directory), second) => Ok((directory, second.err())),
        (Err(first), Ok(directory)) => Ok((directory, Some(first))),
        (Err(first), Err(_)) => Err(first),
    }
}

/// A section's bytes and its stored index, once both match their checksums, in every copy.
///
/// # Errors
/// What is damaged.
pub fn section<'a>(file: &'a [u8], section: &Section) -> Result<&'a [u8], &'static str> {
    let bytes = range(file, section.position, section.bytes);
    let bytes = bytes.ok_or("the file ends within a section")?;
    let index = range(file, section.index_position, section.index_bytes());
    let index = index.ok_or("the file ends within an index")?;
    for position in section.copy_positions() {
        let copy = range(file, position, section.bytes);
        let copy = copy.ok_or("the file ends within a section")?;
        if checksum(copy) != section.checksum {
            return Err("the section does not match its checksum");
        }
    }
    if section.index_entries > 0 && checksum(index) != section.index_checksum {
        return Err("the index does not match its checksum");
    }
    Ok(bytes)
}

fn range(file: &[u8], position: FilePosition, bytes: u64) -> Option<&[u8]> {
    let from = usize::try_from(position.0).ok()?;
    let to = from.checked_add(usize::try_from(bytes).ok()?)?;
    file.get(from..to)
}

/// A block with its entries.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Its header.
    pub header: BlockHeader,
    /// Its entries, whose checksum matches.
    pub payload: &'a [u8],
}

/// The blocks of one life of a WAL file, as they lie in it.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    file: &'a [u8],
    life: FileHeader,
    next: FilePosition,
    end: Option<BlockError>,
}

impl<'a> Blocks<'a> {
    /// The blocks of `file`, whose header is `life`.
    #[must_use]
    pub fn new(file: &'a [u8], life: FileHeader) -> Self {
        Self {
            file,
            life,
            next: FIRST_BLOCK,
            end: None,
        }
    }

    /// Where the next block would begin.
    #[must_use]
    pub fn position(&self) -> FilePosition {
        self.next
    }

    /// What stands behind the last block, once the iteration ended before the file did: what an
    /// earlier life of the file left there is no block of this one.
    #[must_use]
    pub fn end(&self) -> Option<BlockError> {
        self.end
    }

    fn decode(&self, bytes: &'a [u8]) -> Result<Block<'a>, BlockError> {
        let (header, _) = BlockHeader::decode(bytes, Seeding::Generation)?;
        let is_own = header.generation == self.life.generation
            && header.life == self.life.life
            && header.position == self.next;
        if !is_own {
            return Err(BlockError::Header);
        }
        let payload = header.payload(bytes, Seeding::Generation)?;
        Ok(Block { header, payload })
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        let at = usize::try_from(self.next.0).ok()?;
        let rest = self.file.get(at..).filter(|rest| !rest.is_empty())?;
        match self.decode(rest) {
            Ok(block) => {
                self.next = block.header.end_position();
                Some(block)
            }
            Err(error) => {
                self.end = Some(error);
                None
            }
        }
    }
}
