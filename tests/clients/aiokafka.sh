#!/usr/bin/env bash
# The broker as aiokafka sees it, on one node and on a node a core, with crashes amid work. Fetches
# the client into the build directory, and is skipped where that cannot be done.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"
. "$(dirname "$0")/python/lib.sh"

fetch aiokafka==0.14.0 cramjam==2.14.0
run_on_both with_aiokafka.py
