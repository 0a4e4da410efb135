#!/usr/bin/env python3
"""Holds the reports of one sitting of perf/peers/compare.sh against each other and the targets.

    perf/peers/summary.py DIRECTORY
    perf/peers/summary.py --half-of BROKER DIRECTORY    half of its peak, messages per second
"""

import json
import pathlib
import re
import statistics
import sys

OURS, DEFAULT, FLUSH = BROKERS = ("millrace", "kafka", "kafka-flush")
TITLES = {OURS: "Millrace", DEFAULT: "Kafka", FLUSH: "Kafka, flush=1"}
# The load whose peak gives the rates at which latencies are held against each other.
PEAK = "produce-1KiB-16"


def load(directory):
    """Reports by broker and by what was measured."""
    runs = {}
    for path in sorted(directory.glob("*.json")):
        # The longer name first: `kafka` begins `kafka-flush` too.
        name = re.fullmatch(r"(kafka-flush|kafka|millrace)-(.+)-\d+", path.stem)
        if name:
            runs.setdefault((name[1], name[2]), []).append(json.loads(path.read_text()))
    return runs


def median(reports, figure):
    """Median of `figure` over the reports that have it; None without any."""
    values = []
    for report in reports:
        try:
            value = figure(report)
        except (KeyError, TypeError):
            continue
        if value is not None:
            values.append(value)
    return statistics.median(values) if values else None


def is_good(report):
    verdict = report.get("verification") or {}
    wrong = sum(verdict.get(key, 0) for key in ("lost", "doubled", "reordered", "damaged"))
    return not (report.get("failures") or report.get("refused") or wrong)


def number(value):
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


class Tables:
    def __init__(self, runs):
        self.runs = runs
        self.missed = []

    def of(self, broker, what, figure):
        return median(self.runs.get((broker, what), []), figure)

    def head(self, title, unit):
        print(f"\n## {title}\n")
        print(f"| {unit} | {' | '.join(TITLES.values())} | to Kafka | to flush=1 | target | met |")
        print("|---|---:|---:|---:|---:|---:|---|---|")

    def row(self, label, what, figure, targets, at_most=False):
        """One line; `targets` holds a bound of our ratio to each broker that has one."""
        values = {broker: self.of(broker, what, figure) for broker in BROKERS}
        ratios, missed = {}, False
        for broker in (DEFAULT, FLUSH):
            if values[OURS] is not None and values[broker]:
                ratios[broker] = values[OURS] / values[broker]
        # A rate above a broker's peak was not asked of it: there is nothing to be held against.
        # If it was above ours, the target is missed.
        left_out = {b for b in BROKERS if "ack-at" in what and (b, what) not in self.runs}
        targets = {b: bound for b, bound in targets.items() if b not in left_out}
        for broker, bound in targets.items():
            ratio = ratios.get(broker)
            missed |= ratio is None or (ratio > bound if at_most else ratio < bound)
        sign = "<=" if at_most else ">="
        words = {DEFAULT: "Kafka", FLUSH: "flush=1"}
        target = ", ".join(f"{sign} {bound:g} x {words[b]}" for b, bound in targets.items())
        cells = ["cannot" if b in left_out else number(v) for b, v in values.items()]
        cells += [number(ratios.get(broker)) for broker in (DEFAULT, FLUSH)]
        met = "-" if not targets else "NO" if missed else "yes"
        print(f"| {label} | {' | '.join(cells)} | {target or '-'} | {met} |")
        if targets and missed:
            self.missed.append(label)


def latency(kind, figure):
    return lambda report: report[kind][figure] / 1e3


def rate(report):
    return report["sent"]["messages_per_s"]


def produce(tables, loads):
    tables.head("Produce, acks=all, as fast as answered", "msg/s")
    for what, label in loads:
        tables.row(label, what, rate, {DEFAULT: 1, FLUSH: 5})
    tables.head("Its latency", "p99, ms")
    for what, label in loads:
        tables.row(label, what, latency("ack_latency", "p99_us"), {})
    tables.head("What it costs the broker", "s of CPU by million messages")
    for what, label in loads:
        tables.row(
            label, what, lambda r: r["broker"]["cpu_s_per_million_messages"], {DEFAULT: 0.5},
            at_most=True,
        )


def at_rates(tables, directory):
    for figure, title in (("p99_us", "p99"), ("p50_us", "p50")):
        tables.head(f"Acknowledgement at the same rate, {title}", "ms")
        for base in (FLUSH, DEFAULT):
            path = directory / f"half-of-{base}.txt"
            asked = number(float(path.read_text())) if path.exists() else "-"
            bounds = {DEFAULT: 1, FLUSH: 1} if title == "p99" else {}
            label = f"{asked} msg/s, half of {TITLES[base]}'s peak"
            what = f"ack-at-half-of-{base}"
            tables.row(label, what, latency("ack_latency", figure), bounds, at_most=True)


def end_to_end(tables):
    tables.head("From sending to arrival, 4 consumers", "msg/s")
    received = lambda report: report["received"]["messages_per_s"]
    tables.row("arrived, as fast as it goes", "e2e", received, {DEFAULT: 1, FLUSH: 1})
    tables.head("The same at half of Kafka flush=1's peak", "ms")
    for figure in ("p50_us", "p99_us"):
        bounds = {DEFAULT: 1, FLUSH: 1} if figure == "p99_us" else {}
        what = f"e2e-at-half-of-{FLUSH}"
        tables.row(figure[:3], what, latency("delivery_latency", figure), bounds, at_most=True)


def standing(tables):
    tables.head("Standing still, and groups", "what")
    mebibytes = lambda report: report["memory_bytes"] / (1 << 20)
    tables.row("resident memory after start, MiB", "idle", mebibytes, {DEFAULT: 0.2}, at_most=True)
    start = lambda report: report["start_ms"]
    tables.row("start to first answer, ms", "idle", start, {DEFAULT: 0.05}, at_most=True)
    for figure, label in (("p50_us", "p50"), ("p99_us", "p99")):
        again = lambda report, figure=figure: report["rejoin"][figure] / 1e3
        tables.row(f"a group joins again, {label}, ms", "groups", again, {DEFAULT: 1}, at_most=True)
    # Holds each broker's own wait for more members: 500 ms here, 3 s with Kafka.
    first = lambda report: report["first_join_ms"]
    tables.row("its first join, default waits, ms", "groups", first, {})


def main():
    directory = pathlib.Path(sys.argv[-1])
    runs = load(directory)
    tables = Tables(runs)
    if sys.argv[1] == "--half-of":
        peak = tables.of(sys.argv[2], PEAK, rate)
        if peak is None:
            sys.exit(f"{sys.argv[2]} has no peak in {directory}")
        print(max(1, int(peak / 2)))
        return
    some = next(iter(runs[(OURS, PEAK)]))
    machine, scenario = some["machine"], some["scenario"]
    rounds = len(runs[(OURS, PEAK)])
    print(f"# Millrace and Apache Kafka, {directory.name}\n")
    print(f"{machine['cpu_model']}, {machine['cpus']} cores, Linux {machine['kernel']}. ", end="")
    disk = directory / "disk-1.json"
    if disk.exists():
        storage = json.loads(disk.read_text())["storage"]
        print(f"{storage['file_system']} on {storage['device']}. ", end="")
    print(f"Medians of {rounds} rounds, brokers in turn.")
    spin = "spins" if scenario["spin"]["is_on"] else "sleeps"
    print(
        f"Batches up to {scenario['batch_bytes']} B, {scenario['depth']} requests on their way a "
        f"connection, {scenario['partitions']} partitions, acks all; the generator {spin}.\n"
    )
    print("Millrace and Kafka with flush=1 sync before they answer; Kafka as it comes does not.")
    sizes = {f"produce-{size}-{count}": f"{size.replace('128', '128 B')}, {count} connections"
             for size in ("128", "1KiB") for count in (1, 16, 64)}
    loads = [(what, label) for what, label in sizes.items() if (OURS, what) in runs]
    produce(tables, loads)
    at_rates(tables, directory)
    end_to_end(tables)
    standing(tables)
    bad = sorted(f"{b} {what}" for (b, what), rs in runs.items() if not all(map(is_good, rs)))
    print(f"\nTargets missed: {', '.join(tables.missed) if tables.missed else 'none'}.")
    print(f"Runs that did not end well: {', '.join(bad) if bad else 'none'}.")
    warned = sorted({f"{b} {what}" for (b, what), rs in runs.items()
                     if any(r.get("warnings") for r in rs)})
    print(f"Runs whose figures may be the generator's: {', '.join(warned) if warned else 'none'}.")


main()
