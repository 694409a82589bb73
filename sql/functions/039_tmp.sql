create or replace function purple_flea.secret_trouble(secret_name text) returns text
  language sql stable set search_path = pg_catalog, pg_temp
as $$ select null::text $$; revoke all on function purple_flea.secret_trouble(text) from public, anon, authenticated, service_role, purple_flea_worker;
