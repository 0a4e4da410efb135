//! The sparse index of one section: where each stretch of batches begins, and what it must be.
//!
//! Batches lie back to back in a section. They are indexed by *chunks* of whole batches, about
//! 64 KiB each (a larger batch is a chunk of its own). A cold read fetches whole chunks and
//! checks each against its checksum here before it serves a byte, so the fields that Kafka's own
//! batch checksum leaves out (base offset, leader epoch) are covered as well.
//!
//! One entry, 32 bytes, little-endian:
//!
//! | offset | bytes | type | field         | unit or meaning                                 |
//! |-------:|------:|------|---------------|-------------------------------------------------|
//! |      0 |     8 | u64  | base offset   | of the chunk's first batch                      |
//! |      8 |     8 | u64  | position      | bytes from the section's start                  |
//! |     16 |     8 | i64  | max timestamp | ms, largest from the section's start to here    |
//! |     24 |     4 | u32  | checksum      | CRC-32C of the chunk                            |
//! |     28 |     4 | u32  | zero          |                                                 |

use std::ops::Range;

use crate::codec::{Reader, Writer};
use crate::crc::{self, Sum};
use crate::record::{self, BatchHeader};
use crate::units::Offset;

/// A chunk grows no further once it has this many bytes.
pub(crate) const CHUNK_BYTES: u64 = 64 << 10;
/// Bytes of one stored entry.
pub(crate) const INDEX_ENTRY_BYTES: usize = 32;

/// Where one chunk begins and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the chunk's first record.
    pub base_offset: Offset,
    /// Bytes from the section's start; 0 for the first chunk.
    pub position: u64,
    /// Largest timestamp from the section's start to the chunk's end.
    pub max_timestamp_ms: i64,
    /// CRC-32C of the chunk.
    pub checksum: u32,
}

/// A section's index. Never empty; offsets and positions ascend, timestamps do not fall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionIndex {
    entries: Vec<IndexEntry>,
    /// Bytes of batches in the section.
    bytes: u64,
}

impl SectionIndex {
    /// The index of a section that is a single chunk; its directory entry says all there is.
    pub(crate) fn single(entry: IndexEntry, bytes: u64) -> Self {
        Self {
            entries: vec![entry],
            bytes,
        }
    }

    /// Reads back what [`SectionIndex::encode`] wrote for a section of `bytes`. `None` when the
    /// entries contradict each other.
    #[must_use]
    pub fn decode(encoded: &[u8], bytes: u64) -> Option<Self> {
        let mut reader = Reader::new(encoded);
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(encoded.len() / INDEX_ENTRY_BYTES);
        while !reader.is_empty() {
            let entry = IndexEntry {
                base_offset: Offset(reader.u64()?),
                position: reader.u64()?,
                max_timestamp_ms: reader.i64()?,
                checksum: reader.u32()?,
            };
            let follows = entries.last().map_or(entry.position == 0, |last| {
                last.base_offset < entry.base_offset
                    && last.position < entry.position
                    && last.max_timestamp_ms <= entry.max_timestamp_ms
            });
            if reader.u32()? != 0 || !follows || entry.position >= bytes {
                return None;
            }
            entries.push(entry);
        }
        (!entries.is_empty()).then_some(Self { entries, bytes })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for entry in &self.entries {
            out.u64(entry.base_offset.0);
            out.u64(entry.position);
            out.i64(entry.max_timestamp_ms);
            out.u32(entry.checksum);
            out.u32(0);
        }
        out.into_bytes()
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.entries.len()
    }

    /// Chunk number `chunk`.
    #[must_use]
    pub fn entry(&self, chunk: usize) -> Option<&IndexEntry> {
        self.entries.get(chunk)
    }

    /// Where chunk number `chunk` lies, as bytes from the section's start.
    #[must_use]
    pub fn range(&self, chunk: usize) -> Option<Range<u64>> {
        let start = self.entries.get(chunk)?.position;
        let next = self.entries.get(chunk + 1);
        Some(start..next.map_or(self.bytes, |next| next.position))
    }

    /// The chunk that holds `offset` if any does: the last one that begins at or below it, or
    /// the first when all begin above it.
    pub(crate) fn chunk_of(&self, offset: Offset) -> usize {
        let above = self.entries.partition_point(|e| e.base_offset <= offset);
        above.saturating_sub(1)
    }

    /// The first chunk with a batch whose max timestamp is `timestamp_ms` or later.
    pub(crate) fn chunk_at_time(&self, timestamp_ms: i64) -> Option<usize> {
        let at = (self.entries).partition_point(|e| e.max_timestamp_ms < timestamp_ms);
        (at < self.entries.len()).then_some(at)
    }

    /// Roughly the memory that the index takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<IndexEntry>()
    }
}

/// The most that the index of a section with so many bytes takes. A single chunk needs none; any
/// two neighbouring chunks have more than [`CHUNK_BYTES`] together.
pub(crate) fn index_bytes_max(section_bytes: u64) -> u64 {
    if section_bytes <= CHUNK_BYTES {
        return 0;
    }
    (2 * section_bytes / CHUNK_BYTES + 2) * INDEX_ENTRY_BYTES as u64
}

/// Builds a section's index as its batches pass by.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    entries: Vec<IndexEntry>,
    /// The chunk being gathered, once it has a batch.
    open: Option<OpenChunk>,
    /// Bytes so far.
    bytes: u64,
    max_timestamp_ms: i64,
    /// CRC-32C of the whole section, made from the chunks' checksums.
    checksum: u32,
}

#[derive(Debug)]
struct OpenChunk {
    base_offset: Offset,
    position: u64,
    sum: Sum,
}

impl IndexBuilder {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            open: None,
            bytes: 0,
            max_timestamp_ms: i64::MIN,
            checksum: 0,
        }
    }

    /// Takes the section's next batch, and sums its bytes.
    pub(crate) fn push(&mut self, header: &BatchHeader, batch: &[u8]) {
        self.open_chunk(header, batch).update(batch);
    }

    /// The same for a batch whose own checksum was verified since it was read, which stands for
    /// most of its bytes.
    pub(crate) fn push_verified(&mut self, header: &BatchHeader, batch: &[u8]) {
        record::sum_batch(self.open_chunk(header, batch), header, batch);
    }

    /// Enters a batch in the chunk that it belongs to, and gives that one's sum.
    fn open_chunk(&mut self, header: &BatchHeader, batch: &[u8]) -> &mut Sum {
        let batch_bytes = batch.len() as u64;
        let chunk_bytes = (self.open.as_ref()).map_or(0, |open| self.bytes - open.position);
        if chunk_bytes > 0 && chunk_bytes + batch_bytes > CHUNK_BYTES {
            self.close_chunk();
        }
        let open = self.open.get_or_insert_with(|| OpenChunk {
            base_offset: header.base_offset,
            position: self.bytes,
            sum: Sum::new(),
        });
        self.bytes += batch_bytes;
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        &mut open.sum
    }

    fn close_chunk(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let chunk_bytes = self.bytes - open.position;
        let checksum = open.sum.finish();
        self.checksum = crc::join(self.checksum, checksum, chunk_bytes);
        self.entries.push(IndexEntry {
            base_offset: open.base_offset,
            position: open.position,
            max_timestamp_ms: self.max_timestamp_ms,
            checksum,
        });
    }

    /// The index, and the CRC-32C of all the section's batches. `None` when there were none.
    pub(crate) fn finish(mut self) -> Option<(SectionIndex, u32)> {
        self.close_chunk();
        let index = SectionIndex {
            entries: self.entries,
            bytes: self.bytes,
        };
        (!index.entries.is_empty()).then_some((index, self.checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::checksum;
    use crate::section::tests::batch;

    /// An index over batches of 20 KB at offsets 0, 10, 20, ...: three to a chunk.
    fn sample(batches: u64) -> (SectionIndex, u32, Vec<u8>) {
        let mut builder = IndexBuilder::new();
        let mut data = Vec::new();
        for number in 0..batches {
            let bytes = batch(number * 10, 10, 1000 + number as i64, 20_000);
            builder.push(&BatchHeader::parse(&bytes).expect("good"), &bytes);
            data.extend_from_slice(&bytes);
        }
        let (index, sum) = builder.finish().expect("not empty");
        (index, sum, data)
    }

    #[test]
    fn chunks_cover_the_section_and_carry_its_checksums() {
        let (index, sum, data) = sample(10);
        assert_eq!(index.chunks(), 4);
        assert_eq!(sum, checksum(&data));
        let mut end = 0;
        for chunk in 0..index.chunks() {
            let range = index.range(chunk).expect("there");
            assert_eq!(range.start, end);
            end = range.end;
            let bytes = &data[range.start as usize..range.end as usize];
            assert_eq!(index.entry(chunk).expect("there").checksum, checksum(bytes));
        }
        assert_eq!(end, data.len() as u64);
        assert_eq!(index.range(4), None);
    }

    #[test]
    fn offsets_and_times_find_their_chunk() {
        let (index, ..) = sample(10);
        for (offset, chunk) in [(0, 0), (29, 0), (30, 1), (89, 2), (90, 3), (1000, 3)] {
            assert_eq!(index.chunk_of(Offset(offset)), chunk, "{offset}");
        }
        for (time, chunk) in [
            (0, Some(0)),
            (1002, Some(0)),
            (1003, Some(1)),
            (1009, Some(3)),
        ] {
            assert_eq!(index.chunk_at_time(time), chunk, "{time}");
        }
        assert_eq!(index.chunk_at_time(1010), None);
    }

    #[test]
    fn a_batch_larger_than_a_chunk_is_one() {
        let mut builder = IndexBuilder::new();
        for (offset, bytes) in [(0, 100), (1, 200_000), (2, 100)] {
            let bytes = batch(offset, 1, 5, bytes);
            builder.push(&BatchHeader::parse(&bytes).expect("good"), &bytes);
        }
        let (index, _) = builder.finish().expect("not empty");
        assert_eq!(index.chunks(), 3);
        assert!(IndexBuilder::new().finish().is_none());
    }

    #[test]
    fn an_index_survives_a_round_trip_and_contradictions_do_not() {
        let (index, _, data) = sample(10);
        let encoded = index.encode();
        let bytes = data.len() as u64;
        assert_eq!(encoded.len(), index.chunks() * INDEX_ENTRY_BYTES);
        assert_eq!(SectionIndex::decode(&encoded, bytes), Some(index));
        assert_eq!(
            SectionIndex::decode(&encoded, 100),
            None,
            "beyond the section"
        );
        assert_eq!(
            SectionIndex::decode(&encoded[32..], bytes),
            None,
            "not from the start"
        );
        for cut in 0..encoded.len() {
            let whole_entries = cut % INDEX_ENTRY_BYTES == 0 && cut > 0;
            assert_eq!(
                SectionIndex::decode(&encoded[..cut], bytes).is_some(),
                whole_entries
            );
        }
        let mut swapped = encoded[..32].to_vec();
        swapped.extend_from_slice(&encoded[64..96]);
        swapped.extend_from_slice(&encoded[32..64]);
        assert_eq!(SectionIndex::decode(&swapped, bytes), None);
    }
}
