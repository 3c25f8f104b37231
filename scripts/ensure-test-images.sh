#!/usr/bin/env bash
# Ensures the tests' own images, which are in no registry: evenkeel-test/web:1
# and :2 (a web application that answers with its version),
# evenkeel-test/busybox:1 (only a static busybox) and evenkeel-test/etcd:3.4
# (the distribution's etcd).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sources=$(cat tests/images/web/* | sha256sum | cut -c1-16)

log=$(mktemp)
trap 'rm -f "$log"' EXIT
there() { docker image inspect -f "{{index .Config.Labels \"evenkeel-test.sources\"}}" "$1" 2>/dev/null; }

for version in 1 2; do
  if [ "$(there "evenkeel-test/web:$version")" = "$sources" ]; then continue; fi
  deploy/images/build.sh evenkeel-test/python:3 tests/images
  # The classic builder: it needs no plugin and every Docker Engine has it.
  DOCKER_BUILDKIT=0 docker build -q --network none --label "evenkeel-test.sources=$sources" \
    --build-arg "VERSION=$version" -t "evenkeel-test/web:$version" tests/images/web >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  echo "Built evenkeel-test/web:$version."
done

deploy/images/build.sh evenkeel-test/etcd:3.4 tests/images

if ! docker image inspect evenkeel-test/busybox:1 >/dev/null 2>&1; then
  work=$(mktemp -d)
  trap 'rm -rf "$log" "$work"' EXIT
  (cd "$work" && apt-get download -q busybox-static >/dev/null && dpkg-deb -x busybox-static_*.deb .)
  mkdir -p "$work/root/bin"
  # Its path depends on the release.
  if [ -e "$work/bin/busybox" ]; then cp "$work/bin/busybox" "$work/root/bin/"; else cp "$work/usr/bin/busybox" "$work/root/bin/"; fi
  tar -C "$work/root" -c bin/busybox | docker import - evenkeel-test/busybox:1 >/dev/null
  echo "Built evenkeel-test/busybox:1."
fi
