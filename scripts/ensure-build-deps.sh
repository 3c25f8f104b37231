#!/usr/bin/env bash
# Installs prerequisites of building and testing that a machine with only a Rust toolchain
# lacks: a C compiler and libc (the binary is linked statically), the compiler of etcd's protocol, Python. With `c++`: its
# compiler too, for fuzzing.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc)
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
command -v protoc >/dev/null || missing+=(protobuf-compiler)
[ -e /usr/include/google/protobuf/descriptor.proto ] || missing+=(libprotobuf-dev)
command -v python3 >/dev/null || missing+=(python3)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
[ "${1:-}" != c++ ] || command -v c++ >/dev/null || missing+=(g++)
# docker top runs the machine's ps.
command -v ps >/dev/null || missing+=(procps)

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
  echo "cargo is installed but not on PATH: run  . \"\$HOME/.cargo/env\"  and try again." >&2
  exit 1
fi
command -v cargo >/dev/null || { echo "A Rust toolchain is needed (cargo was not found)." >&2; exit 1; }

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Missing: ${missing[*]}. Install them and try again (as root on Debian or Ubuntu this script installs it)." >&2
  exit 1
fi
echo "Installing ${missing[*]}..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -yq --no-install-recommends "${missing[@]}" >/dev/null
