#!/usr/bin/env bash
# Installs Patroni and PostgreSQL of the distribution, for the benchmark that measures them beside the operators.
set -euo pipefail

missing=()
command -v patroni >/dev/null || missing+=(patroni python3-etcd)
compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] || exec "$(dirname "$0")/install-without-service.sh" "${missing[@]}"
