-- Names everything that this project has made, and drops it if purple_flea.yes is on. The tables in
-- `public` stay, with their rows, their constraints and row-level security as it is.

-- Reports an object, and drops it if purple_flea.yes is on.
create or replace function pg_temp.purple_flea_drop(called text, statement text) returns void
  language plpgsql
  volatile
as $$
begin
  perform pg_temp.purple_flea_tell('drop ' || called);
  if current_setting('purple_flea.yes')::boolean then
    execute statement;
  end if;
end;
$$;

-- Warns of money and secrets that the ledger's end leaves behind.
create or replace function pg_temp.purple_flea_warn() returns void
  language plpgsql
  volatile
as $$
declare
  number bigint;
begin
  if to_regclass('purple_flea.jobs') is not null then
    execute $q$
      select count(*) from purple_flea.jobs where state in ('claimed', 'unknown')
    $q$ into number;
    if number > 0 then
      raise warning 'the ledger has % jobs whose money may be under way (claimed, unknown). '
        'Without the ledger no worker looks them up.', number;
    end if;
  end if;
  if to_regclass('vault.secrets') is not null then
    execute $q$
      select count(*) from vault.secrets where name like 'purple\_flea%'
    $q$ into number;
    if number > 0 then
      raise notice '% secrets whose names begin with purple_flea stay in the vault: '
        'agents'' keys are accounts with money', number;
    end if;
  end if;
end;
$$;

-- The parts of this project in the platform and on the tables in `public`.
create or replace function pg_temp.purple_flea_drop_outside() returns void
  language plpgsql
  volatile
as $$
begin
  if to_regclass('cron.job') is not null then
    execute $q$
      select pg_temp.purple_flea_drop(
        format('cron job %s', j.jobname),
        format('select cron.unschedule(%L)', j.jobname)
      )
      from (
        select jobname::text from cron.job where jobname like 'purple-flea-%' order by 1
      ) as j
    $q$;
  end if;
  perform pg_temp.purple_flea_drop(
    format('table %s from publication %s (the table stays)', f.name, f.publication),
    format('alter publication %I drop table %s', f.publication, f.name)
  )
  from (
    select p.pubname::text as publication, r.prrelid::regclass::text as name
    from pg_catalog.pg_publication_rel r
    join pg_catalog.pg_publication p on p.oid = r.prpubid
    where p.pubname = 'supabase_realtime'
      and r.prrelid in (select * from pg_temp.purple_flea_tables())
    order by 2
  ) as f;
  perform pg_temp.purple_flea_drop(
    format('trigger %s on %s', t.name, t.on_table),
    format('drop trigger %I on %s', t.name, t.on_table)
  )
  from pg_temp.purple_flea_triggers() t;
  perform pg_temp.purple_flea_drop(
    format('policy %s on %s (row-level security stays on)', f.name, f.on_table),
    format('drop policy %I on %s', f.name, f.on_table)
  )
  from (
    select p.policyname::text as name, format('%I.%I', p.schemaname, p.tablename) as on_table
    from pg_catalog.pg_policies p
    where p.schemaname = 'public'
      and format('%I.%I', p.schemaname, p.tablename)::regclass
        in (select * from pg_temp.purple_flea_tables())
      and p.policyname in (
        p.tablename || '_owner_reads',
        p.tablename || '_member_reads',
        p.tablename || '_service_reads',
        p.tablename || '_service_writes',
        'escrow_requests_sender_asks', 'escrow_requests_receiver_asks',
        'frame_submissions_reviewers_move'
      )
    order by 2, 1
  ) as f;
  perform pg_temp.purple_flea_drop(
    format('policy %s on realtime.messages', p.policyname),
    format('drop policy %I on realtime.messages', p.policyname)
  )
  from pg_catalog.pg_policies p
  where p.schemaname = 'realtime'
    and p.tablename = 'messages'
    and p.policyname in (
      'purple_flea_member_follows', 'purple_flea_strangers_follow_not',
      'purple_flea_anonymous_follow_not', 'purple_flea_users_send_not',
      'purple_flea_owner_hears', 'purple_flea_strangers_hear_not',
      'purple_flea_anonymous_hear_not', 'purple_flea_users_tell_not',
      'purple_flea_worker_hears', 'purple_flea_worker_hears_nothing_else',
      'purple_flea_worker_sends_nothing', 'purple_flea_listener_hears',
      'purple_flea_owner_hears_agents', 'purple_flea_owner_sends_for_agents',
      'purple_flea_others_hear_no_agents', 'purple_flea_others_send_for_no_agents',
      'purple_flea_anonymous_hear_no_agents', 'purple_flea_anonymous_send_for_no_agents',
      'purple_flea_other_roles_hear_not', 'purple_flea_other_roles_send_not'
    );
end;
$$;

create or replace function pg_temp.purple_flea_drop_schema() returns void
  language plpgsql
  volatile
as $$
declare
  yes          constant boolean := current_setting('purple_flea.yes');
  owned        text;
  tables_named text;
  number       bigint;
begin
  perform pg_temp.purple_flea_drop(format('view %s', v.name), format('drop view %s', v.name))
  from pg_temp.purple_flea_views() v;
  perform pg_temp.purple_flea_drop(
    format('function %s', f.signature),
    format('drop function %s', f.signature)
  )
  from pg_temp.purple_flea_functions() f;
  for owned in
    select t.owned::text
    from pg_temp.purple_flea_tables() as t (owned)
    join pg_catalog.pg_class c on c.oid = t.owned
    where c.relnamespace = 'purple_flea'::regnamespace
    order by 1
  loop
    execute format('select count(*) from %s', owned) into number;
    perform pg_temp.purple_flea_tell(format('drop table %s (%s rows)', owned, number));
    tables_named := concat_ws(', ', tables_named, owned);
  end loop;
  if yes and tables_named is not null then
    execute format('drop table %s', tables_named);
  end if;
  -- Without cascade, an operator's own object in the schema stops the drop.
  perform pg_temp.purple_flea_drop('schema purple_flea', 'drop schema purple_flea');
end;
$$;

create or replace function pg_temp.purple_flea_drop_roles() returns void
  language plpgsql
  volatile
as $$
declare
  role_name text;
  reason    text;
begin
  for role_name in
    select r.rolname::text
    from pg_catalog.pg_roles r
    where r.rolname in ('purple_flea_worker', 'purple_flea_operator')
    order by 1
  loop
    begin
      if current_setting('purple_flea.yes')::boolean then
        -- sql/groundwork granted it. A role that holds a privilege cannot be dropped.
        execute format('revoke usage on schema public from %I', role_name);
        -- And sql/platform/041_listener_topics.sql these.
        if to_regclass('realtime.messages') is not null then
          execute format('revoke select on realtime.messages from %I', role_name);
          execute format('revoke usage on schema realtime from %I', role_name);
        end if;
      end if;
      perform pg_temp.purple_flea_drop(
        format('role %s', role_name),
        format('drop role %I', role_name)
      );
    exception when insufficient_privilege or dependent_objects_still_exist then
      get stacked diagnostics reason = pg_exception_detail;
      raise notice 'role % stays: %', role_name, concat_ws('; ', sqlerrm, nullif(reason, ''));
    end;
  end loop;
end;
$$;

do $purple_flea_uninstall$
declare
  yes constant boolean := current_setting('purple_flea.yes');
begin
  if to_regnamespace('purple_flea') is null then
    perform pg_temp.purple_flea_tell('report ' || json_build_object('uninstalled', false));
    return;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('purple_flea:migrate', 0)) then
    raise exception 'another migration of this database is at work'
      using errcode = 'lock_not_available';
  end if;
  if yes then
    perform pg_temp.purple_flea_lock(1);
  end if;
  perform pg_temp.purple_flea_warn();
  perform pg_temp.purple_flea_drop_outside();
  perform pg_temp.purple_flea_drop_schema();
  perform pg_temp.purple_flea_drop_roles();
  if yes then
    perform pg_notify('pgrst', 'reload schema');
  end if;
  perform pg_temp.purple_flea_tell('report ' || json_build_object('uninstalled', yes));
end;
$purple_flea_uninstall$;
