//! Record batches with content that tells where it came from.

use std::borrow::Cow;

use millrace_storage::record::{BATCH_HEADER_BYTES, Batch, BatchHeader, checksum};

use crate::failure::{Checked, Failure, ensure};

/// Wall clock at which simulated time begins, milliseconds since the Unix epoch.
pub(crate) const WALL_MS_START: i64 = 1_750_000_000_000;

/// A batch as a Kafka producer sends it: `records` records, together about `value_bytes` of
/// values. Each value begins with `id`, unique in a run, and its own number. `first_ms` is the
/// first one's time, [`record_ms`] tells the others'.
pub(crate) fn batch(id: u64, records: u32, value_bytes: usize, first_ms: i64) -> Vec<u8> {
    assert!(records > 0);
    let mut bytes = vec![0; BATCH_HEADER_BYTES];
    let each = (value_bytes / records as usize).max(12);
    for number in 0..records {
        push_record(&mut bytes, id, number, each);
    }
    bytes[16] = 2;
    let last = i32::try_from(records - 1).expect("few records");
    bytes[23..27].copy_from_slice(&last.to_be_bytes());
    let times = (0..records).map(|number| record_ms(first_ms, number));
    let largest_ms = times.max().expect("at least one record");
    bytes[27..35].copy_from_slice(&first_ms.to_be_bytes());
    bytes[35..43].copy_from_slice(&largest_ms.to_be_bytes());
    bytes[43..57].fill(0xff);
    bytes[57..61].copy_from_slice(&(last + 1).to_be_bytes());
    seal(&mut bytes);
    bytes
}

/// When the record of that number was made, in a batch whose first one is of `first_ms`: later
/// ones may be older.
pub(crate) fn record_ms(first_ms: i64, number: u32) -> i64 {
    first_ms + i64::from(number * 3 % 4)
}

/// The same batch with its records compressed, in snappy.
pub(crate) fn compressed(batch: &[u8]) -> Vec<u8> {
    let (header, records) = batch.split_at(BATCH_HEADER_BYTES);
    let records = snap::raw::Encoder::new().compress_vec(records);
    let mut bytes = [header, &records.expect("batches are small")].concat();
    bytes[22] |= SNAPPY;
    seal(&mut bytes);
    bytes
}

/// Enters length and checksum.
fn seal(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - 12).expect("batches are small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
}

/// Kafka's number of the codec.
const SNAPPY: u8 = 2;

/// One record of format 2: varint length, attributes, timestamp delta, offset delta, no key, the
/// value, no headers.
fn push_record(out: &mut Vec<u8>, id: u64, number: u32, value_bytes: usize) {
    let mut body = vec![0];
    push_varint(&mut body, record_ms(0, number));
    push_varint(&mut body, i64::from(number));
    push_varint(&mut body, -1);
    push_varint(
        &mut body,
        i64::try_from(value_bytes).expect("values are small"),
    );
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(&number.to_be_bytes());
    // Bytes that differ from page to page, so that a sector of another place never passes.
    let fill = (12..value_bytes).map(|at| (id as usize ^ (at >> 8)).to_le_bytes()[0] ^ 0x5a);
    body.extend(fill);
    push_varint(&mut body, 0);
    push_varint(out, i64::try_from(body.len()).expect("records are small"));
    out.extend_from_slice(&body);
}

/// Zigzag varint, seven bits a byte, least significant first.
fn push_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

/// Makes an idempotent producer's batch of `batch`: `sequence` numbers its first record.
pub(crate) fn set_producer(batch: &mut [u8], producer_id: i64, epoch: i16, sequence: i32) {
    batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    seal(batch);
}

/// One record as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: i64,
    /// The id that [`batch`] was given.
    pub(crate) id: u64,
    /// The record's number in its batch.
    pub(crate) number: u32,
}

/// The records of whole batches made by [`batch`], in order.
pub(crate) fn batches_of(mut bytes: &[u8]) -> Checked<Vec<Seen>> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let header = BatchHeader::parse(bytes).map_err(|error| Failure(error.to_string()))?;
        let Some((whole, rest)) = bytes.split_at_checked(header.batch_bytes) else {
            // A fetch may end in the middle of a batch only where its first batch is whole.
            break;
        };
        let checked = Batch::check_stored(whole).map_err(|error| Failure(error.to_string()))?;
        let base = i64::try_from(checked.header().base_offset.0).expect("Kafka's range");
        let records = unpacked(header.codec(), &whole[BATCH_HEADER_BYTES..])?;
        let mut records = &records[..];
        for at in 0..header.records {
            let (id, number) = take_record(&mut records)
                .ok_or_else(|| Failure(format!("record {at} of a batch is not one of ours")))?;
            ensure!(
                number == at,
                "record {at} of a batch says that it is number {number}"
            );
            seen.push(Seen {
                offset: base + i64::from(at),
                id,
                number,
            });
        }
        bytes = rest;
    }
    Ok(seen)
}

/// A batch's records as they were before [`compressed`].
fn unpacked(codec: u8, records: &[u8]) -> Checked<Cow<'_, [u8]>> {
    if codec != SNAPPY {
        return Ok(Cow::Borrowed(records));
    }
    let plain = snap::raw::Decoder::new().decompress_vec(records);
    let plain = plain.map_err(|error| Failure(format!("records do not unpack: {error}")))?;
    Ok(Cow::Owned(plain))
}

/// Takes the next record: its batch's id and its number.
fn take_record(input: &mut &[u8]) -> Option<(u64, u32)> {
    let body_bytes = usize::try_from(take_varint(input)?).ok()?;
    let (mut body, rest) = input.split_at_checked(body_bytes)?;
    *input = rest;
    body = body.get(1..)?;
    take_varint(&mut body)?;
    take_varint(&mut body)?;
    take_varint(&mut body)?;
    take_varint(&mut body)?;
    let id = u64::from_be_bytes(*body.first_chunk()?);
    let number = u32::from_be_bytes(*body.get(8..)?.first_chunk()?);
    Some((id, number))
}

fn take_varint(input: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_pass_the_broker_s_own_check() {
        for (records, value_bytes) in [(1, 1), (3, 100), (50, 40_000)] {
            let plain = batch(9, records, value_bytes, WALL_MS_START);
            for bytes in [compressed(&plain), plain] {
                let checked = Batch::check(&bytes).expect("a good batch");
                assert_eq!(checked.header().records, records);
                let seen = batches_of(&bytes).expect("records of ours");
                let expected = (0..records).map(|number| (number.into(), 9, number));
                let found = seen.iter().map(|seen| (seen.offset, seen.id, seen.number));
                assert!(expected.eq(found), "{seen:?}");
            }
        }
    }
}
