#!/usr/bin/env bash
# The file system goes away under load, with everything that was not synced: the broker must end
# with the code for a failed log, and after a remount every acknowledged record must be there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

rounds=${1:-5}
command -v python3 >/dev/null || skip "no python3 for the shutdown ioctl"

# EXT4_IOC_SHUTDOWN with NOLOGFLUSH: as a power cut, the journal in memory is lost as well.
shut_down() {
  python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))' "$1"
}

# Room enough that the log never waits for space: an idle broker would not notice the fault.
mount_small 2048
for round in $(seq "$rounds"); do
  serve "$scratch/mnt/data"
  [ "$round" = 1 ] ||
    "$acked_load" check "$address" shutdown "$scratch/acked" || fail "round $round"
  "$acked_load" produce "$address" shutdown "$scratch/acked" >"$scratch/load" &
  load=$!
  sleep "0.$((2 + round))"
  shut_down "$scratch/mnt"
  ended 75
  wait "$load" || fail "the load generator: $(cat "$scratch/load")"
  umount "$scratch/mnt"
  mounted=""
  mount_again
done
serve "$scratch/mnt/data"
"$acked_load" check "$address" shutdown "$scratch/acked" || fail "after the last round"
stop
say "passed: $rounds shutdowns"
