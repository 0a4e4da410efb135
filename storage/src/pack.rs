//! Pack and segment files: immutable, written front to back in one go.
//!
//! A header page; then sections, each on whole pages: batches of one partition back to back (so
//! a fetch is a slice of the file), directly followed by the section's sparse index; then the
//! directory, twice. A segment is a pack of one section under another name.
//!
//! | offset | bytes | type | field    | header page                                          |
//! |-------:|------:|------|----------|------------------------------------------------------|
//! |      0 |     4 | u32  | magic    | "MRpk"                                               |
//! |      4 |     4 | u32  | checksum | CRC-32C of bytes 8..4096                             |
//! |      8 |     4 | u32  | format   | 1                                                    |
//! |     12 |     4 | u32  | features | unknown bits refuse the file                         |
//! |     16 |     8 | u64  | pack     | id under which the file was written                  |
//! |     24 |     2 | u16  | shard    | that wrote it                                        |
//! |     26 |       |      | zeros    |                                                      |
//!
//! [`PackWriter`] turns batches into aligned buffers and positions; whoever drives it writes them,
//! syncs the file, and only then names the pack in the manifest. [`file_bytes_max`] bounds the
//! file's length beforehand, so that space is taken at once or not at all.

use std::collections::{BTreeSet, VecDeque};

use crate::buf::{AlignedBuf, BufferPool};
use crate::codec::{Reader, Writer};
use crate::crc::Sum;
use crate::disk::FileName;
use crate::index::{IndexBuilder, index_bytes_max};
use crate::manifest::PackEntry;
use crate::record::{BatchHeader, checksum};
use crate::section::{
    DIRECTORY_HEADER_BYTES, Directory, SECTION_BYTES, SNAPSHOT_COPIES, Section, SectionKind,
};
use crate::units::{
    FilePosition, Lsn, Offset, PAGE_BYTES, PackId, PartitionId, ShardId, page_ceil,
};

const MAGIC: u32 = u32::from_le_bytes(*b"MRpk");
const FORMAT: u32 = 1;

/// The header page of pack `pack` of `shard`.
fn encode_header(shard: ShardId, pack: PackId) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(MAGIC);
    out.u32(0);
    out.u32(FORMAT);
    out.u32(0);
    out.u64(pack.0);
    out.u16(shard.0);
    let mut page = out.into_bytes();
    page.resize(PAGE_BYTES, 0);
    let sum = checksum(&page[8..]);
    page[4..8].copy_from_slice(&sum.to_le_bytes());
    page
}

/// Checks a header page and gives who wrote the file, and as which pack.
///
/// # Errors
/// What is wrong with it.
pub fn decode_header(page: &[u8]) -> Result<(ShardId, PackId), &'static str> {
    const DAMAGED: &str = "the pack's header is damaged";
    let page = page.get(..PAGE_BYTES).ok_or(DAMAGED)?;
    let mut reader = Reader::new(page);
    let magic = reader.u32().ok_or(DAMAGED)?;
    let sum = reader.u32().ok_or(DAMAGED)?;
    if magic != MAGIC || checksum(&page[8..]) != sum {
        return Err(DAMAGED);
    }
    if (reader.u32(), reader.u32()) != (Some(FORMAT), Some(0)) {
        return Err("the pack is of a newer format");
    }
    let pack = PackId(reader.u64().ok_or(DAMAGED)?);
    Ok((ShardId(reader.u16().ok_or(DAMAGED)?), pack))
}

/// The most that a pack file takes whose sections have so many bytes of batches; each copy of a
/// snapshot counts as a section.
pub(crate) fn file_bytes_max(section_bytes: impl Iterator<Item = u64>) -> u64 {
    let mut sections = 0;
    let mut bytes = PAGE_BYTES as u64;
    for section_bytes in section_bytes {
        sections += 1;
        let with_index = section_bytes + index_bytes_max(section_bytes);
        bytes += with_index.next_multiple_of(PAGE_BYTES as u64);
    }
    let directory = page_ceil(DIRECTORY_HEADER_BYTES + sections * SECTION_BYTES);
    bytes + 2 * directory as u64
}

/// Lays out one pack file. Buffers come out in file order, each full but the last.
#[derive(Debug)]
pub(crate) struct PackWriter {
    shard: ShardId,
    pack: PackId,
    file: FileName,
    pool: BufferPool,
    /// The buffer being filled, once something is in it.
    buffer: Option<AlignedBuf>,
    /// Bytes of `buffer` in use.
    filled: usize,
    /// File position of `buffer`'s first byte.
    position: u64,
    ready: VecDeque<(FilePosition, AlignedBuf)>,
    sections: Vec<Section>,
    open: Option<OpenSection>,
    snapshot: Option<OpenSnapshot>,
}

/// The snapshot being written.
#[derive(Debug)]
struct OpenSnapshot {
    section: Section,
    /// Of the bytes of the first copy so far.
    sum: Sum,
    /// Whole copies written.
    copies: u32,
    /// Bytes written of the next copy.
    written: usize,
}

/// The section being written.
#[derive(Debug)]
struct OpenSection {
    section: Section,
    index: IndexBuilder,
}

impl PackWriter {
    /// A writer of `file` (a pack or a segment) with buffers of `pool`.
    pub(crate) fn new(shard: ShardId, file: FileName, pool: BufferPool) -> Self {
        let (FileName::Pack(pack) | FileName::Segment(pack)) = file else {
            panic!("{file} is no pack");
        };
        let mut writer = Self {
            shard,
            pack,
            file,
            pool,
            buffer: None,
            filled: 0,
            position: 0,
            ready: VecDeque::new(),
            sections: Vec::new(),
            open: None,
            snapshot: None,
        };
        writer.put(&encode_header(shard, pack));
        writer
    }

    pub(crate) fn file(&self) -> FileName {
        self.file
    }

    /// The next buffer to write, and where.
    pub(crate) fn pop_ready(&mut self) -> Option<(FilePosition, AlignedBuf)> {
        self.ready.pop_front()
    }

    /// Buffers that wait to be written.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Appends a batch to the section of its partition, which comes to be with its first batch.
    /// Batches come sorted by partition and offset.
    pub(crate) fn batch(&mut self, partition: PartitionId, header: &BatchHeader, batch: &[u8]) {
        self.open_section(partition, header, batch)
            .index
            .push(header, batch);
        self.put(batch);
    }

    /// The same for a batch that was verified since it was read.
    pub(crate) fn verified_batch(
        &mut self,
        partition: PartitionId,
        header: &BatchHeader,
        batch: &[u8],
    ) {
        self.open_section(partition, header, batch)
            .index
            .push_verified(header, batch);
        self.put(batch);
    }

    /// Enters a batch in the section that it belongs to.
    fn open_section(
        &mut self,
        partition: PartitionId,
        header: &BatchHeader,
        batch: &[u8],
    ) -> &mut OpenSection {
        if (self.open.as_ref()).is_some_and(|open| open.section.partition != partition) {
            self.end_section();
        }
        let position = FilePosition(self.at());
        let open = self.open.get_or_insert_with(|| OpenSection {
            section: empty_section(
                SectionKind::Batches,
                partition,
                position,
                header.base_offset,
            ),
            index: IndexBuilder::new(),
        });
        assert!(
            header.base_offset >= open.section.end_offset,
            "batches of a section ascend"
        );
        open.section.bytes += batch.len() as u64;
        open.section.records += u64::from(header.records);
        open.section.end_offset = header.next_offset();
        open.section.max_timestamp_ms = open.section.max_timestamp_ms.max(header.max_timestamp_ms);
        open
    }

    /// Ends the present section, if there is one: its index follows, then padding.
    pub(crate) fn end_section(&mut self) {
        let Some(OpenSection { mut section, index }) = self.open.take() else {
            return;
        };
        let (index, sum) = index
            .finish()
            .expect("a section opens with its first batch");
        section.checksum = sum;
        if index.chunks() > 1 {
            let encoded = index.encode();
            section.index_position = FilePosition(self.at());
            section.index_entries = u32::try_from(index.chunks()).expect("chunks fit 32 bits");
            section.index_checksum = checksum(&encoded);
            self.put(&encoded);
        }
        self.pad();
        self.sections.push(section);
    }

    /// Goes on with the engine's snapshot, which stands twice in a section of its own, until a
    /// buffer is ready. Returns whether that was all; if not, it is called with the same again. A
    /// snapshot may be large: neither its time nor its memory belongs into one step.
    pub(crate) fn snapshot(&mut self, as_of: Lsn, bytes: &[u8]) -> bool {
        assert!(!bytes.is_empty(), "a snapshot says something");
        let mut snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => self.begin_snapshot(as_of, bytes),
        };
        while self.ready.is_empty() && snapshot.copies < SNAPSHOT_COPIES {
            let rest = &bytes[snapshot.written..];
            let part = &rest[..rest.len().min(self.pool.buffer_bytes() - self.filled)];
            if snapshot.copies == 0 {
                snapshot.sum.update(part);
            }
            self.put(part);
            snapshot.written += part.len();
            if snapshot.written == bytes.len() {
                self.pad();
                snapshot.copies += 1;
                snapshot.written = 0;
            }
        }
        if snapshot.copies < SNAPSHOT_COPIES {
            self.snapshot = Some(snapshot);
            return false;
        }
        snapshot.section.checksum = snapshot.sum.finish();
        self.sections.push(snapshot.section);
        true
    }

    fn begin_snapshot(&mut self, as_of: Lsn, bytes: &[u8]) -> OpenSnapshot {
        self.end_section();
        let position = FilePosition(self.at());
        let mut section = empty_section(SectionKind::Snapshot, PartitionId(0), position, Offset(0));
        section.bytes = bytes.len() as u64;
        section.as_of = as_of;
        section.copies = SNAPSHOT_COPIES;
        OpenSnapshot {
            section,
            sum: Sum::new(),
            copies: 0,
            written: 0,
        }
    }

    /// Writes the directory. The last buffers are ready then; the entry is for the manifest.
    pub(crate) fn finish(&mut self) -> (PackEntry, Directory) {
        self.end_section();
        let directory = Directory {
            shard: self.shard,
            pack: self.pack,
            sections: std::mem::take(&mut self.sections),
        };
        let (encoded, footer_checksum) = directory.encode();
        let footer = FilePosition(self.at());
        for _ in 0..2 {
            self.put(&encoded);
            self.pad();
        }
        let entry = PackEntry {
            file: self.file,
            bytes: self.at(),
            footer,
            footer_bytes: u32::try_from(encoded.len()).expect("a directory fits 4 GiB"),
            footer_checksum,
            dropped: BTreeSet::new(),
            shared: false,
        };
        if let Some(mut buffer) = self.buffer.take() {
            buffer.set_len(self.filled);
            self.ready.push_back((FilePosition(self.position), buffer));
        }
        (entry, directory)
    }

    /// File position of the next byte.
    fn at(&self) -> u64 {
        self.position + self.filled as u64
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
            let room = buffer.len() - self.filled;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            self.release_full();
        }
    }

    /// Fills up the present page with zeros.
    fn pad(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            let end = page_ceil(self.filled);
            buffer[self.filled..end].fill(0);
            self.filled = end;
            self.release_full();
        }
    }

    fn release_full(&mut self) {
        if let Some(buffer) = self.buffer.take_if(|buffer| buffer.len() == self.filled) {
            self.ready.push_back((FilePosition(self.position), buffer));
            self.position = self.at();
            self.filled = 0;
        }
    }
}

fn empty_section(
    kind: SectionKind,
    partition: PartitionId,
    position: FilePosition,
    base_offset: Offset,
) -> Section {
    Section {
        kind,
        partition,
        base_offset,
        end_offset: base_offset,
        position,
        bytes: 0,
        records: 0,
        max_timestamp_ms: i64::MIN,
        as_of: Lsn(0),
        index_position: FilePosition(0),
        index_entries: 0,
        index_checksum: 0,
        checksum: 0,
        copies: 1,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::index::SectionIndex;
    use crate::inspect;
    use crate::section::tests::batch;

    /// Everything that `writer` has ready, as a file.
    pub(crate) fn drain(writer: &mut PackWriter, file: &mut Vec<u8>) {
        while let Some((position, buffer)) = writer.pop_ready() {
            assert_eq!(position.0, file.len() as u64, "buffers come in file order");
            file.extend_from_slice(&buffer);
        }
    }

    /// A pack of four partitions (one large) and a snapshot.
    fn sample() -> (Vec<u8>, PackEntry, Directory) {
        let pool = BufferPool::new(64 << 10, 4);
        let mut writer = PackWriter::new(ShardId(1), FileName::Pack(PackId(5)), pool);
        let mut file = Vec::new();
        for (partition, batches, bytes) in
            [(1, 1, 100), (2, 40, 9000), (3, 1, 200_000), (9, 8, 8192)]
        {
            for number in 0..batches {
                let bytes = batch(number * 3, 3, 7, bytes);
                let header = BatchHeader::parse(&bytes).expect("good");
                writer.batch(PartitionId(partition), &header, &bytes);
                drain(&mut writer, &mut file);
            }
        }
        assert!(writer.snapshot(Lsn(77), &[42; 5000]));
        let (entry, directory) = writer.finish();
        drain(&mut writer, &mut file);
        (file, entry, directory)
    }

    #[test]
    fn a_pack_stays_within_its_bound_and_reads_back() {
        let (file, entry, directory) = sample();
        assert_eq!(file.len() as u64, entry.bytes);
        let sections = directory.sections.iter();
        let copies = sections.flat_map(|section| section.copy_positions().map(|_| section.bytes));
        let bound = file_bytes_max(copies);
        assert!((entry.bytes..entry.bytes + 4 * 4096).contains(&bound));
        assert_eq!(decode_header(&file), Ok((ShardId(1), PackId(5))));
        let footer = entry.footer.0 as usize;
        let footer_bytes = entry.footer_bytes as usize;
        for copy in [footer, footer + page_ceil(footer_bytes)] {
            let read = Directory::decode(&file[copy..copy + footer_bytes], entry.footer);
            assert_eq!(read, Ok(directory.clone()));
        }
        assert_eq!(directory.sections.len(), 5);
        for section in &directory.sections {
            for position in section.copy_positions() {
                let at = position.0 as usize;
                let data = &file[at..at + section.bytes as usize];
                assert_eq!(checksum(data), section.checksum);
            }
            if section.index_entries > 0 {
                let at = section.index_position.0 as usize;
                let encoded = &file[at..at + section.index_bytes() as usize];
                assert_eq!(checksum(encoded), section.index_checksum);
                let index = SectionIndex::decode(encoded, section.bytes).expect("good");
                assert_eq!(index.chunks(), section.index_entries as usize);
            }
        }
    }

    #[test]
    fn a_snapshot_takes_a_buffer_a_step_whatever_its_size() {
        let buffer_bytes = 4 * PAGE_BYTES;
        let whole = 10 * buffer_bytes;
        for bytes in [
            1,
            PAGE_BYTES,
            whole - 1,
            whole,
            whole + 1,
            whole + 3 * PAGE_BYTES,
        ] {
            let snapshot: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
            let pool = BufferPool::new(buffer_bytes, 4);
            let mut writer = PackWriter::new(ShardId(1), FileName::Pack(PackId(5)), pool);
            let (mut file, mut steps) = (Vec::new(), 1);
            while !writer.snapshot(Lsn(77), &snapshot) {
                assert_eq!(writer.ready(), 1, "a step ends with a buffer");
                drain(&mut writer, &mut file);
                steps += 1;
            }
            assert!(writer.ready() <= 1);
            let (entry, directory) = writer.finish();
            drain(&mut writer, &mut file);
            assert_eq!(file.len() as u64, entry.bytes);
            assert!((bytes / buffer_bytes..=2 * bytes / buffer_bytes + 2).contains(&steps));
            let section = &directory.sections[0];
            assert_eq!(
                (section.as_of, section.checksum),
                (Lsn(77), checksum(&snapshot))
            );
            for position in section.copy_positions() {
                let at = usize::try_from(position.0).expect("small");
                assert_eq!(file[at..at + bytes], snapshot);
            }
        }
    }

    #[test]
    fn an_offline_reader_sees_damage_in_any_copy() {
        let (file, entry, directory) = sample();
        assert_eq!(inspect::pack(&file, &entry), Ok((directory.clone(), None)));
        let footer = entry.footer.0 as usize;
        let copies = [footer, footer + page_ceil(entry.footer_bytes as usize)];
        for copy in copies {
            let mut bad = file.clone();
            bad[copy + 40] ^= 1;
            let (found, damage) = inspect::pack(&bad, &entry).expect("the other is good");
            assert_eq!((found, damage.is_some()), (directory.clone(), true));
        }
        let mut bad = file.clone();
        for copy in copies {
            bad[copy + 40] ^= 1;
        }
        assert!(inspect::pack(&bad, &entry).is_err());
        for section in &directory.sections {
            assert!(inspect::section(&file, section).is_ok());
            for position in section.copy_positions() {
                let mut bad = file.clone();
                bad[position.0 as usize + 50] ^= 1;
                assert!(inspect::section(&bad, section).is_err());
            }
        }
    }

    #[test]
    fn sections_know_their_offsets_and_counts() {
        let (_, _, directory) = sample();
        let large = &directory.sections[1];
        assert_eq!(
            (large.base_offset, large.end_offset),
            (Offset(0), Offset(120))
        );
        assert_eq!((large.records, large.bytes), (120, 360_000));
        assert_eq!(
            large.index_entries, 6,
            "seven batches of 9,000 bytes to a chunk"
        );
        let snapshot = &directory.sections[4];
        assert_eq!(
            (snapshot.kind, snapshot.as_of),
            (SectionKind::Snapshot, Lsn(77))
        );
        assert_eq!((snapshot.copies, snapshot.file_bytes()), (2, 4 * 4096));
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_noticed() {
        let page = encode_header(ShardId(1), PackId(5));
        for bit in (0..PAGE_BYTES * 8).filter(|bit| bit / 8 < 64 || bit % 61 == 0) {
            let mut bad = page.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&bad).is_err(), "bit {bit}");
        }
        assert!(decode_header(&page[..4095]).is_err());
        assert_eq!(page[..4], *b"MRpk");
        assert_eq!(
            page[8..28],
            [1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        );
    }
}
