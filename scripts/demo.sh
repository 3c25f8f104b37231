#!/usr/bin/env bash
# `make demo`: everything from nothing. Makes sure of Docker, the binary and the
# image, then scripts/demo.py brings up a cluster, kills its primary and counts.
# KEEP=1 leaves the cluster and its operator running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/ensure-build-deps.sh
scripts/ensure-docker.sh
echo "Docker Engine $(docker version --format '{{.Server.Version}}') answers."

# The image is made while the compiler works; both take minutes the first time.
scripts/ensure-images.sh postgres:15 &
images=$!
trap 'kill "$images" 2>/dev/null || true' EXIT
echo "Building the release binary..."
cargo build --release --locked --quiet
wait "$images"
trap - EXIT
triple=$(rustc -vV | sed -n 's/^host: //p')
python=$(scripts/ensure-python.sh)
PYTHONDONTWRITEBYTECODE=1 exec "$python" scripts/demo.py "target/$triple/release/evenkeel"
