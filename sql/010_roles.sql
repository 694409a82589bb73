-- The roles and the function that the rest builds on. Supabase brings all of them; plain PostgreSQL gets what is
-- missing, so that the same files run on both.

do $$
declare
  role_name text;
begin
  foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      execute format('create role %I nologin', role_name);
      raise notice 'role % was missing and has been made', role_name;
    end if;
  end loop;
end;
$$;

-- What the function may be in the database if it is not to be service_role: it may claim, settle and look after jobs,
-- and nothing else. PostgREST switches to it for a token with the claim "role": "purple_flea_worker".
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'purple_flea_worker') then
    create role purple_flea_worker nologin;
  end if;
  -- Shorter than the function waits for an answer (5 s): what it does not hear of is not done either. PostgREST obeys.
  alter role purple_flea_worker set statement_timeout = '4s';
  if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
    grant purple_flea_worker to authenticator;
  end if;
end;
$$;

-- Signatures are made with pgcrypto's hmac().
create schema if not exists extensions;
create extension if not exists pgcrypto with schema extensions;

-- The doorbell is rung with pg_net. Where the server does not have it, deposits are recorded all the same, and a
-- warning says with each that nobody was called.
do $$
begin
  if to_regnamespace('net') is not null then
    return;
  end if;
  if exists (select from pg_catalog.pg_available_extensions where name = 'pg_net') then
    create extension pg_net;
  else
    raise notice 'this server has no pg_net: deposits will be recorded, but the function will not be called';
  end if;
exception when others then
  raise notice 'pg_net could not be enabled (%): deposits will be recorded, but the function will not be called', sqlerrm;
end;
$$;

-- Who is asking. On plain PostgreSQL the caller's claims are where PostgREST puts them.
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

-- What this project keeps to itself. The API exposes `public` only, and no role of the API may use this schema.
create schema if not exists purple_flea;
comment on schema purple_flea is 'Purple Flea Edge: what is not for the API.';
revoke all on schema purple_flea from public, anon, authenticated, service_role, purple_flea_worker;
