-- The files to apply, and the functions that apply them. They are in pg_temp, so they exist for
-- this session only.

-- A row for each file. scripts/migrate fills it.
create temporary table if not exists purple_flea_files (
  kind     text not null,  -- groundwork, migration, function, platform or online
  name     text not null,  -- as schema_migrations has it; an optional part's has the part in front
  checksum text not null,
  path     text not null,
  content  text            -- null: an earlier file of `supabase db push` has it
);
delete from pg_temp.purple_flea_files where true;

-- The report for scripts/migrate. Notices are for people, and a pooler might drop them.
create temporary table if not exists purple_flea_told (
  place integer generated always as identity,
  line  text not null
);
delete from pg_temp.purple_flea_told where true;

create or replace function pg_temp.purple_flea_tell(line text) returns void
  language sql
  volatile
as $$
  insert into pg_temp.purple_flea_told (line) values (line)
$$;

-- Raises if this server or this role cannot hold the ledger.
create or replace function pg_temp.purple_flea_check_server() returns void
  language plpgsql
  volatile
as $$
declare
  server_min constant integer := 150000;
  foreign_to text;
begin
  if current_setting('server_version_num')::integer < server_min then
    raise exception 'this server is PostgreSQL %; it has to be 15 or later',
      current_setting('server_version')
      using errcode = 'feature_not_supported';
  elsif pg_is_in_recovery() then
    raise exception 'this server is a standby; migrate its primary'
      using errcode = 'read_only_sql_transaction';
  elsif not has_database_privilege(current_database(), 'create') then
    raise exception 'role % may not create schemas in database %; '
      'use its owner, on Supabase the role postgres',
      current_user, current_database()
      using errcode = 'insufficient_privilege';
  end if;
  select string_agg(format('%s (of %s)', t.owned, pg_get_userbyid(c.relowner)), ', ')
    into foreign_to
  from pg_temp.purple_flea_tables() as t (owned)
  join pg_catalog.pg_class c on c.oid = t.owned
  where not pg_has_role(c.relowner, 'usage');
  if foreign_to is not null then
    raise exception 'role % does not own these tables: %', current_user, foreign_to
      using errcode = 'insufficient_privilege';
  end if;
end;
$$;

-- Forgets the files of the optional parts that this database does not have and does not get.
create or replace function pg_temp.purple_flea_choose_parts() returns void
  language plpgsql
  volatile
as $$
begin
  delete from pg_temp.purple_flea_files f
  where f.kind in ('migration', 'function', 'online')
    and f.name like '%/%'
    and split_part(f.name, '/', 1) <> all (pg_temp.purple_flea_parts());
end;
$$;

-- Compares the files with the record of what this database has. Raises if they do not fit. Returns
-- false if the database is of a later release and this client must still go on.
create or replace function pg_temp.purple_flea_check_files(this_release text, inline boolean)
  returns boolean
  language plpgsql
  volatile
as $$
declare
  trouble text;
begin
  select string_agg(f.name, ', ' order by f.name) into trouble
  from pg_temp.purple_flea_files f
  join purple_flea.schema_migrations m using (name)
  where f.kind in ('migration', 'online')
    and f.checksum <> m.checksum;
  if trouble is not null then
    raise exception 'these migrations were changed after this database got them: %', trouble
      using hint = 'A migration that was released stays as it is; '
                   'undo the change and write another one.';
  end if;
  select string_agg(format('%s (release %s)', m.name, m.release), ', ' order by m.name) into trouble
  from purple_flea.schema_migrations m
  where not exists (select from pg_temp.purple_flea_files f where f.name = m.name);
  if trouble is not null and inline then
    raise notice 'nothing is applied of release %: the database is of a later one (%)',
      this_release, trouble;
    return false;
  elsif trouble is not null then
    raise exception 'this database has migrations that release % does not have: %',
      this_release, trouble
      using hint = 'The database is of a later release. Use that release''s scripts/migrate.';
  end if;
  return true;
end;
$$;

-- Says whether the database lacks a migration or has other functions. With `inline`, online files
-- count.
create or replace function pg_temp.purple_flea_is_behind(inline boolean) returns boolean
  language plpgsql
  volatile
as $$
begin
  return (
    select exists (
      select
      from pg_temp.purple_flea_files f
      where (f.kind in ('migration', 'function') or (f.kind = 'online' and inline))
        and not exists (
          select
          from purple_flea.schema_migrations m
          where m.name = f.name
            and (f.kind <> 'function' or m.checksum = f.checksum)
        )
    )
  );
end;
$$;

-- Applies all files of a kind that each run applies.
create or replace function pg_temp.purple_flea_apply(of_kind text) returns void
  language plpgsql
  volatile
as $$
declare
  file record;
begin
  for file in
    select f.path, f.content from pg_temp.purple_flea_files f where f.kind = of_kind order by f.path
  loop
    raise info 'applying %', file.path;
    execute file.content;
  end loop;
end;
$$;

-- Applies the missing migrations and then all functions, and records them. Gives the migrations'
-- names.
create or replace function pg_temp.purple_flea_apply_release(this_release text, inline boolean)
  returns text[]
  language plpgsql
  volatile
as $$
declare
  file    record;
  applied text[] := '{}';
begin
  for file in
    select *
    from pg_temp.purple_flea_files f
    where f.kind = 'function'
      or (
        (f.kind = 'migration' or (f.kind = 'online' and inline))
        and not exists (select from purple_flea.schema_migrations m where m.name = f.name)
      )
    -- The main part comes before the optional ones.
    order by
      array_position(array['migration', 'function', 'online'], f.kind),
      f.name like '%/%',
      f.path
  loop
    if file.content is null then
      raise exception 'migration % comes in an earlier file, which is to be applied before',
        file.name;
    end if;
    raise info 'applying %', file.path;
    execute file.content;
    if file.kind <> 'function' then
      insert into purple_flea.schema_migrations (name, checksum, release)
      values (file.name, file.checksum, this_release);
      applied := applied || file.name::text;
    end if;
  end loop;
  insert into purple_flea.schema_migrations as m (name, checksum, release)
  select distinct f.name, f.checksum, this_release
  from pg_temp.purple_flea_files f
  where f.kind = 'function'
  on conflict (name) do update
  set checksum   = excluded.checksum,
      release    = excluded.release,
      applied_at = clock_timestamp();
  return applied;
end;
$$;

-- Gives a fingerprint of the platform's settings: extensions, Realtime's tables and policy, the
-- jobs of pg_cron.
create or replace function pg_temp.purple_flea_platform() returns text
  language plpgsql
  volatile
as $$
declare
  cron_jobs text;
begin
  if to_regclass('cron.job') is not null then
    execute $q$
      select string_agg(j.jobname || j.schedule || j.command, ',' order by j.jobname)
      from cron.job j
      where j.jobname like 'purple-flea-%'
    $q$ into cron_jobs;
  end if;
  return (
    select md5(concat_ws(
      '|',
      (select string_agg(e.extname, ',' order by e.extname) from pg_catalog.pg_extension e),
      (
        select string_agg(r.prrelid::regclass::text, ',' order by 1)
        from pg_catalog.pg_publication_rel r
        join pg_catalog.pg_publication p
          on p.oid = r.prpubid
          and p.pubname = 'supabase_realtime'
      ),
      (
        select string_agg(p.policyname, ',' order by 1)
        from pg_catalog.pg_policies p
        where p.schemaname = 'realtime'
          and p.policyname like 'purple\_flea\_%'
      ),
      cron_jobs
    ))
  );
end;
$$;

-- Gives the online files that the database lacks. scripts/migrate applies them after the
-- transaction.
create or replace function pg_temp.purple_flea_later() returns text[]
  language plpgsql
  volatile
as $$
begin
  return (
    select coalesce(array_agg(f.name order by f.name), '{}')
    from pg_temp.purple_flea_files f
    where f.kind = 'online'
      and not exists (select from purple_flea.schema_migrations m where m.name = f.name)
  );
end;
$$;

-- Gives the constraints that hold for new rows, while earlier rows have not been checked.
create or replace function pg_temp.purple_flea_not_valid()
  returns table (on_table regclass, name text)
  language sql
  volatile
as $$
  select t.owned, c.conname::text
  from pg_temp.purple_flea_tables() as t (owned)
  join pg_catalog.pg_constraint c on c.conrelid = t.owned
  join pg_catalog.pg_class r on r.oid = c.conrelid
  -- The project's own constraints have their table's name in front.
  where not c.convalidated
    and c.contype in ('c', 'f')
    and starts_with(c.conname, r.relname || '_')
  order by 1, 2
$$;

create or replace function pg_temp.purple_flea_validate() returns void
  language plpgsql
  volatile
as $$
declare
  unchecked record;
begin
  for unchecked in select * from pg_temp.purple_flea_not_valid() loop
    execute format(
      'alter table %s validate constraint %I',
      unchecked.on_table, unchecked.name);
  end loop;
end;
$$;

-- Gives the indexes of this name that a build has left unfinished.
create or replace function pg_temp.purple_flea_broken_indexes(index_name text)
  returns setof regclass
  language sql
  volatile
as $$
  select c.oid::regclass
  from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  where not i.indisvalid
    and c.relname = index_name
    and i.indrelid in (select * from pg_temp.purple_flea_tables())
$$;
