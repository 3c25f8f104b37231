#!/usr/bin/env bash
# Installs the etcd of the distribution, and its client, for the tests of the store on it and for the lab.
set -euo pipefail

missing=()
command -v etcd >/dev/null || missing+=(etcd-server)
command -v etcdctl >/dev/null || missing+=(etcd-client)
[ ${#missing[@]} -eq 0 ] || exec "$(dirname "$0")/install-without-service.sh" "${missing[@]}"
