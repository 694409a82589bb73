# shellcheck shell=bash
# Reads the database's URL, and explains each likely mistake in it with a sentence. Sourced by scripts/migrate.

SUPABASE_URLS="On Supabase (Connect in the dashboard) use one of these two:
  the direct connection, which needs IPv6: postgresql://postgres:PASSWORD@db.PROJECT.supabase.co:5432/postgres
  the session pooler, which has IPv4:      postgresql://postgres.PROJECT:PASSWORD@REGION.pooler.supabase.com:5432/postgres"

# check_url: refuses a DATABASE_URL that must be a mistake, before anything is sent.
check_url() {
  local rest authority user=''
  case ${DATABASE_URL:-} in
    '') usage >&2; unusable "there is no database URL: give one, or set DATABASE_URL" ;;
    postgres://* | postgresql://*) ;;
    http://* | https://*) unusable "that is the URL of an API, not of the database.
$SUPABASE_URLS" ;;
    *) unusable "the database's URL begins with postgresql://" ;;
  esac
  case $DATABASE_URL in
    *'[YOUR-PASSWORD]'*) unusable "the URL still has [YOUR-PASSWORD] in it: put the database's password there" ;;
    *[?\&]password=*) unusable "give the password as postgresql://USER:PASSWORD@…, or as PGPASSWORD: in a parameter every user of this machine could read it" ;;
  esac
  rest=${DATABASE_URL#*://}
  authority=${rest%%[/?]*}
  [[ $authority != *@* ]] || user=${authority%@*}
  user=${user%%:*}
  HOST=${authority##*@}
  HOST=${HOST%:*}
  case $authority?${rest#"$authority"} in
    *:6543\?* | *[?\&]port=6543*)
      unusable "port 6543 is Supabase's transaction pooler. It gives each transaction another session, so that locks, settings and
index builds that belong together would come apart.
$SUPABASE_URLS" ;;
  esac
  case $HOST in
    *.pooler.supabase.com)
      [ "${user#*.}" != "$user" ] || unusable "the pooler knows projects by their user: postgres.PROJECT, not ${user:-an empty one}" ;;
  esac
}

# hide_password: moves the password from the URL into the environment: psql's arguments are visible to every user of the
# machine, its environment is not.
hide_password() {
  local encoded
  if [[ $DATABASE_URL =~ ^(postgres(ql)?://[^:/@]+):([^@/]*)@(.*)$ ]]; then
    encoded=${BASH_REMATCH[3]//\\/\\\\}
    DATABASE_URL=${BASH_REMATCH[1]}@${BASH_REMATCH[4]}
    PGPASSWORD=$(printf '%b' "${encoded//%/\\x}")
    export PGPASSWORD
  fi
  # Long enough for a project that wakes up. Without a limit, the script would wait minutes for a firewall that drops packets.
  export PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-15} PGAPPNAME=${PGAPPNAME:-purple_flea_migrate}
}

# explain_connection MESSAGE: prints a sentence that explains why psql could not connect.
explain_connection() {
  case $1 in
    *'password authentication failed'* | *'Wrong password'*)
      echo "the server refused the password. In a URL its special characters are written as %XX (@ as %40)." ;;
    *'no password supplied'*) echo "the server asks for a password: postgresql://USER:PASSWORD@…, or PGPASSWORD" ;;
    *'Tenant or user not found'*)
      echo "the pooler does not know this project: its user is postgres.PROJECT, and its host belongs to the project's region" ;;
    *'max clients reached'* | *'too many clients'* | *'too many connections'* | *'remaining connection slots'*)
      echo "the server has no connection left; try again" ;;
    *'could not translate host name'* | *'Network is unreachable'* | *'No route to host'* | *'timeout expired'* | *'Connection timed out'* | *'Connection refused'*)
      echo "$HOST cannot be reached from here."
      case $HOST in db.*.supabase.co) echo "It has an IPv6 address only, and this machine may have none. $SUPABASE_URLS" ;; esac ;;
    *'does not exist'*) echo "the server has no such role, or no such database, as in the URL" ;;
    *) echo "the database cannot be reached" ;;
  esac
}
