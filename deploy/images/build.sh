#!/usr/bin/env bash
# Builds one image from the distribution's packages, for machines that no
# registry answers: `deploy/images/build.sh postgres:15`.
#
# One folder an image, here or in the folder given as second argument:
#   NAME/recipe      sourced with $TAG; sets SUITE (a Debian release) and
#                    PACKAGES, or says which tags it knows
#   NAME/setup       optional; run with the root file system's path before
#                    PACKAGES are installed
#   NAME/Dockerfile  FROM that root file system (build argument ROOTFS)
#
# Packages are fetched by this machine's own apt, outside the image, so its
# mirrors, proxies and certificates are used and nothing of them is left inside.
set -euo pipefail
here=$(cd "${2:-$(dirname "${BASH_SOURCE[0]}")}" && pwd)

die() { echo "$1" >&2; exit 1; }

image=${1:-}
case "$image" in
  *:*) name=${image%%:*} TAG=${image##*:} ;;
  *) die "Usage: deploy/images/build.sh NAME:TAG [FOLDER], e.g. postgres:15" ;;
esac
[ -f "$here/$name/recipe" ] || die "No recipe for $name here. There is: $(cd "$here" && ls -d -- */ | tr -d '/' | paste -sd ' ')"

if docker image inspect "$image" >/dev/null 2>&1; then
  echo "$image is there already."
  exit 0
fi
[ "$(id -u)" = 0 ] || die "Building $image needs root (a root file system is put together). Run again as root, or pull the image where a registry answers."

SUITE='' PACKAGES=''
# shellcheck source=/dev/null
. "$here/$name/recipe"
[ -n "$SUITE" ] && [ -n "$PACKAGES" ] || die "$name/recipe set no SUITE or PACKAGES for tag $TAG"

ensure_tools() {
  command -v mmdebstrap >/dev/null && [ -f /usr/share/keyrings/debian-archive-keyring.gpg ] && return
  command -v apt-get >/dev/null || die "Building $image needs mmdebstrap, and there is no apt-get to install it with."
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  apt-get install -yq --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null
}

# Where this machine gets Debian from: "URI CODENAME" lines; nothing on other distributions.
machine_sources() {
  # shellcheck disable=SC1091
  [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] || return 0
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(CREATED_BY) $(COMPONENT) $(REPO_URI) $(RELEASE)' 2>/dev/null |
    awk '$1 == "Packages" && $2 == "main" { print $3, $4 }' | sort -u
}

# The same places for $SUITE, as a sources list.
sources_for_suite() {
  local main security
  main=$(machine_sources | awk '$2 ~ /^(bullseye|bookworm|trixie|forky|sid|stable|oldstable|testing)$/ { print $1; exit }')
  security=$(machine_sources | awk '$2 ~ /-security$/ { print $1; exit }')
  echo "deb ${main:-http://deb.debian.org/debian} $SUITE main"
  echo "deb ${main:-http://deb.debian.org/debian} $SUITE-updates main"
  # A machine that names a mirror of its own but no security archive may not reach another.
  if [ -n "$security" ] || [ -z "$main" ]; then
    echo "deb ${security:-http://deb.debian.org/debian-security} $SUITE-security main"
  fi
}

ensure_tools
work=$(mktemp -d)
rootfs=evenkeel-build/$name-$TAG:rootfs
cleanup() {
  rm -rf "$work"
  docker image rm "$rootfs" >/dev/null 2>&1 || true
}
trap cleanup EXIT

sources_for_suite >"$work/sources.list"
cat >"$work/stock.list" <<LIST
deb http://deb.debian.org/debian $SUITE main
deb http://deb.debian.org/debian $SUITE-updates main
deb http://deb.debian.org/debian-security $SUITE-security main
LIST
# The machine's way of fetching (proxies, certificates, clocks), without what only describes indices.
apt-config dump | grep -E '^Acquire::.+ ".+";$' |
  grep -vE '^Acquire::(IndexTargets|CompressionTypes|Changelogs|cdrom|Languages|GzipIndexes)' >"$work/apt.conf" || true
printf '#!/bin/sh\n' >"$work/no-setup"
chmod 755 "$work/no-setup"
setup=$work/no-setup
[ -x "$here/$name/setup" ] && setup=$here/$name/setup

echo "Building $image from the packages of Debian $SUITE (one to two minutes)..."
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date +%s)} DEBIAN_FRONTEND=noninteractive
mmdebstrap --quiet --mode=root --variant=minbase --include="${PACKAGES// /,}" \
  --aptopt="$work/apt.conf" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --essential-hook="$setup \"\$1\"" \
  --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
  --customize-hook="cp '$work/stock.list' \"\$1/etc/apt/sources.list\"; rm -f \"\$1\"/etc/apt/sources.list.d/*" \
  --customize-hook='rm -rf "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/etc/hostname "$1"/etc/resolv.conf' \
  "$SUITE" - <"$work/sources.list" >"$work/rootfs.tar"
docker import "$work/rootfs.tar" "$rootfs" >/dev/null
rm "$work/rootfs.tar"

# The classic builder: it needs no plugin and every Docker Engine has it.
DOCKER_BUILDKIT=0 docker build -q --network none --build-arg "ROOTFS=$rootfs" --build-arg "TAG=$TAG" \
  -t "$image" "$here/$name" >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
echo "Built $image."
