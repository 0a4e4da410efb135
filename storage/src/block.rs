//! The bytes of a WAL file: its header and its blocks, one block per commit group.
//!
//! File header, in the first page of the file, twice: at 0 and at 2048. Little-endian.
//!
//! | offset | bytes | type | field                          | unit or meaning                 |
//! |-------:|------:|------|--------------------------------|---------------------------------|
//! |      0 |     8 | u64  | magic                          | `MRWALHDR`                      |
//! |      8 |     4 | u32  | checksum                       | CRC-32C of everything after it  |
//! |     12 |     2 | u16  | format                         | 1                               |
//! |     14 |     2 | u16  | shard                          |                                 |
//! |     16 |     4 | u32  | features                       | bits; an unknown one is refused |
//! |     20 |     4 | u32  | slot                           | the N of `wal-N`                |
//! |     24 |     8 | u64  | life                           |                                 |
//! |     32 |     8 | u64  | generation                     | seeds every block's checksums   |
//! |     40 |     8 | u64  | first LSN                      | of the first block              |
//! |     48 |     8 | u64  | predecessor's life             | 0: the log begins here          |
//! |     56 |     8 | u64  | predecessor's generation       |                                 |
//! |     64 |     8 | u64  | end LSN of its last kept block |                                 |
//! |     72 |     4 | u32  | that block's header checksum   | 0: no block of it is kept       |
//! |     76 |     4 | u32  | predecessor's slot             |                                 |
//! |     80 |     8 | u64  | bytes of this file             | a shorter one was cut           |
//!
//! Block header, at the start of each block; blocks lie back to back from position 4096.
//!
//! | offset | bytes | type | field                 | unit or meaning                            |
//! |-------:|------:|------|-----------------------|--------------------------------------------|
//! |      0 |     4 | u32  | magic                 | `MRBK`                                     |
//! |      4 |     4 | u32  | header checksum       | CRC-32C of the header after it             |
//! |      8 |     8 | u64  | generation            | first under both checksums: their seed     |
//! |     16 |     8 | u64  | life                  |                                            |
//! |     24 |     8 | u64  | position              | of this block in its file                  |
//! |     32 |     8 | u64  | first LSN             | the next block's is this plus block bytes  |
//! |     40 |     8 | u64  | durable LSN           | everything below was durable at close      |
//! |     48 |     4 | u32  | block bytes           | whole pages, this header included          |
//! |     52 |     4 | u32  | payload bytes         | entries behind the header, without padding |
//! |     56 |     4 | u32  | payload checksum      | CRC-32C of generation and payload          |
//! |     60 |     4 | u32  | previous header's sum | chains blocks across files; 0: none before |
//! |     64 |     2 | u16  | shard                 |                                            |
//! |     66 |     2 | u16  | format                | 1                                          |
//! |     68 |     4 | u32  | entries               | count                                      |
//! |     72 |     8 |      | reserved              | 0                                          |
//!
//! What is read from a disk may be anything: decoding checks every bound and never panics.

use crate::crc::{self, Known, Sum};
use crate::record::checksum;
use crate::units::{FilePosition, Generation, LifeId, Lsn, PAGE_BYTES, ShardId, page_ceil};

/// Bytes of one copy of the file header.
pub const FILE_HEADER_BYTES: usize = 88;
/// Where the two copies stand.
const FILE_HEADER_COPIES: [usize; 2] = [0, PAGE_BYTES / 2];
/// Bytes of a block before its payload.
pub const BLOCK_HEADER_BYTES: usize = 80;
/// Where a file's first block stands.
pub const FIRST_BLOCK: FilePosition = FilePosition(PAGE_BYTES as u64);

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"MRWALHDR");
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"MRBK");
const FORMAT: u16 = 1;
/// Feature bits that this version understands.
const FEATURES: u32 = 0;

/// Where the generation begins in a block header, and with it the checksummed part.
const CHECKSUMMED_FROM: usize = 8;
const FILE_CHECKSUMMED_FROM: usize = 12;

const _: () = assert!(FILE_HEADER_BYTES == 80 + size_of::<u64>());
const _: () = assert!(BLOCK_HEADER_BYTES == 72 + size_of::<u64>());
const _: () = assert!(
    BLOCK_HEADER_BYTES.is_multiple_of(8),
    "entries start aligned"
);
const _: () = assert!(
    FILE_HEADER_BYTES <= 512,
    "a copy of the header lies in one sector"
);

/// Bytes of a block whose payload is one entry with `body_bytes`.
pub(crate) const fn block_bytes_for(body_bytes: usize) -> usize {
    page_ceil(BLOCK_HEADER_BYTES + crate::entry::entry_bytes(body_bytes))
}

/// The end of a chain of blocks: where a successor goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPoint {
    /// Slot of the file that holds the last block.
    pub slot: u32,
    /// That file's life; 0 before the very first.
    pub life: LifeId,
    /// That file's generation.
    pub generation: Generation,
    /// End of the last block.
    pub end_lsn: Lsn,
    /// Header checksum of the last block; 0 when there is none.
    pub header_crc: u32,
}

impl ChainPoint {
    /// Before the first file of a new log.
    pub(crate) const ORIGIN: Self = Self {
        slot: 0,
        life: LifeId(0),
        generation: Generation(0),
        end_lsn: Lsn(0),
        header_crc: 0,
    };
}

/// The header of one life of a WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The shard.
    pub shard: ShardId,
    /// The N of `wal-N`.
    pub slot: u32,
    /// Which use of the slot this is.
    pub life: LifeId,
    /// Seed of the checksums.
    pub generation: Generation,
    /// Address of the first block.
    pub first_lsn: Lsn,
    /// What this file follows.
    pub predecessor: ChainPoint,
    /// Length of the file: fixed before its header is written.
    pub file_bytes: u64,
}

/// Why a file header gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileHeaderError {
    /// Both copies are zeros: the slot was created and not used yet.
    Blank,
    /// Neither copy is whole.
    Damaged,
    /// Whole, and written by a newer version.
    Newer,
}

impl FileHeader {
    /// Writes both copies into `page`, the first page of the file.
    pub(crate) fn encode(&self, page: &mut [u8]) {
        assert_eq!(page.len(), PAGE_BYTES);
        page.fill(0);
        let mut copy = [0; FILE_HEADER_BYTES];
        let mut put = Put(&mut copy);
        put.bytes(0, &FILE_MAGIC.to_le_bytes());
        put.bytes(12, &FORMAT.to_le_bytes());
        put.bytes(14, &self.shard.0.to_le_bytes());
        put.bytes(16, &FEATURES.to_le_bytes());
        put.bytes(20, &self.slot.to_le_bytes());
        put.bytes(24, &self.life.0.to_le_bytes());
        put.bytes(32, &self.generation.0.to_le_bytes());
        put.bytes(40, &self.first_lsn.0.to_le_bytes());
        put.bytes(48, &self.predecessor.life.0.to_le_bytes());
        put.bytes(56, &self.predecessor.generation.0.to_le_bytes());
        put.bytes(64, &self.predecessor.end_lsn.0.to_le_bytes());
        put.bytes(72, &self.predecessor.header_crc.to_le_bytes());
        put.bytes(76, &self.predecessor.slot.to_le_bytes());
        put.bytes(80, &self.file_bytes.to_le_bytes());
        let sum = checksum(&copy[FILE_CHECKSUMMED_FROM..]);
        Put(&mut copy).bytes(8, &sum.to_le_bytes());
        for at in FILE_HEADER_COPIES {
            page[at..at + FILE_HEADER_BYTES].copy_from_slice(&copy);
        }
    }

    /// Whether one of the copies in `page` is damaged and the other whole. No crash leaves that: a
    /// copy lies in one sector, which a torn write leaves as it was.
    #[must_use]
    pub fn is_copy_damaged(page: &[u8]) -> bool {
        let copies = Self::decode_copies(page);
        copies.iter().any(Result::is_ok) && copies.contains(&Err(FileHeaderError::Damaged))
    }

    fn decode_copies(page: &[u8]) -> [Result<Self, FileHeaderError>; 2] {
        FILE_HEADER_COPIES.map(|at| {
            let copy = page.get(at..).and_then(|rest| rest.first_chunk());
            copy.map_or(Err(FileHeaderError::Damaged), Self::decode_copy)
        })
    }

    /// The header in the first page of a file: of two whole copies that differ, the later life,
    /// as a torn rewrite may leave the earlier one beside it.
    ///
    /// # Errors
    /// See [`FileHeaderError`].
    pub fn decode(page: &[u8]) -> Result<Self, FileHeaderError> {
        match Self::decode_copies(page) {
            [Ok(first), Ok(second)] if second.life > first.life => Ok(second),
            [Ok(header), _] | [_, Ok(header)] => Ok(header),
            [Err(FileHeaderError::Newer), _] | [_, Err(FileHeaderError::Newer)] => {
                Err(FileHeaderError::Newer)
            }
            [Err(FileHeaderError::Blank), Err(FileHeaderError::Blank)] => {
                Err(FileHeaderError::Blank)
            }
            _ => Err(FileHeaderError::Damaged),
        }
    }

    fn decode_copy(copy: &[u8; FILE_HEADER_BYTES]) -> Result<Self, FileHeaderError> {
        let get = Get(copy);
        if copy.iter().all(|byte| *byte == 0) {
            return Err(FileHeaderError::Blank);
        }
        let whole =
            get.u64(0) == FILE_MAGIC && get.u32(8) == checksum(&copy[FILE_CHECKSUMMED_FROM..]);
        if !whole {
            return Err(FileHeaderError::Damaged);
        }
        if get.u16(12) != FORMAT || get.u32(16) & !FEATURES != 0 {
            return Err(FileHeaderError::Newer);
        }
        Ok(Self {
            shard: ShardId(get.u16(14)),
            slot: get.u32(20),
            life: LifeId(get.u64(24)),
            generation: Generation(get.u64(32)),
            first_lsn: Lsn(get.u64(40)),
            predecessor: ChainPoint {
                life: LifeId(get.u64(48)),
                generation: Generation(get.u64(56)),
                end_lsn: Lsn(get.u64(64)),
                header_crc: get.u32(72),
                slot: get.u32(76),
            },
            file_bytes: get.u64(80),
        })
    }
}

/// The header of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// The file's generation.
    pub generation: Generation,
    /// The file's life.
    pub life: LifeId,
    /// Where the block stands in its file.
    pub position: FilePosition,
    /// Address of the block's first byte.
    pub first_lsn: Lsn,
    /// Everything below was durable when the block was closed.
    pub durable_lsn: Lsn,
    /// Bytes of the whole block, whole pages.
    pub block_bytes: u32,
    /// Bytes of the entries.
    pub payload_bytes: u32,
    /// Checksum of the entries, seeded with the generation.
    pub payload_crc: u32,
    /// Header checksum of the block before this one, in whichever file.
    pub prev_header_crc: u32,
    /// The shard.
    pub shard: ShardId,
    /// How many entries.
    pub entries: u32,
}

/// Why bytes are not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// No magic, or the header's checksum does not match.
    Header,
    /// A whole header of a newer version.
    Newer,
    /// The header is whole and its lengths contradict each other.
    Lengths,
    /// The payload's checksum does not match, or the payload is cut short.
    Payload,
}

impl BlockError {
    /// The words for a report.
    #[must_use]
    pub fn found(self) -> &'static str {
        match self {
            Self::Header => "no whole block header",
            Self::Newer => "a block of a newer format",
            Self::Lengths => "a block header whose lengths contradict each other",
            Self::Payload => "a block whose payload does not match its checksum",
        }
    }
}

impl BlockHeader {
    /// Address after the block.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        self.first_lsn + u64::from(self.block_bytes)
    }

    /// Position after the block.
    #[must_use]
    pub fn end_position(&self) -> FilePosition {
        FilePosition(self.position.0 + u64::from(self.block_bytes))
    }

    /// Writes the header in front of its payload and returns its checksum.
    pub(crate) fn encode(&self, block: &mut [u8], seeding: Seeding) -> u32 {
        assert_eq!(block.len(), self.block_bytes as usize);
        assert!(BLOCK_HEADER_BYTES + self.payload_bytes as usize <= block.len());
        let header = &mut block[..BLOCK_HEADER_BYTES];
        let mut put = Put(header);
        put.bytes(0, &BLOCK_MAGIC.to_le_bytes());
        put.bytes(8, &self.generation.0.to_le_bytes());
        put.bytes(16, &self.life.0.to_le_bytes());
        put.bytes(24, &self.position.0.to_le_bytes());
        put.bytes(32, &self.first_lsn.0.to_le_bytes());
        put.bytes(40, &self.durable_lsn.0.to_le_bytes());
        put.bytes(48, &self.block_bytes.to_le_bytes());
        put.bytes(52, &self.payload_bytes.to_le_bytes());
        put.bytes(56, &self.payload_crc.to_le_bytes());
        put.bytes(60, &self.prev_header_crc.to_le_bytes());
        put.bytes(64, &self.shard.0.to_le_bytes());
        put.bytes(66, &FORMAT.to_le_bytes());
        put.bytes(68, &self.entries.to_le_bytes());
        put.bytes(72, &[0; 8]);
        let crc = seeding.header_crc(&block[..BLOCK_HEADER_BYTES]);
        Put(block).bytes(4, &crc.to_le_bytes());
        crc
    }

    /// Reads a header and its checksum. The payload is not looked at.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub(crate) fn decode(bytes: &[u8], seeding: Seeding) -> Result<(Self, u32), BlockError> {
        let header: &[u8; BLOCK_HEADER_BYTES] = bytes.first_chunk().ok_or(BlockError::Header)?;
        let get = Get(header);
        let crc = get.u32(4);
        if get.u32(0) != BLOCK_MAGIC || crc != seeding.header_crc(header) {
            return Err(BlockError::Header);
        }
        if get.u16(66) != FORMAT {
            return Err(BlockError::Newer);
        }
        let header = Self {
            generation: Generation(get.u64(8)),
            life: LifeId(get.u64(16)),
            position: FilePosition(get.u64(24)),
            first_lsn: Lsn(get.u64(32)),
            durable_lsn: Lsn(get.u64(40)),
            block_bytes: get.u32(48),
            payload_bytes: get.u32(52),
            payload_crc: get.u32(56),
            prev_header_crc: get.u32(60),
            shard: ShardId(get.u16(64)),
            entries: get.u32(68),
        };
        let bytes = u64::from(header.block_bytes);
        let sound = header.block_bytes > 0
            && (header.block_bytes as usize).is_multiple_of(PAGE_BYTES)
            && BLOCK_HEADER_BYTES as u64 + u64::from(header.payload_bytes) <= bytes
            && header.first_lsn.0.checked_add(bytes).is_some()
            && header.position.0.checked_add(bytes).is_some();
        if !sound {
            return Err(BlockError::Lengths);
        }
        Ok((header, crc))
    }

    /// The payload of `block`, which starts with this header, once its checksum matches.
    ///
    /// # Errors
    /// [`BlockError::Payload`].
    pub(crate) fn payload<'a>(
        &self,
        block: &'a [u8],
        seeding: Seeding,
    ) -> Result<&'a [u8], BlockError> {
        let end = BLOCK_HEADER_BYTES + self.payload_bytes as usize;
        let payload = block
            .get(BLOCK_HEADER_BYTES..end)
            .ok_or(BlockError::Payload)?;
        if seeding.payload_crc(self.generation, payload) != self.payload_crc {
            return Err(BlockError::Payload);
        }
        Ok(payload)
    }
}

/// Whether checksums cover the generation. They do; a seeded bug leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seeding {
    Generation,
    Nothing,
}

impl Seeding {
    fn header_crc(self, header: &[u8]) -> u32 {
        match self {
            Self::Generation => checksum(&header[CHECKSUMMED_FROM..]),
            Self::Nothing => checksum(&header[CHECKSUMMED_FROM + size_of::<u64>()..]),
        }
    }

    pub(crate) fn payload_crc(self, generation: Generation, payload: &[u8]) -> u32 {
        self.payload_crc_with(generation, payload, &[])
    }

    /// The same, without reading the parts whose sums are known.
    pub(crate) fn payload_crc_with(
        self,
        generation: Generation,
        payload: &[u8],
        known: &[Known],
    ) -> u32 {
        let mut sum = Sum::new();
        if self == Self::Generation {
            sum.update(&generation.0.to_le_bytes());
        }
        crc::update_with(&mut sum, payload, known);
        sum.finish()
    }
}

/// Little-endian fields into a header whose size the caller fixed.
struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Little-endian fields of a header whose size the type fixes.
struct Get<'a, const N: usize>(&'a [u8; N]);

impl<const N: usize> Get<'_, N> {
    fn array<const M: usize>(&self, at: usize) -> [u8; M] {
        *self.0[at..]
            .first_chunk()
            .expect("fields lie in the header")
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

#[cfg(test)]
mod tests;
