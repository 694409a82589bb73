# shellcheck shell=bash
# Writes the migration as a file for `supabase db push`. Sourced by scripts/migrate.

# write_supabase DIR: writes one file with everything that no earlier file in DIR has. It writes only one, because
# `supabase db push` commits file by file: a schema without its functions would leave deposits without jobs.
write_supabase() {
  local dir=$1 whole name last stamp earlier
  [ -d "$dir" ] || unusable "$dir is no directory; it is the project's supabase/migrations"
  # The names and checksums of the migrations that earlier files have.
  earlier=$(sed -n 's/^-- has \([^ ]* [0-9a-f]\{64\}\)$/\1/p' "$dir"/*_purple_flea_*.sql 2> /dev/null || true)
  # A folder that has an optional part keeps it.
  for name in $PARTS; do
    ! grep -q "^$name/" <<< "$earlier" || [[ ",$WITH," == *,"$name",* ]] || WITH=$WITH${WITH:+,}$name
  done
  # The hash covers every source of the file, so that the same content gets the same name each time.
  whole=$( { find sql scripts/lib/migrate -name '*.sql' | LC_ALL=C sort | xargs cat
    echo "$RELEASE $ALLOWED $WITH"; } | sha256 | cut -c 1-12)
  for name in "$dir"/*_purple_flea_*_"$whole".sql; do
    if [ -e "$name" ]; then
      finish "nothing is new: $name has all of release $RELEASE" '{"changed":false}'
      return
    fi
  done
  stamp=$(date -u +%Y%m%d%H%M%S)
  last=$(cd "$dir" && printf '%s\n' [0-9]*_*.sql | sed -n 's/^\([0-9]\{14\}\)_.*/\1/p' | sort | tail -n 1)
  # `supabase db push` refuses a file that sorts before an applied one.
  [ -z "$last" ] || [ "$stamp" -gt "$last" ] || stamp=$((last + 1))
  name=$dir/${stamp}_purple_flea_${RELEASE}_$whole.sql
  {
    cat <<TEXT
-- Purple Flea Edge $RELEASE, as scripts/migrate --supabase wrote it. Apply it with "supabase db push", and do not change it.
-- What the database has already, by scripts/migrate or an earlier file, is passed over: see purple_flea.schema_migrations.
TEXT
    session 30
    files ';' "$earlier"
    cat scripts/lib/migrate/engine.sql
  } > "$name.part"
  mv "$name.part" "$name"
  finish "wrote $name" "{\"changed\":true,\"file\":$(json "$name")}"
}
