#!/usr/bin/env bash
# Settings as confluent-kafka's admin client changes them: one by one, which the crate that the
# other tests use cannot ask for. On one node, and sent to the node that is not the controller.
# Fetches the client into the build directory, and is skipped where that cannot be done.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

client=$target/clients/confluent-kafka-2.16.1
command -v python3 >/dev/null || skip "no python3 (apt-get install python3)"
[ -d "$client" ] || python3 -m pip install -q --target "$client" confluent-kafka==2.16.1 \
  >"$scratch/pip" 2>&1 ||
  { rm -rf "$client"; skip "confluent-kafka cannot be fetched: $(tail -n 1 "$scratch/pip")"; }
export PYTHONPATH=$client${PYTHONPATH:+:$PYTHONPATH}

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
say "passed"
