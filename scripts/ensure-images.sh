#!/usr/bin/env bash
# Ensures that images are on the Docker Engine: `scripts/ensure-images.sh postgres:15 ...`.
# Existing ones are kept; others are pulled, or, if no registry answers, built
# from the distribution's packages (deploy/images/).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A registry that has sent nothing within this time counts as unreachable.
pull_seconds=${EVENKEEL_PULL_SECONDS:-20}

[ $# -gt 0 ] || { echo "Usage: scripts/ensure-images.sh IMAGE..." >&2; exit 2; }

# Pulls; gives up when there was no progress for $pull_seconds. A slow download with progress may continue.
pull() {
  local log pid size last=-1 idle=0
  log=$(mktemp)
  docker pull "$1" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    size=$(stat -c %s "$log")
    if [ "$size" = "$last" ]; then idle=$((idle + 1)); else idle=0 last=$size; fi
    # While layers are being fetched the plain output is silent for long: then the time-out is ten minutes.
    local limit=$((pull_seconds * 2))
    if grep -q 'Pulling fs layer' "$log"; then limit=1200; fi
    if [ "$idle" -ge "$limit" ]; then kill "$pid" 2>/dev/null || true; fi
  done
  local result=0
  wait "$pid" 2>/dev/null || result=$?
  rm -f "$log"
  return "$result"
}

for image in "$@"; do
  if docker image inspect "$image" >/dev/null 2>&1; then continue; fi
  echo "Pulling $image..."
  if pull "$image"; then continue; fi
  echo "No registry has $image; building it here instead."
  "$here/deploy/images/build.sh" "$image"
done
