//! The one currency: Kafka's record batch, format 2, kept byte for byte as its producer sent it.
//!
//! | offset | bytes | type | field                  | unit or meaning                             |
//! |-------:|------:|------|------------------------|---------------------------------------------|
//! |      0 |     8 | i64  | base offset            | set by the log; outside the checksum        |
//! |      8 |     4 | i32  | batch length           | bytes after this field                      |
//! |     12 |     4 | i32  | partition leader epoch | set by the log; outside the checksum        |
//! |     16 |     1 | i8   | magic                  | 2                                           |
//! |     17 |     4 | u32  | checksum               | CRC-32C of everything after it              |
//! |     21 |     2 | i16  | attributes             | 0-2 codec, 3 append time, 4 txn, 5 control  |
//! |     23 |     4 | i32  | last offset delta      | records - 1, or more after compaction       |
//! |     27 |     8 | i64  | base timestamp         | ms since the Unix epoch                     |
//! |     35 |     8 | i64  | max timestamp          | ms since the Unix epoch                     |
//! |     43 |     8 | i64  | producer id            | -1: none                                    |
//! |     51 |     2 | i16  | producer epoch         | -1: none                                    |
//! |     53 |     4 | i32  | base sequence          | -1: none                                    |
//! |     57 |     4 | i32  | records                | count                                       |
//! |     61 |       |      | the records            | compressed as the attributes say            |
//!
//! Source: Kafka protocol guide, "Record Batch". All numbers are big-endian.

use crate::crc::{KNOWN_BYTES_MIN, Known, Sum};
use crate::units::{LeaderEpoch, Offset};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes before the part that the batch length counts.
const LENGTH_END: usize = 12;
/// Where the checksummed part begins.
const CHECKSUMMED_FROM: usize = 21;
/// The only batch format served.
const MAGIC: u8 = 2;

const ATTRIBUTES_CODEC: i16 = 0b111;
const ATTRIBUTE_APPEND_TIME: i16 = 1 << 3;
const ATTRIBUTE_TRANSACTIONAL: i16 = 1 << 4;
const ATTRIBUTE_CONTROL: i16 = 1 << 5;

/// The fixed fields of a batch, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record, as the log set it.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub batch_bytes: usize,
    /// Leader epoch at append.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything after it.
    pub checksum: u32,
    /// Codec and flags, see the layout.
    pub attributes: i16,
    /// Last record's offset less the base offset; not negative.
    pub last_offset_delta: u32,
    /// Milliseconds since the Unix epoch; -1 for none.
    pub base_timestamp_ms: i64,
    /// Largest record timestamp, milliseconds since the Unix epoch; -1 for none.
    pub max_timestamp_ms: i64,
    /// Idempotent or transactional producer; -1 for none.
    pub producer_id: i64,
    /// The producer's epoch; -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1 for none.
    pub base_sequence: i32,
    /// Records in the batch; positive.
    pub records: u32,
}

/// What is wrong with bytes that should be a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch says, or than its header needs.
    #[error("the batch is cut short")]
    Short,
    /// Bytes follow the batch.
    #[error("bytes follow the batch")]
    Trailing,
    /// An older message format or an unknown one.
    #[error("record batch format {0} is not served, only format 2")]
    Magic(u8),
    /// The checksum does not match.
    #[error("the batch's checksum does not match its bytes")]
    Checksum,
    /// Counts, deltas or lengths contradict each other.
    #[error("the batch's counts contradict each other")]
    Counts,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may hold more or less than the batch.
    ///
    /// # Errors
    /// [`BatchError::Short`], [`BatchError::Magic`] or [`BatchError::Counts`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Short);
        };
        if header[16] != MAGIC {
            return Err(BatchError::Magic(header[16]));
        }
        let field = Fields(header);
        let length = usize::try_from(field.i32(8)).map_err(|_| BatchError::Counts)?;
        let batch_bytes = length.checked_add(LENGTH_END).ok_or(BatchError::Counts)?;
        if batch_bytes < BATCH_HEADER_BYTES {
            return Err(BatchError::Counts);
        }
        Ok(Self {
            // Whatever a producer put there: the log overwrites it.
            base_offset: Offset(u64::try_from(field.i64(0)).unwrap_or(0)),
            batch_bytes,
            leader_epoch: LeaderEpoch(field.i32(12)),
            checksum: u32::from_be_bytes(field.array(17)),
            attributes: field.i16(21),
            last_offset_delta: u32::try_from(field.i32(23)).map_err(|_| BatchError::Counts)?,
            base_timestamp_ms: field.i64(27),
            max_timestamp_ms: field.i64(35),
            producer_id: field.i64(43),
            producer_epoch: field.i16(51),
            base_sequence: field.i32(53),
            records: u32::try_from(field.i32(57)).map_err(|_| BatchError::Counts)?,
        })
    }

    /// The offset after the batch's last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset + u64::from(self.last_offset_delta) + 1
    }

    /// Compression codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are unassigned.
    #[must_use]
    pub fn codec(&self) -> u8 {
        (self.attributes & ATTRIBUTES_CODEC).to_le_bytes()[0]
    }

    /// Whether the timestamps are the log's rather than the producer's.
    #[must_use]
    pub fn is_append_time(&self) -> bool {
        self.attributes & ATTRIBUTE_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    /// Whether the batch is a marker that consumers skip.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }
}

/// Reads big-endian fields of a header.
struct Fields<'a>(&'a [u8; BATCH_HEADER_BYTES]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..]
            .first_chunk()
            .expect("fields lie within the header")
    }
    fn i64(&self, at: usize) -> i64 {
        i64::from_be_bytes(self.array(at))
    }
    fn i32(&self, at: usize) -> i32 {
        i32::from_be_bytes(self.array(at))
    }
    fn i16(&self, at: usize) -> i16 {
        i16::from_be_bytes(self.array(at))
    }
}

/// One whole batch whose header and checksum were found good. Never decompressed for that.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    header: BatchHeader,
}

impl<'a> Batch<'a> {
    /// Checks that `bytes` are exactly one good batch, as a producer sends it: offsets dense, so
    /// the last offset delta is the record count less one.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let batch = Self::check_stored(bytes)?;
        if batch.header.records == 0 || batch.header.last_offset_delta != batch.header.records - 1 {
            return Err(BatchError::Counts);
        }
        Ok(batch)
    }

    /// Checks that `bytes` are exactly one good batch as the log keeps it (compaction may have
    /// taken records out of it).
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check_stored(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        if bytes.len() < header.batch_bytes {
            return Err(BatchError::Short);
        }
        if bytes.len() > header.batch_bytes {
            return Err(BatchError::Trailing);
        }
        if checksum(&bytes[CHECKSUMMED_FROM..]) != header.checksum {
            return Err(BatchError::Checksum);
        }
        Ok(Self { bytes, header })
    }

    /// The batch's bytes, header included.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The batch's fixed fields.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
}

/// CRC-32C (Castagnoli), Kafka's batch checksum and ours on disk.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    // A 32-bit algorithm's checksum fits 32 bits.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The part of a good `batch` that its own checksum covers, as a part of bytes in which it begins
/// at `start`; `None` where summing it again is as cheap.
pub(crate) fn known_part(header: &BatchHeader, batch: &[u8], start: usize) -> Option<Known> {
    (batch.len() >= KNOWN_BYTES_MIN).then(|| Known {
        start: start + CHECKSUMMED_FROM,
        end: start + batch.len(),
        sum: header.checksum,
    })
}

/// Adds a good batch to a running sum.
pub(crate) fn sum_batch(sum: &mut Sum, header: &BatchHeader, batch: &[u8]) {
    let known = known_part(header, batch, 0);
    crate::crc::update_with(sum, batch, known.as_slice());
}

/// Sets what the log decides: base offset and leader epoch (both outside the checksum), and with
/// `append_time_ms` the log's own time, which costs a new checksum.
pub fn stamp(
    batch: &mut [u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    append_time_ms: Option<i64>,
) {
    assert!(
        batch.len() >= BATCH_HEADER_BYTES,
        "stamped bytes are a checked batch"
    );
    batch[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
    if let Some(time_ms) = append_time_ms {
        let attributes = i16::from_be_bytes([batch[21], batch[22]]) | ATTRIBUTE_APPEND_TIME;
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        // Kafka sets only the maximum: with the append-time flag readers use it for every record.
        batch[35..43].copy_from_slice(&time_ms.to_be_bytes());
        let sum = checksum(&batch[CHECKSUMMED_FROM..]);
        batch[17..21].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch of one record, "hello", as librdkafka writes it without compression.
    pub(crate) fn hello() -> Vec<u8> {
        let record = [0x16, 0, 0, 0, 1, 10, b'h', b'e', b'l', b'l', b'o', 0];
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        batch.extend_from_slice(&record);
        let length = i32::try_from(batch.len() - LENGTH_END).expect("small");
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = MAGIC;
        batch[27..35].copy_from_slice(&1_700_000_000_000_i64.to_be_bytes());
        batch[35..43].copy_from_slice(&1_700_000_000_000_i64.to_be_bytes());
        batch[43..57].fill(0xff);
        batch[57..61].copy_from_slice(&1_i32.to_be_bytes());
        let sum = checksum(&batch[CHECKSUMMED_FROM..]);
        batch[17..21].copy_from_slice(&sum.to_be_bytes());
        batch
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_good_batch_passes_and_every_prefix_is_short() {
        let bytes = hello();
        let batch = Batch::check(&bytes).expect("good");
        assert_eq!(batch.header().records, 1);
        assert_eq!(batch.header().producer_id, -1);
        assert_eq!(batch.header().next_offset(), Offset(1));
        for end in 0..bytes.len() {
            assert_eq!(
                Batch::check(&bytes[..end]).err(),
                Some(BatchError::Short),
                "{end}"
            );
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(Batch::check(&longer).err(), Some(BatchError::Trailing));
    }

    #[test]
    fn every_flipped_bit_under_the_checksum_is_found() {
        let bytes = hello();
        for bit in CHECKSUMMED_FROM * 8..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::check(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_and_counts_at_their_edges_are_refused() {
        for length in [i32::MIN, -1, 0, 48] {
            let mut bytes = hello();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            assert_eq!(
                Batch::check(&bytes).err(),
                Some(BatchError::Counts),
                "{length}"
            );
        }
        let mut bytes = hello();
        bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(Batch::check(&bytes).err(), Some(BatchError::Short));
        let mut old = hello();
        old[16] = 1;
        assert_eq!(Batch::check(&old).err(), Some(BatchError::Magic(1)));
    }

    #[test]
    fn stamping_keeps_a_batch_good() {
        let mut bytes = hello();
        stamp(&mut bytes, Offset(41), LeaderEpoch(3), None);
        let batch = Batch::check(&bytes).expect("offsets are outside the checksum");
        assert_eq!(batch.header().next_offset(), Offset(42));
        stamp(
            &mut bytes,
            Offset(41),
            LeaderEpoch(3),
            Some(1_800_000_000_000),
        );
        let batch = Batch::check(&bytes).expect("the checksum was renewed");
        assert!(batch.header().is_append_time());
        assert_eq!(batch.header().max_timestamp_ms, 1_800_000_000_000);
    }
}
