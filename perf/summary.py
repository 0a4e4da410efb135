#!/usr/bin/env python3
"""Holds the reports of one sitting of perf/speed.sh against the speed targets.

    perf/summary.py DIRECTORY
    perf/summary.py --recovered REPORT MILLISECONDS

The second makes a report of a start that recovered what the first report's run had sent.
"""

import json
import pathlib
import re
import statistics
import sys


def load(directory):
    """Reports by scenario name."""
    runs = {}
    for path in sorted(pathlib.Path(directory).glob("*.json")):
        name = re.fullmatch(r"(.+)-\d+", path.stem)
        if name:
            runs.setdefault(name[1], []).append(json.loads(path.read_text()))
    return runs


def median(reports, figure):
    """Median of `figure` over the reports that have it; None without any."""
    values = []
    for report in reports:
        try:
            values.append(figure(report))
        except (KeyError, TypeError, StopIteration):
            pass
    return statistics.median(values) if values else None


def commits(report, size, figure):
    """Best figure of the disk's commits of one size over the groups in flight."""
    ways = [way for way in report["commits"] if way["commit_bytes"] == size]
    ways = [way for way in ways if way["call"] != "received"]
    return max(way[figure] for way in ways)


def lone_commit(report, figure, paced):
    """The better of the ways to do one 4 KiB commit: the floor must not flatter the broker."""
    ways = [way for way in report["commits"] if (way["call"] == "paced") == paced]
    lone = [w for w in ways if w["commit_bytes"] == 4096 and w["groups_in_flight"] == 1]
    return min(way["latency"][figure] for way in lone)


def received_commits(report):
    """Bytes per second of a thread that receives them from a socket and commits them."""
    return next(way["bytes_per_s"] for way in report["commits"] if way["call"] == "received")


def is_good(report):
    verdict = report.get("verification") or {}
    wrong = sum(verdict.get(key, 0) for key in ("lost", "doubled", "reordered", "damaged"))
    return not (report.get("failures") or report.get("refused") or wrong)


class Table:
    def __init__(self):
        print("| what | measured | against | ratio | target | met |")
        print("|---|---:|---:|---:|---:|---|")

    def row(self, what, measured, against, target, unit, at_most=False):
        """One target: `measured / against` must be at least, or at most, `target`."""
        if measured is None or not against:
            print(f"| {what} | - | - | - | {target:g} | not measured |")
            return
        ratio = measured / against
        met = ratio <= target if at_most else ratio >= target
        sign = "<=" if at_most else ">="
        print(
            f"| {what} | {measured:,.0f} {unit} | {against:,.0f} {unit} | {ratio:.2f} "
            f"| {sign} {target:g} | {'yes' if met else 'NO'} |"
        )


def recovered(report, start_ms):
    sent = json.loads(pathlib.Path(report).read_text())["sent"]
    found = {"messages": sent["messages"], "log_bytes": sent["bytes"]}
    print(json.dumps({"start_ms": int(start_ms), **found}))


def main():
    directory = pathlib.Path(sys.argv[1])
    runs = load(directory)
    disks = runs.get("disk-before", []) + runs.get("disk-after", [])
    machine = disks[0]["machine"]
    storage = disks[0]["storage"]
    print(f"# Speed, {directory.name}\n")
    print(f"{machine['cpu_model']}, {machine['cpus']} cores, Linux {machine['kernel']}, ", end="")
    print(f"{storage['file_system']} on {storage['device']}. Medians.\n")

    def of(name, figure):
        return median(runs.get(name, []), figure)

    def floor(figure, paced=False):
        return median(disks, lambda r: lone_commit(r, figure, paced))

    disk_bytes = median(disks, lambda r: commits(r, 1 << 20, "bytes_per_s"))
    received_bytes = median(disks, received_commits)
    read_bytes = median(disks, lambda r: r["sequential_read"]["bytes_per_s"])
    table = Table()

    def ack(name, figure):
        return of(name, lambda r: r["ack_latency"][figure])

    # Back to back the disk and the cores stay awake; at the messages' pace they fall asleep.
    floors = ((False, "4 KiB commits back to back"), (True, "4 KiB commits at that rate"))
    for name, how in (("ack", "as it comes"), ("ack-awake", "cores that never sleep")):
        for figure, target in (("p50_us", 1.5), ("p99_us", 3)):
            what = f"acknowledgement {figure[:3]} at 1,000/s, {how}, to"
            for paced, commit in floors:
                against = floor(figure, paced)
                table.row(f"{what} {commit}", ack(name, figure), against, target, "us", at_most=True)
    for paced, commit in floors:
        what = f"the same p99 while settling, to {commit}"
        measured = ack("ack-settling", "p99_us")
        table.row(what, measured, floor("p99_us", paced), 5, "us", at_most=True)

    def sent(name):
        value = of(name, lambda r: r["sent"]["bytes_per_s"])
        return value and value / 1e6

    def amplification(report):
        return report["broker"]["bytes_written_per_byte_accepted"]

    for batch in ("64KiB", "1MiB"):
        disk = disk_bytes / 1e6
        for name, what in (("burst", "burst"), ("burst-fresh", "burst into a fresh broker")):
            what = f"{what}, {batch} batches, to the disk"
            table.row(what, sent(f"{name}-{batch}"), disk, 0.6, "MB/s")
        name = f"sustained-{batch}"
        amplified = of(name, amplification)
        left = disk / amplified if amplified else None
        what = f"sustained, {batch}, to the disk less amplification"
        table.row(what, sent(name), left, 0.6, "MB/s")
        what = f"sustained, {batch}, to the sink (either will do)"
        table.row(what, sent(name), sent(f"sink-{batch}"), 0.8, "MB/s")

    behind = of("tail", lambda r: r["delivery_latency"]["p99_us"])
    table.row("behind at the tail, p99, to 1 s", behind, 1e6, 1, "us", at_most=True)
    backlog = of("backlog", lambda r: r["received"]["bytes_per_s"] / 1e6)
    table.row("cold reading, to the disk's", backlog, read_bytes / 1e6, 0.5, "MB/s")
    one, many = sent("partitions-1"), sent("partitions-1000")
    table.row("1,000 partitions, to one", many, one, 0.7, "MB/s")
    for name, mebibytes in (("idle-none", 64), ("idle-10000", 256)):
        memory = of(name, lambda r: r["memory_bytes"] / (1 << 20))
        table.row(f"memory, {name}, to the limit", memory, mebibytes, 1, "MiB", at_most=True)
    start = of("idle-none", lambda r: r["start_ms"])
    table.row("start on an empty directory, to 200 ms", start, 200, 1, "ms", at_most=True)

    for size in ("128", "64KiB"):
        name = f"recovery-{size}"
        allowed = of(name, lambda r: 1000 + 1000 * r["log_bytes"] / (1 << 30))
        what = f"start on a log of {size} messages, to 1 s and 1 s a GiB"
        table.row(what, of(name, lambda r: r["start_ms"]), allowed, 1, "ms", at_most=True)

    for size in ("128", "64KiB"):
        name = f"recovery-{size}"
        log, messages = of(name, lambda r: r["log_bytes"]), of(name, lambda r: r["messages"])
        if log:
            print(f"\nThe log of {size} messages: {log / 1e6:,.0f} MB, {messages:,.0f} of them.", end="")
    for batch in ("64KiB", "1MiB"):
        amplified = of(f"sustained-{batch}", amplification)
        if amplified:
            print(f"\nBytes written per byte accepted, {batch} batches: {amplified:.2f}.", end="")
    if received_bytes:
        part = received_bytes / disk_bytes
        print(
            f"\nA thread that only receives and commits, 1 MiB at a time: "
            f"{received_bytes / 1e6:,.0f} MB/s, {part:.2f} of the disk.",
            end="",
        )
    bad = [name for name, reports in runs.items() if not all(map(is_good, reports))]
    print(f"\n\nRuns that did not end well: {', '.join(bad) if bad else 'none'}.")


if sys.argv[1] == "--recovered":
    recovered(*sys.argv[2:])
else:
    main()
