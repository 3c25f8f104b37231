#!/usr/bin/env bash
# Installs the SSH client and server of the distribution, for the tests of Docker hosts behind ssh. The tests start servers
# of their own on loopback ports; no service is left running.
set -euo pipefail

missing=()
command -v ssh >/dev/null && command -v ssh-keygen >/dev/null || missing+=(openssh-client)
[ -x /usr/sbin/sshd ] || missing+=(openssh-server)

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Missing: ${missing[*]}. Install them and try again (as root on Debian or Ubuntu this script installs it)." >&2
  exit 1
fi
echo "Installing ${missing[*]}..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
# A package must not start its service: that would listen on every address of this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get install -yq --no-install-recommends "${missing[@]}" >/dev/null
