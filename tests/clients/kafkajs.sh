#!/usr/bin/env bash
# The broker as kafkajs sees it, on one node and on a node a core, with crashes amid work. The
# client is pinned by node/package-lock.json and fetched into the build directory; skipped where
# there is no Node.js or it cannot be fetched.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

command -v node >/dev/null || skip "no node (apt-get install nodejs npm)"
command -v npm >/dev/null || skip "no npm (apt-get install npm)"
sources=$(cd "$(dirname "$0")/node" && pwd)
client=$target/clients/kafkajs
mkdir -p "$client"
cp "$sources"/* "$client/"
(cd "$client" && timeout 300 npm ci --silent --no-audit --no-fund) >"$scratch/npm" 2>&1 ||
  skip "the client cannot be fetched: $(tail -n 1 "$scratch/npm")"

serve_again() { serve "$data" "${mode[@]}"; }

keep_ports 2
for nodes in 1 2; do
  data=$scratch/data-$nodes
  mode=()
  [ "$nodes" = 1 ] || mode=(--node-per-core --set server.pin=false --cores 0,1)
  serve_again
  with_crashes timeout 240 node "$client/kafkajs.mjs" "$address" "$scratch/crash" \
    >"$scratch/told" 2>&1 || fail "nodes $nodes: $(tail -n 40 "$scratch/told")"
  stop
done
say "passed"
