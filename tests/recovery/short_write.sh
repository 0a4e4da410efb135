#!/usr/bin/env bash
# A real short write: the file size limit of the running broker is lowered into the middle of its
# log file. The broker must end with the code for a failed log and keep what it acknowledged.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

command -v prlimit >/dev/null || skip "no prlimit"
# Ignored here, ignored in the broker: the kernel then reports the limit instead of killing.
trap '' XFSZ

for limit in 2000000 3000001; do
  serve "$scratch/data"
  [ ! -f "$scratch/acked" ] ||
    "$acked_load" check "$address" short "$scratch/acked" || fail "before limit $limit"
  "$acked_load" produce "$address" short "$scratch/acked" >"$scratch/load" &
  load=$!
  sleep 0.5
  prlimit --pid "$broker" --fsize="$limit"
  ended 75
  wait "$load" || fail "the load generator: $(cat "$scratch/load")"
done
serve "$scratch/data"
"$acked_load" check "$address" short "$scratch/acked" || fail "after the last limit"
stop
say "passed"
