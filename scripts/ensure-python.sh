#!/usr/bin/env bash
# Prints the path of a Python interpreter with psycopg2 and redis (the drivers of the test
# clients: libpq and redis-py); installs what is missing: `python=$(scripts/ensure-python.sh)`.
# `ensure-python.sh 5`: with redis-py 5 or later, whose cluster client outlives a node.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$here/target/venv
least=${1:-0}

has_drivers() { # PYTHON
  "$1" -c "import psycopg2, redis; assert int(redis.__version__.split('.')[0]) >= $least" 2>/dev/null
}

for python in /usr/bin/python3 python3 "$venv/bin/python"; do
  if has_drivers "$python"; then
    command -v "$python"
    exit 0
  fi
done

# The distribution's package first: it brings libpq and needs no compiler.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if { apt-get update -q && apt-get install -yq --no-install-recommends python3 python3-venv python3-psycopg2 python3-redis; } >/dev/null &&
    has_drivers /usr/bin/python3; then
    echo /usr/bin/python3
    exit 0
  fi
fi

command -v python3 >/dev/null || { echo "Python 3 is needed for the tests; install it (python3) and try again." >&2; exit 1; }
python3 -m venv --system-site-packages "$venv" >&2
"$venv/bin/python" -c 'import psycopg2' 2>/dev/null || "$venv/bin/pip" install -q psycopg2-binary >&2
"$venv/bin/pip" install -q "redis>=$least" >&2
has_drivers "$venv/bin/python" || { echo "redis-py $least or later could not be installed into $venv." >&2; exit 1; }
echo "$venv/bin/python"
