#!/usr/bin/env bash
# The storm of group members, longer and wider than in `cargo test`: STORM_MEMBERS (50) processes
# that join, leave and are killed for STORM_SECONDS (30), eager and cooperative, while records come
# in. Prints what each storm came to.
#
# STORM_PEER=kafka has the same storms on Apache Kafka, by the same program and held to the same, to
# compare with: one node, with this broker's wait for the members of a new group (500 ms). Skipped
# where Kafka cannot be had. STORM_BROKER=HOST:PORT has them on a broker that runs already.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

export STORM_SECONDS=${STORM_SECONDS:-30} STORM_MEMBERS=${STORM_MEMBERS:-50}
who=${STORM_BROKER:-Millrace}
cargo test --quiet --test clients --no-run >"$scratch/log" 2>&1 || fail "the tests do not build"
case ${STORM_PEER:-} in
  "") ;;
  kafka)
    . "$(dirname "$0")/java/lib.sh"
    "$peer" fetch 2>"$scratch/fetch" || skip "$(tail -n 1 "$scratch/fetch")"
    start_kafka
    export STORM_BROKER=$kafka_address
    who="Apache Kafka"
    ;;
  *) fail "STORM_PEER is kafka or nothing" ;;
esac

code=0
timeout $((2 * STORM_SECONDS + 600)) cargo test --quiet --test clients storm::a_storm -- \
  --nocapture --test-threads=1 >"$scratch/log" 2>&1 || code=$?
grep -E "stable after|read again" "$scratch/log" || true
[ "$code" = 0 ] || fail "a storm lost something, took too long to settle, or did not end"
say "passed: $STORM_MEMBERS members for $STORM_SECONDS s each on $who"
