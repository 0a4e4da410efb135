//! Batches in every codec, whole, cut and hostile.

use std::io::Write;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::testing::{BatchMaker, WALL_MS};

const DELTAS: [i64; 4] = [0, 30, 10, 30];

fn gzip(records: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(records).expect("memory");
    out.finish().expect("memory")
}

fn snappy(records: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new()
        .compress_vec(records)
        .expect("memory")
}

/// As Java sends it: blocks of their own.
fn snappy_stream(records: &[u8]) -> Vec<u8> {
    let mut out = SNAPPY_STREAM_MAGIC.to_vec();
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    for block in records.chunks(5) {
        let block = snappy(block);
        out.extend_from_slice(&u32::try_from(block.len()).expect("small").to_be_bytes());
        out.extend_from_slice(&block);
    }
    out
}

fn lz4(records: &[u8]) -> Vec<u8> {
    let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
    out.write_all(records).expect("memory");
    out.finish().expect("memory")
}

fn zstd(records: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(records, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The same records in every codec, by the codec's number.
fn every_codec() -> Vec<(i16, Vec<u8>)> {
    let plain = BatchMaker::new(1).deltas(&DELTAS);
    let records = plain.records_alone().to_vec();
    [
        (0, records.clone()),
        (1, gzip(&records)),
        (2, snappy(&records)),
        (2, snappy_stream(&records)),
        (3, lz4(&records)),
        (4, zstd(&records)),
    ]
    .into_iter()
    .map(|(codec, payload)| {
        (
            codec,
            plain.clone().attributes(codec).payload(payload).bytes(),
        )
    })
    .collect()
}

type Compress = fn(&[u8]) -> Vec<u8>;

/// A frame that decoders skip.
fn skipped(content: &[u8]) -> Vec<u8> {
    let mut frame = 0x184d_2a57_u32.to_le_bytes().to_vec();
    frame.extend_from_slice(&u32::try_from(content.len()).expect("small").to_le_bytes());
    frame.extend_from_slice(content);
    frame
}

/// The records in several streams of one codec, as a producer that flushes makes them, with empty
/// streams between, and what may be skipped where it may.
fn in_streams(compress: Compress, skips: bool, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in records.chunks(5) {
        if skips {
            out.extend(skipped(&[]));
            out.extend(skipped(part));
        }
        out.extend(compress(part));
        out.extend(compress(&[]));
    }
    out
}

fn at(ms: i64) -> RecordQuery {
    RecordQuery::AtOrAfter(WALL_MS + ms)
}

#[test]
fn records_are_found_by_time_in_every_codec() {
    for (codec, batch) in every_codec() {
        let find = |by| find_record(&Bytes::from(batch.clone()), by, 0);
        let found = |delta, ms| JobResult::FoundRecord(Some((delta, WALL_MS + ms)));
        assert_eq!(find(at(-9)), found(0, 0), "{codec}");
        assert_eq!(find(at(5)), found(1, 30), "{codec}");
        assert_eq!(find(at(31)), JobResult::FoundRecord(None), "{codec}");
        assert_eq!(find(RecordQuery::MaxTimestamp), found(1, 30), "{codec}");
        let find_after = |by| find_record(&Bytes::from(batch.clone()), by, 2);
        assert_eq!(find_after(at(-9)), found(2, 10), "{codec}");
        assert_eq!(
            find_after(RecordQuery::MaxTimestamp),
            found(3, 30),
            "{codec}"
        );
    }
}

#[test]
fn records_are_found_in_any_number_of_compressed_streams() {
    let plain = BatchMaker::new(1).deltas(&DELTAS);
    let codecs: [(i16, Compress, bool); 4] = [
        (1, gzip, false),
        (2, snappy_stream, false),
        (3, lz4, true),
        (4, zstd, true),
    ];
    for (codec, compress, skips) in codecs {
        let payload = in_streams(compress, skips, plain.records_alone());
        let batch = plain.clone().attributes(codec).payload(payload).bytes();
        let find =
            |by| search(&batch, (by, 0), SEARCH_BYTES_MAX).map_err(|error| error.to_string());
        assert_eq!(find(at(5)), Ok(Some((1, WALL_MS + 30))), "{codec}");
        assert_eq!(find(at(31)), Ok(None), "{codec}");
        // Only the search for something late must see the end.
        for end in BATCH_HEADER_BYTES..batch.len() {
            let found = search(&batch[..end], (at(31), 0), SEARCH_BYTES_MAX);
            assert!(!matches!(found, Ok(Some(_))), "{codec} cut at {end}");
        }
        let all_bytes = plain.records_alone().len();
        assert!(search(&batch, (at(31), 0), all_bytes).is_ok(), "{codec}");
        assert!(
            search(&batch, (at(31), 0), all_bytes - 1).is_err(),
            "{codec}"
        );
    }
}

#[test]
fn no_cut_or_flipped_batch_is_more_than_unreadable() {
    for (codec, batch) in every_codec() {
        for end in BATCH_HEADER_BYTES..batch.len() {
            // Only the search for something late must see the end.
            let found = search(&batch[..end], (at(31), 0), SEARCH_BYTES_MAX);
            assert!(!matches!(found, Ok(Some(_))), "{codec} cut at {end}");
        }
        for at_byte in BATCH_HEADER_BYTES..batch.len() {
            let mut bad = batch.clone();
            bad[at_byte] ^= 0xff;
            let _ = search(&bad, (at(31), 0), SEARCH_BYTES_MAX);
        }
    }
}

#[test]
fn what_unpacks_to_too_much_is_given_up() {
    // One record of a megabyte of zeros, then one more.
    let mut records = vec![0x86, 0x80, 0x80, 0x01, 0, 0, 0];
    records.resize(7 + (1 << 20), 0);
    records.extend_from_slice(&[6, 0, 2, 2]);
    for payload in [
        gzip(&records),
        zstd(&records),
        lz4(&records),
        snappy(&records),
    ]
    .into_iter()
    .zip([1, 4, 3, 2])
    {
        let (payload, codec) = payload;
        let bomb = BatchMaker::new(1)
            .attributes(codec)
            .payload(payload)
            .declare_records(2);
        assert!(
            search(&bomb.bytes(), (at(1), 0), 2 << 20).is_ok(),
            "{codec}: all of it"
        );
        assert!(
            search(&bomb.bytes(), (at(1), 0), 64 << 10).is_err(),
            "{codec}"
        );
    }
}

/// A frame of one raw block, with a window of that many bits.
fn zstd_with_window(bits: u8, records: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (bits - 10) << 3];
    let block = u32::try_from(records.len()).expect("small") << 3 | 1;
    frame.extend_from_slice(&block.to_le_bytes()[..3]);
    frame.extend_from_slice(records);
    frame
}

#[test]
fn zstds_highest_levels_are_read_and_no_larger_windows() {
    let plain = BatchMaker::new(1).deltas(&DELTAS);
    for (bits, is_read) in [(10, true), (23, true), (25, true), (27, true), (28, false)] {
        let payload = zstd_with_window(bits, plain.records_alone());
        let batch = plain.clone().attributes(4).payload(payload).bytes();
        let found = search(&batch, (at(5), 0), SEARCH_BYTES_MAX);
        assert_eq!(found.is_ok(), is_read, "{bits}: {found:?}");
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let cases: [&[u8]; 5] = [
        &[],
        &[0x01, 0],       // Length -1.
        &[0x02, 0, 0, 0], // Shorter than its fields.
        &[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ], // No end.
        &[0x0c, 0, 0, 0x20, 0, 0, 0], // Offset delta 16.
    ];
    for payload in cases {
        let batch = BatchMaker::new(1).payload(payload.to_vec()).bytes();
        assert!(
            search(&batch, (at(1), 0), SEARCH_BYTES_MAX).is_err(),
            "{payload:?}"
        );
    }
}

/// Batches with a few bytes changed, so that the codecs get far into them. Raise `SEARCH_FUZZ` in
/// the environment for more than `cargo test` has time for.
#[test]
fn mutated_batches_never_panic() {
    let rounds = std::env::var("SEARCH_FUZZ").map_or(2_000, |text| text.parse().expect("a count"));
    let mut random = Pcg64Mcg::seed_from_u64(11);
    let long: Vec<i64> = (0..3_000).map(|at| at * at % 977).collect();
    let records = BatchMaker::new(1).deltas(&long);
    let plain = records.records_alone();
    let payloads = [
        (1, gzip(plain)),
        (2, snappy(plain)),
        (2, snappy_stream(plain)),
        (3, lz4(plain)),
        (4, zstd(plain)),
        (3, in_streams(lz4, true, &plain[..400])),
        (4, in_streams(zstd, true, &plain[..400])),
    ];
    for (codec, payload) in payloads {
        let batch = records.clone().attributes(codec).payload(payload).bytes();
        fuzz_search(&batch);
        for _ in 0..rounds {
            let mut bad = batch.clone();
            for _ in 0..1 + random.next_u32() % 4 {
                // Half of the changes hit the first bytes: that is where the lengths are.
                let body = bad.len() - BATCH_HEADER_BYTES;
                let span = if random.next_u32().is_multiple_of(2) {
                    40.min(body)
                } else {
                    body
                };
                let at = BATCH_HEADER_BYTES + random.next_u32() as usize % span;
                bad[at] = random.next_u32().to_le_bytes()[0];
            }
            fuzz_search(&bad);
        }
    }
}
