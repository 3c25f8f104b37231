#!/usr/bin/env bash
# Searches for inputs that break a property of operator/fuzzing/: `scripts/fuzz.sh SECONDS [TARGET...]`, two targets at a
# time. Builds with the stable compiler: the coverage counters of libFuzzer are a pass of LLVM, and need no sanitizer.
# With FILE=path it runs one target with that file alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=$1
shift

flags="--cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Cpasses=sancov-module"
for part in level=4 inline-8bit-counters pc-table trace-compares; do flags+=" -Cllvm-args=-sanitizer-coverage-$part"; done
# They replace those of .cargo/config.toml: this program is linked dynamically.
RUSTFLAGS=$flags cargo build --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz/build
triple=$(rustc -vV | sed -n 's/^host: //p')
program=$PWD/target/fuzz/build/$triple/debug/evenkeel-fuzz

if [ -n "${FILE:-}" ]; then EVENKEEL_FUZZ=$1 exec "$program" "$FILE"; fi

run() {
  local name=$1 work=$PWD/target/fuzz
  mkdir -p "$work/corpus/$name" "$work/findings"
  # For libFuzzer to put in anywhere: the words of the seeds, and the largest numbers.
  { cat "fuzz/seeds/$name"/* | grep -aoE '[A-Za-z$][A-Za-z0-9_$./-]{2,40}' || true; printf '%s\n' 4294967295 18446744073709551615; } |
    sort -u | sed 's/.*/"&"/' >"$work/$name.dict"
  if EVENKEEL_FUZZ=$name "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 \
    -dict="$work/$name.dict" -print_final_stats=1 -artifact_prefix="$work/findings/$name-" \
    "$work/corpus/$name" "fuzz/seeds/$name" >"$work/$name.log" 2>&1; then
    printf '%-22s %s runs, no finding\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")"
    return
  fi
  local input
  input=$(sed -n 's/.*Test unit written to //p' "$work/$name.log" | tail -n 1)
  grep -a -m 1 -A 3 'panicked at' "$work/$name.log" | cut -c 1-400 || tail -n 5 "$work/$name.log"
  printf '%-22s FINDING; its log: %s\n  again: make fuzz ONLY=%s FILE=%s\n' "$name" "$work/$name.log" "$name" "$input"
  return 1
}
export -f run
export program seconds

[ $# -gt 0 ] || set -- $(ls fuzz/seeds)
printf '%s\n' "$@" | xargs -P 2 -I{} bash -euo pipefail -c 'run {}'
