#!/usr/bin/env bash
# Ensures kubectl: the installed one, or the distribution's package.
set -euo pipefail

if command -v kubectl >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Missing: kubectl. Install it and try again (as root on Debian or Ubuntu this script installs it)." >&2
  exit 1
fi
echo "Installing kubernetes-client..." >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -yq --no-install-recommends kubernetes-client >/dev/null
