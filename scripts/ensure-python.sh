#!/usr/bin/env bash
# Prints the path of a Python interpreter with psycopg2 and redis (the drivers of the test
# clients: libpq and redis-py); installs what is missing: `python=$(scripts/ensure-python.sh)`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$here/target/venv

for python in "$venv/bin/python" /usr/bin/python3 python3; do
  if "$python" -c 'import psycopg2, redis' 2>/dev/null; then
    command -v "$python"
    exit 0
  fi
done

# The distribution's package first: it brings libpq and needs no compiler.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if { apt-get update -q && apt-get install -yq --no-install-recommends python3 python3-psycopg2 python3-redis; } >/dev/null &&
    /usr/bin/python3 -c 'import psycopg2, redis'; then
    echo /usr/bin/python3
    exit 0
  fi
fi

command -v python3 >/dev/null || { echo "Python 3 is needed for the tests; install it (python3) and try again." >&2; exit 1; }
python3 -m venv "$venv" >&2
"$venv/bin/pip" install -q psycopg2-binary redis >&2
echo "$venv/bin/python"
