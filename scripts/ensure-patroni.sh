#!/usr/bin/env bash
# Installs Patroni and PostgreSQL of the distribution, which a benchmark compares with.
set -euo pipefail

missing=()
command -v patroni >/dev/null || missing+=(patroni)
[ -x /usr/lib/postgresql/15/bin/postgres ] || missing+=(postgresql-15)
command -v curl >/dev/null || missing+=(curl)
[ ${#missing[@]} -eq 0 ] || exec "$(dirname "$0")/install-without-service.sh" "${missing[@]}"
