# What the recovery scripts share. Sourced; expects `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
millrace=${MILLRACE:-$target/debug/millrace}
acked_load=$target/debug/examples/acked-load
name=$(basename "$0" .sh)
scratch=$target/recovery-$name
mounted=""
broker=""

say() { echo "$name: $*"; }
skip() { say "SKIPPED: $*"; exit 0; }
fail() {
  say "FAILED: $*" >&2
  [ ! -f "$scratch/log" ] || tail -n 20 "$scratch/log" >&2
  exit 1
}

clean_up() {
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
  "$millrace" serve --data-dir "$directory" --kafka 127.0.0.1:0 --set server.cores=0 \
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
