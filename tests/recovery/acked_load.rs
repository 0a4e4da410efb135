//! Load whose acknowledgements are written down, and the check that all of them were kept.
//!
//! `acked-load produce ADDRESS TOPIC FILE [SECONDS]` sends unique ids and appends one line
//! `OFFSET ID` to FILE for each acknowledged one, until the time is up or the broker refuses.
//! `acked-load check ADDRESS TOPIC FILE` reads the topic and fails unless every line holds.
//! `acked-load delete ADDRESS TOPIC` deletes the topic.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

/// Messages on their way at once.
const IN_FLIGHT_MAX: i32 = 2_000;
/// Bytes of a message behind its id.
const PADDING: usize = 1_000;
/// How long a reader waits for the next record before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["produce", address, topic, file] => produce(address, topic, file, Duration::MAX),
        ["produce", address, topic, file, seconds] => {
            let seconds = seconds.parse().expect("SECONDS is a number");
            produce(address, topic, file, Duration::from_secs(seconds))
        }
        ["check", address, topic, file] => check(address, topic, file),
        ["delete", address, topic] => delete(address, topic),
        _ => Err("usage: acked-load produce|check|delete ADDRESS TOPIC [FILE [SECONDS]]".into()),
    };
    match result {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("acked-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Hands each delivery to the loop that sends.
struct Deliveries(mpsc::Sender<Result<(i64, String), KafkaError>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let delivery = match result {
            Ok(message) => {
                let text = String::from_utf8_lossy(message.payload().unwrap_or_default());
                Ok((message.offset(), id_of(&text)))
            }
            Err((error, _)) => Err(error.clone()),
        };
        let _ = self.0.send(delivery);
    }
}

fn id_of(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn produce(address: &str, topic: &str, file: &str, time: Duration) -> Result<String, String> {
    let (sender, deliveries) = mpsc::channel();
    let producer: BaseProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("message.timeout.ms", "5000")
        // What the broker says is what we want to hear, not that the client gave up.
        .set("retries", "0")
        .create_with_context(Deliveries(sender))
        .map_err(|error| error.to_string())?;
    let file = File::options().append(true).create(true).open(file);
    let mut file = BufWriter::new(file.map_err(|error| error.to_string())?);
    // Ids of several runs into one file stay apart.
    let run = std::process::id();
    let (started, mut sent, mut acknowledged) = (Instant::now(), 0_u64, 0_u64);
    let mut refusal = None;
    while started.elapsed() < time && refusal.is_none() {
        while producer.in_flight_count() < IN_FLIGHT_MAX {
            let value = format!("{run}-{sent} {}", "x".repeat(PADDING));
            let record = BaseRecord::<(), _>::to(topic).partition(0).payload(&value);
            producer
                .send(record)
                .map_err(|(error, _)| error.to_string())?;
            sent += 1;
        }
        producer.poll(Duration::from_millis(5));
        for delivery in deliveries.try_iter() {
            match delivery {
                Ok((offset, id)) => {
                    acknowledged += 1;
                    writeln!(file, "{offset} {id}").map_err(|error| error.to_string())?;
                }
                Err(error) => refusal = Some(error),
            }
        }
    }
    file.flush().map_err(|error| error.to_string())?;
    let ended = refusal.map_or("the time is up".to_owned(), |error| error.to_string());
    Ok(format!("{acknowledged} acknowledged, then: {ended}"))
}

fn check(address: &str, topic: &str, file: &str) -> Result<String, String> {
    let expected = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let stored = read_topic(address, topic)?;
    let mut checked = 0;
    for line in expected.lines() {
        let (offset, id) = line.split_once(' ').ok_or("a line without an id")?;
        let offset: i64 = offset.parse().map_err(|_| "a line without an offset")?;
        match stored.get(&offset) {
            Some(found) if found == id => checked += 1,
            Some(found) => return Err(format!("offset {offset} holds {found}, not {id}")),
            None => {
                return Err(format!(
                    "offset {offset} ({id}) was acknowledged and is gone"
                ));
            }
        }
    }
    let stored = stored.len();
    Ok(format!(
        "{checked} acknowledged records are there, of {stored} stored"
    ))
}

fn delete(address: &str, topic: &str) -> Result<String, String> {
    let mut config = ClientConfig::new();
    let config = config.set("bootstrap.servers", address);
    let admin: AdminClient<_> = config.create().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let deleted = runtime.block_on(admin.delete_topics(&[topic], &options));
    match deleted.map_err(|error| error.to_string())?.pop() {
        Some(Ok(topic)) => Ok(format!("{topic} is deleted")),
        other => Err(format!("{topic} is not deleted: {other:?}")),
    }
}

/// The id at each offset.
fn read_topic(address: &str, topic: &str) -> Result<BTreeMap<i64, String>, String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(|error| error.to_string())?;
    let mut list = TopicPartitionList::new();
    let added = list.add_partition_offset(topic, 0, Offset::Beginning);
    added
        .and_then(|()| consumer.assign(&list))
        .map_err(|error| error.to_string())?;
    let mut stored = BTreeMap::new();
    let mut last_seen = Instant::now();
    while last_seen.elapsed() < PATIENCE {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last_seen = Instant::now();
                let text = String::from_utf8_lossy(message.payload().unwrap_or_default());
                stored.insert(message.offset(), id_of(&text));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(stored),
            // The client connects, or looks for a group that nobody uses.
            Some(Err(_)) | None => {}
        }
    }
    Err(format!(
        "the end of {topic} was not reached: {} read",
        stored.len()
    ))
}
