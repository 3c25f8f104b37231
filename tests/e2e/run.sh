#!/usr/bin/env bash
# The real-Docker suite: `tests/e2e/run.sh BINARY [WORDS...]`. Ensures the
# engine, the images, kubectl and the client's driver, then runs suite.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
[ $# -ge 1 ] || { echo "Usage: tests/e2e/run.sh BINARY [WORDS...]" >&2; exit 2; }
scripts/ensure-docker.sh
scripts/ensure-images.sh postgres:15 haproxy:2.6 nginx:1.22 redis:7 valkey/valkey:8
scripts/ensure-test-images.sh
scripts/ensure-kubectl.sh
scripts/ensure-s3-servers.sh
python=$(scripts/ensure-python.sh 5)
export PYTHONDONTWRITEBYTECODE=1
# First test the checker itself.
(cd tests/e2e && "$python" -m unittest -q test_client)
exec "$python" tests/e2e/suite.py "$@"
