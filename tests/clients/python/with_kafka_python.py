"""The broker as kafka-python sees it."""

from functools import partial

import scenarios
from checks import ADDRESS, BASE_MS, PARTITIONS, Numbers, expect, refused, run, until
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors
from kafka.admin import AlterConfigOp, ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.admin import OffsetSpec, OffsetTimestamp
from kafka.structs import OffsetAndMetadata

admin = KafkaAdminClient(bootstrap_servers=ADDRESS)


def create(topic):
    admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})


def producer(**settings):
    return KafkaProducer(bootstrap_servers=ADDRESS, **settings)


def consumer(*topics, **settings):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **settings}
    return KafkaConsumer(*topics, bootstrap_servers=ADDRESS, **settings)


def send(sender, topic, numbers):
    """Sends numbered records with everything that a record may have. Returns their offsets."""
    sent = [
        sender.send(
            topic,
            key=b"key %d" % number,
            value=b"%d" % number,
            headers=[("number", b"%d" % number), ("empty", b"")],
            partition=number % PARTITIONS,
            timestamp_ms=BASE_MS + number,
        )
        for number in numbers
    ]
    sender.flush(60)
    return [future.get(60).offset for future in sent]


def read(reader, topic, count):
    """Reads that many records from the start of a topic's partitions, outside of any group."""
    reader.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    reader.seek_to_beginning()
    numbers = Numbers()
    while numbers.count < count:
        for records in reader.poll(timeout_ms=10_000).values():
            for record in records:
                numbers.take(record.partition, record.offset, record.value)
                yield record
    expect("records", count, numbers.count)


def check_produce():
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        topic = f"python-{codec}"
        create(topic)
        with producer(compression_type=codec, linger_ms=5) as sender:
            found = send(sender, topic, range(1000))
        expect("offsets", [number // PARTITIONS for number in range(1000)], found)
        reader = consumer()
        for record in read(reader, topic, 1000):
            number = int(record.value)
            expect("key", b"key %d" % number, record.key)
            headers = [("number", b"%d" % number), ("empty", b"")]
            expect("headers", headers, list(record.headers))
            expect("time", BASE_MS + number, record.timestamp)
        reader.close()
    for acks in [0, 1, "all"]:
        topic = f"python-acks-{acks}"
        create(topic)
        with producer(acks=acks, enable_idempotence=False) as sender:
            send(sender, topic, range(200))
        reader = consumer()
        expect("acks", 200, len(list(read(reader, topic, 200))))
        reader.close()


def check_offsets():
    topic = "python-None"
    reader = consumer()
    part = TopicPartition(topic, 1)
    expect("beginning", {part: 0}, reader.beginning_offsets([part]))
    expect("end", {part: 250}, reader.end_offsets([part]))
    found = reader.offsets_for_times({part: BASE_MS + 402})
    expect("by time", (101, BASE_MS + 405), (found[part].offset, found[part].timestamp))
    expect("past the end", {part: None}, reader.offsets_for_times({part: BASE_MS + 9_999}))
    reader.assign([part])
    reader.seek(part, 249)
    records = until("the last record", lambda: reader.poll(timeout_ms=1000))
    expect("the last record", b"997", records[part][0].value)
    reader.close()
    reader = consumer(auto_offset_reset="none")
    reader.assign([part])
    reader.seek(part, 1000)
    refused("past the end", errors.OffsetOutOfRangeError, lambda: reader.poll(timeout_ms=10_000))
    reader.close()


class Member(scenarios.Member):
    def __init__(self, group, topic, numbers):
        self.consumer = consumer(topic, group_id=group, heartbeat_interval_ms=200)
        super().__init__(numbers)

    def turn(self):
        for records in self.consumer.poll(timeout_ms=50).values():
            for record in records:
                self.numbers.take(record.partition, record.offset, record.value)
                self.read += 1
            try:
                self.consumer.commit()
            except errors.KafkaError:
                pass  # Amid a rebalance or a crash: read again, or committed later.

    def close(self):
        self.consumer.close()


def committed(group):
    found = admin.list_group_offsets(group)[group]
    return {part.partition: offset.offset for part, offset in found.items()}


def is_shared(group, members):
    found = admin.describe_groups([group])[group]
    return found["group_state"] == "Stable" and len(found["members"]) == members


def read_again(topic, count):
    reader = consumer()
    expect("read again", count, len(list(read(reader, topic, count))))
    reader.close()


def client(sender):
    send_all = partial(send, sender)
    return scenarios.Client(create, send_all, Member, committed, is_shared, read_again)


def check_groups():
    with producer() as sender:
        scenarios.groups(client(sender), "python-group")


def check_admin():
    topic, group = "python-admin", "python-admin"
    settings = {"retention.ms": "86400000"}
    admin.create_topics({topic: {"num_partitions": 3, "configs": settings}})
    refused("twice", errors.TopicAlreadyExistsError, lambda: admin.create_topics([topic]))
    admin.create_partitions({topic: PARTITIONS})
    found = admin.describe_topics([topic])[0]
    expect("partitions", PARTITIONS, len(found["partitions"]))
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    resource.configs = {"max.message.bytes": "5000", "retention.ms": (AlterConfigOp.DELETE, None)}
    admin.alter_configs([resource])
    plain = ConfigResource(ConfigResourceType.TOPIC, topic)
    found = admin.describe_configs([plain])["topic"][topic]
    expect("settings", {"max.message.bytes": "5000"}, {k: v["value"] for k, v in found.items()})

    with producer() as sender:
        send(sender, topic, range(40))
    parts = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    found = admin.list_partition_offsets({part: OffsetSpec.LATEST for part in parts})
    expect("ends", [10] * PARTITIONS, [found[part].offset for part in parts])
    found = admin.list_partition_offsets({part: OffsetSpec.MAX_TIMESTAMP for part in parts})
    expect("largest times", [9] * PARTITIONS, [found[part].offset for part in parts])
    admin.alter_group_offsets(group, {parts[2]: OffsetAndMetadata(7, "by hand", -1)})
    expect("committed", {2: 7}, committed(group))
    reset = {parts[2]: OffsetSpec.EARLIEST, parts[3]: OffsetTimestamp(BASE_MS + 15)}
    admin.reset_group_offsets(group, reset)
    expect("reset", {2: 0, 3: 3}, committed(group))
    admin.delete_group_offsets(group, [parts[2]])
    expect("deleted", {3: 3}, committed(group))
    groups = {found["group_id"] for found in admin.list_groups(states_filter=["Empty"])}
    assert group in groups, groups
    expect("deleting", {group: "OK"}, admin.delete_groups([group]))
    admin.delete_topics([topic])
    refused("again", errors.UnknownTopicOrPartitionError, lambda: admin.delete_topics([topic]))
    with producer(max_request_size=2 << 20) as sender:
        future = sender.send("python-None", value=b"x" * (3 << 19))
        refused("a large record", errors.MessageSizeTooLargeError, lambda: future.get(60))
    assert "1" in str(admin.describe_cluster()["controller_id"])


def check_crash():
    with producer(linger_ms=0) as sender:
        scenarios.crashes(client(sender), "python-crash")


run(check_produce, check_offsets, check_groups, check_admin, check_crash)
