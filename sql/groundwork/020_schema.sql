-- Signatures are made with pgcrypto's hmac().
create schema if not exists extensions;
create extension if not exists pgcrypto with schema extensions;

-- Supabase has this function. On plain PostgreSQL it reads the claims where PostgREST puts them.
do $$
begin
  if to_regprocedure('auth.uid()') is null then
    create schema if not exists auth;
    create function auth.uid() returns uuid
      language sql
      stable
      set search_path = pg_catalog, pg_temp
    as $body$
      select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
    $body$;
    comment on function auth.uid() is 'The user whose token the request carries, or null.';
    grant usage on schema auth to anon, authenticated, service_role;
  end if;
end;
$$;

-- The private schema. The API exposes `public` only, and no role of the API may use this schema.
create schema if not exists purple_flea;
comment on schema purple_flea is
  'Purple Flea Edge: the ledger''s own tables and functions, which the API does not expose.';

-- The record of what has been applied.
create table if not exists purple_flea.schema_migrations (
  name       text        primary key,
  checksum   text        not null,
  release    text        not null,
  applied_at timestamptz not null default clock_timestamp()
);
comment on table purple_flea.schema_migrations is
  'The migrations that this database has, and the functions'' state. scripts/migrate writes it.';
comment on column purple_flea.schema_migrations.name is
  'The migration''s file name without its ending; "functions" for all of sql/functions.';
comment on column purple_flea.schema_migrations.checksum is
  'SHA-256 of the file, or of the functions'' files one after the other.';
comment on column purple_flea.schema_migrations.release is 'The release that applied it.';
alter table purple_flea.schema_migrations enable row level security;
