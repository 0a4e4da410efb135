#!/usr/bin/env bash
# The broker as kcat sees it: metadata, every compression, keys and headers, reading from offsets
# and times, one port and a node a core, a restart. Skipped where kcat is not installed.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

command -v kcat >/dev/null || skip "no kcat (apt-get install kcat)"
data=$scratch/data

# expect WHAT EXPECTED FOUND
expect() { [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"; }

produce() { kcat -P -b "$address" -X message.timeout.ms=20000 "$@"; }
consume() { timeout 60 kcat -C -q -e -b "$address" "$@"; }

serve "$data"
kcat -L -b "$address" >"$scratch/metadata"
grep -q "1 brokers" "$scratch/metadata" || fail "metadata: $(cat "$scratch/metadata")"

for codec in none gzip snappy lz4 zstd; do
  seq 1000 | produce -t "codec-$codec" -z "$codec"
  expect "$codec" "$(seq 1000 | cksum)" "$(consume -t "codec-$codec" | cksum)"
done
for acks in 0 1 all; do
  seq 100 | produce -t "acks-$acks" -X "acks=$acks"
  expect "acks $acks" 100 "$(consume -t "acks-$acks" | wc -l)"
done
seq 500 | produce -t exact -X enable.idempotence=true
expect "idempotence" "$(seq 500 | cksum)" "$(consume -t exact | cksum)"

printf 'k1:v1\nk2:v2\n' | produce -t keyed -K : -H colour=blue
expect "keys and headers" "k1 v1 colour=blue" "$(consume -t keyed -c 1 -f '%k %s %h\n')"
expect "from an offset" "v2" "$(consume -t keyed -o 1)"
expect "the last one" "v2" "$(consume -t keyed -o -1)"
expect "the middle of a batch" 500 "$(consume -t codec-lz4 -o 499 -c 1)"
expect "offset by time" "keyed [0] offset 0" "$(kcat -Q -b "$address" -t keyed:0:1)"

# A group reads everything once, remembers it, and goes on from there, also after a restart.
grouped() { timeout 60 kcat -b "$address" -G everyday -X auto.offset.reset=earliest -q -e "$1"; }
seq 300 | produce -t grouped
expect "a group" "$(seq 300 | cksum)" "$(grouped grouped | cksum)"
seq 301 400 | produce -t grouped
expect "a group that comes back" "$(seq 301 400 | cksum)" "$(grouped grouped | cksum)"
stop

serve "$data" --node-per-core --set server.pin=false --cores 0,1
kcat -L -b "$address" >"$scratch/metadata"
grep -q "2 brokers" "$scratch/metadata" || fail "metadata: $(cat "$scratch/metadata")"
seq 1000 | produce -t nodes
seq 401 450 | produce -t grouped
expect "a group on nodes" "$(seq 401 450 | cksum)" "$(grouped grouped | cksum)"
expect "nodes" 1000 "$(consume -t nodes | wc -l)"
stop

serve "$data"
expect "after a restart with fewer nodes" 1000 "$(consume -t nodes | wc -l)"
for codec in none gzip snappy lz4 zstd; do
  expect "$codec after restarts" "$(seq 1000 | cksum)" "$(consume -t "codec-$codec" | cksum)"
done
stop
say "passed"
