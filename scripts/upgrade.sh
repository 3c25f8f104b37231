#!/usr/bin/env bash
# Builds the program at an earlier revision and as it is now, and runs the test of the upgrade: `scripts/upgrade.sh REVISION`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
revision=$(git rev-parse --verify "$1^{commit}")
triple=$(rustc -vV | sed -n 's/^host: //p')
old=target/previous/$revision
if [ ! -x "$old/evenkeel" ]; then
  mkdir -p "$old"
  git archive "$revision" | tar -x -C "$old"
  (cd "$old" && CARGO_TARGET_DIR=$PWD/../build cargo build --locked)
  cp "target/previous/build/$triple/debug/evenkeel" "$old/evenkeel"
fi
scripts/build.sh build
scripts/ensure-kubectl.sh
export PYTHONDONTWRITEBYTECODE=1
python=$(scripts/ensure-python.sh)
"$python" tests/e2e/upgrade.py "$old/evenkeel" "target/$triple/debug/evenkeel"
scripts/ensure-lab.sh
scripts/ensure-etcd.sh
exec "$python" tests/lab/upgrade.py "$old/evenkeel" "target/$triple/debug/evenkeel"
