#!/usr/bin/env bash
# Installs the programs that the lab of several Docker hosts uses: network
# namespaces and filters, certificates, the sockets of a host.
set -euo pipefail

missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v iptables-restore >/dev/null || missing+=(iptables)
command -v nsenter >/dev/null || missing+=(util-linux)
command -v mount >/dev/null || missing+=(mount)
command -v sysctl >/dev/null || missing+=(procps)
command -v openssl >/dev/null || missing+=(openssl)

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Missing: ${missing[*]}. Install them and try again (as root on Debian or Ubuntu this script installs it)." >&2
  exit 1
fi
echo "Installing ${missing[*]}..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -yq --no-install-recommends "${missing[@]}" >/dev/null
