"""What the scripts for each Python client share: expectations, waiting with an end, records, and
asking for a crash of the broker. Their command lines are ADDRESS CRASH_FILE."""

import os
import sys
import time

ADDRESS, CRASH_FILE = sys.argv[1], sys.argv[2]
PARTITIONS = 4
# How long anything that should work may take on a busy machine, seconds.
PATIENCE_S = 60
# The time of the first record of each topic: recent enough for retention to leave it alone.
BASE_MS = int(time.time() - 3600) * 1000


def expect(what, expected, found):
    assert expected == found, f"{what}: expected {expected!r}, found {found!r}"


def until(what, holds):
    """Asks again and again, and returns the first answer that is true."""
    deadline = time.time() + PATIENCE_S
    while not (answer := holds()):
        assert time.time() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return answer


def refused(what, error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"{what} was not refused")


def crash():
    """Has the broker killed and started again; returns at once."""
    open(CRASH_FILE, "w").close()


def has_crashed():
    """Whether the broker that follows a crash is ready, or none was asked for."""
    return not os.path.exists(CRASH_FILE)


class Numbers:
    """Holds records against those that were sent: of each partition the next one, in order. What
    was read and not committed may come again."""

    def __init__(self, count_from=0, repeats=False):
        self.next = [count_from + partition for partition in range(PARTITIONS)]
        self.count = 0
        self.repeats = repeats

    def take(self, partition, offset, value):
        number = int(value)
        expect("partition", number % PARTITIONS, partition)
        expect("offset", number // PARTITIONS, offset)
        awaited = self.next[partition]
        if number == awaited:
            self.next[partition] += PARTITIONS
            self.count += 1
        else:
            assert self.repeats and number < awaited, f"{number} where {awaited} is next"


def never_back(before, now):
    """Committed offsets by partition; none is below what it was. Returns them."""
    for partition, offset in before.items():
        found = now.get(partition, -1)
        assert found >= offset, f"partition {partition}: committed {offset}, then {found}"
    return now


def run(*scenarios):
    for scenario in scenarios:
        started = time.time()
        scenario()
        print(f"{scenario.__name__}: {time.time() - started:.1f} s", flush=True)
