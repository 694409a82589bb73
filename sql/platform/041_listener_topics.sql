-- The policies of the private topics that a listener joins:
-- - `doorbell`: the worker hears. Nobody but the database sends.
-- - `trade-signals:<agent_id>`: the agent's owner sends and hears, the worker hears.
-- - `agent-fleet:<owner>`: that owner sends, hears and tracks presence, the worker hears.
-- The worker is the role purple_flea_worker, or the user of Supabase Auth that the ledger names.
-- The role service_role passes row-level security by. The restrictive policies hold beside those of
-- the project's own, which may open all topics. A project may also have roles of its own: those neither
-- hear nor send on any topic of ours.
do $$
declare
  own    constant text := '(
    (topic ~ ''^trade-signals:'' and purple_flea.may_signal(topic))
    or (topic ~ ''^agent-fleet:'' and topic = ''agent-fleet:'' || (select purple_flea.caller()))
  )';
  -- Realtime takes the role from the token. The owner of the ledger is the one that sends.
  other_roles constant text := format(
    '(current_user in (''anon'', ''authenticated'', ''service_role'', ''purple_flea_worker'', %L)
      or topic !~ %L)',
    current_user,
    '^(doorbell$|(trade-signals|agent-fleet):'
      || '|(owner|tenant):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$)'
  );
  wanted record;
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  for wanted in
    select v.*
    from (values
      (
        'purple_flea_worker_hears',
        'for select to purple_flea_worker using (purple_flea.is_listeners_topic(topic))'
      ),
      (
        'purple_flea_worker_hears_nothing_else',
        'as restrictive for select to purple_flea_worker
          using (purple_flea.is_listeners_topic(topic))'
      ),
      (
        'purple_flea_worker_sends_nothing',
        'as restrictive for insert to purple_flea_worker with check (false)'
      ),
      (
        'purple_flea_listener_hears',
        'for select to authenticated
          using (purple_flea.is_listeners_topic(topic) and (select purple_flea.is_listener()))'
      ),
      (
        'purple_flea_owner_hears_agents',
        format(
          'for select to authenticated using (
            (extension = ''broadcast'' or (extension = ''presence'' and topic ~ ''^agent-fleet:''))
            and %s
          )',
          own)
      ),
      (
        'purple_flea_owner_sends_for_agents',
        format(
          'for insert to authenticated with check (
            (extension = ''broadcast'' or (extension = ''presence'' and topic ~ ''^agent-fleet:''))
            and %s
          )',
          own)
      ),
      (
        'purple_flea_others_hear_no_agents',
        format(
          'as restrictive for select to authenticated using (
            not purple_flea.is_listeners_topic(topic)
            or (select purple_flea.is_listener())
            or %s
          )',
          own)
      ),
      (
        'purple_flea_others_send_for_no_agents',
        format(
          'as restrictive for insert to authenticated
            with check (not purple_flea.is_listeners_topic(topic) or %s)',
          own)
      ),
      (
        'purple_flea_anonymous_hear_no_agents',
        'as restrictive for select to anon using (not purple_flea.is_listeners_topic(topic))'
      ),
      (
        'purple_flea_anonymous_send_for_no_agents',
        'as restrictive for insert to anon with check (not purple_flea.is_listeners_topic(topic))'
      ),
      (
        'purple_flea_other_roles_hear_not',
        format('as restrictive for select to public using (%s)', other_roles)
      ),
      (
        'purple_flea_other_roles_send_not',
        format('as restrictive for insert to public with check (%s)', other_roles)
      )
    ) as v (name, rule)
    where not exists (
      select
      from pg_catalog.pg_policies p
      where p.schemaname = 'realtime'
        and p.tablename = 'messages'
        and p.policyname = v.name
    )
  loop
    execute format('create policy %I on realtime.messages %s', wanted.name, wanted.rule);
  end loop;
exception when others then
  raise notice 'Realtime''s table takes no policy from this role (%): '
    'listeners hear no doorbell, no signals and no presence', sqlerrm;
end;
$$;

-- On a hosted project `postgres` may grant what it holds with the grant option only. A grant that
-- does nothing is a warning of Postgres, so the privileges are looked at afterwards.
do $$
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  begin
    if not has_schema_privilege('purple_flea_worker', 'realtime', 'usage') then
      grant usage on schema realtime to purple_flea_worker;
    end if;
    if has_schema_privilege('purple_flea_worker', 'realtime', 'usage')
      and not has_table_privilege('purple_flea_worker', 'realtime.messages', 'select') then
      grant select on realtime.messages to purple_flea_worker;
    end if;
  exception when insufficient_privilege then
    null;
  end;
  if not has_schema_privilege('purple_flea_worker', 'realtime', 'usage')
    or not has_table_privilege('purple_flea_worker', 'realtime.messages', 'select') then
    raise notice 'this role may not let purple_flea_worker join Realtime: '
      'let a superuser grant it, or name the listener''s user in purple_flea.ledger.listener_user';
  end if;
end;
$$;
