#!/usr/bin/env bash
# The broker as Kafka's own Java clients see it, of release 3.9 and of the newest: one program says
# what it observes, line by line (java/Check.java). Each answer must be Apache Kafka's
# (java/expected), or one that differs on purpose (java/differences). On one port, with a node for
# each core, and Apache Kafka itself is asked as well. Skipped where there is no Java, or nothing to
# fetch from.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"
. "$(dirname "$0")/java/lib.sh"

sources=$root/tests/clients/java
old=3.9.2
new=4.4.0

# observe VERSION NAME ADDRESS: what clients of this release observe goes to $scratch/NAME.
observe() {
  java_with "$1" Check "$3" "$2" "${1%%.*}" >"$scratch/$2" 2>"$scratch/$2.err" ||
    fail "$2 with clients $1: $(tail -n 3 "$scratch/$2.err")"
}

# tabs FILE: an observation's name and value, a tab between them; without comments.
tabs() { sed '/^#/d; /^$/d; s/: /\t/' "$1"; }

# expect VERSION: what these clients should observe, to $scratch/expected.
expect() { tabs "$sources/expected" | grep -v "^\[[^${1%%.*}]\]" >"$scratch/expected"; }

# compare VERSION NAME
compare() {
  expect "$1"
  tabs "$scratch/$2" >"$scratch/observed"
  tabs "$sources/differences" >"$scratch/differences"
  judge "$2 with clients $1" "$scratch/expected" "$scratch/observed" "$scratch/differences"
}

observe_kafka() {
  observe $new apache-kafka "$kafka_address"
  tabs "$scratch/apache-kafka" >"$scratch/observed"
}

compile $old "$sources"/*.java
compile $new "$sources"/*.java

serve "$scratch/one-port"
observe $old one-port-old "$address" &
first=$!
observe $new one-port-new "$address"
wait $first || exit 1
stop
compare $old one-port-old
compare $new one-port-new

serve "$scratch/node-per-core" --node-per-core --set server.pin=false --cores 0,1
observe $new nodes "$address"
stop
compare $new nodes

expect $new
judge_kafka "apache-kafka with clients $new" "$scratch/expected" "$scratch/observed" observe_kafka
say "passed"
