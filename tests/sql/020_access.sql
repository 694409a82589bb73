-- Who may do what, under Supabase's default privileges: role by operation by table, column and function, each allowed
-- or refused. What is not listed as allowed is refused.
begin;
-- Nobody is to be called, and each deposit would warn of that.
set local client_min_messages = error;
select * from no_plan();

create temporary view roles as
  select unnest(array['anon', 'authenticated', 'service_role', 'purple_flea_worker']) as role_name;

create temporary table allowed (role_name text, relation text, operation text);
insert into allowed
select 'service_role', t, o
from unnest(array['public.agents', 'public.wallet_changes', 'public.trade_results', 'public.escrow_requests']) t,
     unnest(array['select', 'insert', 'update', 'delete']) o;
insert into allowed
select 'authenticated', t, 'select'
from unnest(array['public.agents', 'public.wallet_changes', 'public.trade_results', 'public.escrow_requests', 'public.agent_jobs', 'public.referral_earnings']) t;
-- What is to become of an escrow, and nothing else of it.
insert into allowed values ('authenticated', 'public.escrow_requests', 'update'), ('service_role', 'public.referral_earnings', 'select');

-- Every table and view of ours. For a grant by columns, one column counts.
create temporary view relations as
  select c.oid, format('%s.%s', n.nspname, c.relname) as relation
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname in ('public', 'purple_flea') and c.relkind in ('r', 'v', 'p', 'm');
select ok(count(*) >= 11, 'there are tables and views to look at') from relations;
select is(
  case when operation in ('select', 'insert', 'update', 'references')
    then has_any_column_privilege(role_name, oid, operation)
    else has_table_privilege(role_name, oid, operation)
  end,
  exists (select from allowed a where (a.role_name, a.relation, a.operation) = (r.role_name, t.relation, o.operation)),
  format('%s: %s %s', role_name, operation, relation)
)
from roles r, relations t, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as o (operation)
order by relation, role_name, operation;

-- Every column, for whoever may see a part of a table only.
select is(
  has_column_privilege('authenticated', t.oid, a.attname, 'select'),
  a.attname <> 'api_key',
  format('authenticated: select %s.%s', relation, a.attname)
)
from relations t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
where exists (select from allowed w where (w.role_name, w.relation, w.operation) = ('authenticated', t.relation, 'select'))
order by relation, a.attnum;

select is(
  has_column_privilege('authenticated', 'public.escrow_requests', a.attname, 'update'),
  a.attname = 'requested_status',
  format('authenticated: update escrow_requests.%s', a.attname)
)
from pg_attribute a where a.attrelid = 'public.escrow_requests'::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum;

-- Every function: those for the function's roles, none for any other role. Policies and views ask purple_flea.caller() as
-- the role that reads. (What is for users and operators: 090_operator_api.sql.)
select is(
  has_function_privilege(role_name, p.oid, 'execute'),
  (role_name in ('service_role', 'purple_flea_worker') and p.pronamespace = 'public'::regnamespace)
    or (role_name in ('authenticated', 'service_role') and p.oid = 'purple_flea.caller()'::regprocedure),
  format('%s: execute %s', role_name, p.oid::regprocedure)
)
from pg_proc p, roles
where p.pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace) and p.proname not in ('may_act_for', 'operate')
order by p.oid::regprocedure::text, role_name;
select bag_eq(
  $$select proname::text from pg_proc where pronamespace = 'public'::regnamespace$$,
  array['claim_jobs', 'abandon_claim', 'await_jobs', 'end_watch', 'settle_job', 'settle_jobs', 'claim_lookups', 'ledger_health', 'request_job', 'may_act_for', 'operate'],
  'public has the functions that the edge calls, and no other'
);
select ok(not has_schema_privilege(role_name, 'purple_flea', 'usage'), role_name || ' may not use the private schema') from roles;
select ok(not has_sequence_privilege(role_name, c.oid, 'usage'), format('%s may not use %s', role_name, c.oid::regclass))
from pg_class c, roles where c.relkind = 'S' and c.relnamespace = 'purple_flea'::regnamespace;
select is_empty($$
  select c.oid::regclass from pg_class c
  where c.relnamespace in ('public'::regnamespace, 'purple_flea'::regnamespace) and c.relkind = 'r' and not c.relrowsecurity
    and c.relname <> 'secrets'
$$, 'row-level security is on everywhere');
select is_empty($$
  select oid::regprocedure from pg_proc
  where pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace) and not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']
    -- These are inlined into the functions that call them. No role but their owner may call them.
    and (pronamespace::regnamespace::text, proname) not in (select 'purple_flea', unnest(array[
      'is_retryable', 'is_staking', 'is_archivable', 'is_final', 'ended_without_effect', 'is_under_way', 'awaits_confirmation', 'stake', 'stake_of', 'call_of', 'is_ready', 'deposit_row', 'speaks']))
$$, 'every function has its search path set, and what anybody may make in pg_temp comes last');
select is_empty($$
  select policyname from pg_policies where schemaname = 'public' and roles && array['public', 'anon']::name[]
$$, 'every policy names its role, and none is for anonymous callers');
select is_empty($$
  select policyname from pg_policies where schemaname = 'public'
    and (qual like '%auth.uid()%' or (qual like '%purple_flea.caller()%' and qual not like '%SELECT purple_flea.caller()%'))
$$, 'a policy asks which user reads once a query, not once a row, and by a function that never raises');

-- Who may insert a deposit may also make types; those of that name must not be ours.
create domain pg_temp.text as pg_catalog.text check (value <> value);
insert into public.agents (id) values ('hijacked');
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('hijacked', 'deposit', 1);
drop domain pg_temp.text;
select pass('a type in pg_temp is not what our functions use');

-- Two users with an agent each.
insert into public.agents (id, api_key, owner_id) values
  ('mine',   'purple_flea_key:mine', '00000000-0000-0000-0000-000000000001'),
  ('theirs', 'purple_flea_key:theirs', '00000000-0000-0000-0000-000000000002'),
  ('nobodys', '', null);
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('mine', 'deposit', 1), ('theirs', 'deposit', 1), ('nobodys', 'deposit', 1);
insert into public.trade_results (agent_id, game) values ('mine', 'crash'), ('theirs', 'crash'), ('nobodys', 'crash');
insert into public.escrow_requests (sender_id, receiver_id, amount) values
  ('mine', 'theirs', 1), ('theirs', 'mine', 2), ('theirs', 'nobodys', 3);

set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select results_eq('select id from public.agents', array['mine'], 'an owner sees their own agents');
select throws_ok('select * from public.agents', '42501', null, 'and not the names of their keys');
select results_eq('select agent_id from public.wallet_changes', array['mine'], 'an owner sees their own wallet changes');
select results_eq('select agent_id from public.trade_results', array['mine'], 'an owner sees their own results');
select results_eq('select agent_id, kind, state from public.agent_jobs where kind = ''deposit''', $$values ('mine', 'deposit', 'pending')$$, 'an owner sees what becomes of their own deposits');
select results_eq('select amount::int from public.escrow_requests order by 1', array[1, 2], 'an owner sees the escrows of either side');
select throws_ok($$insert into public.wallet_changes (agent_id, change_type, new_balance) values ('mine', 'deposit', 1000)$$, '42501', null, 'an owner deposits nothing by hand');
select throws_ok($$update public.agents set balance = 1000$$, '42501', null, 'an owner sets no balance');
select throws_ok($$select public.claim_jobs()$$, '42501', null, 'an owner claims nothing');
select throws_ok($$select * from purple_flea.jobs$$, '42501', null, 'an owner does not see the ledger itself');
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000003"}';
select is_empty('select id from public.agents', 'a stranger sees no agent');
select is_empty('select * from public.wallet_changes', 'a stranger sees no wallet');
select is_empty('select * from public.escrow_requests', 'a stranger sees no escrow');
select is_empty('select * from public.agent_jobs', 'a stranger sees no job');
set local request.jwt.claims = '';
select is_empty('select id from public.agents', 'a user without an id sees no agent, nobody''s included');
select is_empty('select * from public.agent_jobs', 'nor any job');
set local role anon;
select throws_ok('select id from public.agents', '42501', null, 'anonymous callers see nothing');
select throws_ok('select * from public.agent_jobs', '42501', null, 'nor any job');
set local role service_role;
select isnt_empty('select api_key from public.agents', 'the service sees the names of keys');
select throws_ok('select * from purple_flea.jobs', '42501', null, 'the service claims and settles, and does not touch the ledger itself');
select throws_ok('update purple_flea.trade_policies set max_wager = null', '42501', null, 'the service sets no policy');
set local role purple_flea_worker;
select lives_ok('select public.claim_jobs()', 'the worker claims');
select throws_ok('select id from public.agents', '42501', null, 'and sees no table');
select throws_ok($$insert into public.trade_results (agent_id) values ('mine')$$, '42501', null, 'and writes none');

select * from finish();
rollback;
