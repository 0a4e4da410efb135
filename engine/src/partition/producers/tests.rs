//! Retries of idempotent producers.

use super::*;
use millrace_storage::units::LeaderEpoch;

fn header(id: i64, epoch: i16, sequence: i32, records: u32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        batch_bytes: 100,
        leader_epoch: LeaderEpoch(0),
        checksum: 0,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp_ms: 0,
        max_timestamp_ms: 0,
        producer_id: id,
        producer_epoch: epoch,
        base_sequence: sequence,
        records,
    }
}

/// Producers of one record each.
pub(crate) fn known(ids: &[i64]) -> Producers {
    let mut producers = Producers::default();
    for id in ids {
        append(&mut producers, &header(*id, 0, 0, 1), 0);
    }
    producers
}

/// Appends ten-record batches of producer 1 with the given first sequences.
fn appended(sequences: &[i32]) -> Producers {
    let mut producers = Producers::default();
    for (offset, sequence) in (0..).step_by(10).zip(sequences) {
        append(&mut producers, &header(1, 0, *sequence, 10), offset);
    }
    producers
}

fn append(producers: &mut Producers, header: &BatchHeader, offset: u64) {
    assert_eq!(producers.check(header), Ok(Verdict::New));
    producers.record(header, Offset(offset), None, Lsn(offset + 1));
}

#[test]
fn each_of_the_last_five_batches_is_recognised() {
    let producers = appended(&[0, 10, 20, 30, 40, 50]);
    for (sequence, offset) in [(10, 10), (30, 30), (50, 50)] {
        match producers.check(&header(1, 0, sequence, 10)) {
            Ok(Verdict::Repeated(batch)) => {
                assert_eq!(batch.base_offset, Offset(offset));
                assert_eq!(batch.lsn, Lsn(offset + 1));
            }
            other => panic!("{sequence}: {other:?}"),
        }
    }
    assert_eq!(
        producers.check(&header(1, 0, 0, 10)),
        Ok(Verdict::Forgotten { lsn: Lsn(11) }),
        "appended, and durable before the oldest that is remembered"
    );
}

#[test]
fn a_gap_is_no_old_batch_however_many_records_there_are() {
    const HALF: u32 = 1 << 30;
    let mut producers = Producers::default();
    append(&mut producers, &header(1, 0, 0, HALF), 0);
    append(&mut producers, &header(1, 0, 1 << 30, HALF), 0);
    for sequence in (0..60).step_by(10) {
        append(&mut producers, &header(1, 0, sequence, 10), 0);
    }
    for (sequence, is_behind) in [(0, true), (-10, true), (70, false), (1 << 29, false)] {
        let sequence = sequence & i32::MAX;
        let verdict = producers.check(&header(1, 0, sequence, 10));
        let is_forgotten = matches!(verdict, Ok(Verdict::Forgotten { .. }));
        let is_gap = matches!(
            verdict,
            Err(Refusal::OutOfOrderSequence { expected: 60, .. })
        );
        assert_eq!(
            (is_forgotten, is_gap),
            (is_behind, !is_behind),
            "{sequence}"
        );
    }
}

#[test]
fn gaps_and_other_cuts_of_the_same_records_are_refused() {
    let producers = appended(&[0, 10]);
    for (sequence, records) in [(30, 10), (10, 5), (15, 5), (5, 10)] {
        assert_eq!(
            producers.check(&header(1, 0, sequence, records)),
            Err(Refusal::OutOfOrderSequence {
                expected: 20,
                received: sequence
            }),
            "{sequence}"
        );
    }
}

#[test]
fn an_unknown_producer_must_begin_at_zero() {
    let producers = appended(&[0]);
    assert_eq!(producers.check(&header(2, 0, 7, 1)), Ok(Verdict::Unknown));
    assert_eq!(producers.check(&header(2, 5, 0, 1)), Ok(Verdict::New));
    assert_eq!(producers.check(&header(-1, -1, -1, 1)), Ok(Verdict::New));
    assert!(producers.check(&header(2, 0, -1, 1)).is_err());
    assert!(producers.check(&header(2, -1, 0, 1)).is_err());
}

#[test]
fn epochs_fence_and_a_new_one_begins_at_zero() {
    let mut producers = Producers::default();
    append(&mut producers, &header(1, 3, 0, 10), 0);
    assert_eq!(
        producers.check(&header(1, 2, 10, 1)),
        Err(Refusal::ProducerFenced {
            current: 3,
            received: 2
        })
    );
    assert!(matches!(
        producers.check(&header(1, 4, 10, 1)),
        Err(Refusal::OutOfOrderSequence { expected: 0, .. })
    ));
    append(&mut producers, &header(1, 4, 0, 1), 10);
    assert!(matches!(
        producers.check(&header(1, 4, 0, 1)),
        Ok(Verdict::Repeated(batch)) if batch.base_offset == Offset(10)
    ));
}

#[test]
fn sequences_begin_anew_after_the_largest() {
    let mut producers = Producers::default();
    let first = header(1, 0, i32::MAX - 4, 10);
    // Found in the log by a start: the producer's beginning is no longer there.
    producers.record(&first, Offset(0), None, Lsn(0));
    append(&mut producers, &header(1, 0, 5, 10), 10);
    assert!(matches!(
        producers.check(&first),
        Ok(Verdict::Repeated(batch)) if batch.base_offset == Offset(0)
    ));
    assert!(matches!(
        producers.check(&header(1, 0, i32::MAX - 14, 10)),
        Err(Refusal::OutOfOrderSequence { expected: 15, .. }),
    ));
}

#[test]
fn a_forgotten_producer_begins_anew() {
    let mut producers = appended(&[0, 10]);
    producers.forget(1);
    assert_eq!(producers.check(&header(1, 0, 20, 10)), Ok(Verdict::Unknown));
    assert_eq!(producers.check(&header(1, 1, 0, 10)), Ok(Verdict::New));
}

#[test]
fn those_used_last_are_kept() {
    let mut producers = known(&[1, 2, 3]);
    for (id, place) in [(1, 9), (2, 4), (3, 7)] {
        *producers.place_mut(id).expect("known") = Place(place);
    }
    assert_eq!(producers.by_use(), [2, 3, 1]);
    producers.keep_last_used(2);
    assert_eq!(producers.by_use(), [3, 1]);
}

#[test]
fn the_table_survives_a_round_trip_as_durable() {
    let mut producers = appended(&[0, 10, 20, 30, 40, 50]);
    let stamped = header(2, 1, 0, 4);
    producers.record(&stamped, Offset(60), Some(-7), Lsn(9));
    let mut out = Encoder::default();
    producers.encode(&mut out);
    let bytes = out.into_bytes();
    let mut input = Decoder::new(&bytes);
    let restored = Producers::decode(&mut input).expect("good");
    assert_eq!(input.finish(), Ok(()));
    assert_eq!(restored.len(), 2);
    for (batch, offset, stamp) in [(header(1, 0, 50, 10), 50, None), (stamped, 60, Some(-7))] {
        match restored.check(&batch) {
            Ok(Verdict::Repeated(found)) => {
                assert_eq!(found.base_offset, Offset(offset));
                assert_eq!(found.append_time_ms, stamp);
                assert_eq!(found.lsn, Lsn(0));
            }
            other => panic!("{other:?}"),
        }
    }
    for end in 0..bytes.len() {
        assert!(Producers::decode(&mut Decoder::new(&bytes[..end])).is_err());
    }
}
