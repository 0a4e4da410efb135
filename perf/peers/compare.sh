#!/usr/bin/env bash
# Millrace and Apache Kafka on this machine, in one sitting, with the same load generator.
#
#   perf/peers/compare.sh [ROUNDS]      medians of ROUNDS rounds, 3 by default: about 25 minutes
#   QUICK=1 perf/peers/compare.sh       one short round, to see that everything works: about 4
#
# Three brokers: Millrace, which syncs before it answers; Kafka as it comes, which does not; and
# Kafka with log.flush.interval.messages=1, which promises what Millrace does. They take turns,
# each with a fresh directory: A B C, A B C. Reports go to perf/results/DATE-COMMIT/ (or OUT), the
# summary to standard output and SUMMARY.md there. Run it on an idle machine.
#
# DATA   where the brokers' directories are: the disk to measure (the current directory)
# OUT    where the reports go
# SPIN   whether the generator spins, as --spin takes it (off: brokers want all cores)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
quick=${QUICK:-}
rounds=${1:-$([ -n "$quick" ] && echo 1 || echo 3)}
data=$(cd "${DATA:-$PWD}" && pwd)
out=${OUT:-$root/perf/results/$(date +%Y-%m-%d)-$(git -C "$root" rev-parse --short HEAD)-peers}
millrace=${MILLRACE:-$root/target/release/millrace}
kafka=$root/perf/peers/kafka.sh
brokers=(millrace kafka kafka-flush)
directory="" # of the broker that runs
pid=""

# A client of Kafka's own fills batches of 16 KiB and has five requests on their way; each broker
# is given the same.
load=(--batch 16KiB --depth 5 --partitions 16 --spin "${SPIN:-off}" --no-verify)
if [ -n "$quick" ]; then
    connections=(1 16)
    warm=2s warmup=500ms duration=1s idle_s=2 members=10 group_rounds=3
else
    connections=(1 16 64)
    warm=8s warmup=1s duration=5s idle_s=5 members=50 group_rounds=20
fi

say() { echo "== $*" >&2; }

clean_up() {
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    [ -z "$directory" ] || rm -rf "$directory"
}
trap clean_up EXIT

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# When process PID began, in milliseconds of the same clock, to the kernel's tick.
began_ms() {
    local ticks
    ticks=$(sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20)
    awk -v now="$(now_ms)" -v up="$(cut -d' ' -f1 /proc/uptime)" -v ticks="$ticks" \
        -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.0f\n", now - up * 1000 + ticks * 1000 / hz }'
}

# start BROKER: on $directory; sets pid, address and start_ms, the time from the process's first
# moment until it answers.
start() {
    local ready=$directory/../compare-ready-$$ line began=""
    case $1 in
        millrace)
            began=$(now_ms)
            "$millrace" serve --data-dir "$directory/data" --kafka 127.0.0.1:0 \
                >"$ready" 2>>"$out/$1.log" &
            until grep -q '^ready ' "$ready"; do
                kill -0 $! 2>/dev/null || { say "$1 did not start: $out/$1.log"; exit 1; }
                sleep 0.002
            done
            line="$(cat "$ready") pid=$!"
            ;;
        kafka) line=$("$kafka" start "$directory" 0) ;;
        kafka-flush) line=$("$kafka" start "$directory" 0 --flush-each-message) ;;
    esac
    rm -f "$ready"
    pid=$(sed -n 's/.*pid=\([0-9]*\).*/\1/p' <<<"$line")
    start_ms=$(($(now_ms) - ${began:-$(began_ms "$pid")}))
    address=$(sed -n 's/.*kafka=\([^ ]*\).*/\1/p' <<<"$line")
}

stop() {
    case $1 in
        millrace)
            kill -TERM "$pid"
            wait "$pid" || say "$1 did not stop cleanly"
            ;;
        *) "$kafka" stop "$directory" || say "$1 did not stop cleanly" ;;
    esac
    pid=""
}

fresh() { directory=$(mktemp -d "$data/millrace-compare-XXXXXX"); }

# What a broker left for the kernel to write must not be written in the next one's time.
discard() {
    rm -rf "$directory"
    directory=""
    sync -f "$data"
}

# measure NAME ARGUMENTS...: a report of `bench` on the broker that runs. One that fails leaves its
# report too, and the summary says so.
measure() {
    local name=$1 verb=$2
    shift 2
    say "$name"
    "$millrace" bench "$verb" --target "$address" "$@" --json "$out/$name.json" \
        >>"$out/tables.txt" 2>>"$out/progress.txt" || say "$name did not end well"
}

# idle NAME: what the broker holds in memory when nobody has asked for anything.
idle() {
    sleep "$idle_s"
    awk -v start_ms="$start_ms" '/^VmRSS:/ { printf "{\"start_ms\": %d, \"memory_bytes\": %d}\n",
        start_ms, $2 * 1024 }' "/proc/$pid/status" >"$out/$1.json"
}

# peaks BROKER ROUND: everything but the rates that only the peaks tell.
peaks() {
    local broker=$1 round=$2 size count
    fresh
    # A directory that was used once: formatting it is no part of a start.
    start "$broker"
    stop "$broker"
    start "$broker"
    idle "$broker-idle-$round"
    say "$broker, round $round: warming up"
    "$millrace" bench produce --target "$address" "${load[@]}" --connections 16 --warmup 0s \
        --duration "$warm" >/dev/null 2>&1 || say "warming up did not end well"
    for size in 128 1KiB; do
        for count in "${connections[@]}"; do
            measure "$broker-produce-$size-$count-$round" produce --target-pid "$pid" \
                "${load[@]}" --size "$size" --connections "$count" \
                --warmup "$warmup" --duration "$duration"
        done
    done
    measure "$broker-e2e-$round" e2e --target-pid "$pid" "${load[@]}" --connections 16 \
        --consumers 4 --warmup "$warmup" --duration "$duration"
    measure "$broker-groups-$round" groups --members "$members" --rounds "$group_rounds"
    stop "$broker"
    discard
}

# rates BROKER ROUND: acknowledgements and arrivals at rates that are the same for all.
rates() {
    local broker=$1 round=$2 base rate
    fresh
    start "$broker"
    "$millrace" bench produce --target "$address" "${load[@]}" --connections 16 --warmup 0s \
        --duration "$warm" >/dev/null 2>&1 || say "warming up did not end well"
    for base in kafka-flush kafka; do
        rate=$(cat "$out/half-of-$base.txt")
        # What is due is sent, however long that takes: a broker whose peak is lower has no latency.
        if [ $((2 * $(cat "$out/half-of-$broker.txt"))) -lt "$rate" ]; then
            say "$broker cannot do half of $base's peak"
            continue
        fi
        measure "$broker-ack-at-half-of-$base-$round" produce --target-pid "$pid" "${load[@]}" \
            --connections 16 --rate "$rate" --warmup "$warmup" --duration "$duration"
    done
    rate=$(cat "$out/half-of-kafka-flush.txt")
    measure "$broker-e2e-at-half-of-kafka-flush-$round" e2e --target-pid "$pid" "${load[@]}" \
        --connections 16 --consumers 4 --rate "$rate" --warmup "$warmup" --duration "$duration"
    stop "$broker"
    discard
}

[ -n "${MILLRACE:-}" ] || cargo build --release --manifest-path "$root/Cargo.toml"
"$kafka" fetch
mkdir -p "$out"
cd "$data"
"$millrace" bench disk --duration 1s --json "$out/disk-1.json" >/dev/null

for round in $(seq "$rounds"); do
    for broker in "${brokers[@]}"; do peaks "$broker" "$round"; done
done
for base in "${brokers[@]}"; do
    python3 "$root/perf/peers/summary.py" --half-of "$base" "$out" >"$out/half-of-$base.txt"
done
for round in $(seq "$rounds"); do
    for broker in "${brokers[@]}"; do rates "$broker" "$round"; done
done

python3 "$root/perf/peers/summary.py" "$out" | tee "$out/SUMMARY.md"
