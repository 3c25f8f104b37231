#!/bin/sh
# As in the official image: a first argument that is an option or a *.conf means
# redis-server, and root becomes the user redis once /data is its own.
set -eu
case "${1:-}" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "${1:-}" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user redis -exec chown redis: {} +
  exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
fi
# The official image is built without protected mode. Here the option must be given, unless a configuration file decides.
case "${1:-}:${2:-}" in
  redis-server: | redis-server:-*) set -- "$@" --protected-mode no ;;
esac
exec "$@"
