//! Topics and their settings through librdkafka's admin client.

use std::time::{SystemTime, UNIX_EPOCH};

use rdkafka::admin::{
    AdminOptions, AlterConfig, ConfigEntry, ConfigSource, NewPartitions, NewTopic,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::broker::{Broker, Directory, PATIENCE, offsets, unwatched, values};

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        let within = tokio::time::timeout(PATIENCE, future).await;
        within.expect("an answer in time")
    })
}

pub(crate) fn options() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE))
}

pub(crate) fn topic(name: &str, partitions: i32) -> NewTopic<'_> {
    NewTopic::new(name, partitions, TopicReplication::Fixed(1))
}

#[test]
fn topics_are_created_grown_and_deleted() {
    let directory = Directory::new("topics");
    let broker = Broker::start(&directory, &[]);
    let admin = broker.admin();
    let create = |name| {
        let topics = [topic(name, 3)];
        block_on(admin.create_topics(&topics, &options()))
            .unwrap()
            .remove(0)
    };
    assert_eq!(create("first"), Ok("first".to_owned()));
    let again = create("first").unwrap_err();
    assert_eq!(again, ("first".to_owned(), Code::TopicAlreadyExists));
    assert_eq!(create("not valid!").unwrap_err().1, Code::InvalidTopic);

    let producer = broker.producer(&[]);
    assert_eq!(
        producer.send_all("first", 2, &values(0, 10)),
        offsets(0, 10)
    );
    let more = NewPartitions::new("first", 5);
    block_on(admin.create_partitions([&more], &options()))
        .unwrap()
        .remove(0)
        .unwrap();
    let fewer = NewPartitions::new("first", 2);
    let refused = block_on(admin.create_partitions([&fewer], &options()))
        .unwrap()
        .remove(0);
    assert_eq!(refused.unwrap_err().1, Code::InvalidPartitions);
    let partitions = || {
        let consumer = broker.consumer(&[]);
        let metadata = consumer.fetch_metadata(Some("first"), PATIENCE).unwrap();
        metadata.topics()[0].partitions().len()
    };
    assert_eq!(partitions(), 5);

    let deleted = block_on(admin.delete_topics(&["first", "never"], &options())).unwrap();
    assert!(deleted.contains(&Ok("first".to_owned())), "{deleted:?}");
    let unknown = Err(("never".to_owned(), Code::UnknownTopicOrPartition));
    assert!(deleted.contains(&unknown), "{deleted:?}");
    assert_eq!(create("first"), Ok("first".to_owned()));
    let producer = broker.producer(&[]);
    assert_eq!(
        producer.send_all("first", 0, &values(0, 1)),
        [0],
        "a new topic, not the old one"
    );
    broker.stop();
}

#[test]
fn settings_are_described_and_kept() {
    let directory = Directory::new("settings");
    let broker = Broker::start(&directory, &[]);
    let create = |topic: NewTopic<'_>| {
        block_on(broker.admin().create_topics([&topic], &options()))
            .unwrap()
            .remove(0)
    };
    create(topic("set", 1).set("retention.ms", "86400000")).unwrap();
    let wrong = create(topic("unset", 1).set("retention.ms", "soon"));
    assert_eq!(wrong.unwrap_err().1, Code::InvalidConfig);
    let unknown = create(topic("unset", 1).set("retention.mss", "1"));
    assert_eq!(unknown.unwrap_err().1, Code::InvalidConfig);

    let value = |broker: &Broker, name: &str| {
        let resources = [ResourceSpecifier::Topic("set")];
        let answer = block_on(broker.admin().describe_configs(&resources, &options())).unwrap();
        let resource = answer.into_iter().next().unwrap().unwrap();
        let entry: Option<&ConfigEntry> = resource.get(name);
        entry.and_then(|entry| entry.value.clone())
    };
    assert_eq!(value(&broker, "retention.ms").as_deref(), Some("86400000"));
    assert_eq!(value(&broker, "cleanup.policy").as_deref(), Some("delete"));
    broker.kill();
    let broker = Broker::start(&directory, &[]);
    assert_eq!(value(&broker, "retention.ms").as_deref(), Some("86400000"));
    broker.stop();
}

#[test]
fn the_old_way_to_alter_settings_replaces_them() {
    let directory = Directory::new("replaced");
    let broker = Broker::start(&directory, &[]);
    let admin = broker.admin();
    let new = topic("set", 1).set("segment.bytes", "1048576");
    block_on(admin.create_topics([&new], &options()))
        .unwrap()
        .remove(0)
        .unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic("set"));
    let change = change.set("message.timestamp.type", "LogAppendTime");
    block_on(admin.alter_configs([&change], &options()))
        .unwrap()
        .remove(0)
        .unwrap();

    let resources = [ResourceSpecifier::Topic("set")];
    let answer = block_on(admin.describe_configs(&resources, &options())).unwrap();
    let resource = answer.into_iter().next().unwrap().unwrap();
    let own = |entry: &&ConfigEntry| entry.source == ConfigSource::DynamicTopic;
    let own: Vec<_> = resource.entries.iter().filter(own).collect();
    assert_eq!(
        own.len(),
        1,
        "what was not named is a default again: {own:?}"
    );
    assert_eq!(own[0].value.as_deref(), Some("LogAppendTime"));

    // The topic's clock is now the broker's.
    let began = now_ms();
    let record = BaseRecord::<(), str, _>::with_opaque_to("set", unwatched());
    let record = record
        .partition(0)
        .payload("x")
        .timestamp(1_600_000_000_123);
    let producer = broker.producer(&[]);
    producer.send(record);
    producer.0.flush(PATIENCE).unwrap();
    let read = broker.read_all("set", 0).remove(0);
    assert!(read.is_append_time, "{read:?}");
    let stamp = read.timestamp_ms.unwrap();
    assert!((began..=now_ms()).contains(&stamp), "{began} {read:?}");
    broker.stop();
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
