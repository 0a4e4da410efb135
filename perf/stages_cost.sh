#!/usr/bin/env bash
# What the histograms of the stages cost: a broker with them and one that records nothing, in turn.
#
#   perf/stages_cost.sh [ROUNDS]      5 by default: about 8 minutes beside two release builds
#
# The load is the dearest for them: requests of one small message each, so that a value is recorded
# for as little work as there can be. Prints medians and every run; the difference means something
# where it is larger than the runs' own. Run it on an idle machine.
#
# DATA       where the broker's data lives (the current directory)
# DURATION   of each run (10s)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=${1:-5}
scratch=$(mktemp -d "${DATA:-$PWD}/stages-cost-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

build() {
    cargo build --release --manifest-path "$root/Cargo.toml" "$@"
    cp "${CARGO_TARGET_DIR:-$root/target}/release/millrace" "$scratch/$kind"
}

# measure KIND LOAD ROUND ARGUMENTS...
measure() {
    local kind=$1 load=$2 round=$3
    shift 3
    echo "== $load, $kind, round $round of $rounds" >&2
    # The generator is the same for both.
    "$scratch/with" bench produce --broker "$scratch/$kind" --no-verify --cores 0 --spin off \
        --size 100 --batch 1 --duration "${DURATION:-10s}" "$@" \
        --json "$scratch/$load-$kind-$round.json" >/dev/null 2>&1 ||
        echo "== it did not end well" >&2
}

kind=without build --features no-stages
kind=with build
cd "$scratch"
for round in $(seq "$rounds"); do
    # Who comes first changes, so that a machine that slows down favours nobody.
    kinds="with without"
    [ $((round % 2)) = 1 ] || kinds="without with"
    for kind in $kinds; do
        measure "$kind" closed "$round" --connections 16 --depth 32 --partitions 16
        measure "$kind" steady "$round" --connections 4 --partitions 4 --rate 20000
    done
done

python3 - "$scratch" <<'END'
import json, pathlib, statistics, sys

FIGURES = {
    "msg/s": lambda r: r["sent"]["messages_per_s"],
    "ack p50, us": lambda r: r["ack_latency"]["p50_us"],
    "ack p99, us": lambda r: r["ack_latency"]["p99_us"],
    "broker's CPU, s by million messages": lambda r: r["broker"]["cpu_s_per_million_messages"],
}
scratch = pathlib.Path(sys.argv[1])
print("| load | figure | with | without | with / without | runs with | runs without |")
print("|---|---|---:|---:|---:|---|---|")
for load in ("closed", "steady"):
    for name, figure in FIGURES.items():
        runs = {}
        for kind in ("with", "without"):
            reports = [json.loads(p.read_text()) for p in scratch.glob(f"{load}-{kind}-*.json")]
            runs[kind] = sorted(figure(report) for report in reports)
        if not all(runs.values()):
            continue
        medians = {kind: statistics.median(values) for kind, values in runs.items()}
        ratio = medians["with"] / medians["without"]
        each = [" ".join(f"{value:,.4g}" for value in values) for values in runs.values()]
        print(f"| {load} | {name} | {medians['with']:,.4g} | {medians['without']:,.4g} "
              f"| {ratio:.3f} | {each[0]} | {each[1]} |")
END
