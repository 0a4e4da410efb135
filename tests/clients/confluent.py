"""What confluent.sh asks a broker: ADDRESS CHECK NODE, where admin requests go to that node."""

import sys
import time

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
)

address, check, node = sys.argv[1], sys.argv[2], int(sys.argv[3])
admin = AdminClient({"bootstrap.servers": address})
WAIT_S = 60


def create(topic):
    futures = admin.create_topics([NewTopic(topic, 4, 1)], request_timeout=WAIT_S)
    futures[topic].result(WAIT_S)


def alter(topic, *changes):
    """Each change is a setting, an operation and a value."""
    entries = [
        ConfigEntry(name, value, incremental_operation=operation)
        for name, operation, value in changes
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    futures = admin.incremental_alter_configs([resource], broker=node)
    futures[resource].result(WAIT_S)


def own(kind, name):
    """Settings of a resource that are not defaults."""
    resource = ConfigResource(kind, name)
    settings = admin.describe_configs([resource], broker=node)[resource].result(WAIT_S)
    default = ConfigSource.DEFAULT_CONFIG.value
    return {name: entry.value for name, entry in settings.items() if entry.source != default}


def expect(what, expected, found):
    assert expected == found, f"{what}: expected {expected!r}, found {found!r}"


def own_of_topic(topic):
    return own(ConfigResource.Type.TOPIC, topic)


def check_alter():
    topic = f"settings-{node}"
    create(topic)
    set_, delete = AlterConfigOpType.SET, AlterConfigOpType.DELETE
    alter(topic, ("retention.ms", set_, "86400000"), ("segment.bytes", set_, "1048576"))
    alter(topic, ("max.message.bytes", set_, "5000"), ("segment.bytes", delete, None))
    expect("one by one", KEPT, own_of_topic(topic))
    alter(topic, ("cleanup.policy", AlterConfigOpType.APPEND, "delete"))
    for wrong in [("retention.ms", set_, "soon"), ("no.such.setting", set_, "1")]:
        try:
            alter(topic, wrong)
        except Exception as error:
            assert "INVALID_CONFIG" in str(error), error
        else:
            raise AssertionError(f"{wrong} was taken")
    broker = own(ConfigResource.Type.BROKER, str(node))
    assert "log.dirs" in broker and "num.partitions" not in broker, broker


KEPT = {"retention.ms": "86400000", "max.message.bytes": "5000"}


def check_kept():
    settings = own_of_topic("settings-1")
    settings.pop("cleanup.policy", None)
    expect("after a restart", KEPT, settings)


def check_stamps():
    topic = f"stamps-{node}"
    create(topic)
    alter(topic, ("message.timestamp.type", AlterConfigOpType.SET, "LogAppendTime"))
    before = time.time() * 1000 - 1
    told = []
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True})
    for partition in range(4):
        producer.produce(
            topic,
            b"x",
            partition=partition,
            timestamp=1_600_000_000_000,
            on_delivery=lambda error, message: told.append((error, message.timestamp())),
        )
    expect("left to send", 0, producer.flush(WAIT_S))
    expect("told", 4, len(told))
    consumer = Consumer({"bootstrap.servers": address, "group.id": "none"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
    read = []
    deadline = time.time() + WAIT_S
    while len(read) < 4 and time.time() < deadline:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            read.append(message.timestamp())
    expect("read", 4, len(read))
    for kind, stamp in read:
        expect("the stamp's kind", TIMESTAMP_LOG_APPEND_TIME, kind)
        assert before <= stamp <= time.time() * 1000 + 1, stamp
    consumer.close()


{"alter": check_alter, "kept": check_kept, "stamps": check_stamps}[check]()
