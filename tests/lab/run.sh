#!/usr/bin/env bash
# The lab: `tests/lab/run.sh BINARY [--quick] [WORDS...]`. Ensures the prerequisites, tests the
# history checker, then runs suite.py on several Docker hosts of this machine.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
[ $# -ge 1 ] || { echo "Usage: tests/lab/run.sh BINARY [--quick] [WORDS...]" >&2; exit 2; }
if [ "$(id -u)" != 0 ]; then
  echo "The lab makes network namespaces and starts Docker Engines: run it as root." >&2
  exit 1
fi
scripts/ensure-docker.sh
scripts/ensure-images.sh postgres:15 haproxy:2.6 redis:7
scripts/ensure-test-images.sh
scripts/ensure-lab.sh
python=$(scripts/ensure-python.sh 5)
export PYTHONDONTWRITEBYTECODE=1
(cd tests/chaos && "$python" -m unittest -q test_history)
exec "$python" tests/lab/suite.py "$@"
