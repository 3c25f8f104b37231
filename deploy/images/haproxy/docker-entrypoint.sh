#!/bin/sh
# As in the official image: a first argument that is an option means haproxy, and
# haproxy runs as master and workers (-W) in the foreground (-db).
set -eu
case "${1:-}" in
  -*) set -- haproxy "$@" ;;
esac
if [ "${1:-}" = haproxy ]; then
  shift
  set -- haproxy -W -db "$@"
fi
exec "$@"
