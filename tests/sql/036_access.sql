-- The rows of the five tables that each role may read and change.
begin;
-- No function is called here, and each row would warn of that.
set local client_min_messages = error;
select * from no_plan();

-- A role that may insert a deposit may also make types. Our functions must not use types of that
-- name.
create domain pg_temp.text as pg_catalog.text check (value <> value);
insert into public.agents (id) values ('hijacked');
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('hijacked', 'deposit', 1);
drop domain pg_temp.text;
select pass('our functions use no type in pg_temp');

-- Two users with an agent each.
insert into public.agents (id, api_key, owner_id) values
  ('mine',   'purple_flea_key:mine', '00000000-0000-0000-0000-000000000001'),
  ('theirs', 'purple_flea_key:theirs', '00000000-0000-0000-0000-000000000002'),
  ('nobodys', '', null);
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('mine', 'deposit', 1), ('theirs', 'deposit', 1), ('nobodys', 'deposit', 1);
insert into public.trade_results (agent_id, game)
values ('mine', 'crash'), ('theirs', 'crash'), ('nobodys', 'crash');
insert into public.escrow_requests (sender_id, receiver_id, amount) values
  ('mine', 'theirs', 1), ('theirs', 'mine', 2), ('theirs', 'nobodys', 3);
insert into public.close_requests (agent_id, position_id)
values ('mine', 'pos_1'), ('theirs', 'pos_2'), ('nobodys', 'pos_3');

set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select results_eq('select id from public.agents', array['mine'], 'an owner sees their own agents');
select throws_ok('select * from public.agents', '42501', null, 'and not the names of their keys');
select results_eq(
  'select agent_id from public.wallet_changes',
  array['mine'],
  'an owner sees their own wallet changes'
);
select results_eq(
  'select agent_id from public.trade_results',
  array['mine'],
  'an owner sees their own results'
);
select results_eq(
  'select agent_id, kind, state from public.agent_jobs where kind = ''deposit''',
  $$values ('mine', 'deposit', 'pending')$$,
  'an owner sees the jobs of their own deposits'
);
select results_eq(
  'select amount::int from public.escrow_requests order by 1',
  array[1, 2],
  'an owner sees the escrows of either side'
);
select results_eq(
  'select position_id from public.close_requests',
  array['pos_1'],
  'an owner sees the closes of their own positions'
);
select throws_ok(
  $$
    insert into public.wallet_changes (agent_id, change_type, new_balance)
    values ('mine', 'deposit', 1000)
  $$,
  '42501',
  null,
  'an owner inserts no deposit'
);
select throws_ok(
  $$update public.agents set balance = 1000$$,
  '42501',
  null,
  'an owner sets no balance'
);
select throws_ok($$select public.claim_jobs()$$, '42501', null, 'an owner claims nothing');
select throws_ok(
  $$select * from purple_flea.jobs$$,
  '42501',
  null,
  'an owner does not see the ledger itself'
);
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000003"}';
select is_empty('select id from public.agents', 'a stranger sees no agent');
select is_empty('select * from public.wallet_changes', 'a stranger sees no wallet');
select is_empty('select * from public.escrow_requests', 'a stranger sees no escrow');
select is_empty('select * from public.close_requests', 'a stranger sees no close');
select is_empty('select * from public.agent_jobs', 'a stranger sees no job');
set local request.jwt.claims = '';
select is_empty(
  'select id from public.agents',
  'a user without an id sees no agent, not even one without an owner'
);
select is_empty('select * from public.agent_jobs', 'nor any job');
set local role anon;
select throws_ok('select id from public.agents', '42501', null, 'anonymous callers see nothing');
select throws_ok('select * from public.agent_jobs', '42501', null, 'nor any job');
set local role service_role;
select isnt_empty('select api_key from public.agents', 'the service sees the names of keys');
select throws_ok(
  'select * from purple_flea.jobs',
  '42501',
  null,
  'the service claims and settles, and does not touch the ledger itself'
);
select throws_ok(
  'update purple_flea.trade_policies set max_wager = null',
  '42501',
  null,
  'the service sets no policy'
);
set local role purple_flea_worker;
select lives_ok('select public.claim_jobs()', 'the worker claims');
select throws_ok('select id from public.agents', '42501', null, 'and sees no table');
select throws_ok(
  $$insert into public.trade_results (agent_id) values ('mine')$$,
  '42501',
  null,
  'and writes none'
);

select * from finish();
rollback;
