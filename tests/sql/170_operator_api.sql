-- Requests on behalf of users and operators: the roles that may call, and the answers.
begin;
set local client_min_messages = error;
select * from no_plan();

-- The roles that may call.
create temporary view callers as
  select unnest(
    array['anon', 'authenticated', 'service_role', 'purple_flea_worker', 'purple_flea_operator']
  ) as role_name;
select is(
  has_function_privilege(role_name, 'public.may_act_for(text, bigint, text)', 'execute'),
  role_name = 'authenticated',
  role_name || ': execute may_act_for'
)
from callers;
select is(
  has_function_privilege(role_name, 'public.operate(text, jsonb, text)', 'execute'),
  role_name in ('service_role', 'purple_flea_operator'),
  role_name || ': execute operate'
)
from callers;
select is(
  has_function_privilege('purple_flea_operator', p.oid, 'execute'), p.proname = 'operate',
  format('purple_flea_operator: execute %s', p.oid::regprocedure)
) from pg_proc p where p.pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace);
select ok(
  not has_schema_privilege('purple_flea_operator', 'purple_flea', 'usage'),
  'an operator''s role may not use the private schema'
);
select is_empty(
  $$
    select c.oid::regclass, privilege
    from
      pg_class c,
      unnest(
        array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']
      ) as privilege
    where c.relnamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
      and c.relkind in ('r', 'v', 'p', 'm')
      and has_table_privilege('purple_flea_operator', c.oid, privilege)
  $$,
  'an operator''s role has no table'
);
select ok(
  pg_has_role('authenticator', 'purple_flea_operator', 'member'),
  'PostgREST may switch to it'
);
select ok(
  'statement_timeout=4s' = any (setconfig),
  'and ends a statement that takes longer than the function waits'
)
from pg_db_role_setting s
join pg_roles r on r.oid = s.setrole
where r.rolname = 'purple_flea_operator';

-- For which agents and escrows.
insert into auth.users
values ('00000000-0000-0000-0000-00000000000a'), ('00000000-0000-0000-0000-00000000000b');
insert into public.agents (id, owner_id)
values
  ('as', '00000000-0000-0000-0000-00000000000a'),
  ('bs', '00000000-0000-0000-0000-00000000000b'),
  ('nobodys', null);
insert into public.escrow_requests (id, sender_id, receiver_id, amount) overriding system value
values (9001, 'as', 'bs', 1), (9002, 'bs', 'as', 1), (9003, 'nobodys', 'as', 1);
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-00000000000A"}';
select results_eq(
  $$
    select id, public.may_act_for(agent_id => id)
    from unnest(array['as', 'bs', 'nobodys', 'nothing', '']) as id
  $$,
  $$values ('as', true), ('bs', false), ('nobodys', false), ('nothing', false), ('', false)$$,
  'a user may act for the user''s own agents'
);
select results_eq(
  $$
    select id, public.may_act_for(escrow_id => id)
    from unnest(array[9001, 9002, 9003, 9004]::bigint[]) as id
  $$,
  $$values (9001::bigint, true), (9002, false), (9003, false), (9004, false)$$,
  'and end the escrows that these send'
);
select ok(not public.may_act_for(), 'nothing is not an agent');
select ok(not public.may_act_for('as', 9001), 'nor are two things one');
set local request.jwt.claims = '{"role": "authenticated"}';
select ok(
  not public.may_act_for('nobodys'),
  'a user without an id owns no agent, not even one without an owner'
);
set local request.jwt.claims = '';
select ok(not public.may_act_for('as'), 'nor does a session without a user');
reset role;

-- The answers to an operator's requests.
insert into public.wallet_changes (id, agent_id, change_type, new_balance) overriding system value
values (9001, 'as', 'deposit', 100);
set local role purple_flea_operator;
select is(
  public.operate(operation, details, 'ada') ->> 'refused',
  refused,
  format('%s %s: %s', operation, details, coalesce(refused, 'done'))
)
from (
  values
    ('status', '{}'::jsonb, null),
    ('status', '{"reference": "wallet-change-9001"}', 'invalid_details'),
    ('history', '{"reference": "wallet-change-9001"}', null),
    ('history', '{"reference": "wallet-change-9002"}', 'unknown_job'),
    ('history', '{}', 'invalid_details'),
    ('history', '[]', 'invalid_details'),
    ('history', 'null', 'invalid_details'),
    ('history', null, 'invalid_details'),
    ('history', '{"reference": 9001}', 'invalid_details'),
    ('history', '{"reference": "wallet-change-9001", "why": "x"}', 'invalid_details'),
    ('retry_job', '{"reference": "wallet-change-9001"}', null),
    ('release_job', '{"reference": "wallet-change-9001", "why": "x"}', 'not_possible'),
    ('close_job', '{"reference": "wallet-change-9001", "why": "x"}', 'not_possible'),
    (
      'record_bet',
      '{"reference": "wallet-change-9001", "bet_id": "b", "wager": 1, "won": true, "payout": 2}',
      'not_possible'
    ),
    (
      'record_trade',
      '{"reference": "wallet-change-9001", "order_id": "o", "filled": 1}',
      'not_possible'
    ),
    ('record_escrow', '{"reference": "wallet-change-9001", "pf_escrow_id": "e"}', 'not_possible'),
    ('drop_table', '{}', 'not_available'),
    (null, '{}', 'not_available')
) as asked (operation, details, refused);
select throws_ok(
  $$select public.operate('status', '{}', 'Ada Lovelace')$$,
  '22023',
  null,
  'an operator has a name of its form'
);
select throws_ok($$select public.operate('status', '{}', null)$$, '22023', null, 'and one at all');
select throws_ok(
  $$select purple_flea.perform_operation('status', '{}')$$,
  '42501',
  null,
  'nothing is done past the checks'
);
reset role;

-- After a restore. The history of the job that it makes unknown has the operator's name.
select is(
  public.operate('confirm_restore', '{"nothing_lost": true, "why": "x"}', 'ada') ->> 'refused',
  'not_possible',
  'there is nothing to confirm'
);
select is(
  public.operate('declare_restore', '{"why": "a snapshot"}', 'ada'),
  '{"done": true}',
  'a restore is declared'
);
select is(
  public.operate(
    'confirm_restore',
    '{"nothing_lost": false, "why": "a snapshot", "paused_too": "yes"}',
    'ada'
  ) ->> 'refused',
  'invalid_details',
  'its arguments have types'
);
select is(
  (
    public.operate(
      'confirm_restore',
      '{"nothing_lost": false, "why": "a snapshot"}',
      'ada'
    ) #>> '{said,unknown}'
  )::bigint,
  due,
  'and confirmed: due jobs are unknown'
)
from (
  select count(*) as due
  from purple_flea.jobs j
  where j.state = 'pending'
    and j.due_at <= clock_timestamp()
    and not purple_flea.is_retryable(j.kind)
) as jobs;
select is(e.detail ->> 'operator', 'ada', 'by a name')
from purple_flea.job_events e
where e.reference = 'wallet-change-9001' and e.to_state = 'unknown';
select is(
  public.operate('release_restored', '{"why": "none of it is there"}', 'ada'),
  '{"done": true, "said": {"released": 0}}',
  'a job that no look-up has missed is not released'
);
select is(
  (
    select count(*)::int
    from purple_flea.job_events e
    where e.reference = 'wallet-change-9001'
      and e.kind = 'operated'
      and e.detail ->> 'operator' = 'ada'
  ),
  1,
  'a retry is in the history, too'
);

-- The history has the operator's name for an operator's changes, and for no others.
insert into purple_flea.job_events (reference, from_state, to_state, attempt, changed_by, detail)
select 'wallet-change-9001', 'pending', 'pending', 0, by_whom, detail
from
  unnest(array['worker', 'operator']) as by_whom,
  unnest(array['{"why": "x"}', '[1]', null]::jsonb[]) as detail;
select bag_eq(
  $$
    select changed_by, detail
    from purple_flea.job_events
    where reference = 'wallet-change-9001'
      and from_state = 'pending'
      and kind = 'transition'
      and to_state = 'pending'
  $$,
  $$
    values
      ('worker', '{"why": "x"}'::jsonb),
      ('worker', '[1]'),
      ('worker', null),
      ('operator', '{"why": "x", "operator": "ada"}'),
      ('operator', '{"operator": "ada"}'),
      ('operator', '{"operator": "ada"}')
  $$,
  'an operator''s name'
);

select * from finish();
rollback;
