"""The broker as confluent-kafka sees it: groups, idempotence, admin, crashes."""

from threading import Event, Thread

from checks import (
    ADDRESS,
    BASE_MS,
    PARTITIONS,
    PATIENCE_S,
    Numbers,
    crash,
    expect,
    has_crashed,
    never_back,
    run,
    until,
)
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
    """Sends numbered records and returns where they are told to be."""
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
    for number in numbers:
        expect("offset", number // PARTITIONS, told[number])


class Member:
    """Consumes in a group on a thread of its own, committing what it has read."""

    def __init__(self, group, topic, numbers, strategy):
        self.numbers = numbers
        self.read = 0
        self.stop = Event()
        self.failed = None
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
        self.thread = Thread(target=self.work)
        self.thread.start()

    def work(self):
        try:
            while not self.stop.is_set():
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
            self.consumer.close()
        except BaseException as error:
            self.failed = error

    def leave(self):
        self.stop.set()
        self.thread.join(PATIENCE_S)
        assert self.failed is None, self.failed
        assert not self.thread.is_alive(), "a member does not leave"


def committed(group):
    asked = [ConsumerGroupTopicPartitions(group)]
    found = only(admin.list_consumer_group_offsets(asked)).topic_partitions
    return {part.partition: part.offset for part in found}


def await_committed(group, count):
    until(f"{count} committed", lambda: sum(committed(group).values()) == count)


def await_shares(group, members):
    """Waits until that many members share the partitions equally."""

    def holds():
        found = only(admin.describe_consumer_groups([group]))
        shares = [len(member.assignment.topic_partitions) for member in found.members]
        is_stable = found.state == ConsumerGroupState.STABLE
        return is_stable and shares == [PARTITIONS // members] * members

    until(f"shares of {members}", holds)


def check_groups():
    for strategy in ["range", "roundrobin", "cooperative-sticky"]:
        group = topic = f"confluent-{strategy}"
        create(topic)
        sender = producer(**{"enable.idempotence": True, "linger.ms": 1})
        numbers = Numbers()
        send(sender, topic, range(400))
        first = Member(group, topic, numbers, strategy)
        await_committed(group, 400)
        second = Member(group, topic, numbers, strategy)
        await_shares(group, 2)
        send(sender, topic, range(400, 800))
        await_committed(group, 800)
        expect("the second one's share", 200, second.read)
        first.leave()
        await_shares(group, 1)
        send(sender, topic, range(800, 1000))
        await_committed(group, 1000)
        second.leave()
        send(sender, topic, range(1000, 1100))
        third = Member(group, topic, numbers, strategy)
        await_committed(group, 1100)
        third.leave()
        expect("each record once", 1100, numbers.count)


def check_admin():
    group = topic = "confluent-admin"
    create(topic, 3)
    refused("twice", KafkaError.TOPIC_ALREADY_EXISTS, lambda: create(topic, 3))
    only(admin.create_partitions([NewPartitions(topic, PARTITIONS)]))
    metadata = admin.list_topics(topic, timeout=PATIENCE_S)
    expect("partitions", PARTITIONS, len(metadata.topics[topic].partitions))
    send(producer(), topic, range(40))
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
    """Two crashes amid producing and consuming: each acknowledged record is there once and in
    order, the group reads them all, and its committed offsets never go back."""
    group = topic = "confluent-crash"
    create(topic)
    numbers = Numbers(repeats=True)
    member = Member(group, topic, numbers, "cooperative-sticky")
    before = {}
    settings = {"enable.idempotence": True, "linger.ms": 0, "reconnect.backoff.max.ms": 200}
    sender = producer(**settings)
    for number in range(0, 1200, 4):
        if number in (400, 800):
            until("the broker's return", has_crashed)
            before = never_back(before, committed(group))
            crash()
        send(sender, topic, range(number, number + 4))
    until("the broker's return", has_crashed)
    before = never_back(before, committed(group))
    await_committed(group, 1200)
    member.leave()
    expect("read in the group", 1200, numbers.count)
    again = Numbers()
    reader = Member("confluent-again", topic, again, "range")
    until("all to be read again", lambda: again.count == 1200 or reader.failed)
    reader.leave()


run(check_groups, check_admin, check_crash)
