-- The roles that the other files name. Supabase brings three of them. Roles belong to the server
-- and not to the database, so a restored database may lack them. Each run applies this file.

do $$
declare
  role_name text;
begin
  foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_catalog.pg_roles r where r.rolname = role_name) then
      execute format('create role %I nologin', role_name);
      raise notice 'role % was missing and has been made', role_name;
    end if;
  end loop;
end;
$$;

-- The project's own roles, narrower than service_role: the worker may claim, settle and look after
-- jobs; the operator may call public.operate(). PostgREST switches to one for a token with the
-- claim "role".
do $$
declare
  -- Shorter than the function waits for an answer (5 s), so that Postgres ends a call that the
  -- function has given up. PostgREST applies a role's settings to each request.
  timeout   constant text := 'statement_timeout=4s';
  role_name text;
  statement text;
begin
  foreach role_name in array array['purple_flea_worker', 'purple_flea_operator'] loop
    if not exists (select from pg_catalog.pg_roles r where r.rolname = role_name) then
      execute format('create role %I nologin', role_name);
    end if;
    foreach statement in array array_remove(array[
      case
        when not exists (
          select
          from pg_catalog.pg_roles r
          where r.rolname = role_name
            and timeout = any (r.rolconfig)
        ) then format('alter role %I set statement_timeout = ''4s''', role_name)
      end,
      case
        when exists (select from pg_catalog.pg_roles r where r.rolname = 'authenticator')
          and not pg_has_role('authenticator', role_name, 'member')
          then format('grant %I to authenticator', role_name)
      end
    ], null) loop
      begin
        execute statement;
      exception when insufficient_privilege then
        -- From PostgreSQL 16 on, only a role with ADMIN OPTION on a role may change it. A superuser
        -- made this one.
        raise warning 'role % may not run "%". A superuser has to run it. '
          'Until then a token for % does not work as documented.',
          current_user, statement, role_name;
      end;
    end loop;
  end loop;
end;
$$;

-- Granted by name, although PUBLIC may use the schema on most servers: pg_restore --clean makes the
-- schema again, and then PUBLIC may not use it. scripts/lib/migrate/uninstall.sql takes it back.
grant usage on schema public to purple_flea_worker, purple_flea_operator;
