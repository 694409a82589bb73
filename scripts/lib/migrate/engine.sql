-- Applies what is in pg_temp.purple_flea_files and missing in the database: one statement, so one transaction and one message.
-- From the first lock to the commit nothing crosses the network, however far away the database is. Settings come as
-- purple_flea.*.
do $purple_flea_engine$
declare
  this_release constant text    := current_setting('purple_flea.release');
  allowed      constant text[]  := string_to_array(current_setting('purple_flea.allowed_triggers'), ',');
  tries        constant integer := current_setting('purple_flea.tries');
  reapply      constant boolean := current_setting('purple_flea.reapply');
  -- Without a client that can run statements outside a transaction, those files are applied along with the rest.
  inline       constant boolean := current_setting('purple_flea.inline');
  server_min   constant integer := 150000;
  file         record;
  trouble      text;
  applied      text[] := '{}';
  dropped      text[] := '{}';
  later        text[] := '{}';
  functions    boolean;
  replaces     boolean;
  locked_at    timestamptz;
  platform_was text;
  platform_is  text;
  changed      boolean;
  -- The extensions, what Realtime follows, the jobs of pg_cron.
  fingerprint  constant text := $f$
    select md5(concat_ws('|',
      (select string_agg(e.extname, ',' order by e.extname) from pg_catalog.pg_extension e),
      (select string_agg(r.prrelid::regclass::text, ',' order by 1) from pg_catalog.pg_publication_rel r
       join pg_catalog.pg_publication p on p.oid = r.prpubid and p.pubname = 'supabase_realtime'),
      %s)) $f$;
  cron_jobs    constant text := $c$ (select string_agg(j.jobname || j.schedule || j.command, ',' order by j.jobname) from cron.job j where j.jobname like 'purple-flea-%') $c$;
begin
  if current_setting('server_version_num')::integer < server_min then
    raise exception 'this server is PostgreSQL %; it has to be 15 or later', current_setting('server_version') using errcode = 'feature_not_supported';
  elsif pg_is_in_recovery() then
    raise exception 'this server is a standby; migrate its primary' using errcode = 'read_only_sql_transaction';
  elsif not has_database_privilege(current_database(), 'create') then
    raise exception 'role % may not create schemas in database %; use its owner, on Supabase the role postgres', current_user, current_database()
      using errcode = 'insufficient_privilege';
  end if;
  select string_agg(format('%s (of %s)', t.owned, pg_get_userbyid(c.relowner)), ', ') into trouble
  from pg_temp.purple_flea_tables() as t (owned) join pg_catalog.pg_class c on c.oid = t.owned
  where not pg_has_role(c.relowner, 'usage');
  if trouble is not null then
    raise exception 'role % does not own these tables: %', current_user, trouble using errcode = 'insufficient_privilege';
  end if;
  -- Two runs never overlap.
  if not pg_try_advisory_xact_lock(hashtextextended('purple_flea:migrate', 0)) then
    raise exception 'another migration of this database is at work' using errcode = 'lock_not_available';
  end if;
  perform pg_temp.purple_flea_refuse_triggers(allowed);

  for file in select * from pg_temp.purple_flea_files f where f.kind = 'groundwork' order by f.name loop
    raise info 'applying %', file.name;
    execute file.content;
  end loop;

  select string_agg(f.name, ', ' order by f.name) into trouble
  from pg_temp.purple_flea_files f join purple_flea.schema_migrations m using (name)
  where f.kind in ('migration', 'online') and f.checksum <> m.checksum;
  if trouble is not null then
    raise exception 'these migrations were changed after this database got them: %', trouble
      using hint = 'A migration that was released stays as it is; take back the change and write another one.';
  end if;
  select string_agg(format('%s (release %s)', m.name, m.release), ', ' order by m.name) into trouble
  from purple_flea.schema_migrations m
  where m.name <> 'functions' and not exists (select from pg_temp.purple_flea_files f where f.name = m.name);
  if trouble is not null and inline then
    raise notice 'nothing is applied of release %: the database is of a later one (%)', this_release, trouble;
    return;
  elsif trouble is not null then
    raise exception 'this database has migrations that release % does not have: %', this_release, trouble
      using hint = 'The database is of a later release. Use that release''s scripts/migrate.';
  end if;

  functions := reapply or not exists (
    select from purple_flea.schema_migrations m join pg_temp.purple_flea_files f using (checksum)
    where m.name = 'functions' and f.kind = 'function');
  replaces := exists (select from pg_temp.purple_flea_foreign_triggers() f where f.is_specifications);
  functions := functions or exists (
    select from pg_temp.purple_flea_files f
    where (f.kind = 'migration' or (f.kind = 'online' and inline))
      and not exists (select from purple_flea.schema_migrations m where m.name = f.name));

  raise info 'applying ';
  if functions or replaces then
    perform pg_temp.purple_flea_lock(tries);
    locked_at := clock_timestamp();
  end if;
  if replaces then
    dropped := pg_temp.purple_flea_replace_trigger();
  end if;
  if functions then
    perform pg_temp.purple_flea_clear();
    for file in
      select * from pg_temp.purple_flea_files f
      where f.kind = 'function' or ((f.kind = 'migration' or (f.kind = 'online' and inline))
        and not exists (select from purple_flea.schema_migrations m where m.name = f.name))
      order by array_position(array['migration', 'function', 'online'], f.kind), f.name
    loop
      if file.content is null then
        raise exception 'migration % comes in an earlier file, which is to be applied before', file.name;
      end if;
      raise info 'applying %', case when file.kind = 'function' then file.name else 'sql/migrations/' || file.name || '.sql' end;
      execute file.content;
      if file.kind <> 'function' then
        insert into purple_flea.schema_migrations (name, checksum, release) values (file.name, file.checksum, this_release);
        applied := applied || file.name::text;
      end if;
    end loop;
    perform pg_temp.purple_flea_restore_grants();
    insert into purple_flea.schema_migrations as m (name, checksum, release)
    select distinct 'functions', f.checksum, this_release from pg_temp.purple_flea_files f where f.kind = 'function'
    on conflict (name) do update set checksum = excluded.checksum, release = excluded.release, applied_at = clock_timestamp();
  end if;

  execute format(fingerprint, case when to_regclass('cron.job') is null then 'null' else cron_jobs end) into platform_was;
  for file in select * from pg_temp.purple_flea_files f where f.kind = 'platform' order by f.name loop
    raise info 'applying %', file.name;
    execute file.content;
  end loop;
  execute format(fingerprint, case when to_regclass('cron.job') is null then 'null' else cron_jobs end) into platform_is;

  if inline then
    for file in select * from pg_temp.purple_flea_not_valid() loop
      execute format('alter table %s validate constraint %I', file.on_table, file.name);
    end loop;
  else
    select coalesce(array_agg(f.name order by f.name), '{}') into later
    from pg_temp.purple_flea_files f
    where f.kind = 'online' and not exists (select from purple_flea.schema_migrations m where m.name = f.name);
  end if;
  changed := functions or replaces or platform_is <> platform_was;
  if changed then
    perform pg_notify('pgrst', 'reload schema');
  end if;
  perform pg_temp.purple_flea_tell('report ' || json_build_object(
    'release', this_release, 'changed', changed, 'applied', applied, 'functions', functions, 'dropped', dropped,
    'platform', platform_is <> platform_was, 'locked_ms', coalesce(extract(epoch from clock_timestamp() - locked_at) * 1000, 0)::integer));
  perform pg_temp.purple_flea_tell('summary ' || concat_ws('; ',
    case when cardinality(applied) > 0 then 'migrations: ' || array_to_string(applied, ', ') end,
    case when functions then 'functions, views and triggers' end,
    case when cardinality(dropped) > 0 then 'dropped: ' || array_to_string(dropped, ', ') end,
    case when platform_is <> platform_was then 'extensions, publication or cron jobs' end,
    case when locked_at is not null
      then format('the tables were locked for %s ms', (extract(epoch from clock_timestamp() - locked_at) * 1000)::integer) end));
  if cardinality(later) > 0 or exists (select from pg_temp.purple_flea_not_valid()) then
    perform pg_temp.purple_flea_tell('online ' || array_to_string(later, ' '));
  end if;
end;
$purple_flea_engine$;
