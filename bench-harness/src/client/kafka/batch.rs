//! Kafka's record batch, format 2: written by the producers, read back by the consumers.
//!
//! | offset | bytes | type | field                  | as written here                      |
//! |-------:|------:|------|------------------------|--------------------------------------|
//! |      0 |     8 | i64  | base offset            | 0; the broker sets it                |
//! |      8 |     4 | i32  | batch length           | bytes after this field               |
//! |     12 |     4 | i32  | partition leader epoch | -1                                   |
//! |     16 |     1 | i8   | magic                  | 2                                    |
//! |     17 |     4 | u32  | CRC-32C                | of everything after it               |
//! |     21 |     2 | i16  | attributes             | the codec's number; create time      |
//! |     23 |     4 | i32  | last offset delta      | records - 1                          |
//! |     27 |     8 | i64  | base timestamp, ms     | when the batch was made              |
//! |     35 |     8 | i64  | max timestamp, ms      | the same                             |
//! |     43 |     8 | i64  | producer id            | -1 without an identity               |
//! |     51 |     2 | i16  | producer epoch         | -1 without                           |
//! |     53 |     4 | i32  | base sequence          | -1 without                           |
//! |     57 |     4 | i32  | records                | count                                |
//!
//! A record: varint length, i8 attributes, varint timestamp delta, varint offset delta, varint key
//! length (-1 without a key), key, varint value length, value, varint header count (0 here). All
//! records of a batch are packed together by its codec.

use std::borrow::Cow;

use super::codec;
use super::wire::{Reader, WireError, patch_i32, put_i8, put_i16, put_i32, put_i64, put_varint};
use crate::client::{Append, Decoded};

/// Bytes of a batch before its records.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes before the part that the batch length counts.
const LENGTH_END: usize = 12;
const MAGIC_AT: usize = 16;
const CHECKSUM_AT: usize = 17;
/// Where the checksummed part begins.
const CHECKSUMMED_FROM: usize = 21;
const RECORDS_AT: usize = 57;
const MAGIC: u8 = 2;
const ATTRIBUTES_CODEC: i16 = 0b111;
const ATTRIBUTE_CONTROL: i16 = 1 << 5;
/// What a record costs beside its key and value: five varints at their longest use here, and
/// attributes.
pub(crate) const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 1 + 1 + 5 + 5 + 5 + 1;

/// What is wrong with a batch that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("batch length {0} is impossible")]
    Length(i32),
    #[error("record batch format {0} instead of 2")]
    Magic(u8),
    #[error("batch checksum {found:08x} where its bytes give {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    #[error("malformed record: {0}")]
    Record(#[from] WireError),
}

/// Who sends a batch, and which of the producer's records to that partition is its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
}

impl Identity {
    /// Of a producer that is not idempotent.
    pub(crate) const NONE: Self = Self {
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
    };

    /// As it is after `records` more; sequences begin again where they end.
    pub(crate) fn after(self, records: u32) -> Self {
        let sequence = (i64::from(self.base_sequence) + i64::from(records)) % (1 << 31);
        Self {
            base_sequence: i32::try_from(sequence).expect("31 bits"),
            ..self
        }
    }
}

/// Appends one batch; `fill` puts the record with the given number into its slot.
pub(crate) fn put_batch(
    out: &mut Vec<u8>,
    append: &Append,
    identity: Identity,
    mut fill: impl FnMut(u32, RecordSlot<'_>),
) {
    assert!(append.count > 0, "a batch holds records");
    let start = out.len();
    put_i64(out, 0);
    put_i32(out, 0);
    put_i32(out, -1);
    put_i8(out, 2);
    put_i32(out, 0);
    put_i16(out, codec::code(append.compression));
    let count = i32::try_from(append.count).expect("a batch is bounded by --batch");
    put_i32(out, count - 1);
    put_i64(out, append.now_ms);
    put_i64(out, append.now_ms);
    put_i64(out, identity.producer_id);
    put_i16(out, identity.producer_epoch);
    put_i32(out, identity.base_sequence);
    put_i32(out, count);
    let records_start = out.len();
    for number in 0..append.count {
        let before = out.len();
        fill(number, RecordSlot { out, number });
        assert!(out.len() > before, "every slot is filled");
    }
    if let Some(packed) = codec::pack(&out[records_start..], append.compression) {
        out.truncate(records_start);
        out.extend_from_slice(&packed);
    }
    let length = out.len() - start - LENGTH_END;
    patch_i32(out, start + 8, length);
    let checksum = crc_fast::crc32_iscsi(&out[start + CHECKSUMMED_FROM..]);
    out[start + CHECKSUM_AT..start + CHECKSUMMED_FROM].copy_from_slice(&checksum.to_be_bytes());
}

/// Where one record of a batch goes.
pub(crate) struct RecordSlot<'a> {
    out: &'a mut Vec<u8>,
    number: u32,
}

impl RecordSlot<'_> {
    /// Puts the record; `fill` appends exactly `value_bytes`.
    pub(crate) fn put(
        self,
        key: Option<&[u8]>,
        value_bytes: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let Self { out, number } = self;
        let value_length = i64::try_from(value_bytes).expect("a value is bounded by --size");
        let key_length = key.map(|key| i64::try_from(key.len()).expect("keys are short"));
        // Attributes, timestamp delta, offset delta, a length of -1 or the key and its own, the
        // value's length, no headers.
        let key_bytes = key.map_or(1, |key| varint_bytes(key_length.unwrap_or(0)) + key.len());
        let body_bytes = 1 + 1 + varint_bytes(number.into()) + key_bytes;
        let body_bytes = body_bytes + varint_bytes(value_length) + value_bytes + 1;
        put_varint(out, i64::try_from(body_bytes).expect("few"));
        put_i8(out, 0);
        put_varint(out, 0);
        put_varint(out, number.into());
        put_varint(out, key_length.unwrap_or(-1));
        out.extend_from_slice(key.unwrap_or_default());
        put_varint(out, value_length);
        let value_start = out.len();
        fill(out);
        assert_eq!(
            out.len() - value_start,
            value_bytes,
            "the length was written before the value"
        );
        put_varint(out, 0);
    }
}

/// Bytes that a varint of a non-negative number takes.
fn varint_bytes(value: i64) -> usize {
    let zigzag = value.cast_unsigned() << 1;
    let bits = 64 - (zigzag | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).expect("at most ten")
}

/// A whole batch as it lies in a fetch reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch<'a> {
    pub(crate) base_offset: u64,
    /// Offset after the last record.
    pub(crate) end_offset: u64,
    pub(crate) records: u32,
    attributes: i16,
    body: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The records unpacked; `None` if this generator cannot have written them: control records,
    /// or what no codec unpacks.
    pub(crate) fn records(&self) -> Option<Cow<'a, [u8]>> {
        if self.attributes & ATTRIBUTE_CONTROL != 0 {
            return None;
        }
        match self.attributes & ATTRIBUTES_CODEC {
            0 => Some(Cow::Borrowed(self.body)),
            code => codec::unpack(self.body, code).ok().map(Cow::Owned),
        }
    }

    /// Calls `each` with the offset and the value of every one of this batch's unpacked `records`;
    /// null values are empty.
    pub(crate) fn for_each_record(
        &self,
        records: &[u8],
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), BatchError> {
        let mut reader = Reader::new(records);
        for _ in 0..self.records {
            let length = reader.varint()?;
            let length = usize::try_from(length).map_err(|_| WireError::NegativeLength(length))?;
            let mut record = Reader::new(reader.take(length)?);
            record.i8()?;
            record.varint()?;
            let delta = record.varint()?;
            let delta = u64::try_from(delta).map_err(|_| WireError::NegativeLength(delta))?;
            record.varint_bytes()?;
            each(
                self.base_offset + delta,
                record.varint_bytes()?.unwrap_or_default(),
            );
        }
        Ok(())
    }
}

/// Splits one batch off the front of a fetched byte string, checksum verified. Brokers may cut the
/// last batch of a reply short: that is `Incomplete`.
pub(crate) fn batch(bytes: &[u8]) -> Result<Decoded<Batch<'_>>, BatchError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::Incomplete {
            need_bytes: HEADER_BYTES,
        });
    };
    let mut reader = Reader::new(header);
    let base_offset = reader.i64()?;
    let length = reader.i32()?;
    let batch_bytes = usize::try_from(length).map_err(|_| BatchError::Length(length))? + LENGTH_END;
    if header[MAGIC_AT] != MAGIC {
        return Err(BatchError::Magic(header[MAGIC_AT]));
    }
    if batch_bytes < HEADER_BYTES {
        return Err(BatchError::Length(length));
    }
    let Some(whole) = bytes.get(..batch_bytes) else {
        return Ok(Decoded::Incomplete {
            need_bytes: batch_bytes,
        });
    };
    let found = reader_at(header, CHECKSUM_AT).i32()?.cast_unsigned();
    let expected = crc_fast::crc32_iscsi(&whole[CHECKSUMMED_FROM..]);
    if found != expected {
        return Err(BatchError::Checksum { expected, found });
    }
    let mut fields = reader_at(header, CHECKSUMMED_FROM);
    let attributes = fields.i16()?;
    let last_delta = fields.i32()?;
    let records = reader_at(header, RECORDS_AT).i32()?;
    let base_offset = non_negative(base_offset)?;
    let value = Batch {
        base_offset,
        end_offset: base_offset + non_negative(last_delta.into())? + 1,
        records: u32::try_from(records).map_err(|_| WireError::NegativeLength(records.into()))?,
        attributes,
        body: &whole[HEADER_BYTES..],
    };
    Ok(Decoded::Complete {
        value,
        bytes: batch_bytes,
    })
}

/// Offset after the last whole batch of a fetched byte string, by the headers alone.
pub(crate) fn next_offset(mut bytes: &[u8]) -> Option<u64> {
    let mut next = None;
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = reader_at(header, 8)
            .i32()
            .ok()
            .and_then(|l| usize::try_from(l).ok())?;
        let Some(rest) = bytes.get(length + LENGTH_END..) else {
            break;
        };
        let base = reader_at(header, 0)
            .i64()
            .ok()
            .and_then(|o| u64::try_from(o).ok())?;
        let delta = reader_at(header, 23)
            .i32()
            .ok()
            .and_then(|d| u64::try_from(d).ok())?;
        next = Some(base + delta + 1);
        bytes = rest;
    }
    next
}

/// How many records of `sizes`, keys included, fit into a batch of `batch_bytes`; at least one.
pub(crate) fn records_per_batch(batch_bytes: usize, sizes: impl Iterator<Item = usize>) -> u32 {
    let mut room = batch_bytes.saturating_sub(HEADER_BYTES);
    let mut fits = |record_bytes: usize| {
        let left = room.checked_sub(record_bytes + RECORD_OVERHEAD_BYTES_MAX);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let records = sizes.take_while(|record_bytes| fits(*record_bytes)).count();
    u32::try_from(records.max(1)).expect("a batch is bounded by --batch")
}

fn reader_at(header: &[u8; HEADER_BYTES], position: usize) -> Reader<'_> {
    Reader::new(&header[position..])
}

fn non_negative(value: i64) -> Result<u64, WireError> {
    u64::try_from(value).map_err(|_| WireError::NegativeLength(value))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::args::Compression;

    /// Two records, "ab" and "c" padded to two bytes, written at 1,700,000,000,000 ms.
    fn golden() -> Vec<u8> {
        let mut bytes = vec![
            0, 0, 0, 0, 0, 0, 0, 0, // base offset
            0, 0, 0, 67, // batch length
            0xff, 0xff, 0xff, 0xff, // leader epoch
            2,    // magic
            0, 0, 0, 0, // checksum, below
            0, 0, // attributes
            0, 0, 0, 1, // last offset delta
            0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, // base timestamp
            0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, // max timestamp
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id
            0xff, 0xff, // producer epoch
            0xff, 0xff, 0xff, 0xff, // base sequence
            0, 0, 0, 2, // records
            16, 0, 0, 0, 1, 4, b'a', b'b', 0, // length 8, attributes, deltas, no key, value
            16, 0, 0, 2, 1, 4, b'c', b'.', 0,
        ];
        // Checked bit by bit, apart from the library that the code uses.
        let checksum = !bytes[CHECKSUMMED_FROM..].iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
            })
        });
        bytes[CHECKSUM_AT..CHECKSUMMED_FROM].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn append(count: u32) -> Append {
        Append {
            partition: 0,
            count,
            compression: Compression::None,
            now_ms: 1_700_000_000_000,
        }
    }

    fn encoded() -> Vec<u8> {
        let mut out = Vec::new();
        put_batch(&mut out, &append(2), Identity::NONE, |number, slot| {
            let value = if number == 0 { b"ab" } else { b"c." };
            slot.put(None, 2, |out| out.extend_from_slice(value));
        });
        out
    }

    #[test]
    fn a_batch_is_golden_bytes_both_ways() {
        assert_eq!(encoded(), golden());
        let bytes = golden();
        let Ok(Decoded::Complete { value, bytes: used }) = batch(&bytes) else {
            panic!("a whole batch");
        };
        assert_eq!((used, value.base_offset, value.end_offset), (79, 0, 2));
        assert_eq!(values(&value), [(0, b"ab".to_vec()), (1, b"c.".to_vec())]);
    }

    fn values(batch: &Batch<'_>) -> Vec<(u64, Vec<u8>)> {
        let records = batch.records().expect("written here");
        let mut seen = Vec::new();
        batch
            .for_each_record(&records, |offset, value| {
                seen.push((offset, value.to_owned()))
            })
            .expect("well formed");
        seen
    }

    #[test]
    fn every_codec_and_key_comes_back() {
        for compression in Compression::value_variants() {
            let append = Append {
                compression: *compression,
                ..append(300)
            };
            let mut out = Vec::new();
            put_batch(&mut out, &append, Identity::NONE, |number, slot| {
                let key = (number % 2 == 0).then_some(&b"a key"[..]);
                slot.put(key, 8, |out| {
                    out.extend_from_slice(&u64::from(number).to_le_bytes())
                });
            });
            let Ok(Decoded::Complete { value, .. }) = batch(&out) else {
                panic!("a whole batch");
            };
            let expected: Vec<_> = (0..300u64).map(|n| (n, n.to_le_bytes().to_vec())).collect();
            assert!(values(&value) == expected, "{compression:?}");
        }
    }

    #[test]
    fn a_batch_takes_what_fits_and_never_nothing() {
        let record_bytes = 100 + RECORD_OVERHEAD_BYTES_MAX;
        let room = |records| HEADER_BYTES + records * record_bytes;
        let fixed = || std::iter::repeat(100);
        assert_eq!(records_per_batch(room(7), fixed()), 7);
        assert_eq!(records_per_batch(room(7) - 1, fixed()), 6);
        assert_eq!(records_per_batch(1, fixed()), 1);
        let mixed = [100, 100, 5_000, 100].into_iter();
        assert_eq!(records_per_batch(room(9), mixed), 2, "the order stays");
    }

    #[test]
    fn every_prefix_of_a_batch_is_incomplete() {
        let bytes = golden();
        for end in 0..bytes.len() {
            let need_bytes = if end < HEADER_BYTES {
                HEADER_BYTES
            } else {
                bytes.len()
            };
            assert_eq!(
                batch(&bytes[..end]),
                Ok(Decoded::Incomplete { need_bytes }),
                "{end}"
            );
        }
    }

    #[test]
    fn any_flipped_bit_under_the_checksum_is_found() {
        for position in CHECKSUM_AT..golden().len() {
            let mut bytes = golden();
            bytes[position] ^= 0x10;
            assert!(
                matches!(batch(&bytes), Err(BatchError::Checksum { .. })),
                "{position}"
            );
        }
    }

    #[test]
    fn the_overhead_bound_holds_for_long_values() {
        let mut out = Vec::new();
        let value_bytes = 3 << 20;
        put_batch(&mut out, &append(1), Identity::NONE, |_, slot| {
            slot.put(Some(b"key"), value_bytes, |out| {
                out.resize(out.len() + value_bytes, 7)
            });
        });
        assert!(out.len() - HEADER_BYTES - value_bytes - 3 <= RECORD_OVERHEAD_BYTES_MAX);
    }
}
