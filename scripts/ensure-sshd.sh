#!/usr/bin/env bash
# Installs the SSH client and server of the distribution, for the tests of Docker hosts behind ssh.
set -euo pipefail

missing=()
command -v ssh >/dev/null && command -v ssh-keygen >/dev/null || missing+=(openssh-client)
[ -x /usr/sbin/sshd ] || missing+=(openssh-server)
[ ${#missing[@]} -eq 0 ] || exec "$(dirname "$0")/install-without-service.sh" "${missing[@]}"
