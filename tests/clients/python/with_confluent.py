"""The broker as confluent-kafka sees it: groups, idempotence, admin, crashes."""

from functools import partial

import scenarios
from checks import ADDRESS, BASE_MS, PARTITIONS, PATIENCE_S, Numbers, expect, run, until
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

# Where the one broker that it knows goes away librdkafka 2.16 looks at its first addresses again,
# and an admin request that is under way then may wait for the broker that it has given up.
COMMON = {"bootstrap.servers": ADDRESS, "metadata.recovery.strategy": "none"}
admin = AdminClient(COMMON)


def only(futures):
    """The result of the one thing that was asked for."""
    (future,) = futures.values()
    return future.result(PATIENCE_S)


def refused(what, code, call):
    try:
        call()
    except KafkaException as error:
        return expect(what, code, error.args[0].code())
    raise AssertionError(f"{what} was not refused")


def create(topic, partitions=PARTITIONS):
    only(admin.create_topics([NewTopic(topic, partitions, 1)], request_timeout=PATIENCE_S))


def producer(**settings):
    return Producer({**COMMON, **settings})


def send(sender, topic, numbers):
    """Sends numbered records. Returns their offsets."""
    told = {}

    def delivered(error, message):
        assert error is None, error
        told[int(message.value())] = message.offset()

    for number in numbers:
        sender.produce(
            topic,
            b"%d" % number,
            key=b"key %d" % number,
            headers={"number": b"%d" % number},
            partition=number % PARTITIONS,
            timestamp=BASE_MS + number,
            on_delivery=delivered,
        )
    expect("left to send", 0, sender.flush(PATIENCE_S))
    return [told[number] for number in numbers]


class Member(scenarios.Member):
    def __init__(self, strategy, group, topic, numbers):
        settings = {
            **COMMON,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "heartbeat.interval.ms": 200,
            "partition.assignment.strategy": strategy,
            "reconnect.backoff.max.ms": 200,
        }
        self.consumer = Consumer(settings)
        self.consumer.subscribe([topic])
        super().__init__(numbers)

    def turn(self):
        for message in self.consumer.consume(500, 0.05):
            if message.error():
                continue  # What librdkafka tells of a broker that is away.
            self.numbers.take(message.partition(), message.offset(), message.value())
            expect("key", b"key " + message.value(), message.key())
            expect("headers", [("number", message.value())], message.headers())
            expect("time", BASE_MS + int(message.value()), message.timestamp()[1])
            self.read += 1
        try:
            self.consumer.commit(asynchronous=False)
        except KafkaException:
            pass  # Nothing new, or amid a rebalance or a crash.

    def close(self):
        self.consumer.close()


def committed(group):
    asked = [ConsumerGroupTopicPartitions(group)]
    found = only(admin.list_consumer_group_offsets(asked)).topic_partitions
    return {part.partition: part.offset for part in found}


def is_shared(group, members):
    found = only(admin.describe_consumer_groups([group]))
    shares = [len(member.assignment.topic_partitions) for member in found.members]
    is_stable = found.state == ConsumerGroupState.STABLE
    return is_stable and shares == [PARTITIONS // members] * members


def read_again(topic, count):
    numbers = Numbers()
    reader = Member("range", f"{topic}-again", topic, numbers)
    until("all to be read again", lambda: numbers.count == count or reader.failed)
    reader.leave()


def client(strategy, **settings):
    send_all = partial(send, producer(**{"enable.idempotence": True, **settings}))
    join = partial(Member, strategy)
    return scenarios.Client(create, send_all, join, committed, is_shared, read_again)


def check_groups():
    for strategy in ["range", "roundrobin", "cooperative-sticky"]:
        scenarios.groups(client(strategy, **{"linger.ms": 1}), f"confluent-{strategy}")


def check_admin():
    group = topic = "confluent-admin"
    create(topic, 3)
    refused("twice", KafkaError.TOPIC_ALREADY_EXISTS, lambda: create(topic, 3))
    only(admin.create_partitions([NewPartitions(topic, PARTITIONS)]))
    metadata = admin.list_topics(topic, timeout=PATIENCE_S)
    expect("partitions", PARTITIONS, len(metadata.topics[topic].partitions))
    found = send(producer(), topic, range(40))
    expect("offsets", [number // PARTITIONS for number in range(40)], found)
    part = TopicPartition(topic, 1)
    for spec, expected in [
        (OffsetSpec.earliest(), 0),
        (OffsetSpec.latest(), 10),
        (OffsetSpec.max_timestamp(), 9),
        (OffsetSpec.for_timestamp(BASE_MS + 10), 3),
    ]:
        asked = admin.list_offsets({part: spec}, isolation_level=IsolationLevel.READ_UNCOMMITTED)
        expect(f"{spec}", expected, only(asked).offset)
    wanted = [TopicPartition(topic, 2, 7), TopicPartition(topic, 3, 8)]
    only(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)]))
    expect("committed", {2: 7, 3: 8}, committed(group))
    states = {ConsumerGroupState.EMPTY}
    listed = admin.list_consumer_groups(states=states).result(PATIENCE_S)
    assert group in [found.group_id for found in listed.valid], listed.valid
    only(admin.delete_consumer_groups([group]))
    refused(
        "deleting no group",
        KafkaError.GROUP_ID_NOT_FOUND,
        lambda: only(admin.delete_consumer_groups([group])),
    )
    only(admin.delete_topics([topic]))
    refused(
        "deleting no topic",
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        lambda: only(admin.delete_topics([topic])),
    )
    cluster = admin.describe_cluster().result(PATIENCE_S)
    expect("controller", 1, cluster.controller.id)


def check_crash():
    settings = {"linger.ms": 0, "reconnect.backoff.max.ms": 200}
    scenarios.crashes(client("cooperative-sticky", **settings), "confluent-crash")


run(check_groups, check_admin, check_crash)
