-- Names everything that this project has made, and drops it if purple_flea.yes is on. The four tables stay, with their rows,
-- their constraints and row-level security as it is.
do $purple_flea_uninstall$
declare
  yes   constant boolean := current_setting('purple_flea.yes');
  found record;
  tables_named text;
  number       bigint;
  reason       text;
begin
  if to_regnamespace('purple_flea') is null then
    perform pg_temp.purple_flea_tell('report ' || json_build_object('uninstalled', false));
    return;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('purple_flea:migrate', 0)) then
    raise exception 'another migration of this database is at work' using errcode = 'lock_not_available';
  end if;
  if yes then
    perform pg_temp.purple_flea_lock(1);
  end if;

  if to_regclass('purple_flea.jobs') is not null then
    execute $q$ select count(*) from purple_flea.jobs where state in ('claimed', 'unknown') $q$ into number;
    if number > 0 then
      raise warning 'the ledger has % jobs whose money may be under way (claimed, unknown). Without it nothing looks them up any more.', number;
    end if;
  end if;
  if to_regclass('vault.secrets') is not null then
    execute $q$ select count(*) from vault.secrets where name like 'purple\_flea%' $q$ into number;
    if number > 0 then
      raise notice '% secrets whose names begin with purple_flea stay in the vault: agents'' keys are accounts with money', number;
    end if;
  end if;

  if to_regclass('cron.job') is not null then
    for found in execute $q$ select jobname::text as name from cron.job where jobname like 'purple-flea-%' order by 1 $q$ loop
      perform pg_temp.purple_flea_tell(format('drop cron job %s', found.name));
      if yes then
        execute format('select cron.unschedule(%L)', found.name);
      end if;
    end loop;
  end if;
  for found in
    select p.pubname::text as publication, r.prrelid::regclass::text as name
    from pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid
    where p.pubname = 'supabase_realtime' and r.prrelid in (select * from pg_temp.purple_flea_tables()) order by 2
  loop
    perform pg_temp.purple_flea_tell(format('drop table %s from publication %s (the table stays)', found.name, found.publication));
    if yes then
      execute format('alter publication %I drop table %s', found.publication, found.name);
    end if;
  end loop;
  for found in select * from pg_temp.purple_flea_triggers() loop
    perform pg_temp.purple_flea_tell(format('drop trigger %s on %s', found.name, found.on_table));
    if yes then
      execute format('drop trigger %I on %s', found.name, found.on_table);
    end if;
  end loop;
  for found in
    select p.policyname::text as name, format('%I.%I', p.schemaname, p.tablename) as on_table
    from pg_catalog.pg_policies p
    where p.schemaname = 'public' and p.tablename in ('agents', 'wallet_changes', 'trade_results', 'escrow_requests')
      and p.policyname in (p.tablename || '_owner_reads', p.tablename || '_service_writes', 'escrow_requests_sender_asks')
    order by 2, 1
  loop
    perform pg_temp.purple_flea_tell(format('drop policy %s on %s (row-level security stays on)', found.name, found.on_table));
    if yes then
      execute format('drop policy %I on %s', found.name, found.on_table);
    end if;
  end loop;
  for found in select * from pg_temp.purple_flea_views() loop
    perform pg_temp.purple_flea_tell(format('drop view %s', found.name));
    if yes then
      execute format('drop view %s', found.name);
    end if;
  end loop;
  for found in select * from pg_temp.purple_flea_functions() loop
    perform pg_temp.purple_flea_tell(format('drop function %s', found.signature));
    if yes then
      execute format('drop function %s', found.signature);
    end if;
  end loop;
  for found in
    select t.owned::text as name
    from pg_temp.purple_flea_tables() as t (owned) join pg_catalog.pg_class c on c.oid = t.owned
    where c.relnamespace = 'purple_flea'::regnamespace order by 1
  loop
    execute format('select count(*) from %s', found.name) into number;
    perform pg_temp.purple_flea_tell(format('drop table %s (%s rows)', found.name, number));
    tables_named := concat_ws(', ', tables_named, found.name);
  end loop;
  if yes and tables_named is not null then
    execute format('drop table %s', tables_named);
  end if;
  perform pg_temp.purple_flea_tell('drop schema purple_flea');
  if yes then
    -- Without cascade: what an operator has put there stops it.
    drop schema purple_flea;
  end if;
  for found in select r.rolname::text as name from pg_catalog.pg_roles r where r.rolname in ('purple_flea_worker', 'purple_flea_operator') order by 1 loop
    perform pg_temp.purple_flea_tell(format('drop role %s', found.name));
    if yes then
      begin
        -- sql/groundwork granted it. A role that holds a privilege cannot be dropped.
        execute format('revoke usage on schema public from %I', found.name);
        execute format('drop role %I', found.name);
      exception when insufficient_privilege or dependent_objects_still_exist then
        get stacked diagnostics reason = pg_exception_detail;
        raise notice 'role % stays: %', found.name, concat_ws('; ', sqlerrm, nullif(reason, ''));
      end;
    end if;
  end loop;
  if yes then
    perform pg_notify('pgrst', 'reload schema');
  end if;
  perform pg_temp.purple_flea_tell('report ' || json_build_object('uninstalled', yes));
end;
$purple_flea_uninstall$;
