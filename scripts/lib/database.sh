# Shared by the scripts that connect to a database: sourced, not run.

# Requires a database's URL and psql, and moves the URL's password into the environment. psql's arguments are visible
# to every user of the machine; its environment is not. The first argument is the calling script's name.
use_database() {
  local name=$1 encoded
  if [ -z "${DATABASE_URL:-}" ]; then
    echo "$name: DATABASE_URL is not set: where is the database?" >&2
    return 2
  fi
  if ! command -v psql > /dev/null; then
    echo "$name: psql is missing; on Debian: apt-get install postgresql-client" >&2
    return 1
  fi
  if [[ $DATABASE_URL =~ ^(postgres(ql)?://[^:/@]+):([^@/]*)@(.*)$ ]]; then
    encoded=${BASH_REMATCH[3]//\\/\\\\}
    DATABASE_URL=${BASH_REMATCH[1]}@${BASH_REMATCH[4]}
    PGPASSWORD=$(printf '%b' "${encoded//%/\\x}")
    export PGPASSWORD
  fi
}

# Runs SQL from standard input, as psql would, and stops at the first error.
run_sql() {
  psql --no-psqlrc --quiet --no-password --tuples-only --no-align --set ON_ERROR_STOP=1 "$@" --file - "$DATABASE_URL"
}
