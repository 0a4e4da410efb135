#!/usr/bin/env bash
# rsyslog's omkafka: what is written to a file arrives in order and once. When the broker is killed
# while more is written nothing is missing, and omkafka itself repeats what it had handed over when
# it noticed. On one node and on a node a core. Installs rsyslog where that is allowed, and is
# skipped where it is not there.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

command -v kcat >/dev/null || skip "no kcat (apt-get install kcat)"
has_omkafka() { command -v rsyslogd && compgen -G "/usr/lib*/*/rsyslog/omkafka.so"; } >/dev/null
if ! has_omkafka && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  (apt-get update -qq && timeout 300 apt-get install -y -qq rsyslog rsyslog-kafka) \
    >"$scratch/apt" 2>&1 || true
fi
has_omkafka || skip "no rsyslog with omkafka (apt-get install rsyslog rsyslog-kafka)"

logger=""
trap '[ -z "$logger" ] || kill -KILL "$logger" 2>/dev/null || true; clean_up' EXIT

# start_logger: rsyslog in the foreground, which reads only our file and writes only to the broker.
start_logger() {
  mkdir -p "$scratch/state"
  cat >"$scratch/rsyslog.conf" <<CONF
global(workDirectory="$scratch/state")
module(load="imfile" mode="inotify")
module(load="omkafka")
template(name="line" type="string" string="%msg%")
input(type="imfile" file="$input" tag="lines:" ruleset="lines")
ruleset(name="lines") {
  action(type="omkafka" broker="$address" topic="$topic" template="line"
    action.resumeRetryCount="-1" action.resumeInterval="1" resubmitOnFailure="on"
    queue.type="LinkedList" queue.size="10000"
    confParam=["enable.idempotence=true", "partitioner=consistent", "linger.ms=5",
      "reconnect.backoff.max.ms=200"])
}
CONF
  rsyslogd -n -f "$scratch/rsyslog.conf" -i "$scratch/rsyslog.pid" >"$scratch/told" 2>&1 &
  logger=$!
}

stop_logger() {
  kill -TERM "$logger"
  wait "$logger" || fail "rsyslog ended badly: $(cat "$scratch/told")"
  logger=""
}

# arrived COUNT: waits until so many messages are there.
arrived() {
  local count=0
  for _ in $(seq 150); do
    count=$(timeout 30 kcat -Q -b "$address" -t "$topic:0:-1" 2>/dev/null | sed 's/.* //' || true)
    [ "${count:-0}" -lt "$1" ] || return 0
    sleep 0.2
  done
  fail "${count:-0} of $1 messages arrived: $(cat "$scratch/told")"
}

read_all() {
  timeout 60 kcat -C -q -e -b "$address" -t "$topic" -o beginning >"$scratch/read" ||
    fail "reading"
}

# expect WHAT COUNT FILE: the file holds the messages up to that one, in order.
expect() {
  diff <(seq -f "message %g" "$2") "$3" >"$scratch/differs" ||
    fail "nodes $nodes: $1: $(head "$scratch/differs")"
}

keep_ports 2
for nodes in 1 2; do
  data=$scratch/data-$nodes
  mode=()
  [ "$nodes" = 1 ] || mode=(--node-per-core --set server.pin=false --cores 0,1)
  serve "$data" "${mode[@]}"
  topic=lines-$nodes
  input=$scratch/input-$nodes
  : >"$input"
  start_logger
  seq -f "message %g" 500 >>"$input"
  arrived 500
  read_all
  expect "before the crash" 500 "$scratch/read"
  kill -KILL "$broker"
  wait "$broker" 2>/dev/null || true
  seq -f "message %g" 501 800 >>"$input"
  sleep 1
  serve "$data" "${mode[@]}"
  seq -f "message %g" 801 1000 >>"$input"
  for _ in $(seq 150); do
    read_all
    [ "$(sort -u "$scratch/read" | wc -l)" -lt 1000 ] || break
    sleep 0.2
  done
  stop_logger
  read_all
  expect "the first times" 1000 <(awk '!seen[$0]++' "$scratch/read")
  stop
done
say "passed"
