//! A pack's directory: what its sections are, whose they are and where they lie.
//!
//! The directory is the footer of a pack. It stands there twice, each copy padded to whole pages,
//! because without it nothing in the pack can be found; the manifest holds its position, length
//! and checksum. Little-endian:
//!
//! | offset | bytes | type | field           | unit or meaning                               |
//! |-------:|------:|------|-----------------|-----------------------------------------------|
//! |      0 |     4 | u32  | magic           | "MRdr"                                        |
//! |      4 |     4 | u32  | checksum        | CRC-32C of bytes 8..directory end             |
//! |      8 |     4 | u32  | format          | 2; in 1 sections have no field for copies     |
//! |     12 |     4 | u32  | sections        | count                                         |
//! |     16 |     8 | u64  | pack            | id under which the file was written           |
//! |     24 |     2 | u16  | shard           | that wrote it                                 |
//! |     26 |     6 |      | zeros           |                                               |
//! |     32 |   112 |      | first section   | and so on, one after the other                |
//!
//! One section; its number is its place:
//!
//! | offset | bytes | type | field           | unit or meaning                               |
//! |-------:|------:|------|-----------------|-----------------------------------------------|
//! |      0 |     4 | u32  | kind            | 1 batches, 2 engine snapshot                  |
//! |      4 |     4 | u32  | partition       | 0 in a snapshot                               |
//! |      8 |     8 | u64  | base offset     | of the first batch; 0 in a snapshot           |
//! |     16 |     8 | u64  | end offset      | after the last record; 0 in a snapshot        |
//! |     24 |     8 | u64  | position        | in the file; whole pages                      |
//! |     32 |     8 | u64  | bytes           | of batches or snapshot                        |
//! |     40 |     8 | u64  | records         | counted over the batches                      |
//! |     48 |     8 | i64  | max timestamp   | ms; `i64::MIN` in a snapshot                  |
//! |     56 |     8 | u64  | as of           | LSN of a snapshot, else 0                     |
//! |     64 |     8 | u64  | index position  | in the file; 0 without an index               |
//! |     72 |     4 | u32  | index entries   | 0 when the section is a single chunk          |
//! |     76 |     4 | u32  | index checksum  | CRC-32C of the entries                        |
//! |     80 |     4 | u32  | checksum        | CRC-32C of the section's bytes                |
//! |     84 |     4 | u32  | copies          | of the bytes: 2 of a snapshot, 1 of batches   |
//! |     88 |    24 |      | zeros           | room for aborted ranges and producers         |
//!
//! The copies of a snapshot follow each other, each on whole pages. Nothing else has what it says
//! any more, and without it no start is possible: one damaged page must not cost it.

use crate::codec::{Reader, Writer};
use crate::index::{INDEX_ENTRY_BYTES, IndexEntry, SectionIndex};
use crate::record::checksum;
use crate::units::{FilePosition, Lsn, Offset, PAGE_BYTES, PackId, PartitionId, ShardId};

const MAGIC: u32 = u32::from_le_bytes(*b"MRdr");
const FORMAT: u32 = 2;
/// A section has one copy of its bytes, and does not say so.
const FORMAT_WITHOUT_COPIES: u32 = 1;
/// Bytes before the first section.
pub(crate) const DIRECTORY_HEADER_BYTES: usize = 32;
/// Bytes of one section's entry.
pub(crate) const SECTION_BYTES: usize = 112;
const SECTION_FIELDS_BYTES: usize = 88;
/// Copies of a snapshot's bytes.
pub(crate) const SNAPSHOT_COPIES: u32 = 2;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionKind {
    /// Batches of one partition, back to back in offset order.
    Batches,
    /// The engine's state as of an LSN, opaque here.
    Snapshot,
}

/// One section of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Whose batches; 0 for a snapshot.
    pub partition: PartitionId,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub end_offset: Offset,
    /// Where it begins; whole pages.
    pub position: FilePosition,
    /// Length without index and padding.
    pub bytes: u64,
    /// Records in its batches.
    pub records: u64,
    /// Largest record timestamp, ms since the Unix epoch; `i64::MIN` for a snapshot.
    pub max_timestamp_ms: i64,
    /// A snapshot's LSN.
    pub as_of: Lsn,
    /// Where the sparse index begins, if `index_entries` is not 0.
    pub index_position: FilePosition,
    /// Entries of the sparse index; 0 when the section is a single chunk.
    pub index_entries: u32,
    /// CRC-32C of the index.
    pub index_checksum: u32,
    /// CRC-32C of the section's bytes.
    pub checksum: u32,
    /// How often the bytes stand there, one copy after the other, each on whole pages; 1 or 2,
    /// and 1 for batches.
    pub copies: u32,
}

impl Section {
    /// Where the section with its index and padding ends.
    #[must_use]
    pub fn end(&self) -> FilePosition {
        let last_copy = self.copy_positions().last().unwrap_or(self.position);
        let end = (self.index_position.0 + self.index_bytes()).max(last_copy.0 + self.bytes);
        FilePosition(end.next_multiple_of(PAGE_BYTES as u64))
    }

    /// Where each copy of the bytes begins.
    pub fn copy_positions(&self) -> impl Iterator<Item = FilePosition> + use<> {
        let (first, step) = (
            self.position.0,
            self.bytes.next_multiple_of(PAGE_BYTES as u64),
        );
        (0..u64::from(self.copies)).map(move |copy| FilePosition(first + copy * step))
    }

    /// Bytes that the section takes in its file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.end().0 - self.position.0
    }

    /// Length of the stored index.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        u64::from(self.index_entries) * INDEX_ENTRY_BYTES as u64
    }

    /// The index of a section that needs none on disk.
    pub(crate) fn single_chunk(&self) -> Option<SectionIndex> {
        let entry = IndexEntry {
            base_offset: self.base_offset,
            position: 0,
            max_timestamp_ms: self.max_timestamp_ms,
            checksum: self.checksum,
        };
        (self.index_entries == 0).then(|| SectionIndex::single(entry, self.bytes))
    }

    fn encode(&self, out: &mut Writer) {
        out.u32(match self.kind {
            SectionKind::Batches => 1,
            SectionKind::Snapshot => 2,
        });
        out.u32(self.partition.0);
        out.u64(self.base_offset.0);
        out.u64(self.end_offset.0);
        out.u64(self.position.0);
        out.u64(self.bytes);
        out.u64(self.records);
        out.i64(self.max_timestamp_ms);
        out.u64(self.as_of.0);
        out.u64(self.index_position.0);
        out.u32(self.index_entries);
        out.u32(self.index_checksum);
        out.u32(self.checksum);
        out.u32(self.copies);
        out.bytes(&[0; SECTION_BYTES - SECTION_FIELDS_BYTES]);
    }

    fn decode(reader: &mut Reader<'_>, format: u32) -> Option<Self> {
        let mut entry = Reader::new(reader.take(SECTION_BYTES)?);
        Some(Self {
            kind: match entry.u32()? {
                1 => SectionKind::Batches,
                2 => SectionKind::Snapshot,
                _ => return None,
            },
            partition: PartitionId(entry.u32()?),
            base_offset: Offset(entry.u64()?),
            end_offset: Offset(entry.u64()?),
            position: FilePosition(entry.u64()?),
            bytes: entry.u64()?,
            records: entry.u64()?,
            max_timestamp_ms: entry.i64()?,
            as_of: Lsn(entry.u64()?),
            index_position: FilePosition(entry.u64()?),
            index_entries: entry.u32()?,
            index_checksum: entry.u32()?,
            checksum: entry.u32()?,
            copies: match format {
                FORMAT_WITHOUT_COPIES => 1,
                _ => entry.u32()?,
            },
        })
    }

    /// Whether the fields agree with each other, and with a place at or after `from` and before
    /// `to`. Afterwards sums of positions and lengths cannot overflow.
    fn is_sound(&self, from: u64, to: u64) -> bool {
        if !(1..=SNAPSHOT_COPIES).contains(&self.copies) {
            return false;
        }
        let copy_bytes = self.bytes.checked_next_multiple_of(PAGE_BYTES as u64);
        let before_last = copy_bytes.and_then(|copy| copy.checked_mul(u64::from(self.copies) - 1));
        let data_end = (before_last.and_then(|before| before.checked_add(self.bytes)))
            .and_then(|bytes| self.position.0.checked_add(bytes));
        let index_end = self.index_position.0.checked_add(self.index_bytes());
        let (Some(data_end), Some(index_end)) = (data_end, index_end) else {
            return false;
        };
        let index_follows = match self.index_entries {
            0 => self.index_position.0 == 0,
            _ => self.index_position.0 >= data_end,
        };
        let offsets_rise = match self.kind {
            SectionKind::Batches => self.base_offset < self.end_offset && self.copies == 1,
            SectionKind::Snapshot => self.index_entries == 0,
        };
        self.position.0 >= from
            && self.position.0.is_multiple_of(PAGE_BYTES as u64)
            && data_end.max(index_end) <= to
            && self.bytes > 0
            && self.end_offset.0 <= i64::MAX.unsigned_abs()
            && index_follows
            && offsets_rise
    }
}

/// All sections of one pack, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The shard that wrote the pack. A hard link elsewhere keeps it.
    pub shard: ShardId,
    /// The id under which it was written.
    pub pack: PackId,
    /// The sections; one's number is its place here.
    pub sections: Vec<Section>,
}

impl Directory {
    /// The directory's bytes (without padding) and their checksum.
    pub(crate) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Writer::default();
        out.u32(MAGIC);
        out.u32(0);
        out.u32(FORMAT);
        out.count(self.sections.len());
        out.u64(self.pack.0);
        out.u16(self.shard.0);
        out.bytes(&[0; 6]);
        assert_eq!(out.len(), DIRECTORY_HEADER_BYTES);
        for section in &self.sections {
            section.encode(&mut out);
        }
        let mut bytes = out.into_bytes();
        let sum = checksum(&bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        (bytes, sum)
    }

    /// Reads a directory of exactly `bytes` whose sections end before file position `footer`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8], footer: FilePosition) -> Result<Self, &'static str> {
        const DAMAGED: &str = "the pack's directory is damaged";
        let mut reader = Reader::new(bytes);
        let magic = reader.u32().ok_or(DAMAGED)?;
        let sum = reader.u32().ok_or(DAMAGED)?;
        if magic != MAGIC || bytes.get(8..).map(checksum) != Some(sum) {
            return Err(DAMAGED);
        }
        let format = reader.u32().ok_or(DAMAGED)?;
        if !(FORMAT_WITHOUT_COPIES..=FORMAT).contains(&format) {
            return Err("the pack's directory is of a newer format");
        }
        Self::decode_body(&mut reader, format, footer)
            .ok_or("the pack's directory contradicts itself")
    }

    fn decode_body(reader: &mut Reader<'_>, format: u32, footer: FilePosition) -> Option<Self> {
        let count = usize::try_from(reader.u32()?).ok()?;
        let pack = PackId(reader.u64()?);
        let shard = ShardId(reader.u16()?);
        reader.take(6)?;
        let mut sections = Vec::new();
        let mut from = PAGE_BYTES as u64;
        for _ in 0..count {
            let section = Section::decode(reader, format)?;
            if !section.is_sound(from, footer.0) {
                return None;
            }
            from = section.end().0;
            sections.push(section);
        }
        reader.is_empty().then_some(Self {
            shard,
            pack,
            sections,
        })
    }
}

const _: () = assert!(SECTION_FIELDS_BYTES == 2 * 4 + 8 * 8 + 4 * 4);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::BATCH_HEADER_BYTES;

    /// A good batch of `records` records in `bytes` bytes, with arbitrary content.
    pub(crate) fn batch(base: u64, records: u32, max_timestamp_ms: i64, bytes: usize) -> Vec<u8> {
        let mut batch = vec![base.to_le_bytes()[0]; bytes.max(BATCH_HEADER_BYTES)];
        let length = i32::try_from(batch.len() - 12).expect("small");
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[12..16].fill(0);
        batch[16] = 2;
        batch[21..23].fill(0);
        batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        batch[35..43].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        batch[43..57].fill(0xff);
        batch[57..61].copy_from_slice(&records.to_be_bytes());
        let sum = checksum(&batch[21..]);
        batch[17..21].copy_from_slice(&sum.to_be_bytes());
        batch
    }

    fn sample() -> Directory {
        let section = |number: u64| Section {
            kind: SectionKind::Batches,
            partition: PartitionId(number as u32),
            base_offset: Offset(number * 100),
            end_offset: Offset(number * 100 + 7),
            position: FilePosition(4096 + number * 8192),
            bytes: 5000,
            records: 7,
            max_timestamp_ms: 1_700_000_000_000,
            as_of: Lsn(0),
            index_position: FilePosition(4096 + number * 8192 + 5000),
            index_entries: 2,
            index_checksum: 0x0102_0304,
            checksum: 0x0506_0708,
            copies: 1,
        };
        Directory {
            shard: ShardId(2),
            pack: PackId(9),
            sections: vec![section(0), section(1)],
        }
    }

    const FOOTER: FilePosition = FilePosition(4096 + 2 * 8192);

    #[test]
    fn golden_bytes_of_a_directory() {
        let (bytes, sum) = sample().encode();
        let mut golden = b"MRdr".to_vec();
        golden.extend_from_slice(&sum.to_le_bytes());
        golden.extend_from_slice(&[2, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[0x88, 0x13, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&1_700_000_000_000_i64.to_le_bytes());
        golden.extend_from_slice(&[0; 8]);
        golden.extend_from_slice(&[0x88, 0x23, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 3, 2, 1]);
        golden.extend_from_slice(&[8, 7, 6, 5, 1, 0, 0, 0]);
        golden.extend_from_slice(&[0; 24]);
        assert_eq!(golden.len(), DIRECTORY_HEADER_BYTES + SECTION_BYTES);
        assert_eq!(bytes[..golden.len()], golden);
        assert_eq!(bytes.len(), DIRECTORY_HEADER_BYTES + 2 * SECTION_BYTES);
        assert_eq!(sum, checksum(&bytes[8..]));
        assert_eq!(Directory::decode(&bytes, FOOTER), Ok(sample()));
    }

    #[test]
    fn a_directory_of_the_first_format_is_read_as_one_copy_of_each_section() {
        let (mut bytes, _) = sample().encode();
        bytes[8] = 1;
        for section in 0..2 {
            bytes[DIRECTORY_HEADER_BYTES + section * SECTION_BYTES + 84] = 0;
        }
        let sum = checksum(&bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Directory::decode(&bytes, FOOTER), Ok(sample()));
        bytes[8] = 3;
        let sum = checksum(&bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        let newer = Directory::decode(&bytes, FOOTER).expect_err("not known");
        assert!(newer.contains("newer"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (bytes, _) = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Directory::decode(&bad, FOOTER).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(
                Directory::decode(&bytes[..cut], FOOTER).is_err(),
                "cut {cut}"
            );
        }
    }

    #[test]
    fn sections_that_contradict_each_other_are_refused() {
        let spoil: [fn(&mut Directory); 11] = [
            |d| d.sections[1].copies = 0,
            |d| d.sections[1].copies = 2,
            |d| {
                d.sections[1].kind = SectionKind::Snapshot;
                d.sections[1].index_entries = 0;
                d.sections[1].index_position = FilePosition(0);
                d.sections[1].copies = 2;
            },
            |d| d.sections[1].position = FilePosition(4096),
            |d| d.sections[1].position = FilePosition(12289),
            |d| d.sections[1].bytes = u64::MAX,
            |d| d.sections[1].bytes = 0,
            |d| d.sections[1].end_offset = Offset(100),
            |d| d.sections[1].end_offset = Offset(u64::MAX),
            |d| d.sections[1].index_position = FilePosition(u64::MAX - 8),
            |d| d.sections[1].index_entries = u32::MAX,
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut directory = sample();
            spoil(&mut directory);
            let (bytes, _) = directory.encode();
            assert!(Directory::decode(&bytes, FOOTER).is_err(), "{number}");
        }
    }
}
