#!/usr/bin/env bash
# The chaos tests: `tests/chaos/run.sh BINARY [ARGUMENTS...]`. Ensures the
# prerequisites, tests the history checker, then runs campaign.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
[ $# -ge 1 ] || { echo "Usage: tests/chaos/run.sh BINARY [ARGUMENTS...]" >&2; exit 2; }
scripts/ensure-docker.sh
scripts/ensure-images.sh postgres:15 redis:7
scripts/ensure-chaos.sh
python=$(scripts/ensure-python.sh)
export PYTHONDONTWRITEBYTECODE=1
(cd tests/chaos && "$python" -m unittest -q test_history)
exec "$python" tests/chaos/campaign.py "$@"
