-- The privileges of each role under Supabase's default privileges: role by operation by table,
-- column and function, each allowed or refused. Every operation that is not listed is refused.
begin;
-- No function is called here, and each deposit would warn of that.
set local client_min_messages = error;
select * from no_plan();

create temporary view roles as
  select unnest(array['anon', 'authenticated', 'service_role', 'purple_flea_worker']) as role_name;

create temporary table allowed (role_name text, relation text, operation text);
insert into allowed
select 'service_role', t, o
from
  unnest(
    array[
      'public.agents', 'public.wallet_changes', 'public.trade_results', 'public.escrow_requests',
      'public.close_requests', 'public.tenants', 'public.memberships'
    ]
  ) t,
  unnest(array['select', 'insert', 'update', 'delete']) o;
insert into allowed
select 'authenticated', t, 'select'
from unnest(
  array[
    'public.agents', 'public.wallet_changes', 'public.trade_results', 'public.escrow_requests',
    'public.close_requests', 'public.agent_jobs', 'public.fleet', 'public.referral_earnings',
    'public.tenants', 'public.memberships', 'public.api_keys', 'public.frame_events',
    'public.event_types', 'public.event_subscriptions', 'public.event_delivery_attempts',
    'public.trade_signals', 'public.signal_policies', 'public.signal_follows',
    'public.signal_answers'
  ]
) t;
-- A user may ask for an escrow's next status, and change nothing else of it.
insert into allowed
values
  ('authenticated', 'public.escrow_requests', 'update'),
  ('service_role', 'public.referral_earnings', 'select'),
  ('service_role', 'public.api_keys', 'select'),
  ('service_role', 'public.frame_events', 'select'),
  ('service_role', 'public.event_types', 'select'),
  ('service_role', 'public.event_subscriptions', 'select'),
  ('service_role', 'public.event_delivery_attempts', 'select'),
  ('service_role', 'public.trade_signals', 'select'),
  ('service_role', 'public.signal_policies', 'select'),
  ('service_role', 'public.signal_follows', 'select'),
  ('service_role', 'public.signal_answers', 'select'),
  ('purple_flea_worker', 'public.event_types', 'select');

-- Frames. Nobody ends a frame's story but by its status, and promotion alone writes the timeline.
insert into allowed
select 'service_role', 'public.' || t, o
from
  unnest(array['channels', 'frame_submissions', 'frame_media', 'approval_policies']) t,
  unnest(array['select', 'insert', 'update']) o;
insert into allowed
select 'authenticated', 'public.' || t, 'select'
from unnest(
  array[
    'channels', 'frame_submissions', 'frame_media', 'approval_policies', 'channel_timeline'
  ]
) t;
insert into allowed
values
  ('service_role', 'public.approval_policies', 'delete'),
  ('service_role', 'public.channel_timeline', 'select'),
  ('authenticated', 'public.frame_submissions', 'update');

-- Every table and view of the project. For a grant by columns, one column counts.
create temporary view relations as
  select c.oid, format('%s.%s', n.nspname, c.relname) as relation
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname in ('public', 'purple_flea') and c.relkind in ('r', 'v', 'p', 'm');
select ok(count(*) >= 11, 'there are tables and views to look at') from relations;
select is(
  case
    when operation in (
      'select',
      'insert',
      'update',
      'references'
    ) then has_any_column_privilege(role_name, oid, operation)
    else has_table_privilege(role_name, oid, operation)
  end,
  exists (
    select from allowed a
    where (a.role_name, a.relation, a.operation) = (r.role_name, t.relation, o.operation)
  ),
  format('%s: %s %s', role_name, operation, relation)
)
from
  roles r,
  relations t,
  unnest(
    array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']
  ) as o (operation)
order by relation, role_name, operation;

-- Every column, for the role that may read only some columns of a table.
select is(
  has_column_privilege('authenticated', t.oid, a.attname, 'select'),
  a.attname not in ('api_key', 'hash', 'use_told_at'),
  format('authenticated: select %s.%s', relation, a.attname)
)
from relations t
join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
where exists (
  select from allowed w
  where (w.role_name, w.relation, w.operation) = ('authenticated', t.relation, 'select')
)
order by relation, a.attnum;

select is(
  has_column_privilege('authenticated', 'public.escrow_requests', a.attname, 'update'),
  a.attname in ('requested_status', 'dispute_reason'),
  format('authenticated: update escrow_requests.%s', a.attname)
)
from pg_attribute a
where a.attrelid = 'public.escrow_requests'::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum;

select is(
  has_column_privilege('authenticated', 'public.frame_submissions', a.attname, 'update'),
  a.attname in ('status', 'reason'),
  format('authenticated: update frame_submissions.%s', a.attname)
)
from pg_attribute a
where a.attrelid = 'public.frame_submissions'::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum;

-- Every function: those for the function's roles, none for any other role. Policies and views ask
-- a few functions as the role that reads. (157_fleet.sql, 158_signals.sql,
-- 159_signal_policies.sql, 170_operator_api.sql, 182_api_keys.sql and 190_subscriptions.sql test the
-- functions for users and operators.)
select is(
  has_function_privilege(role_name, p.oid, 'execute'),
  (role_name in ('service_role', 'purple_flea_worker') and p.pronamespace = 'public'::regnamespace)
    or (
      role_name in ('authenticated', 'service_role')
        and p.oid = 'purple_flea.caller()'::regprocedure
    )
    or (
      role_name = 'authenticated'
        and p.oid in (
          'purple_flea.is_member(uuid)'::regprocedure, 'purple_flea.may_follow(text)'::regprocedure,
          'purple_flea.is_listener()'::regprocedure, 'purple_flea.may_signal(text)'::regprocedure
        )
    )
    or (
      role_name <> 'service_role'
        and p.oid = 'purple_flea.is_listeners_topic(text)'::regprocedure
    ),
  format('%s: execute %s', role_name, p.oid::regprocedure)
)
from pg_proc p, roles
where p.pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
  and p.proname not in (
    'may_act_for', 'operate', 'create_api_key', 'revoke_api_key', 'create_event_subscription',
    'delete_event_subscription', 'enable_event_subscription', 'redeliver_events',
    'assign_task', 'finish_task', 'heartbeat', 'follow_signals', 'publish_signal',
    'set_signal_policy'
  )
order by p.oid::regprocedure::text, role_name;
select bag_eq(
  $$select proname::text from pg_proc where pronamespace = 'public'::regnamespace$$,
  array[
    'claim_jobs', 'abandon_claim', 'await_jobs', 'end_watch', 'settle_job', 'settle_jobs',
    'claim_lookups', 'ledger_health', 'request_job', 'may_act_for', 'operate', 'read_events',
    'read_record', 'create_api_key', 'revoke_api_key', 'claim_deliveries', 'settle_deliveries',
    'create_event_subscription', 'delete_event_subscription', 'enable_event_subscription',
    'redeliver_events', 'take_feed_seat', 'leave_feed_seat', 'assign_task', 'finish_task',
    'heartbeat', 'claim_workflow_step', 'end_workflow_step', 'workflow_account', 'workflow_escrow',
    'fleet_owners', 'look_after_bell', 'report_presence', 'follow_signals', 'publish_signal',
    'set_signal_policy', 'signal_senders', 'take_broadcast_signal'
  ],
  'public has the functions that the edge and its users call, and no other'
);
select ok(
  not has_schema_privilege(role_name, 'purple_flea', 'usage'),
  role_name || ' may not use the private schema'
)
from roles;
select ok(
  not has_sequence_privilege(role_name, c.oid, 'usage'),
  format('%s may not use %s', role_name, c.oid::regclass)
)
from pg_class c, roles
where c.relkind = 'S' and c.relnamespace = 'purple_flea'::regnamespace;
select is_empty(
  $$
    select c.oid::regclass
    from pg_class c
    where c.relnamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
      and c.relkind = 'r'
      and not c.relrowsecurity
      and c.relname <> 'secrets'
  $$,
  'row-level security is on everywhere'
);
select is_empty(
  $$
    select oid::regprocedure
    from pg_proc
    where pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
      and not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']
      -- These are inlined into the functions that call them. No role but their owner may call them.
      and (pronamespace::regnamespace::text, proname) not in (
        select
          'purple_flea',
          unnest(
            array[
              'is_retryable', 'is_staking', 'is_archivable', 'is_final', 'ended_without_effect',
              'is_under_way', 'awaits_confirmation', 'stake', 'stake_of', 'call_of', 'is_ready',
              'deposit_row', 'speaks', 'is_of_workflow'
            ]
          )
      )
  $$,
  'every function sets its search path, and pg_temp, which is open to all, comes last'
);
select is_empty(
  $$
    select policyname
    from pg_policies
    where schemaname = 'public' and roles && array['public', 'anon']::name[]
  $$,
  'every policy names its role, and none is for anonymous callers'
);
select is_empty(
  $$
    select policyname
    from pg_policies
    where schemaname = 'public'
      and (
        qual like '%auth.uid()%'
          or (qual like '%purple_flea.caller()%' and qual not like '%SELECT purple_flea.caller()%')
      )
  $$,
  'a policy asks which user reads once a query, not once a row, and by a function that never raises'
);

select * from finish();
rollback;
