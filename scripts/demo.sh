#!/usr/bin/env bash
# `make demo`: ensures Docker, the binary and the images, then runs scripts/demo.py, which
# starts a cluster and a balancer, kills the primary and counts lost writes.
# KEEP=1 leaves the cluster and its operator running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/ensure-build-deps.sh
scripts/ensure-docker.sh
echo "Docker Engine $(docker version --format '{{.Server.Version}}') answers."

# The images are built while the compiler runs; both take minutes the first time.
scripts/ensure-images.sh postgres:15 haproxy:2.6 redis:7 &
images=$!
trap 'kill "$images" 2>/dev/null || true' EXIT
scripts/build.sh build
wait "$images"
trap - EXIT
triple=$(rustc -vV | sed -n 's/^host: //p')
python=$(scripts/ensure-python.sh)
PYTHONDONTWRITEBYTECODE=1 exec "$python" scripts/demo.py "target/$triple/debug/evenkeel"
