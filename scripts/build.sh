#!/usr/bin/env bash
# Runs cargo and shows its progress: `scripts/build.sh build`, `scripts/build.sh clippy --all-targets`,
# `scripts/build.sh test --no-run`.
# All of them use the development profile, so that make demo and make test compile the dependencies once.
# On a terminal cargo shows its own progress; otherwise a line every 15 s does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  build) what="Building the program" edges=normal,build time="about 3 minutes" ;;
  clippy) what="Checking with clippy" edges=normal,build,dev time="about 2 minutes" ;;
  test) what="Building the tests" edges=normal,build,dev time="about 2 minutes more than the program" ;;
  *) echo "Usage: scripts/build.sh build|clippy|test [ARGUMENT...]" >&2; exit 2 ;;
esac

# Cargo's output without its progress lines: warnings and errors.
said() {
  grep -vE '^ *(Updating|Downloading|Downloaded|Compiling|Checking|Blocking|Finished|Executable) ' "$1" >&2 || true
}

done_before="target/.$1-done"
if [ ! -e "$done_before" ]; then
  total=$(cargo tree --locked --quiet --edges "$edges" --prefix none | awk '{ print $1, $2 }' | sort -u | wc -l)
  echo "$what: $total crates. On 2 cores this takes $time the first time, and under a minute later."
fi
started=$SECONDS
if [ -t 2 ]; then
  cargo "$1" --locked "${@:2}"
else
  log=$(mktemp)
  cargo "$1" --locked "${@:2}" 2>"$log" &
  cargo=$!
  trap 'kill "$cargo" 2>/dev/null || true; rm -f "$log"' EXIT
  next=15
  while kill -0 "$cargo" 2>/dev/null; do
    sleep 0.5
    seconds=$((SECONDS - started))
    if [ "$seconds" -ge "$next" ]; then
      next=$((seconds + 15))
      begun=$(grep -cE '^ *(Compiling|Checking) ' "$log" || true)
      echo "  $what: $seconds s, $begun crates begun${total:+ of at most $total}"
    fi
  done
  if ! wait "$cargo"; then
    said "$log"
    exit 1
  fi
  said "$log"
fi
mkdir -p target && touch "$done_before"
echo "$what: done after $((SECONDS - started)) s."
