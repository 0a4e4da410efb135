"""The broker as kafka-python sees it."""

from threading import Event, Thread

from checks import (
    ADDRESS,
    BASE_MS,
    PARTITIONS,
    Numbers,
    crash,
    expect,
    has_crashed,
    never_back,
    refused,
    run,
    until,
)
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


class Member:
    """Consumes in a group on a thread of its own, committing what it has read."""

    def __init__(self, group, topic, numbers, **settings):
        self.numbers = numbers
        self.read = 0
        self.stop = Event()
        self.failed = None
        self.consumer = consumer(
            topic,
            group_id=group,
            heartbeat_interval_ms=200,
            **settings,
        )
        self.thread = Thread(target=self.work)
        self.thread.start()

    def work(self):
        try:
            while not self.stop.is_set():
                for records in self.consumer.poll(timeout_ms=50).values():
                    for record in records:
                        self.numbers.take(record.partition, record.offset, record.value)
                        self.read += 1
                    try:
                        self.consumer.commit()
                    except errors.KafkaError:
                        pass  # Amid a rebalance or a crash: read again, or committed later.
            self.consumer.close()
        except BaseException as error:
            self.failed = error

    def leave(self):
        self.stop.set()
        self.thread.join(60)
        assert self.failed is None, self.failed
        assert not self.thread.is_alive(), "a member does not leave"


def committed(group):
    found = admin.list_group_offsets(group)[group]
    return {part.partition: offset.offset for part, offset in found.items()}


def await_committed(group, count):
    def holds():
        found = committed(group)
        return sum(found.values()) == count

    until(f"{count} committed", holds)


def await_members(group, count):
    def holds():
        found = admin.describe_groups([group])[group]
        return found["group_state"] == "Stable" and len(found["members"]) == count

    until(f"{count} members", holds)


def check_groups():
    group = topic = "python-group"
    create(topic)
    with producer() as sender:
        numbers = Numbers()
        send(sender, topic, range(400))
        first = Member(group, topic, numbers)
        await_committed(group, 400)
        second = Member(group, topic, numbers)
        await_members(group, 2)
        send(sender, topic, range(400, 800))
        await_committed(group, 800)
        expect("the second one's share", 200, second.read)
        first.leave()
        await_members(group, 1)
        send(sender, topic, range(800, 1000))
        await_committed(group, 1000)
        second.leave()
        send(sender, topic, range(1000, 1100))
        third = Member(group, topic, numbers)
        await_committed(group, 1100)
        third.leave()
        expect("each record once", 1100, numbers.count)


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
    """Two crashes amid producing and consuming: each acknowledged record is there once and in
    order, the group reads them all, and its committed offsets never go back."""
    group = topic = "python-crash"
    create(topic)
    numbers = Numbers(repeats=True)
    member = Member(group, topic, numbers)
    before = {}
    with producer(linger_ms=0) as sender:
        for number in range(0, 1200, 4):
            if number in (400, 800):
                until("the broker's return", has_crashed)
                before = never_back(before, committed(group))
                crash()
            found = send(sender, topic, range(number, number + 4))
            expect("offsets", [number // PARTITIONS] * 4, found)
    until("the broker's return", has_crashed)
    before = never_back(before, committed(group))
    await_committed(group, 1200)
    member.leave()
    expect("read in the group", 1200, numbers.count)
    reader = consumer()
    expect("read again", 1200, len(list(read(reader, topic, 1200))))
    reader.close()


run(check_produce, check_offsets, check_groups, check_admin, check_crash)
