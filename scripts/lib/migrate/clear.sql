-- Drops this project's functions, views and triggers, so that sql/functions makes them again. A
-- migration then sees tables alone, for every earlier release, and nothing of that release stays
-- behind.

-- The names of this project's functions and views in `public`, in any release. scripts/migrate adds
-- the names that sql/functions uses now.
create temporary table if not exists purple_flea_ours (name text primary key);
insert into pg_temp.purple_flea_ours
values
  ('agent_jobs'), ('await_jobs'), ('claim_jobs'), ('claim_lookups'), ('deposit_jobs'),
  ('end_watch'), ('ledger_health'), ('referral_earnings'), ('request_job'), ('settle_job'),
  ('settle_jobs')
on conflict do nothing;

create or replace function pg_temp.purple_flea_views() returns table (name text)
  language sql
  volatile
as $$
  select format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relkind = 'v'
    and (
      n.nspname = 'purple_flea'
      or (
        n.nspname = 'public'
        and exists (select from pg_temp.purple_flea_ours o where o.name = c.relname)
      )
    )
  -- A view that reads another one is the younger of the two.
  order by c.oid desc
$$;

create or replace function pg_temp.purple_flea_functions() returns table (signature text)
  language sql
  volatile
as $$
  select p.oid::regprocedure::text
  from pg_catalog.pg_proc p
  join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  where n.nspname = 'purple_flea'
    or (
      n.nspname = 'public'
      and exists (select from pg_temp.purple_flea_ours o where o.name = p.proname)
    )
  order by 1
$$;

create or replace function pg_temp.purple_flea_triggers() returns table (name text, on_table text)
  language sql
  volatile
as $$
  select t.tgname::text, format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_class c on c.oid = t.tgrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_proc f on f.oid = t.tgfoid
  where not t.tgisinternal
    and f.pronamespace = to_regnamespace('purple_flea')
  order by 2, 1
$$;

-- The privileges on them that an operator has granted to roles of its own, such as a dashboard's.
create temporary table if not exists purple_flea_grants (grant_text text);

create or replace function pg_temp.purple_flea_keep_grants() returns void
  language sql
  volatile
as $$
  delete from pg_temp.purple_flea_grants where true;
  insert into pg_temp.purple_flea_grants
  select format(
    'grant %s on %s to %I%s',
    acl.privilege_type,
    thing.name,
    r.rolname,
    case when acl.is_grantable then ' with grant option' else '' end
  )
  from (
    select
      p.proacl                  as acl,
      p.proowner                as owner,
      'function ' || f.signature as name
    from pg_temp.purple_flea_functions() f
    join pg_catalog.pg_proc p on p.oid = f.signature::regprocedure
    union all
    select c.relacl, c.relowner, v.name
    from pg_temp.purple_flea_views() v
    join pg_catalog.pg_class c on c.oid = v.name::regclass
  ) as thing
  cross join aclexplode(thing.acl) as acl
  join pg_catalog.pg_roles r on r.oid = acl.grantee
  where acl.grantee <> thing.owner
    and r.rolname not in (
      'anon', 'authenticated', 'service_role', 'postgres',
      'purple_flea_worker', 'purple_flea_operator'
    )
$$;

create or replace function pg_temp.purple_flea_restore_grants() returns void
  language plpgsql
  volatile
as $$
declare
  kept record;
begin
  for kept in select g.grant_text from pg_temp.purple_flea_grants g loop
    begin
      execute kept.grant_text;
    exception when undefined_function or undefined_table or undefined_object then
      raise notice 'this privilege is gone with its object: %', kept.grant_text;
    end;
  end loop;
end;
$$;

create or replace function pg_temp.purple_flea_clear() returns void
  language plpgsql
  volatile
as $$
declare
  found record;
begin
  perform pg_temp.purple_flea_keep_grants();
  for found in select * from pg_temp.purple_flea_triggers() loop
    execute format('drop trigger %I on %s', found.name, found.on_table);
  end loop;
  for found in select * from pg_temp.purple_flea_views() loop
    begin
      execute format('drop view %s', found.name);
    exception when dependent_objects_still_exist then
      null;  -- An operator's own view reads it. It is replaced in place, if its columns allow.
    end;
  end loop;
  for found in select * from pg_temp.purple_flea_functions() loop
    begin
      execute format('drop function %s', found.signature);
    exception when dependent_objects_still_exist then
      null;  -- A policy or an operator's own trigger calls it. It is replaced in place.
    end;
  end loop;
end;
$$;
