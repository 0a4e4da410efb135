#!/usr/bin/env bash
# A full disk: producing is refused in Kafka's terms, consuming and a restart work, and producing
# goes on once there is space. Then a disk that is read-only, which can be inspected.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mount_small 160
serve "$scratch/mnt/data"
"$acked_load" produce "$address" full "$scratch/acked" 60 | tee "$scratch/load"
# In Kafka's terms: KAFKA_STORAGE_ERROR.
grep -q "Disk error" "$scratch/load" || fail "producing was not refused for a full disk"
"$acked_load" check "$address" full "$scratch/acked" || fail "consuming on a full disk"
say "full: $(df -h --output=avail "$scratch/mnt" | tail -n 1) left"
stop
serve "$scratch/mnt/data"
"$acked_load" check "$address" full "$scratch/acked" || fail "consuming after a restart"
"$acked_load" produce "$address" full "$scratch/refused" 10 | tee "$scratch/load"
grep -q "Disk error" "$scratch/load" || fail "producing was not refused after the restart"

# Deleting the topic is what an operator does first.
"$acked_load" delete "$address" full
resumed=""
for _ in $(seq 30); do
  "$acked_load" produce "$address" after "$scratch/after" 1 | tee "$scratch/load"
  if grep -q "^[1-9][0-9]* acknowledged" "$scratch/load"; then
    resumed=yes
    break
  fi
  sleep 1
done
[ -n "$resumed" ] || fail "producing did not resume"
"$acked_load" check "$address" after "$scratch/after" || fail "after space came back"
stop

# A file system that takes nothing at all can be read.
mount -o remount,ro "$scratch/mnt"
"$millrace" inspect --verify "$scratch/mnt/data" >"$scratch/inspected" ||
  fail "inspecting what is mounted read-only"
say "passed"
