#!/usr/bin/env bash
# Builds the program in the development profile, which the tests use too, so that the dependencies are compiled once.
# On a terminal cargo shows its own progress; else a line every 15 s says how far it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

total=$(grep -c '^\[\[package\]\]' Cargo.lock)
triple=$(rustc -vV | sed -n 's/^host: //p')
if [ ! -e "target/$triple/debug/evenkeel" ]; then
  echo "Building the program: the first time this compiles up to $total crates, which takes about 7 minutes on 2 cores."
fi
if [ -t 2 ]; then
  cargo build --locked
  exit
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo build --locked 2>"$log" &
build=$!
started=$SECONDS
while kill -0 "$build" 2>/dev/null; do
  for _ in $(seq 15); do
    kill -0 "$build" 2>/dev/null || break
    sleep 1
  done
  kill -0 "$build" 2>/dev/null || break
  echo "  building: $(grep -c Compiling "$log" || true) of up to $total crates begun after $((SECONDS - started)) s"
done
if ! wait "$build"; then
  cat "$log" >&2
  exit 1
fi
echo "Built after $((SECONDS - started)) s."
