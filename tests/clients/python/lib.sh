# What the scripts of Python's clients share. Sourced after recovery/lib.sh.

# fetch CLIENT==VERSION MORE...: makes the packages importable, the client's own version first.
fetch() {
  local client=$target/clients/${1/==/-}
  command -v python3 >/dev/null || skip "no python3 (apt-get install python3)"
  [ -d "$client" ] || timeout 300 python3 -m pip install -q --target "$client" "$@" \
    >"$scratch/pip" 2>&1 ||
    { rm -rf "$client"; skip "$1 cannot be fetched: $(tail -n 1 "$scratch/pip")"; }
  export PYTHONPATH=$client${PYTHONPATH:+:$PYTHONPATH}
}

# run_on_both PROGRAM: runs it against one node, and against a node a core.
run_on_both() {
  local nodes
  serve_again() { serve "$data" "${mode[@]}"; }
  keep_ports 2
  for nodes in 1 2; do
    data=$scratch/data-$nodes
    mode=()
    [ "$nodes" = 1 ] || mode=(--node-per-core --set server.pin=false --cores 0,1)
    serve_again
    with_crashes timeout 240 python3 "$(dirname "$0")/python/$1" "$address" "$scratch/crash" \
      >"$scratch/told" 2>&1 || fail "nodes $nodes: $(tail -n 40 "$scratch/told")"
    stop
  done
  say "passed"
}
