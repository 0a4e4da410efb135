#!/usr/bin/env bash
# The broker as Go's clients see it: franz-go with its admin client, sarama and segmentio's
# kafka-go, on one node and on a node a core, with crashes amid work. The clients are pinned by
# go/go.sum; skipped where there is no Go or they cannot be fetched.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || skip "no go (apt-get install golang)"
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
sources=$(cd "$(dirname "$0")/go" && pwd)
programs=$target/clients/go
mkdir -p "$programs"
(cd "$sources" && timeout 300 go mod download) >"$scratch/download" 2>&1 ||
  skip "the clients cannot be fetched: $(tail -n 1 "$scratch/download")"
(cd "$sources" && timeout 600 go build -o "$programs/" ./franz ./sarama ./segmentio) ||
  fail "the clients' programs cannot be built"

serve_again() { serve "$data" "${mode[@]}"; }

keep_ports 2
for nodes in 1 2; do
  data=$scratch/data-$nodes
  mode=()
  [ "$nodes" = 1 ] || mode=(--node-per-core --set server.pin=false --cores 0,1)
  serve_again
  for client in franz sarama segmentio; do
    with_crashes timeout 300 "$programs/$client" "$address" "$scratch/crash" \
      >"$scratch/told" 2>&1 || fail "$client, nodes $nodes: $(tail -n 40 "$scratch/told")"
  done
  stop
done
say "passed"
