-- What a hosted Supabase project has before anybody adds to it, as far as this project depends on it: the roles,
-- their memberships, the default privileges that make everything in `public` reachable for everybody, and
-- auth.uid(). Run by the superuser.

create role anon          nologin noinherit;
create role authenticated nologin noinherit;
create role service_role  nologin noinherit bypassrls;
create role authenticator login noinherit nosuperuser;
create role postgres      login nosuperuser createdb createrole replication bypassrls;
create role supabase_auth_admin nologin noinherit createrole;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres;

alter database postgres owner to postgres;
grant all   on schema public to postgres;
grant usage on schema public to anon, authenticated, service_role;

-- Whatever `postgres` or the superuser makes in `public`, the API's roles may use, until it is revoked by name.
alter default privileges in schema public grant all on tables    to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on tables    to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on sequences to postgres, anon, authenticated, service_role;

create schema extensions authorization postgres;
grant usage on schema extensions to anon, authenticated, service_role;
create extension pgcrypto with schema extensions;

create schema auth authorization supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role;

create table auth.users (
  id uuid primary key
);
comment on table auth.users is 'A stand-in for Supabase Auth''s table: its key alone.';
alter table auth.users owner to supabase_auth_admin;
grant all on auth.users to postgres;

create function auth.uid() returns uuid
  language sql stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid
$$;
comment on function auth.uid() is 'A stand-in for Supabase Auth''s function, with the same meaning.';
alter function auth.uid() owner to supabase_auth_admin;

set role postgres;
create publication supabase_realtime;
reset role;
