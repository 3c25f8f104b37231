#!/bin/sh
# As in the official image: a first argument that is an option or a *.conf means
# valkey-server, and root becomes the user valkey once /data is its own.
set -eu
case "${1:-}" in
  -* | *.conf) set -- valkey-server "$@" ;;
esac
if [ "${1:-}" = valkey-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user valkey -exec chown valkey: {} +
  exec setpriv --reuid=valkey --regid=valkey --init-groups -- "$0" "$@"
fi
# The official image is built without protected mode. Here the option must be given, unless a configuration file decides.
case "${1:-}:${2:-}" in
  valkey-server: | valkey-server:-*) set -- "$@" --protected-mode no ;;
esac
exec "$@"
