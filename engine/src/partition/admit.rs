//! Judges a batch before it is appended: everything that needs neither its place nor its past.
//!
//! Budget: one pass over the bytes for the checksum, nothing decompressed, no allocation.

use millrace_storage::record::{BATCH_HEADER_BYTES, Batch, BatchError, BatchHeader};

use crate::catalog::config::TopicDefaults;
use crate::event::Refusal;
use crate::limits::RECORDS_PER_BYTE_MAX;

/// Codecs that exist: none, gzip, snappy, lz4, zstd.
const CODEC_MAX: u8 = 4;
/// The smallest record: its length, attributes, two deltas, two lengths and a header count.
const RECORD_BYTES_MIN: u64 = 7;
/// No timestamp, in Kafka's records.
const NO_TIMESTAMP: i64 = -1;

/// Checks `bytes` as a client sent them against a topic's settings.
pub(crate) fn admit<'a>(
    bytes: &'a [u8],
    settings: &TopicDefaults,
    wall_ms: i64,
) -> Result<Batch<'a>, Refusal> {
    let bytes_max = settings.message_bytes_max;
    if bytes.len() > bytes_max {
        return Err(Refusal::BatchTooLarge {
            bytes: bytes.len(),
            bytes_max,
        });
    }
    let batch = Batch::check(bytes).map_err(Refusal::BadBatch)?;
    let header = batch.header();
    if header.codec() > CODEC_MAX {
        return Err(Refusal::UnknownCodec(header.codec()));
    }
    if header.is_transactional() || header.is_control() {
        return Err(Refusal::NoTransaction);
    }
    check_record_count(header)?;
    check_timestamps(header, settings, wall_ms)?;
    Ok(batch)
}

fn check_record_count(header: &BatchHeader) -> Result<(), Refusal> {
    let records = u64::from(header.records);
    let batch_bytes = header.batch_bytes as u64;
    let fits = match header.codec() {
        0 => records * RECORD_BYTES_MIN <= batch_bytes - BATCH_HEADER_BYTES as u64,
        _ => records <= batch_bytes * RECORDS_PER_BYTE_MAX,
    };
    if fits {
        Ok(())
    } else {
        Err(Refusal::BadBatch(BatchError::Counts))
    }
}

fn check_timestamps(
    header: &BatchHeader,
    settings: &TopicDefaults,
    wall_ms: i64,
) -> Result<(), Refusal> {
    if settings.append_time {
        return Ok(()); // The log's own stamp replaces whatever the producer put there.
    }
    // Only the log sets that flag: readers would take the batch's maximum for every record's time.
    if header.is_append_time() {
        return Err(Refusal::InvalidTimestamp);
    }
    let largest = header.max_timestamp_ms;
    let ahead = largest.saturating_sub(wall_ms);
    if largest != NO_TIMESTAMP && ahead > settings.timestamp_after_max_ms {
        return Err(Refusal::InvalidTimestamp);
    }
    let first = header.base_timestamp_ms;
    let behind = wall_ms.saturating_sub(first);
    if first != NO_TIMESTAMP && behind > settings.timestamp_before_max_ms {
        return Err(Refusal::InvalidTimestamp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{BatchMaker, WALL_MS};

    fn admit_with(settings: &TopicDefaults, bytes: &[u8]) -> Option<Refusal> {
        admit(bytes, settings, WALL_MS).err()
    }

    fn refusal(maker: &BatchMaker) -> Option<Refusal> {
        admit_with(&TopicDefaults::default(), &maker.bytes())
    }

    #[test]
    fn an_ordinary_batch_is_admitted() {
        assert_eq!(refusal(&BatchMaker::new(3)), None);
    }

    #[test]
    fn size_and_content_are_checked() {
        let bytes = BatchMaker::new(3).bytes();
        let small = TopicDefaults {
            message_bytes_max: bytes.len() - 1,
            ..TopicDefaults::default()
        };
        assert_eq!(
            admit_with(&small, &bytes),
            Some(Refusal::BatchTooLarge {
                bytes: bytes.len(),
                bytes_max: bytes.len() - 1
            })
        );
        let mut torn = bytes;
        *torn.last_mut().expect("not empty") ^= 1;
        assert_eq!(
            admit_with(&TopicDefaults::default(), &torn),
            Some(Refusal::BadBatch(BatchError::Checksum))
        );
    }

    #[test]
    fn what_is_not_built_or_does_not_exist_is_refused() {
        for codec in 1..=4 {
            assert_eq!(refusal(&BatchMaker::new(1).attributes(codec)), None);
        }
        let unknown = BatchMaker::new(1).attributes(5);
        assert_eq!(refusal(&unknown), Some(Refusal::UnknownCodec(5)));
        for flag in [1 << 4, 1 << 5] {
            let batch = BatchMaker::new(1).attributes(flag);
            assert_eq!(refusal(&batch), Some(Refusal::NoTransaction));
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused() {
        let bad = Some(Refusal::BadBatch(BatchError::Counts));
        let plain = BatchMaker::new(1);
        assert_eq!(refusal(&plain.clone().declare_records(1_000_000)), bad);
        let packed = plain.attributes(4);
        assert_eq!(refusal(&packed.clone().declare_records(50_000)), None);
        assert_eq!(refusal(&packed.declare_records(1_000_000)), bad);
    }

    #[test]
    fn timestamps_are_held_to_the_topics_bounds() {
        let settings = TopicDefaults {
            timestamp_before_max_ms: 100,
            timestamp_after_max_ms: 10,
            ..TopicDefaults::default()
        };
        let at = |first: i64, largest: i64| BatchMaker::new(1).timestamps(first, largest).bytes();
        let bad = Some(Refusal::InvalidTimestamp);
        assert_eq!(
            admit_with(&settings, &at(WALL_MS - 100, WALL_MS + 10)),
            None
        );
        assert_eq!(admit_with(&settings, &at(WALL_MS, WALL_MS + 11)), bad);
        assert_eq!(admit_with(&settings, &at(WALL_MS - 101, WALL_MS)), bad);
        assert_eq!(admit_with(&settings, &at(-1, -1)), None, "no timestamp");
        assert_eq!(admit_with(&settings, &at(i64::MIN, i64::MAX)), bad);
        let stamped = TopicDefaults {
            append_time: true,
            ..settings
        };
        assert_eq!(admit_with(&stamped, &at(i64::MIN, i64::MAX)), None);
        assert_eq!(refusal(&BatchMaker::new(1).attributes(1 << 3)), bad);
    }
}
