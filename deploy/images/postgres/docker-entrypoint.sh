#!/bin/bash
# Lets the image be used by itself: the first start of `postgres` makes the
# database, later starts only run it. Takes the official image's variables:
# POSTGRES_PASSWORD(_FILE), POSTGRES_USER, POSTGRES_DB, POSTGRES_INITDB_ARGS,
# POSTGRES_HOST_AUTH_METHOD. Evenkeel replaces it by its own supervisor.
set -euo pipefail

# Only a server is prepared; any other command runs as it stands.
case "${1:-}" in
  -*) set -- postgres "$@" ;;
  postgres) ;;
  *) exec "$@" ;;
esac

# From root become postgres, once the folders are its own.
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chmod 700 "$PGDATA"
  find "$PGDATA" \! -user postgres -exec chown postgres: {} +
  chown postgres: /var/run/postgresql
  exec setpriv --reuid=postgres --regid=postgres --init-groups -- "${BASH_SOURCE[0]}" "$@"
fi

first_start() {
  local user=${POSTGRES_USER:-postgres} password=${POSTGRES_PASSWORD:-} method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || password=$(<"$POSTGRES_PASSWORD_FILE")
  if [ -z "$password" ] && [ "$method" != trust ]; then
    echo "Set POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE), or POSTGRES_HOST_AUTH_METHOD=trust to let everybody in." >&2
    exit 1
  fi
  # shellcheck disable=SC2086
  initdb --username="$user" --auth-local=trust --auth-host="$method" \
    --pwfile=<(printf '%s\n' "${password:-unused}") ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

  local psql=(psql -v ON_ERROR_STOP=1 --username "$user" --no-password)
  # Reached by the socket alone until everything is in place.
  pg_ctl -w -o "-c listen_addresses=''" start
  local db=${POSTGRES_DB:-$user}
  [ "$db" = postgres ] || "${psql[@]}" -d postgres -v db="$db" <<<'CREATE DATABASE :"db"'
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case "$file" in
      *.sh) bash "$file" ;;
      *.sql) "${psql[@]}" -d "$db" -f "$file" ;;
      *.sql.gz) gunzip -c "$file" | "${psql[@]}" -d "$db" ;;
    esac
  done
  pg_ctl -m fast -w stop
}

[ -s "$PGDATA/PG_VERSION" ] || first_start
unset POSTGRES_PASSWORD
exec "$@"
