#!/usr/bin/env python3
"""The tables of docs/tuning.md out of the reports of perf/tuning.sh.

    perf/tuning.py DIRECTORY                 prints them
    perf/tuning.py --fill FILE DIRECTORY     puts them between the marks of a file
"""

import json
import pathlib
import re
import sys


def quantile(report, stage, share):
    """Of a stage's values over all shards; None where nothing was recorded."""
    counts = {}
    for entry in report["broker"]["stages"]:
        if entry["name"] == stage:
            for value, count in entry["histogram"]:
                counts[value] = counts.get(value, 0) + count
    above = sum(counts.values()) * (1 - share)
    for value in sorted(counts, reverse=True):
        above -= counts[value]
        if above < 0:
            return value
    return None


def time(ns):
    if ns is None:
        return "-"
    return f"{ns / 1e3:,.0f} us" if ns < 1e6 else f"{ns / 1e6:,.2f} ms"


def stage_time(stage, share):
    return lambda report: time(quantile(report, stage, share))


def stage_count(stage, share):
    def cell(report):
        value = quantile(report, stage, share)
        return "-" if value is None else f"{value:,}"
    return cell


def ack(figure):
    return lambda report: time(report["ack_latency"][figure] * 1e3)


def late(report):
    lateness = report.get("generator_lateness")
    return time(lateness["p50_us"] * 1e3) if lateness else "-"


def rate(report):
    return f"{report['sent']['messages_per_s']:,.0f}"


def busy(report):
    scenario = report["scenario"]
    lasted = report["measured_s"] + scenario["warmup_ms"] / 1e3
    usage = report["broker"]["usage"]
    return f"{(usage['cpu_user_s'] + usage['cpu_system_s']) / lasted * 100:.0f}%"


COLUMNS = {
    "msg/s": rate,
    "ack p50": ack("p50_us"),
    "ack p99": ack("p99_us"),
    "generator late p50": late,
    "parse p99": stage_time("parse", 0.99),
    "append p50": stage_time("append", 0.5),
    "append p99": stage_time("append", 0.99),
    "group_open p50": stage_time("group_open", 0.5),
    "group_open p99": stage_time("group_open", 0.99),
    "group_commit p50": stage_time("group_commit", 0.5),
    "group_commit p99": stage_time("group_commit", 0.99),
    "reply p50": stage_time("reply", 0.5),
    "reply p99": stage_time("reply", 0.99),
    "turn p99": stage_time("turn", 0.99),
    "groups_in_flight p50": stage_count("groups_in_flight", 0.5),
    "group_entries p50": stage_count("group_entries", 0.5),
    "group_bytes p50": stage_count("group_bytes", 0.5),
    "broker's CPU": busy,
}
# What each table shows.
TABLES = {
    "first": ["ack p50", "ack p99", "generator late p50", "append p50", "append p99", "parse p99",
              "group_open p99", "group_commit p50", "group_commit p99", "reply p50", "reply p99",
              "turn p99"],
    "cores": ["ack p50", "ack p99", "group_commit p50", "group_commit p99", "turn p99",
              "broker's CPU"],
    "spin": ["ack p50", "ack p99", "append p50", "group_commit p50", "broker's CPU"],
    "groups": ["msg/s", "ack p50", "ack p99", "group_open p50", "group_commit p50",
               "group_bytes p50", "groups_in_flight p50"],
    "connections": ["ack p50", "ack p99", "group_entries p50", "turn p99", "broker's CPU"],
}


def cell(column, report):
    try:
        return COLUMNS[column](report)
    except (KeyError, TypeError):
        return "-"


def tables(directory):
    """Lines by table."""
    found = {}
    for line in (directory / "rows.tsv").read_text().splitlines():
        table, file, label = line.split("\t")
        path = directory / file
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        columns = TABLES[table]
        rows = found.setdefault(
            table, [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        )
        mark = " (!)" if report.get("failures") or report.get("warnings") else ""
        cells = " | ".join(cell(column, report) for column in columns)
        rows.append(f"| {label}{mark} | {cells} |")
    return found


def machine(directory):
    report = json.loads(next(directory.glob("*.json")).read_text())
    facts, storage = report["machine"], report["storage"]
    spin = "spun" if report["scenario"]["spin"]["is_on"] else "slept"
    return (
        f"{facts['cpu_model']}, {facts['cpus']} cores, Linux {facts['kernel']}, "
        f"{storage['file_system']} on {storage['device']}, commit {report['commit']}; the "
        f"generator {spin} between messages. A row with (!) has a warning in its report."
    )


def fill(path, texts):
    """Replaces what stands between `<!-- tuning: NAME -->` and `<!-- end -->`."""
    def replaced(match):
        text = texts.get(match[1])
        return f"<!-- tuning: {match[1]} -->\n{text}\n<!-- end -->" if text else match[0]

    mark = r"<!-- tuning: (\w+) -->\n.*?<!-- end -->"
    path.write_text(re.sub(mark, replaced, path.read_text(), flags=re.DOTALL))


def main():
    directory = pathlib.Path(sys.argv[-1])
    texts = {"machine": machine(directory)}
    texts |= {name: "\n".join(rows) for name, rows in tables(directory).items()}
    if sys.argv[1] == "--fill":
        fill(pathlib.Path(sys.argv[2]), texts)
        return
    for name, text in texts.items():
        print(f"## {name}\n\n{text}\n")


main()
