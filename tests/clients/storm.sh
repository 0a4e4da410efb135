#!/usr/bin/env bash
# The storm of group members, longer and wider than in `cargo test`: 50 processes that join, leave
# and are killed for STORM_SECONDS (30), eager and then cooperative, while records come in.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"

export STORM_SECONDS=${STORM_SECONDS:-30} STORM_MEMBERS=${STORM_MEMBERS:-50}
cargo test --quiet --test clients --no-run >"$scratch/log" 2>&1 || fail "the tests do not build"
timeout $((2 * STORM_SECONDS + 600)) cargo test --quiet --test clients storm::a_storm -- \
  --nocapture --test-threads=1 >"$scratch/log" 2>&1 || fail "a storm lost something, or did not end"
grep -E "stable after|read again" "$scratch/log"
say "passed: $STORM_MEMBERS members for $STORM_SECONDS s each"
