#!/usr/bin/env bash
# Installs packages of the distribution and starts none of their services: for tests, which start servers of their own on loopback
# ports.
set -euo pipefail

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Missing: $*. Install them and try again (as root on Debian or Ubuntu this script installs them)." >&2
  exit 1
fi
echo "Installing $*..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get install -yq --no-install-recommends "$@" >/dev/null
