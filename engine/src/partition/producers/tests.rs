//! Retries of idempotent producers.

use super::*;
use millrace_storage::units::LeaderEpoch;

const MAX: usize = 3;

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

/// Appends ten-record batches of producer 1 with the given first sequences.
fn appended(sequences: &[i32]) -> Producers {
    let mut producers = Producers::default();
    for (offset, sequence) in (0..).step_by(10).zip(sequences) {
        append(&mut producers, &header(1, 0, *sequence, 10), offset);
    }
    producers
}

fn append(producers: &mut Producers, header: &BatchHeader, offset: u64) {
    assert_eq!(producers.check(header, MAX), Ok(Verdict::New));
    producers.record(header, Offset(offset), None, Lsn(offset + 1), BootTime(1));
}

#[test]
fn each_of_the_last_five_batches_is_recognised() {
    let producers = appended(&[0, 10, 20, 30, 40, 50]);
    for (sequence, offset) in [(10, 10), (30, 30), (50, 50)] {
        match producers.check(&header(1, 0, sequence, 10), MAX) {
            Ok(Verdict::Repeated(batch)) => {
                assert_eq!(batch.base_offset, Offset(offset));
                assert_eq!(batch.lsn, Lsn(offset + 1));
            }
            other => panic!("{sequence}: {other:?}"),
        }
    }
    assert_eq!(
        producers.check(&header(1, 0, 0, 10), MAX),
        Err(Refusal::DuplicateSequence),
        "appended, but its offset is forgotten"
    );
}

#[test]
fn gaps_and_other_cuts_of_the_same_records_are_refused() {
    let producers = appended(&[0, 10]);
    for (sequence, records) in [(30, 10), (10, 5), (15, 5), (5, 10)] {
        assert_eq!(
            producers.check(&header(1, 0, sequence, records), MAX),
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
    assert_eq!(
        producers.check(&header(2, 0, 7, 1), MAX),
        Err(Refusal::UnknownProducer)
    );
    assert_eq!(producers.check(&header(2, 5, 0, 1), MAX), Ok(Verdict::New));
    assert_eq!(
        producers.check(&header(-1, -1, -1, 1), MAX),
        Ok(Verdict::New)
    );
    assert!(producers.check(&header(2, 0, -1, 1), MAX).is_err());
    assert!(producers.check(&header(2, -1, 0, 1), MAX).is_err());
}

#[test]
fn epochs_fence_and_a_new_one_begins_at_zero() {
    let mut producers = Producers::default();
    append(&mut producers, &header(1, 3, 0, 10), 0);
    assert_eq!(
        producers.check(&header(1, 2, 10, 1), MAX),
        Err(Refusal::ProducerFenced {
            current: 3,
            received: 2
        })
    );
    assert!(matches!(
        producers.check(&header(1, 4, 10, 1), MAX),
        Err(Refusal::OutOfOrderSequence { expected: 0, .. })
    ));
    append(&mut producers, &header(1, 4, 0, 1), 10);
    assert!(matches!(
        producers.check(&header(1, 4, 0, 1), MAX),
        Ok(Verdict::Repeated(batch)) if batch.base_offset == Offset(10)
    ));
}

#[test]
fn sequences_begin_anew_after_the_largest() {
    let mut producers = Producers::default();
    let first = header(1, 0, i32::MAX - 4, 10);
    // Found in the log by a start: the producer's beginning is no longer there.
    producers.record(&first, Offset(0), None, Lsn(0), BootTime(1));
    append(&mut producers, &header(1, 0, 5, 10), 10);
    assert!(matches!(
        producers.check(&first, MAX),
        Ok(Verdict::Repeated(batch)) if batch.base_offset == Offset(0)
    ));
    assert!(matches!(
        producers.check(&header(1, 0, i32::MAX - 14, 10), MAX),
        Err(Refusal::OutOfOrderSequence { expected: 15, .. }),
    ));
}

#[test]
fn idle_producers_make_room_and_a_full_table_refuses_new_ones() {
    let mut producers = Producers::default();
    for id in 0..3 {
        append(&mut producers, &header(id, 0, 0, 1), 0);
    }
    assert!(matches!(
        producers.check(&header(9, 0, 0, 1), MAX),
        Err(Refusal::LimitReached { max: 3, .. })
    ));
    producers.record(&header(2, 0, 1, 1), Offset(1), None, Lsn(9), BootTime(5));
    producers.expire(BootTime(4));
    assert_eq!(producers.len(), 1);
    assert_eq!(producers.check(&header(9, 0, 0, 1), MAX), Ok(Verdict::New));
}

#[test]
fn the_table_survives_a_round_trip_as_durable() {
    let mut producers = appended(&[0, 10, 20, 30, 40, 50]);
    let stamped = header(2, 1, 0, 4);
    producers.record(&stamped, Offset(60), Some(-7), Lsn(9), BootTime(1));
    let mut out = Encoder::default();
    producers.encode(&mut out);
    let bytes = out.into_bytes();
    let mut input = Decoder::new(&bytes);
    let restored = Producers::decode(&mut input, BootTime(8)).expect("good");
    assert_eq!(input.finish(), Ok(()));
    assert_eq!(restored.len(), 2);
    for (batch, offset, stamp) in [(header(1, 0, 50, 10), 50, None), (stamped, 60, Some(-7))] {
        match restored.check(&batch, MAX) {
            Ok(Verdict::Repeated(found)) => {
                assert_eq!(found.base_offset, Offset(offset));
                assert_eq!(found.append_time_ms, stamp);
                assert_eq!(found.lsn, Lsn(0));
            }
            other => panic!("{other:?}"),
        }
    }
    for end in 0..bytes.len() {
        assert!(Producers::decode(&mut Decoder::new(&bytes[..end]), BootTime(8)).is_err());
    }
}
