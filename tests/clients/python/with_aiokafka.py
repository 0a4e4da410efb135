"""The broker as aiokafka sees it."""

import asyncio
import itertools
import time
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
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
)


async def until(what, holds):
    """As checks.until, with a coroutine to ask."""
    deadline = time.time() + PATIENCE_S
    while not await holds():
        assert time.time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.05)


async def refused(what, error, asked):
    try:
        await asked
    except error:
        return
    raise AssertionError(f"{what} was not refused")


def consumer(*topics, **settings):
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **settings}
    return AIOKafkaConsumer(*topics, bootstrap_servers=ADDRESS, **settings)


def producer(**settings):
    return AIOKafkaProducer(bootstrap_servers=ADDRESS, **settings)


async def create(admin, topic):
    response = await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    expect(f"creating {topic}", 0, response.topic_errors[0][1])


async def send(sender, topic, numbers):
    """Sends numbered records with everything that a record may have. Returns their offsets."""
    sent = [
        await sender.send(
            topic,
            key=b"key %d" % number,
            value=b"%d" % number,
            headers=[("number", b"%d" % number)],
            partition=number % PARTITIONS,
            timestamp_ms=BASE_MS + number,
        )
        for number in numbers
    ]
    return [found.offset for found in await asyncio.gather(*sent)]


async def read(topic, count):
    """Reads that many records from the start of a topic's partitions, outside of any group."""
    async with consumer() as reader:
        reader.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
        await reader.seek_to_beginning()
        numbers = Numbers()
        async with asyncio.timeout(PATIENCE_S):
            while numbers.count < count:
                record = await reader.getone()
                numbers.take(record.partition, record.offset, record.value)
                number = int(record.value)
                expect("key", b"key %d" % number, record.key)
                expect("headers", (("number", b"%d" % number),), record.headers)
                expect("time", BASE_MS + number, record.timestamp)


async def check_produce(admin):
    ways = {codec: {"compression_type": codec} for codec in ["gzip", "snappy", "lz4", "zstd"]}
    ways["exact"] = {"enable_idempotence": True}
    ways |= {f"acks-{acks}": {"acks": acks} for acks in [0, 1, "all"]}
    for name, settings in ways.items():
        topic = f"aio-{name}"
        await create(admin, topic)
        async with producer(linger_ms=5, **settings) as sender:
            if name == "acks-0":
                for number in range(400):
                    await sender.send(
                        topic,
                        key=b"key %d" % number,
                        value=b"%d" % number,
                        headers=[("number", b"%d" % number)],
                        partition=number % PARTITIONS,
                        timestamp_ms=BASE_MS + number,
                    )
            else:
                found = await send(sender, topic, range(400))
                expect("offsets", [number // PARTITIONS for number in range(400)], found)
        await read(topic, 400)


async def check_offsets(_):
    part = TopicPartition("aio-exact", 1)
    async with consumer() as reader:
        expect("beginning", {part: 0}, await reader.beginning_offsets([part]))
        expect("end", {part: 100}, await reader.end_offsets([part]))
        found = await reader.offsets_for_times({part: BASE_MS + 202})
        expect("by time", (51, BASE_MS + 205), (found[part].offset, found[part].timestamp))
        expect("later", {part: None}, await reader.offsets_for_times({part: BASE_MS + 9_999}))
    async with consumer(auto_offset_reset="none") as reader:
        reader.assign([part])
        reader.seek(part, 1000)
        await refused("past the end", errors.OffsetOutOfRangeError, reader.getone())
    async with producer(max_request_size=2 << 20) as sender:
        large = sender.send_and_wait("aio-exact", b"x" * (3 << 19))
        await refused("a large record", errors.MessageSizeTooLargeError, large)


class Member(ConsumerRebalanceListener):
    """Consumes in a group in a task of its own, committing what it has read."""

    def __init__(self, group, topic, numbers, assignor):
        self.numbers = numbers
        self.read = 0
        self.uncommitted = False
        self.stopping = False
        self.assigned = set()
        self.consumer = consumer(
            group_id=group,
            heartbeat_interval_ms=200,
            retry_backoff_ms=100,
            partition_assignment_strategy=[assignor],
        )
        self.consumer.subscribe([topic], listener=self)
        self.task = asyncio.create_task(self.work())

    async def on_partitions_assigned(self, assigned):
        self.assigned = set(assigned)

    async def on_partitions_revoked(self, revoked):
        pass

    async def work(self):
        async with self.consumer:
            while not self.stopping:
                found = await self.consumer.getmany(timeout_ms=50)
                for record in itertools.chain(*found.values()):
                    self.numbers.take(record.partition, record.offset, record.value)
                    self.read += 1
                    self.uncommitted = True
                if not self.uncommitted:
                    continue
                try:
                    await self.consumer.commit()
                    self.uncommitted = False
                except errors.KafkaError:
                    pass  # Amid a rebalance or a crash: read again, or committed later.

    async def leave(self):
        self.stopping = True
        await asyncio.wait_for(self.task, PATIENCE_S)


async def committed(admin, group):
    found = await admin.list_consumer_group_offsets(group)
    return {part.partition: offset.offset for part, offset in found.items()}


async def await_committed(admin, group, count):
    async def holds():
        return sum((await committed(admin, group)).values()) == count

    await until(f"{count} committed", holds)


async def await_shares(*members):
    async def holds():
        each = PARTITIONS // len(members)
        return all(len(member.assigned) == each for member in members)

    await until("shares", holds)


async def check_groups(admin):
    for assignor in [RoundRobinPartitionAssignor, StickyPartitionAssignor]:
        group = topic = f"aio-{assignor.name}"
        await create(admin, topic)
        async with producer() as sender:
            numbers = Numbers()
            await send(sender, topic, range(400))
            first = Member(group, topic, numbers, assignor)
            await await_committed(admin, group, 400)
            second = Member(group, topic, numbers, assignor)
            await await_shares(first, second)
            await send(sender, topic, range(400, 800))
            await await_committed(admin, group, 800)
            expect("the second one's share", 200, second.read)
            await first.leave()
            await await_shares(second)
            await send(sender, topic, range(800, 1000))
            await await_committed(admin, group, 1000)
            await second.leave()
            await send(sender, topic, range(1000, 1100))
            third = Member(group, topic, numbers, assignor)
            await await_committed(admin, group, 1100)
            await third.leave()
            expect("each record once", 1100, numbers.count)


async def check_admin(admin):
    topic = "aio-admin"
    settings = {"retention.ms": "86400000"}
    response = await admin.create_topics([NewTopic(topic, 3, 1, topic_configs=settings)])
    expect("creating", 0, response.topic_errors[0][1])
    again = await admin.create_topics([NewTopic(topic, 3, 1)])
    expect("creating again", errors.TopicAlreadyExistsError.errno, again.topic_errors[0][1])
    grown = await admin.create_partitions({topic: NewPartitions(PARTITIONS)})
    expect("more partitions", 0, grown.topic_errors[0][1])
    described = await admin.describe_topics([topic])
    expect("partitions", PARTITIONS, len(described[0]["partitions"]))
    settings = {"max.message.bytes": "5000"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
    plain = ConfigResource(ConfigResourceType.TOPIC, topic)
    found = (await admin.describe_configs([plain]))[0].resources[0][4]
    values = {setting[0]: setting[1] for setting in found}
    expect("replaced", ("5000", "604800000"), (values["max.message.bytes"], values["retention.ms"]))
    groups = [name for name, _ in await admin.list_consumer_groups()]
    assert "aio-roundrobin" in groups, groups
    described = await admin.describe_consumer_groups(["aio-roundrobin"])
    expect("the group", "Empty", described[0].groups[0][2])
    deleted = await admin.delete_topics([topic])
    expect("deleting", 0, deleted.topic_error_codes[0][1])
    assert topic not in await admin.list_topics()


async def check_crash(admin):
    """Two crashes amid producing and consuming: each acknowledged record is there once and in
    order, the group reads them all, and its committed offsets never go back."""

    async def returned():
        return has_crashed()

    group = topic = "aio-crash"
    await create(admin, topic)
    numbers = Numbers(repeats=True)
    member = Member(group, topic, numbers, StickyPartitionAssignor)
    before = {}
    async with producer(enable_idempotence=True) as sender:
        for number in range(0, 1200, 4):
            if number in (400, 800):
                await until("the broker's return", returned)
                before = never_back(before, await committed(admin, group))
                crash()
            found = await send(sender, topic, range(number, number + 4))
            expect("offsets", [number // PARTITIONS] * 4, found)
    await until("the broker's return", returned)
    async with admin_client() as fresh:
        before = never_back(before, await committed(fresh, group))
        await await_committed(fresh, group, 1200)
    await member.leave()
    expect("read in the group", 1200, numbers.count)
    await read(topic, 1200)


@asynccontextmanager
async def admin_client():
    admin = AIOKafkaAdminClient(bootstrap_servers=ADDRESS)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def main():
    loop = asyncio.get_running_loop()
    async with admin_client() as admin:
        for check in [check_produce, check_offsets, check_groups, check_admin, check_crash]:
            started = loop.time()
            await check(admin)
            print(f"{check.__name__}: {loop.time() - started:.1f} s", flush=True)


asyncio.run(main())
