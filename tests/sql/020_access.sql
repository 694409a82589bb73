-- Who may do what, under Supabase's default privileges: role by operation by table, each allowed or refused.
begin;
create temporary table expected (role_name text, table_name text, operation text, allowed boolean);
insert into expected
select r, t, o,
  case r
    when 'service_role'  then true
    when 'authenticated' then o = 'select'
    else false
  end
from unnest(array['anon', 'authenticated', 'service_role']) r,
     unnest(array['agents', 'wallet_changes', 'trade_results', 'escrow_requests']) t,
     unnest(array['select', 'insert', 'update', 'delete']) o;
insert into expected
select r, t, o, false
from unnest(array['anon', 'authenticated', 'service_role']) r,
     unnest(array['agents', 'wallet_changes', 'trade_results', 'escrow_requests']) t,
     unnest(array['truncate', 'references', 'trigger']) o;

select plan(
  84    -- the matrix
  + 9   -- functions of the private schema
  + 27  -- the rest
);

-- For a grant by columns, one column counts.
select is(
  case when operation in ('select', 'insert', 'update', 'references')
    then has_any_column_privilege(role_name, 'public.' || table_name, operation)
    else has_table_privilege(role_name, 'public.' || table_name, operation)
  end,
  allowed,
  format('%s %s %s %s', role_name, case when allowed then 'may' else 'may not' end, operation, table_name)
) from expected order by role_name, table_name, operation;

select ok(not has_function_privilege(r, p.oid, 'execute'), format('%s may not execute %s', r, p.oid::regprocedure))
from pg_proc p, unnest(array['anon', 'authenticated', 'service_role']) r
where p.pronamespace = 'purple_flea'::regnamespace and p.proname <> 'signature'
order by r, p.oid::regprocedure::text;

select ok(not has_function_privilege(r, 'purple_flea.signature(text, bigint, jsonb, text)', 'execute'), r || ' may not sign')
from unnest(array['anon', 'authenticated', 'service_role']) r;
select ok(not has_schema_privilege(r, 'purple_flea', 'usage'), r || ' may not use the private schema')
from unnest(array['anon', 'authenticated', 'service_role']) r;
select ok(not has_table_privilege(r, 'purple_flea.secrets', 'select'), r || ' may not read secrets')
from unnest(array['anon', 'authenticated', 'service_role']) r;
select ok(not has_column_privilege('authenticated', 'public.agents', 'api_key', 'select'), 'users may not see the names of keys');
select is_empty($$
  select c.relname from pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and not c.relrowsecurity
$$, 'row-level security is on everywhere');
select is_empty($$
  select oid::regprocedure from pg_proc
  where pronamespace = 'purple_flea'::regnamespace and not coalesce(proconfig, '{}') @> array['search_path=""']
$$, 'every function has its search path set');
select is_empty($$
  select policyname from pg_policies where schemaname = 'public' and roles && array['public', 'anon']::name[]
$$, 'every policy names its role, and none is for anonymous callers');
select is_empty($$
  select policyname from pg_policies where schemaname = 'public' and qual like '%auth.uid()%' and qual not like '%SELECT auth.uid()%'
$$, 'auth.uid() is asked once a query, not once a row');

-- Two users with an agent each.
insert into public.agents (id, api_key, owner_id) values
  ('mine',   'name-of-a-key', '00000000-0000-0000-0000-000000000001'),
  ('theirs', 'name-of-a-key', '00000000-0000-0000-0000-000000000002'),
  ('nobodys', '', null);
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('mine', 'payout', 1), ('theirs', 'payout', 1), ('nobodys', 'payout', 1);
insert into public.trade_results (agent_id, game) values ('mine', 'crash'), ('theirs', 'crash'), ('nobodys', 'crash');
insert into public.escrow_requests (sender_id, receiver_id, amount) values
  ('mine', 'theirs', 1), ('theirs', 'mine', 2), ('theirs', 'nobodys', 3);

set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select results_eq('select id from public.agents', array['mine'], 'an owner sees their own agents');
select throws_ok('select * from public.agents', '42501', null, 'and not the names of their keys');
select results_eq('select agent_id from public.wallet_changes', array['mine'], 'an owner sees their own wallet changes');
select results_eq('select agent_id from public.trade_results', array['mine'], 'an owner sees their own results');
select results_eq('select amount::int from public.escrow_requests order by 1', array[1, 2], 'an owner sees the escrows of either side');
select throws_ok($$insert into public.wallet_changes (agent_id, change_type, new_balance) values ('mine', 'deposit', 1000)$$, '42501', null, 'an owner deposits nothing by hand');
select throws_ok($$update public.agents set balance = 1000$$, '42501', null, 'an owner sets no balance');
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000003"}';
select is_empty('select id from public.agents', 'a stranger sees no agent');
select is_empty('select * from public.wallet_changes', 'a stranger sees no wallet');
select is_empty('select * from public.escrow_requests', 'a stranger sees no escrow');
set local request.jwt.claims = '';
select is_empty('select id from public.agents', 'a user without an id sees no agent, nobody''s included');
set local role anon;
select throws_ok('select id from public.agents', '42501', null, 'anonymous callers see nothing');
set local role service_role;
select isnt_empty('select api_key from public.agents', 'the service sees the names of keys');

select * from finish();
rollback;
