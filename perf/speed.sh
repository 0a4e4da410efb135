#!/usr/bin/env bash
# Measures the speed targets on this machine, in one sitting, and keeps every report.
#
#   perf/speed.sh [RUNS]        medians of RUNS runs each, 3 by default
#
# Reports go to perf/results/DATE-COMMIT/, the summary to standard output and SUMMARY.md there. The
# broker's data lives under DATA (the current directory by default): put it on the disk to measure.
# Run it on an idle machine: on busy cores a commit waits for the processor, not for the disk.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
runs=${1:-3}
data=${DATA:-$PWD}
out=$root/perf/results/$(date +%Y-%m-%d)-$(git -C "$root" rev-parse --short HEAD)
millrace=$root/target/release/millrace

# One scenario: its name, then the arguments of `millrace bench`. A run that fails leaves its report
# too, and the summary says so.
measure() {
    local name=$1 run
    shift
    for run in $(seq "$runs"); do
        echo "== $name, run $run of $runs" >&2
        "$millrace" bench "$@" --json "$out/$name-$run.json" ||
            echo "== $name, run $run did not end well" >&2
    done
}

# Starts a broker of our own for what one child of `bench` cannot show; sets `broker` (its process),
# `address` and `start_ms`.
start_broker() {
    directory=$(mktemp -d "$data/millrace-speed-XXXXXX")
    restart_broker "$@"
}

restart_broker() {
    local began line
    began=$(date +%s%N)
    coproc SERVE { exec "$millrace" serve --data-dir "$directory" --kafka 127.0.0.1:0 "$@"; }
    broker=$SERVE_PID
    read -r line <&"${SERVE[0]}"
    start_ms=$((($(date +%s%N) - began) / 1000000))
    address=$(sed -n 's/.*kafka=\([^ ]*\).*/\1/p' <<<"$line")
}

stop_broker() {
    kill -TERM "$broker"
    wait "$broker" || echo "== the broker did not stop cleanly" >&2
    rm -rf "$directory"
}

# Settled memory and start time, without and with 10,000 partitions.
measure_idle() {
    local run name
    for run in $(seq "$runs"); do
        for name in idle-none idle-10000; do
            start_broker --cores 0,1
            [ $name = idle-none ] || "$millrace" bench produce --target "$address" --no-verify \
                --partitions 10000 --rate 10000 --duration 2s --warmup 0s >/dev/null
            sleep 5
            awk -v start_ms="$start_ms" '/^VmRSS:/ {
                printf "{\"start_ms\": %d, \"memory_bytes\": %d}\n", start_ms, $2 * 1024
            }' "/proc/$broker/status" >"$out/$name-$run.json"
            stop_broker
        done
    done
}

# Acknowledgements at 1,000/s while a neighbour fills the log, so that settle passes run.
measure_ack_settling() {
    local run neighbour
    for run in $(seq "$runs"); do
        echo "== ack-settling, run $run of $runs" >&2
        start_broker
        sleep 8
        "$millrace" bench produce --target "$address" --rate 40000 --no-verify --warmup 0s \
            --duration 35s --json "$out/ack-settling-neighbour-$run.json" >/dev/null 2>&1 &
        neighbour=$!
        "$millrace" bench produce --target "$address" --rate 1000 --warmup 5s --duration 25s \
            --no-verify --json "$out/ack-settling-$run.json" || true
        wait "$neighbour" || echo "== the neighbour did not end well" >&2
        stop_broker
    done
}

# A burst into a log whose files are ready: a fresh broker fills some with zeros first. Then four
# more, once the broker has been busy: it has all of its files, and its memory. Always with several
# MiB on their way.
measure_burst() {
    local batch run again depth
    for batch in 64KiB 1MiB; do
        [ $batch = 1MiB ] && depth=8 || depth=32
        for run in $(seq "$runs"); do
            start_broker --cores 0
            sleep 8
            burst "burst-fresh-$batch-$run"
            "$millrace" bench produce --target "$address" "${load[@]}" --batch "$batch" \
                --warmup 0s --duration 3s --no-verify >/dev/null 2>&1 || true
            for again in 1 2 3 4; do
                sleep 8
                burst "burst-$batch-$run$again"
            done
            stop_broker
        done
    done
}

# burst NAME: a quarter of a second, which the log has room for.
burst() {
    echo "== $1" >&2
    "$millrace" bench produce --target "$address" --connections 4 --depth "$depth" \
        --batch "$batch" --warmup 0s --duration 250ms --no-verify --json "$out/$1.json" ||
        echo "== $1 did not end well" >&2
}

# How long a start takes on a log of about a GiB and more that nothing was settled of, in few large
# messages and in many small ones, after the process was killed.
measure_recovery() {
    local run size
    for size in 128 64KiB; do
        for run in $(seq "$runs"); do
            echo "== recovery-$size, run $run of $runs" >&2
            start_broker --cores 0 --set wal.files=32 --set settle.files_max=1024
            "$millrace" bench produce --target "$address" "${load[@]}" --batch 1MiB --size "$size" \
                --warmup 0s --duration 1500ms --no-verify --json "$out/recovery-filling.json" \
                >/dev/null 2>&1 || echo "== filling the log did not end well" >&2
            kill -KILL "$broker"
            wait "$broker" 2>/dev/null || true
            restart_broker --cores 0 --set wal.files=32 --set settle.files_max=1024
            python3 "$root/perf/summary.py" --recovered "$out/recovery-filling.json" "$start_ms" \
                >"$out/recovery-$size-$run.json"
            rm "$out/recovery-filling.json"
            stop_broker
        done
    done
}

cargo build --release --manifest-path "$root/Cargo.toml"
mkdir -p "$out"
cd "$data"

# The floor first and last: a disk that changes its mind shows.
measure disk-before disk --duration 3s

# When a fresh broker has made its log's files: as it comes; then with a core for the broker and one
# for the generator that never sleep.
measure ack produce --rate 1000 --warmup 7s --duration 10s
export MILLRACE_SERVER_IDLE_SPIN_US=1500
measure ack-awake produce --rate 1000 --warmup 7s --duration 10s \
    --cores 0 --generator-cores 1 --spin on
unset MILLRACE_SERVER_IDLE_SPIN_US
measure_ack_settling

# One shard, several connections, batches of 64 KiB and of 1 MiB: a burst that fits into the log,
# then several times the log, then the generator alone.
load=(--connections 4 --depth 8)
measure_burst
for batch in 64KiB 1MiB; do
    measure "sustained-$batch" produce --cores 0 "${load[@]}" --batch $batch --duration 15s
    measure "sink-$batch" produce --target sink "${load[@]}" --batch $batch --duration 5s
done

# A consumer at the tail while producers go as fast as they can; a cold backlog.
measure tail consume --cores 0 "${load[@]}" --duration 10s
measure backlog consume --cores 0 "${load[@]}" --backlog 2GiB

# Many partitions, written in turn, against one.
measure partitions-1 produce --cores 0 "${load[@]}" --duration 15s
measure partitions-1000 produce --cores 0 "${load[@]}" --partitions 1000 --duration 15s
measure_idle
measure_recovery

measure disk-after disk --duration 3s

python3 "$root/perf/summary.py" "$out" | tee "$out/SUMMARY.md"
