#!/usr/bin/env bash
# Installs the load generators of the benchmarks: wrk (keep-alive connections) and
# hey (one connection per request, POSTs, counts of errors and status codes).
set -euo pipefail

missing=()
command -v wrk >/dev/null || missing+=(wrk)
command -v hey >/dev/null || missing+=(hey)

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Missing: ${missing[*]}. Install them and try again (as root on Debian or Ubuntu this script installs it)." >&2
  exit 1
fi
echo "Installing ${missing[*]}..." >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -yq --no-install-recommends "${missing[@]}" >/dev/null
