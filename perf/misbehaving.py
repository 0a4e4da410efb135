#!/usr/bin/env python3
"""A consumer that does not play along, until it is ended: what perf/misbehaving.sh puts beside a load.

    perf/misbehaving.py HOST:PORT KIND [PER_S]

silent   100 members that join, take their share and are not heard of again until they are dropped
churn    a member that joins and leaves
commits  a member that commits 500 partitions of a topic of which it holds none
refused  commits and heartbeats of nobody, for a generation that is not
wide     fetches of all 2,000 partitions of a topic, a byte of each
vanish   connections that close while their member waits to join

PER_S requests a second at most, 0 as fast as they are answered (the default). Prints how many
were answered when it is ended.
"""

import signal
import socket
import struct
import sys
import time

FETCH, OFFSET_COMMIT, JOIN, HEARTBEAT, LEAVE, SYNC = 1, 8, 11, 12, 13, 14
SESSION_MS = 6_000
PARTITIONS = 2_000
COMMITTED = 500
TOPIC = "wide"


def text(value):
    value = value.encode()
    return struct.pack(">h", len(value)) + value


def data(value):
    return struct.pack(">i", len(value)) + value


def join(group, member=""):
    """JoinGroup 2, in which a new member waits at once."""
    words = struct.pack(">h", 0) + struct.pack(">i", 1) + text(TOPIC) + data(b"")
    protocols = struct.pack(">i", 1) + text("range") + data(words)
    times = struct.pack(">ii", SESSION_MS, SESSION_MS)
    return JOIN, 2, text(group) + times + text(member) + text("consumer") + protocols


def sync(group, generation, member):
    """SyncGroup 1 of a leader that deals nothing."""
    who = text(group) + struct.pack(">i", generation) + text(member)
    return SYNC, 1, who + struct.pack(">i", 0)


def leave(group, member):
    return LEAVE, 1, text(group) + text(member)


def heartbeat(group, generation, member):
    return HEARTBEAT, 1, text(group) + struct.pack(">i", generation) + text(member)


def commit(group, generation, member, partitions):
    offsets = b"".join(
        struct.pack(">iq", partition, 7) + text("") for partition in range(partitions))
    who = text(group) + struct.pack(">i", generation) + text(member) + struct.pack(">q", -1)
    topics = struct.pack(">i", 1) + text(TOPIC) + struct.pack(">i", partitions)
    return OFFSET_COMMIT, 2, who + topics + offsets


def fetch_wide():
    partitions = b"".join(struct.pack(">iqi", one, 0, 1) for one in range(PARTITIONS))
    limits = struct.pack(">iiiib", -1, 0, 0, 1, 0)
    return FETCH, 4, limits + struct.pack(">i", 1) + text(TOPIC) + (
        struct.pack(">i", PARTITIONS) + partitions)


class Connection:
    """Answers are those of requests in turn. `pace` holds requests back to PER_S."""

    answered = 0

    def __init__(self, address, pace):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pace = pace

    def send(self, request):
        key, version, body = request
        self.pace()
        frame = struct.pack(">hhih", key, version, 1, -1) + body
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)

    def receive(self):
        (length,) = struct.unpack(">i", self.exactly(4))
        Connection.answered += 1
        return self.exactly(length)[4:]

    def exactly(self, length):
        parts = bytearray()
        while len(parts) < length:
            part = self.socket.recv(length - len(parts))
            if not part:
                raise ConnectionError("closed by the broker")
            parts += part
        return bytes(parts)

    def ask(self, request):
        self.send(request)
        return self.receive()


def joined(body):
    """Generation and member id of a JoinGroup 2 answer; none where it was refused."""
    error, generation = struct.unpack_from(">hi", body, 4)
    at, words = 10, []
    for _ in range(3):
        (length,) = struct.unpack_from(">h", body, at)
        words.append(body[at + 2:at + 2 + length].decode())
        at += 2 + length
    return (generation, words[2]) if error == 0 else None


def silent(connect):
    connections = [connect() for _ in range(100)]
    while True:
        for one in connections:
            one.send(join("silent"))
        members = [(one, joined(one.receive())) for one in connections]
        members = [(one, member) for one, member in members if member]
        for one, (generation, member) in members:
            one.send(sync("silent", generation, member))
        for one, _ in members:
            one.receive()
        time.sleep(SESSION_MS / 1000 / 2)


def churn(connect):
    one = connect()
    while True:
        member = joined(one.ask(join("churn")))
        if member:
            one.ask(leave("churn", member[1]))


def commits(connect):
    one = connect()
    generation, member = joined(one.ask(join("commits")))
    one.ask(sync("commits", generation, member))
    while True:
        one.ask(commit("commits", generation, member, COMMITTED))


def refused(connect):
    one = connect()
    while True:
        one.ask(commit("refused", 3, "nobody", 1))
        one.ask(heartbeat("refused", 3, "nobody"))


def wide(connect):
    one = connect()
    while True:
        one.ask(fetch_wide())


def vanish(connect):
    while True:
        connections = [connect() for _ in range(20)]
        for one in connections:
            one.send(join("vanish"))
        for one in connections:
            one.socket.close()


KINDS = {one.__name__: one for one in (silent, churn, commits, refused, wide, vanish)}


class Ended(Exception):
    """By whoever started it."""


def end(*_):
    raise Ended


def pacer(per_s):
    """A function that returns no more often than so."""
    due = time.monotonic()

    def pace():
        nonlocal due
        due = max(due + 1 / per_s, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))

    return pace if per_s else lambda: None


def main():
    address, kind = sys.argv[1:3]
    pace = pacer(float(sys.argv[3]) if len(sys.argv) > 3 else 0)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    began = time.monotonic()
    try:
        KINDS[kind](lambda: Connection(address, pace))
    except Ended:
        pass
    per_s = Connection.answered / (time.monotonic() - began)
    print(f"{kind}: {Connection.answered} answered, {per_s:.0f}/s")


main()
