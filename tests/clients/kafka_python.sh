#!/usr/bin/env bash
# The broker as kafka-python sees it, on one node and on a node a core, with crashes amid work.
# Fetches the client into the build directory, and is skipped where that cannot be done.
set -euo pipefail
. "$(dirname "$0")/../recovery/lib.sh"
. "$(dirname "$0")/python/lib.sh"

fetch kafka-python==3.0.12 python-snappy==0.7.3 lz4==4.4.5 zstandard==0.25.0
run_on_both with_kafka_python.py
