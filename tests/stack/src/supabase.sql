-- The parts of a new hosted Supabase project that this project depends on: the roles, their
-- memberships and settings, the default privileges that open everything in `public` to every role,
-- auth.uid(), and the trigger that makes PostgREST read the schema again. The superuser runs it.

create role anon          nologin noinherit;
create role authenticated nologin noinherit;
create role service_role  nologin noinherit bypassrls;
create role authenticator login noinherit nosuperuser;
create role postgres      login nosuperuser createdb createrole replication bypassrls;
create role supabase_auth_admin nologin noinherit createrole;

-- PostgREST logs in as `authenticator`, and becomes another role for each request. Hosted projects
-- load supautils, too.
alter role authenticator set session_preload_libraries = 'safeupdate';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role anon          set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role postgres set session_preload_libraries = 'safeupdate';
alter role postgres set safeupdate.enabled = 'off';

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres;

alter database postgres owner to postgres;
grant all   on schema public to postgres;
grant usage on schema public to anon, authenticated, service_role;

-- The API's roles may use every object that `postgres` or the superuser makes in `public`, until
-- the privilege is revoked by name.
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

create function extensions.pgrst_ddl_watch() returns event_trigger
  language plpgsql
as $$
begin
  notify pgrst, 'reload schema';
end;
$$;
comment on function extensions.pgrst_ddl_watch() is 'A stand-in for Supabase''s function: PostgREST reads the schema again.';
create event trigger pgrst_ddl_watch  on ddl_command_end execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop        execute function extensions.pgrst_ddl_watch();

set role postgres;
create publication supabase_realtime;
reset role;
