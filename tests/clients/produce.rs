//! Producing: compression, acknowledgements, idempotence, properties of records.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

use crate::broker::{Broker, Directory, PATIENCE, offsets, unwatched, values};

#[test]
fn every_compression_comes_back_as_it_was_sent() {
    let directory = Directory::new("compression");
    let broker = Broker::start(&directory, &[]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("compressed-{codec}");
        let settings = [("compression.type", codec), ("linger.ms", "50")];
        let producer = broker.producer(&settings);
        let values = values(0, 500);
        assert_eq!(
            producer.send_all(&topic, 0, &values),
            offsets(0, 500),
            "{codec}"
        );
        let read = broker.read_all(&topic, 0);
        let read: Vec<String> = read.into_iter().map(|record| record.value).collect();
        assert_eq!(read, values, "{codec}");
    }
    broker.stop();
}

#[test]
fn every_kind_of_acknowledgement_stores_the_records() {
    let directory = Directory::new("acks");
    let broker = Broker::start(&directory, &[]);
    for acks in ["0", "1", "all"] {
        let topic = format!("acks-{acks}");
        let producer = broker.producer(&[("acks", acks)]);
        // With acks=0 the client is told no offsets; -1 or -1001 stand for that.
        let told = producer.send_all(&topic, 0, &values(0, 100));
        assert!(acks == "0" || told == offsets(0, 100), "{acks}: {told:?}");
        let consumer = broker.consumer(&[]);
        crate::broker::assign(&consumer, &topic, 0, rdkafka::Offset::Beginning);
        let read = crate::broker::read(&consumer, 100);
        assert_eq!(read[99].value, "value 99", "{acks}");
    }
    broker.stop();
}

#[test]
fn an_idempotent_producer_goes_on_after_a_restart_of_the_broker() {
    let directory = Directory::new("idempotence");
    let broker = Broker::start(&directory, &[]);
    // The client must find the broker again: keep the port.
    let port = broker.address.clone();
    let producer = broker.producer(&[("enable.idempotence", "true"), ("linger.ms", "0")]);
    assert_eq!(
        producer.send_all("exact", 0, &values(0, 300)),
        offsets(0, 300)
    );
    broker.kill();
    let broker = Broker::start_at(&directory, &port, &[]);
    assert_eq!(
        producer.send_all("exact", 0, &values(300, 600)),
        offsets(300, 600)
    );
    let read = broker.read_all("exact", 0);
    let read: Vec<String> = read.into_iter().map(|record| record.value).collect();
    assert_eq!(read, values(0, 600));
    broker.stop();
}

#[test]
fn keys_headers_timestamps_and_empty_values_come_back() {
    let directory = Directory::new("properties");
    let broker = Broker::start(&directory, &[]);
    let producer = broker.producer(&[]);
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "kind",
            value: Some("greeting"),
        })
        .insert(Header::<&[u8]> {
            key: "absent",
            value: None,
        });
    let record = BaseRecord::with_opaque_to("properties", unwatched())
        .partition(0)
        .key("a key")
        .payload("")
        .timestamp(1_600_000_000_123)
        .headers(headers);
    producer.send(record);
    producer.0.flush(PATIENCE).unwrap();
    let read = broker.read_all("properties", 0).remove(0);
    assert_eq!(read.key.as_deref(), Some(&b"a key"[..]));
    assert_eq!(read.value, "");
    assert_eq!(read.timestamp_ms, Some(1_600_000_000_123));
    let expected = [
        ("kind".to_owned(), Some(b"greeting".to_vec())),
        ("absent".to_owned(), None),
    ];
    assert_eq!(read.headers, expected);
    broker.stop();
}
