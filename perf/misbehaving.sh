#!/usr/bin/env bash
# What consumers that do not play along cost those that do: a steady load from sending to arrival,
# alone and beside each kind of misbehaving.py, on one shard.
#
#   perf/misbehaving.sh [ROUNDS]      3 by default: about 5 minutes beside a release build
#
# Prints medians of the load's latencies, and how fast the others were answered. The broker has one
# core, the load and the others share the rest: run it on an idle machine with two cores or more.
#
# DATA       where the broker's data lives (the current directory)
# DURATION   of each run (10s)
# RATE       messages a second of the load (2000)
# PER_S      requests a second of the others, at most (200); 0: as fast as they are answered, which
#            also takes their core from the load's generator
# MILLRACE   the executable (built)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=${1:-3}
millrace=${MILLRACE:-$root/target/release/millrace}
kinds="alone silent churn commits refused wide vanish"
scratch=$(mktemp -d "${DATA:-$PWD}/misbehaving-XXXXXX")
broker=""
beside=""
end() {
    [ -z "$beside" ] || kill -TERM "$beside" 2>/dev/null || true
    [ -z "$broker" ] || kill -KILL "$broker" 2>/dev/null || true
    rm -rf "$scratch"
}
trap end EXIT

[ -n "${MILLRACE:-}" ] || cargo build --release --manifest-path "$root/Cargo.toml"
others="1-$(($(nproc) - 1))"

: >"$scratch/ready"
taskset -c 0 "$millrace" serve --data-dir "$scratch/data" --kafka 127.0.0.1:0 --cores 0 \
    >"$scratch/ready" 2>"$scratch/log" &
broker=$!
until read -r _ kafka _ <"$scratch/ready" && [ -n "$kafka" ]; do
    kill -0 "$broker" || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.1
done
address=${kafka#kafka=}

# The topic of those that fetch much for little: a record in each partition.
taskset -c "$others" "$millrace" bench produce --target "$address" --topic wide --partitions 2000 \
    --rate 4000 --size 100 --batch 100 --duration 2s --warmup 0s --no-verify >/dev/null 2>&1

for round in $(seq "$rounds"); do
    for kind in $kinds; do
        echo "== $kind, round $round of $rounds" >&2
        if [ "$kind" != alone ]; then
            taskset -c "$others" python3 "$root/perf/misbehaving.py" "$address" "$kind" \
                "${PER_S:-200}" >>"$scratch/$kind.txt" 2>&1 &
            beside=$!
        fi
        taskset -c "$others" "$millrace" bench e2e --target "$address" --target-pid "$broker" \
            --no-verify --spin off --rate "${RATE:-2000}" --size 100 --connections 2 \
            --partitions 4 --duration "${DURATION:-10s}" --json "$scratch/$kind-$round.json" \
            >/dev/null 2>>"$scratch/log" || echo "== it did not end well" >&2
        if [ -n "$beside" ]; then
            kill -TERM "$beside"
            wait "$beside" || cat "$scratch/$kind.txt" >&2
            beside=""
        fi
    done
done

python3 - "$scratch" $kinds <<'END'
import json, pathlib, re, statistics, sys

FIGURES = {
    "ack p50": lambda r: r["ack_latency"]["p50_us"],
    "ack p99": lambda r: r["ack_latency"]["p99_us"],
    "arrival p50": lambda r: r["delivery_latency"]["p50_us"],
    "arrival p99": lambda r: r["delivery_latency"]["p99_us"],
}
scratch = pathlib.Path(sys.argv[1])
print("| beside the load | " + " | ".join(f"{name}, us" for name in FIGURES) + " | answered/s |")
print("|---|" + "---:|" * (len(FIGURES) + 1))
for kind in sys.argv[2:]:
    reports = [json.loads(path.read_text()) for path in scratch.glob(f"{kind}-*.json")]
    medians = [statistics.median(map(figure, reports)) for figure in FIGURES.values()]
    told = scratch / f"{kind}.txt"
    rates = re.findall(r"(\d+)/s", told.read_text()) if told.exists() else []
    rate = f"{statistics.median(map(int, rates)):,.0f}" if rates else ""
    row = " | ".join(f"{value:,.0f}" for value in medians)
    print(f"| {kind} | {row} | {rate} |")
END
