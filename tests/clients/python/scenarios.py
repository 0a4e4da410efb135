"""What clients with blocking calls are put through alike: a group whose members come and go, and
crashes amid producing and consuming."""

from dataclasses import dataclass
from threading import Event, Thread
from typing import Callable

from checks import PARTITIONS, PATIENCE_S, Numbers, crash, expect, has_crashed, never_back, until


@dataclass
class Client:
    """What a client does in its own words."""

    # Makes a topic with PARTITIONS partitions.
    create: Callable
    # Sends numbered records to a topic. Returns their offsets.
    send: Callable
    # Joins a group that reads a topic, and holds what it reads against numbers. Returns a Member.
    join: Callable
    # The offsets that a group has committed, by partition.
    committed: Callable
    # Whether that many members share the topic of a group.
    is_shared: Callable
    # Reads that many records of a topic from its start.
    read: Callable


class Member:
    """Consumes in a group on a thread of its own: `turn` reads what is there and commits it, and
    `close` leaves."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.read = 0
        self.leaving = Event()
        self.failed = None
        self.thread = Thread(target=self.work)
        self.thread.start()

    def work(self):
        try:
            while not self.leaving.is_set():
                self.turn()
            self.close()
        except BaseException as error:
            self.failed = error

    def leave(self):
        self.leaving.set()
        self.thread.join(PATIENCE_S)
        assert self.failed is None, self.failed
        assert not self.thread.is_alive(), "a member does not leave"


def await_committed(client, group, count):
    until(f"{count} committed", lambda: sum(client.committed(group).values()) == count)


def await_shares(client, group, members):
    until(f"shares of {members}", lambda: client.is_shared(group, members))


def groups(client, topic):
    """Each member reads its share, and whoever follows goes on where others committed."""
    group = topic
    client.create(topic)
    numbers = Numbers()
    client.send(topic, range(400))
    first = client.join(group, topic, numbers)
    await_committed(client, group, 400)
    second = client.join(group, topic, numbers)
    await_shares(client, group, 2)
    client.send(topic, range(400, 800))
    await_committed(client, group, 800)
    expect("the second one's share", 200, second.read)
    first.leave()
    await_shares(client, group, 1)
    client.send(topic, range(800, 1000))
    await_committed(client, group, 1000)
    second.leave()
    client.send(topic, range(1000, 1100))
    third = client.join(group, topic, numbers)
    await_committed(client, group, 1100)
    third.leave()
    expect("each record once", 1100, numbers.count)


def crashes(client, topic):
    """Two crashes amid producing and consuming: each acknowledged record is there once and in
    order, the group reads them all, and its committed offsets never go back."""
    group = topic
    client.create(topic)
    numbers = Numbers(repeats=True)
    member = client.join(group, topic, numbers)
    before = {}
    for number in range(0, 1200, 4):
        if number in (400, 800):
            until("the broker's return", has_crashed)
            before = never_back(before, client.committed(group))
            crash()
        found = client.send(topic, range(number, number + 4))
        expect("offsets", [number // PARTITIONS] * 4, found)
    until("the broker's return", has_crashed)
    before = never_back(before, client.committed(group))
    await_committed(client, group, 1200)
    member.leave()
    expect("read in the group", 1200, numbers.count)
    client.read(topic, 1200)
