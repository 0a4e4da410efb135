#!/usr/bin/env bash
# Settings as confluent-kafka's admin client changes them: one by one, which the crate that the
# other tests use cannot ask for. On one node, and sent to the node that is not the controller.
# Skipped where the client is not installed; .ci/run puts it into the build directory.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

export PYTHONPATH=$target/confluent-kafka${PYTHONPATH:+:$PYTHONPATH}
command -v python3 >/dev/null || skip "no python3 (apt-get install python3)"
python3 -c 'import confluent_kafka' 2>/dev/null ||
  skip "no confluent-kafka (pip install --target $target/confluent-kafka confluent-kafka)"

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
