#!/usr/bin/env bash
# The fault campaign: `tests/chaos/run.sh BINARY [ARGUMENTS...]`. Makes sure of what
# it needs, then that the checker sees what it is there to see, then runs campaign.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
[ $# -ge 1 ] || { echo "Usage: tests/chaos/run.sh BINARY [ARGUMENTS...]" >&2; exit 2; }
scripts/ensure-docker.sh
scripts/ensure-images.sh postgres:15
scripts/ensure-chaos.sh
python=$(scripts/ensure-python.sh)
export PYTHONDONTWRITEBYTECODE=1
(cd tests/chaos && "$python" -m unittest -q test_history)
exec "$python" tests/chaos/campaign.py "$@"
