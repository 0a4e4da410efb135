#!/usr/bin/env bash
# franz-go's own tests of its client, against this broker instead of Apache Kafka: groups that come
# and go under every balancer while records pass through them, static members, regular expressions,
# added and removed partitions, pauses, records larger than a fetch. On one node, and groups on a
# node a core as well. The version is pinned by go/go.sum; skipped where there is no Go or it
# cannot be fetched.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || skip "no go (apt-get install golang)"
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
sources=$(cd "$(dirname "$0")/go" && pwd)
program=$target/clients/go/kgo.test
(cd "$sources" && timeout 300 go mod download) >"$scratch/download" 2>&1 ||
  skip "franz-go cannot be fetched: $(tail -n 1 "$scratch/download")"
(cd "$sources" && timeout 600 go test -c -o "$program" github.com/twmb/franz-go/pkg/kgo) \
  >"$scratch/built" 2>&1 || fail "franz-go's tests cannot be built: $(cat "$scratch/built")"

directory=$(cd "$sources" && go list -f '{{.Dir}}' github.com/twmb/franz-go/pkg/kgo)

# Not asked for: transactions, which are refused, and the topic __consumer_offsets, which is not
# there. franz-go itself leaves out share groups and the new group protocol where a broker does not
# advertise them. One test writes a record of 5 MiB.
skipped='^(TestTxnEtl|TestConsumeRegex)$'
large=(--set wal.file_bytes=16MiB --set wal.batch_bytes_max=8MiB --set disk.reserve_bytes=40MiB
  --set disk.low_bytes=48MiB)
# suite NAME CHOICE ARGUMENTS...: the chosen tests against a fresh broker.
suite() {
  serve "$scratch/data-$1" "${large[@]}" "${@:3}"
  (cd "$directory" && KGO_SEEDS=$address KGO_TEST_RF=1 KGO_TEST_RECORDS=5000 KGO_LOG_LEVEL=none \
    timeout 200 "$program" -test.run "$2" -test.skip "$skipped" -test.parallel 8 \
    -test.timeout 190s) >"$scratch/told" 2>&1 ||
    fail "$1: $(grep -E -- '^panic|--- FAIL|_test.go:' "$scratch/told" | tail -n 40)"
  stop
}

suite one-port .
suite node-per-core '^TestGroup' --node-per-core --set server.pin=false --cores 0,1
say "passed"
