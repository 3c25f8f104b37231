#!/usr/bin/env bash
# Prints a folder whose node_modules has ioredis, a Redis client with Sentinel in another
# language; installs what is missing: `NODE_PATH=$(scripts/ensure-ioredis.sh)/node_modules`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$here/target/node

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "node and npm are needed for the tests with ioredis; install them and try again." >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -yq --no-install-recommends nodejs npm; } >/dev/null
fi
[ -d "$folder/node_modules/ioredis" ] || npm install --prefix "$folder" --no-audit --no-fund --silent ioredis >&2
echo "$folder"
