# What the recovery scripts share. Sourced; expects `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
millrace=${MILLRACE:-$target/debug/millrace}
acked_load=$target/debug/examples/acked-load
name=$(basename "$0" .sh)
scratch=$target/recovery-$name
mounted=""
broker=""
# The client that `with_crashes` runs.
tested=""
# Where the broker listens: a free port each time, or what `keep_ports` chose.
listen=127.0.0.1:0

say() { echo "$name: $*"; }
skip() { say "SKIPPED: $*"; exit 0; }
fail() {
  say "FAILED: $*" >&2
  [ ! -f "$scratch/log" ] || tail -n 20 "$scratch/log" >&2
  exit 1
}

clean_up() {
  [ -z "$tested" ] || kill -TERM "$tested" 2>/dev/null || true
  [ -z "$broker" ] || kill -KILL "$broker" 2>/dev/null || true
  [ -z "$mounted" ] || umount "$mounted" 2>/dev/null || umount -l "$mounted" || true
  rm -rf "$scratch"
}
trap clean_up EXIT

rm -rf "$scratch"
mkdir -p "$scratch"
[ -x "$millrace" ] || fail "no $millrace: run cargo build first"

# mount_small MEGABYTES: a fresh ext4 of that size on $scratch/mnt, or the end of the script.
mount_small() {
  [ "$(id -u)" = 0 ] || skip "mounting needs root"
  command -v mkfs.ext4 >/dev/null || skip "no mkfs.ext4"
  mkdir -p "$scratch/mnt"
  truncate -s "${1}M" "$scratch/image"
  mkfs.ext4 -q -F -m 0 "$scratch/image"
  mount_again
}

# mount_again: mounts the image after it was unmounted.
mount_again() {
  mount -o loop "$scratch/image" "$scratch/mnt" 2>"$scratch/mount.log" ||
    skip "no loop mount here: $(cat "$scratch/mount.log")"
  mounted=$scratch/mnt
}

# serve DIR ARGUMENTS...: starts a broker with small files; sets $broker and $address.
serve() {
  local directory=$1
  shift
  : >"$scratch/ready"
  "$millrace" serve --data-dir "$directory" --kafka "$listen" --set server.cores=0 \
    --set wal.file_bytes=4MiB --set wal.batch_bytes_max=1MiB --set topics.max_message_bytes=1MiB \
    --set disk.reserve_bytes=12MiB --set disk.low_bytes=16MiB "$@" \
    >"$scratch/ready" 2>>"$scratch/log" &
  broker=$!
  for _ in $(seq 300); do
    if read -r _ kafka _ <"$scratch/ready" && [ -n "$kafka" ]; then
      address=${kafka#kafka=}
      return
    fi
    kill -0 "$broker" 2>/dev/null || fail "the broker ended before it was ready"
    sleep 0.1
  done
  fail "the broker was not ready within 30 s"
}

# keep_ports COUNT: from here on the broker listens on the same ports after each start, so that
# clients that outlive it find it again: one for each node, in a row. They are below those that the
# system gives away by itself.
keep_ports() {
  local port=0 index
  until [ "$port" -gt 0 ]; do
    port=$((10000 + RANDOM % 20000))
    for index in $(seq 0 $(($1 - 1))); do
      ! (: <>"/dev/tcp/127.0.0.1/$((port + index))") 2>/dev/null || port=0
    done
  done
  listen=127.0.0.1:$port
}

# with_crashes COMMAND...: runs a client that lives through crashes. Whenever it makes the file
# $scratch/crash, the broker is killed and `serve_again`, which the script defines, starts the next
# one. Ends with the client's code.
with_crashes() {
  local code=0
  rm -f "$scratch/crash"
  "$@" &
  tested=$!
  while kill -0 "$tested" 2>/dev/null; do
    if [ -e "$scratch/crash" ]; then
      kill -KILL "$broker"
      wait "$broker" 2>/dev/null || true
      serve_again
      rm "$scratch/crash"
    fi
    sleep 0.05
  done
  wait "$tested" || code=$?
  tested=""
  return "$code"
}

# ended CODE: waits for the broker's end and expects that exit code.
ended() {
  local code=0
  for _ in $(seq 300); do
    kill -0 "$broker" 2>/dev/null || break
    sleep 0.1
  done
  ! kill -0 "$broker" 2>/dev/null || fail "the broker still runs"
  wait "$broker" || code=$?
  broker=""
  [ "$code" = "$1" ] || fail "exit code $code, expected $1"
}

stop() {
  kill -TERM "$broker"
  ended 0
}
