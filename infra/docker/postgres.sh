#!/bin/sh
# Start PostgreSQL as the public image does: POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB.
set -eu

: "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	umask 077
	secret=$(mktemp)
	trap 'rm -f "$secret"' EXIT
	if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then cat "$POSTGRES_PASSWORD_FILE" >"$secret"
	elif [ -n "${POSTGRES_PASSWORD:-}" ]; then printf '%s\n' "$POSTGRES_PASSWORD" >"$secret"
	else
		echo "postgres.sh: POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE is not set" >&2
		exit 2
	fi
	# A container killed in the middle of this leaves nothing behind that looks like a database.
	rm -rf "$PGDATA.new"
	initdb --pgdata "$PGDATA.new" --username "$POSTGRES_USER" --pwfile "$secret" --auth scram-sha-256 \
		--encoding UTF8 --locale C >/dev/null
	echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
	if [ "$POSTGRES_DB" != postgres ]; then
		printf 'CREATE DATABASE "%s" OWNER "%s";\n' "$POSTGRES_DB" "$POSTGRES_USER" |
			postgres --single -D "$PGDATA.new" postgres >/dev/null
	fi
	rm -rf "$PGDATA"
	mv "$PGDATA.new" "$PGDATA"
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
