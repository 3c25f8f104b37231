#!/usr/bin/env bash
# `make demo`: everything from nothing. Makes sure of Docker, the binary and the
# image, then scripts/demo.py brings up a cluster, kills its primary and counts.
# KEEP=1 leaves the cluster and its operator running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/ensure-build-deps.sh
scripts/ensure-docker.sh
echo "Docker Engine $(docker version --format '{{.Server.Version}}') answers."
echo "Building the release binary (some minutes the first time)..."
cargo build --release --locked --quiet
triple=$(rustc -vV | sed -n 's/^host: //p')
scripts/ensure-images.sh postgres:15
python=$(scripts/ensure-python.sh)
PYTHONDONTWRITEBYTECODE=1 exec "$python" scripts/demo.py "target/$triple/release/evenkeel"
