#!/usr/bin/env bash
# Settings as confluent-kafka's admin client changes them: one by one, which the crate that the
# other tests use cannot ask for. On one node, and sent to the node that is not the controller. Then
# groups, admin, and crashes amid work, on one node and on a node a core.
# Fetches the client into the build directory, and is skipped where that cannot be done.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"
. "$(dirname "$0")/python/lib.sh"

fetch confluent-kafka==2.16.1

check() { timeout 120 python3 "$(dirname "$0")/confluent.py" "$address" "$@" || fail "$1 $2"; }

data=$scratch/data
serve "$data"
check alter 1
check stamps 1
stop
serve "$data" --node-per-core --set server.pin=false --cores 0,1
check kept 1
check alter 2
check stamps 2
stop
run_on_both with_confluent.py
