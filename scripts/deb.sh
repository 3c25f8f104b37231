#!/usr/bin/env bash
# Makes the Debian package of a binary: `scripts/deb.sh BINARY FOLDER` writes FOLDER/evenkeel_VERSION_ARCHITECTURE.deb.
# The same binary and revision make the same package, byte for byte.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -eq 2 ] || { echo "Usage: scripts/deb.sh BINARY FOLDER" >&2; exit 2; }
command -v dpkg-deb >/dev/null || { echo "dpkg-deb is missing; it is part of Debian and Ubuntu." >&2; exit 1; }
binary=$1 out=$2
version=$("$binary" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
put() { install -D -m "$1" "$2" "$tree$3"; }
debian=$root/deploy/debian
put 755 "$binary" /usr/bin/evenkeel
for unit in evenkeel.service evenkeel.socket; do
  put 644 "$root/deploy/systemd/$unit" "/lib/systemd/system/$unit"
done
# The head of the unit tells how to install it by hand.
sed -i -e '/^\[Unit\]/,$!d' -e 's|/usr/local/bin/|/usr/bin/|' "$tree/lib/systemd/system/evenkeel.service"
put 644 "$debian/default" /etc/default/evenkeel
put 644 "$root/LICENSE" /usr/share/doc/evenkeel/copyright
for file in "$root"/deploy/examples/*.yaml; do
  put 644 "$file" "/usr/share/doc/evenkeel/examples/${file##*/}"
done
"$binary" completion bash >"$tree/completion"
put 644 "$tree/completion" /usr/share/bash-completion/completions/evenkeel
"$binary" completion zsh >"$tree/completion"
put 644 "$tree/completion" /usr/share/zsh/vendor-completions/_evenkeel
rm "$tree/completion"
mkdir "$tree/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" "$debian/control" >"$tree/DEBIAN/control"
echo /etc/default/evenkeel >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
  install -m 755 "$debian/$script" "$tree/DEBIAN/$script"
done
find "$tree" -mindepth 1 -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
package=$out/evenkeel_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$tree" "$package" >/dev/null
echo "$package"
