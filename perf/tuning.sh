#!/usr/bin/env bash
# Measures what docs/tuning.md shows, on this machine, and fills its tables in.
#
#   perf/tuning.sh             everything, about 8 minutes; every table is printed
#   perf/tuning.sh --fill      the same, and puts the tables into docs/tuning.md
#
# Reports go to perf/results/DATE-COMMIT-tuning/ (or OUT). The broker's data lives under DATA (the
# current directory): put it on the disk to measure. Run it on an idle machine.
#
# DURATION   of each run (10s)
# SPIN       whether the generator spins, as --spin takes it (auto)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=$(cd "${DATA:-$PWD}" && pwd)
out=${OUT:-$root/perf/results/$(date +%Y-%m-%d)-$(git -C "$root" rev-parse --short HEAD)-tuning}
millrace=${MILLRACE:-$root/target/release/millrace}
number=0

# The load of most tables: small requests at a steady rate.
steady=(--rate 1000 --size 1KiB)
# And one that keeps the log busy.
busy=(--connections 16 --depth 5 --partitions 16 --size 1KiB --batch 16KiB)

# measure TABLE LABEL SETTINGS ARGUMENTS...: a row of a table. SETTINGS are the broker's, as
# `server.pin=false`, with spaces between, or nothing.
measure() {
    local table=$1 label=$2 settings=$3 setting name file variables=()
    shift 3
    for setting in $settings; do
        name=${setting%%=*}
        name=MILLRACE_$(tr 'a-z.' 'A-Z_' <<<"$name")
        variables+=("$name=${setting#*=}")
    done
    number=$((number + 1))
    file=$(printf '%02d-%s.json' "$number" "$table")
    echo "== $table: $label" >&2
    env ${variables[@]+"${variables[@]}"} "$millrace" bench produce --no-verify \
        --spin "${SPIN:-auto}" --duration "${DURATION:-10s}" "$@" --json "$out/$file" \
        >/dev/null 2>>"$out/progress.txt" || echo "== $label did not end well" >&2
    printf '%s\t%s\t%s\n' "$table" "$file" "$label" >>"$out/rows.tsv"
}

[ -n "${MILLRACE:-}" ] || cargo build --release --manifest-path "$root/Cargo.toml"
mkdir -p "$out"
: >"$out/rows.tsv"
cd "$data"
"$millrace" cores >"$out/cores.txt"
cores=$(nproc)

measure first '1,000/s' '' "${steady[@]}"
measure first '10,000/s' '' --rate 10000 --connections 4 --partitions 4 --size 1KiB
measure first 'as fast as answered' '' "${busy[@]}"

for core in $(seq 0 $((cores < 4 ? cores - 1 : 3))); do
    measure cores "\`--cores $core\`" '' "${steady[@]}" --cores "$core"
done
measure cores '`--cores auto`' '' "${steady[@]}" --cores auto
measure cores '`--cores auto`, `server.pin=false`' server.pin=false "${steady[@]}" --cores auto

for spin in 0 20 200 1000; do
    measure spin "\`server.idle_spin_us=$spin\`" "server.idle_spin_us=$spin" "${steady[@]}"
done
for spin in 0 200 1000; do
    measure spin "\`server.commit_spin_us=$spin\`" "server.commit_spin_us=$spin" "${steady[@]}"
done

for groups in 1 2 4; do
    setting=wal.groups_in_flight_max=$groups
    measure groups "\`$setting\`, 10,000/s" "$setting" --rate 10000 --connections 16 \
        --partitions 16 --size 1KiB --cores 0
    measure groups "\`$setting\`, as fast as answered" "$setting" "${busy[@]}" --cores 0
done

for count in 1 50 500; do
    measure connections "$count connections, 10,000/s" '' --rate 10000 --connections "$count" \
        --partitions 16 --size 1KiB
done
measure connections '500 connections, linger of 50 ms' '' --rate 10000 --connections 500 \
    --partitions 16 --size 1KiB --linger 50ms

python3 "$root/perf/tuning.py" "$out" | tee "$out/TABLES.md"
if [ "${1:-}" = --fill ]; then
    python3 "$root/perf/tuning.py" --fill "$root/docs/tuning.md" "$out"
fi
