-- The escrows of workflows: whom they pay, how their steps are named, and what Purple Flea's own
-- webhooks find.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, pf_agent_id, wallet_address)
values
  ('ours', 'ag_ours', null),
  ('theirs', 'ag_theirs', '0xtheirs'),
  ('twin_a', null, '0xtwin'),
  ('twin_b', null, '0xtwin');

create function pg_temp.ask(event text, called text, kind text, details jsonb, subject text)
  returns jsonb
  language sql
as $$
  select coalesce(c -> 'jobs' -> 0, '{}') || jsonb_build_object(
    'token', c ->> 'token', 'answer', c #> '{answers,0}', 'refused', c ->> 'refused')
  from public.claim_workflow_step(
    jsonb_build_object(
      'function', 'escrow-lifecycle', 'event', event, 'step', called, 'run', 'run-1',
      'agent', 'ours', 'kind', kind, 'details', details, 'subject', subject),
    gen_random_uuid(), 'gateway', 2, null) as c
$$;
create function pg_temp.create_escrow(event text, subject text, more jsonb default '{}')
  returns jsonb
  language sql
as $$
  select pg_temp.ask(event, 'create-escrow', 'escrow', jsonb_build_object(
    'sender_id', 'ours', 'counterparty', '0xtheirs', 'amount', 25,
    'description', 'Escrow ' || subject, 'timeout_hours', 192) || more, subject)
$$;
create function pg_temp.name_of(event text, called text) returns text language sql as $$
  select purple_flea.workflow_reference('escrow-lifecycle', event, called)
$$;
create function pg_temp.end_escrow(event text, called text, kind text) returns jsonb
  language sql
as $$
  select pg_temp.ask(event, called, kind, jsonb_build_object(
    'made_as', pg_temp.name_of(event, 'create-escrow')), null)
$$;
create function pg_temp.escrow(event text) returns public.escrow_requests language sql as $$
  select * from public.escrow_requests where asked_as = pg_temp.name_of(event, 'create-escrow')
$$;
create temporary table asked (called text primary key, reply jsonb);
create function pg_temp.keep(called text, reply jsonb) returns text language sql as $$
  insert into asked values (called, reply) returning reply ->> 'reference'
$$;
create function pg_temp.kept(wanted text) returns jsonb language sql as $$
  select reply from asked where called = wanted
$$;

-- Whom it pays.
select is(purple_flea.counterparty(named), agent, 'the counterparty ' || named)
from (values
  ('theirs', 'theirs'), ('ag_theirs', 'theirs'), ('0xtheirs', 'theirs'), ('0xtwin', null),
  ('0xnobody', null), ('', null)
) as c (named, agent);
select is(
  pg_temp.create_escrow('evt-1', 'E1', details::jsonb) ->> 'refused', code,
  'no escrow is made: ' || details
)
from (values
  ('{"counterparty": "0xnobody"}', 'unknown_counterparty'),
  ('{"counterparty": "0xtwin"}', 'unknown_counterparty'),
  ('{"counterparty": "ag_ours"}', 'invalid_escrow'),
  ('{"amount": 0}', 'invalid_escrow'),
  ('{"amount": "x"}', 'invalid_escrow'),
  ('{"timeout_hours": 721}', 'invalid_escrow')
) as w (details, code);
select is((select count(*) from public.escrow_requests), 0::bigint, 'and no row');

-- It is made once, by a job with the step's name, and no worker claims that job.
select is(
  pg_temp.keep('made', pg_temp.create_escrow('evt-1', 'E1')),
  pg_temp.name_of('evt-1', 'create-escrow'), 'the step claims the job that makes the escrow');
select is(
  array[
    pg_temp.kept('made') ->> 'counterparty', pg_temp.kept('made') ->> 'counterparty_address',
    pg_temp.kept('made') #>> '{row,timeout_hours}'
  ],
  array['ag_theirs', '0xtheirs', '192'], 'with the counterparty''s names and the timeout');
select is(
  pg_temp.create_escrow('evt-2', 'E1') ->> 'refused', 'escrow_taken',
  'another event makes no second escrow of the same name');
select is(
  pg_temp.end_escrow('evt-1', 'release-escrow', 'escrow_release') #>> '{answer,state}', 'waiting',
  'nothing is released before it is made');
select is(
  pg_temp.settle(pg_temp.name_of('evt-1', 'create-escrow'), pg_temp.kept('made'), 'executed',
    '{"status": "executed", "pf_escrow_id": "esc_1", "escrow_status": "funded", "fee": 0.25}'),
  'settled', 'it is made');
select is((pg_temp.escrow('evt-1')).pf_escrow_id, 'esc_1', 'the row says so');
select is(
  pg_temp.claim(pg_temp.name_of('evt-1', 'release-escrow')) ->> 'kind', null,
  'the making makes no step due for a worker');
select is(
  public.workflow_escrow('esc_1'),
  '{"escrow_id": "E1", "counterparty": "0xtheirs", "names": ["theirs", "ag_theirs", "0xtheirs"],
    "status": "pending"}',
  'a webhook of Purple Flea''s finds the workflow''s escrow');
select is(
  public.workflow_escrow('esc_2') ->> 'refused', 'unknown_escrow', 'and no other');
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('ours', 'theirs', 1);
select is(
  pg_temp.settle(
    'escrow-' || (select max(id) from public.escrow_requests),
    pg_temp.claim('escrow-' || (select max(id) from public.escrow_requests)), 'executed',
    '{"status": "executed", "pf_escrow_id": "esc_3"}'),
  'settled', 'an escrow of a caller');
select is(
  public.workflow_escrow('esc_3') ->> 'refused', 'unknown_escrow', 'is none of a workflow''s');

-- Its end.
select is(
  pg_temp.keep('released', pg_temp.end_escrow('evt-1', 'release-escrow', 'escrow_release')),
  pg_temp.name_of('evt-1', 'release-escrow'), 'the step releases it');
select is(
  pg_temp.end_escrow('evt-1', 'cancel-escrow', 'escrow_cancel') ->> 'refused', 'escrow_not_open',
  'and no other step cancels it');
select is(
  pg_temp.settle(pg_temp.name_of('evt-1', 'release-escrow'), pg_temp.kept('released'), 'executed',
    '{"status": "executed", "escrow_status": "released", "tx_hash": "0xabc"}'),
  'settled', 'it is released');
select is((pg_temp.escrow('evt-1')).status, 'released', 'the row says so');
select is(
  pg_temp.end_escrow('evt-1', 'release-escrow', 'escrow_release') #>> '{answer,result,tx_hash}',
  '0xabc', 'a rerun gets the outcome');

-- A creation that ended without effect: the run is over, and another event may begin anew.
select is(
  pg_temp.keep('second', pg_temp.create_escrow('evt-3', 'E3')),
  pg_temp.name_of('evt-3', 'create-escrow'), 'another escrow');
select is(
  pg_temp.settle(pg_temp.name_of('evt-3', 'create-escrow'), pg_temp.kept('second'), 'pending',
    '{"reason": "not_reached"}'),
  'settled', 'is not made');
select is(
  public.end_workflow_step(pg_temp.name_of('evt-3', 'create-escrow')) ->> 'state', 'dead',
  'the run ends');
select is((pg_temp.escrow('evt-3')).status, 'refused', 'the row says so');
select is(
  pg_temp.create_escrow('evt-4', 'E3') ->> 'reference',
  pg_temp.name_of('evt-4', 'create-escrow'), 'another event makes it');
select is(
  pg_temp.create_escrow('evt-3', 'E3') #>> '{answer,state}', 'dead',
  'and the first one stays as it ended');

-- An owner's own request for the same step answers. A worker executes that job.
select is(
  pg_temp.settle(pg_temp.name_of('evt-4', 'create-escrow'), j.reply, 'executed',
    '{"status": "executed", "pf_escrow_id": "esc_4"}'),
  'settled', 'a third escrow')
from (
  select jsonb_build_object('token', token) as reply
  from purple_flea.jobs
  where reference = pg_temp.name_of('evt-4', 'create-escrow')
) as j;
update public.escrow_requests set requested_status = 'cancelled' where pf_escrow_id = 'esc_4';
select is(
  pg_temp.end_escrow('evt-4', 'cancel-escrow', 'escrow_cancel') #>> '{answer,reference}',
  'escrow-' || (pg_temp.escrow('evt-4')).id || '-cancel',
  'whose cancellation its owner has requested');
select is(
  pg_temp.claim('escrow-' || (pg_temp.escrow('evt-4')).id || '-cancel') ->> 'kind',
  'escrow_cancel', 'is cancelled by a worker');
select is(current_setting('purple_flea.step_name', true), '', 'no name is left for another step');
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('ours', 'theirs', 5);
set local purple_flea.step_name = 'wallet-change-777';
update public.escrow_requests set requested_status = 'cancelled'
where id = (select max(id) from public.escrow_requests);
set local purple_flea.step_name = '';
select is_empty(
  $$select from purple_flea.jobs where reference = 'wallet-change-777'$$,
  'no session names the job of a deposit to come, whose deposit would fail');

-- A receiver that is being registered has no account yet.
insert into public.agents (id, api_key) values ('new', 'purple_flea_key:new');
select is(
  pg_temp.create_escrow('evt-5', 'E5', '{"counterparty": "new"}') #>> '{answer,state}', 'waiting',
  'an escrow waits for its receiver''s registration');

select * from finish();
rollback;
