//! Consuming: from where, by offset and by time, and waiting at the end.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::broker::{Broker, Directory, PATIENCE, assign, offsets, read, unwatched, values};

#[test]
fn a_consumer_reads_from_where_it_is_put() {
    let directory = Directory::new("seek");
    let broker = Broker::start(&directory, &[]);
    let producer = broker.producer(&[("batch.num.messages", "10")]);
    assert_eq!(
        producer.send_all("seek", 0, &values(0, 200)),
        offsets(0, 200)
    );
    let consumer = broker.consumer(&[]);
    assert_eq!(
        consumer.fetch_watermarks("seek", 0, PATIENCE).unwrap(),
        (0, 200)
    );

    assign(&consumer, "seek", 0, Offset::Offset(57));
    assert_eq!(read(&consumer, 3)[0].offset, 57, "the middle of a batch");
    consumer
        .seek("seek", 0, Offset::Offset(3), PATIENCE)
        .unwrap();
    let again = read(&consumer, 10);
    assert_eq!((again[0].offset, again[9].value.as_str()), (3, "value 12"));
    consumer
        .seek("seek", 0, Offset::OffsetTail(5), PATIENCE)
        .unwrap();
    assert_eq!(read(&consumer, 1)[0].offset, 195);
    broker.stop();
}

#[test]
fn a_consumer_at_the_end_gets_the_next_record_at_once() {
    let directory = Directory::new("tail");
    let broker = Broker::start(&directory, &[]);
    let producer = broker.producer(&[("linger.ms", "0")]);
    producer.send_all("tail", 0, &values(0, 1));
    let consumer = broker.consumer(&[("fetch.wait.max.ms", "20000")]);
    assign(&consumer, "tail", 0, Offset::Offset(1));
    assert!(
        consumer
            .poll(Duration::from_millis(500))
            .is_none_or(|m| m.is_err()),
        "at the end"
    );
    let before = Instant::now();
    producer.send_all("tail", 0, &values(1, 2));
    assert_eq!(read(&consumer, 1)[0].value, "value 1");
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "the parked fetch woke"
    );
    broker.stop();
}

#[test]
fn a_time_leads_to_the_first_record_at_or_after_it() {
    let directory = Directory::new("by-time");
    let broker = Broker::start(&directory, &[]);
    for codec in ["none", "lz4"] {
        let topic = format!("by-time-{codec}");
        let producer = broker.producer(&[("compression.type", codec), ("linger.ms", "50")]);
        for n in 0..100 {
            let record = BaseRecord::<(), str, _>::with_opaque_to(&topic, unwatched())
                .partition(0)
                .payload("x")
                .timestamp(1_000_000 + n * 10);
            producer.send(record);
        }
        producer.0.flush(PATIENCE).unwrap();
        let consumer = broker.consumer(&[]);
        let cases = [
            (0, Offset::Offset(0)),
            (1_000_500, Offset::Offset(50)),
            (1_000_501, Offset::Offset(51)),
            (9_000_000, Offset::End),
        ];
        for (time_ms, expected) in cases {
            let mut times = TopicPartitionList::new();
            times
                .add_partition_offset(&topic, 0, Offset::Offset(time_ms))
                .unwrap();
            let found = consumer.offsets_for_times(times, PATIENCE).unwrap();
            assert_eq!(
                found.elements()[0].offset(),
                expected,
                "{codec} at {time_ms}"
            );
        }
    }
    broker.stop();
}

#[test]
fn more_than_the_caches_hold_is_read_from_the_disk_and_after_a_restart() {
    let directory = Directory::new("cold");
    let small = [
        "--set",
        "memory.tail_cache_bytes=1MiB",
        "--set",
        "memory.unsettled_cache_bytes=0",
        "--set",
        "settle.after_ms=200",
    ];
    let broker = Broker::start(&directory, &small);
    let producer = broker.producer(&[]);
    let large: Vec<String> = (0..600)
        .map(|n| format!("{n:>8}{}", "x".repeat(50_000)))
        .collect();
    assert_eq!(producer.send_all("cold", 0, &large), offsets(0, 600));
    let check = |broker: &Broker| {
        let read = broker.read_all("cold", 0);
        assert_eq!(read.len(), large.len());
        assert!(
            read.iter()
                .zip(&large)
                .all(|(read, sent)| read.value == *sent)
        );
    };
    check(&broker);
    broker.stop();
    let broker = Broker::start(&directory, &small);
    check(&broker);
    broker.stop();
}
