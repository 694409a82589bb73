-- The jobs of workflows' money steps: one for each event, claimed by its step alone, and dead soon
-- after the last attempt.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, pf_agent_id, wallet_address, referral_code)
values
  ('ours', 'ag_ours', null, 'ref_ours'),
  ('theirs', 'ag_theirs', '0xtheirs', null),
  ('limited', null, null, null),
  ('twin_a', null, '0xtwin', null),
  ('twin_b', null, '0xtwin', null);

create function pg_temp.step(
  called  text,
  event   text,
  kind    text,
  details jsonb,
  more    jsonb default '{}'
) returns jsonb language sql as $$
  select jsonb_build_object(
    'function', 'trade-trigger', 'event', event, 'step', called, 'run', 'run-1', 'agent', 'ours',
    'kind', kind, 'details', details) || more
$$;
create function pg_temp.order(event text, more jsonb default '{}', size numeric default 10)
  returns jsonb
  language sql
as $$
  select pg_temp.step('place-order', event, 'order', jsonb_build_object(
    'agent_id', coalesce(more ->> 'agent', 'ours'), 'market', 'BTC', 'direction', 'long',
    'size', size), more)
$$;
create function pg_temp.ask(
  step   jsonb,
  claim  uuid    default gen_random_uuid(),
  paused boolean default false
) returns jsonb language sql as $$
  select coalesce(c -> 'jobs' -> 0, '{}') || jsonb_build_object(
    'token', c ->> 'token', 'answer', c #> '{answers,0}', 'refused', c ->> 'refused')
  from public.claim_workflow_step(step, claim, 'gateway', 2, null, paused) as c
$$;
create function pg_temp.name_of(event text, called text default 'place-order') returns text
  language sql
as $$
  select purple_flea.workflow_reference('trade-trigger', event, called)
$$;
-- A state that the claim's answer tells, and its reason.
create function pg_temp.told(asked jsonb) returns text language sql as $$
  select concat_ws(' ', asked #>> '{answer,state}', asked #>> '{answer,reason}')
$$;
create temporary table asked (called text primary key, reply jsonb);
create function pg_temp.keep(called text, reply jsonb) returns text language sql as $$
  insert into asked values (called, reply) returning reply ->> 'reference'
$$;
create function pg_temp.kept(wanted text) returns jsonb language sql as $$
  select reply from asked where called = wanted
$$;

-- Names.
select is(
  pg_temp.name_of('evt-1'),
  'wf-' || left(encode(sha256(E'trade-trigger\nevt-1\nplace-order'::bytea), 'hex'), 32),
  'the name is the hash of function, event and step'
);
select isnt(
  pg_temp.name_of('evt-1'), pg_temp.name_of('evt-1', 'log-trade'), 'another step has another name');
select is(
  public.request_job(kind, pg_temp.name_of('evt-0'), details::jsonb) ->> 'refused',
  'invalid_reference',
  'no caller chooses such a name: ' || kind
)
from (values
  ('order', '{"agent_id": "ours", "market": "BTC", "direction": "long", "size": 10}'),
  ('bet', '{"agent_id": "ours", "game": "coin-flip", "side": "heads", "wager": 1}'),
  ('escrow', '{"sender_id": "ours", "receiver_id": "theirs", "amount": 10}')
) as k (kind, details);
select is(
  left(public.request_job('balance', 'wf-look', '{"agent_id": "theirs"}') ->> 'reference', 8),
  'by-hand-',
  'a request whose reference is only an id gets another name'
);

-- A step asks, claims and settles.
select is(
  pg_temp.keep('first', pg_temp.ask(pg_temp.order('evt-1'))), pg_temp.name_of('evt-1'),
  'the step claims its own job');
select is(pg_temp.told(pg_temp.kept('first')), 'claimed', 'and is told so');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-1', '{"run": "run-2"}'))), 'in_flight',
  'a second server finds it in flight');
select is(
  pg_temp.settle(pg_temp.name_of('evt-1'), pg_temp.kept('first'), 'executed',
    '{"status": "executed", "market": "BTC", "wager": 10, "order_id": "ord_1"}'),
  'settled', 'it is settled as any other job');
select is(
  pg_temp.ask(pg_temp.order('evt-1', '{"run": "run-3"}')) #>> '{answer,result,order_id}', 'ord_1',
  'a rerun gets the outcome, and no job');
select is(
  (select array[count(*), max(asked)] from purple_flea.workflow_steps), array[1, 3]::bigint[],
  'all of them are one step');
select results_eq(
  $$select run_id, last_run_id, state, asked from purple_flea.workflow_runs$$,
  $$values ('run-1', 'run-3', 'executed', 3)$$,
  'an operator sees the first and the last run');
select is(
  pg_temp.ask(pg_temp.order('evt-1', '{}', 11)) ->> 'refused', 'reference_taken',
  'the same event may not ask for another order');
select is(
  pg_temp.ask(pg_temp.order('evt-1', '{"agent": "theirs"}')) ->> 'refused', 'reference_taken',
  'nor for another agent');

select is(
  pg_temp.ask(pg_temp.order('evt-1') || '{"agent": "theirs"}') ->> 'refused', 'reference_taken',
  'whatever else is the same'
);

-- A claim that is repeated with its token gets the same job.
select is(
  pg_temp.keep('token', pg_temp.ask(
    pg_temp.order('evt-2'), 'aaaaaaaa-0000-4000-8000-000000000001')),
  pg_temp.name_of('evt-2'), 'a claim');
select is(
  pg_temp.ask(pg_temp.order('evt-2'), 'aaaaaaaa-0000-4000-8000-000000000001') ->> 'reference',
  pg_temp.name_of('evt-2'), 'whose answer was lost is repeated');
select is(
  pg_temp.settle(pg_temp.name_of('evt-2'), pg_temp.kept('token'), 'pending',
    '{"reason": "not_reached"}'),
  'settled', 'it was not reached');

select is(
  pg_temp.ask(pg_temp.order('evt-2'), 'aaaaaaaa-0000-4000-8000-000000000001') ->> 'reference',
  null, 'a late repeat of the claim takes nothing more');

-- Nothing but its step claims it.
select is(
  (pg_temp.job(pg_temp.name_of('evt-2'))).due_at, 'infinity', 'a pending job is never due');
select is(
  pg_temp.claim(pg_temp.name_of('evt-2')) ->> 'kind', null,
  'a claim of jobs does not take it, not by its name either');
select is(purple_flea.is_due(), false, 'and nothing is due');
select lives_ok(
  $$select purple_flea.retry_job(pg_temp.name_of('evt-2'))$$, 'an operator retries it');
select is(
  (pg_temp.job(pg_temp.name_of('evt-2'))).due_at, 'infinity', 'and it waits for its step');
select is(
  pg_temp.keep('again', pg_temp.ask(pg_temp.order('evt-2'))), pg_temp.name_of('evt-2'),
  'which claims it with the next attempt');
select is(
  pg_temp.settle(pg_temp.name_of('evt-2'), pg_temp.kept('again'), 'unknown',
    '{"reason": "timed_out"}'),
  'settled', 'a fate can be unknown');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-2'))), 'unknown timed_out',
  'no attempt executes it again');

-- A lease that runs out leaves the fate unknown, too.
select is(
  pg_temp.keep('lease', pg_temp.ask(pg_temp.order('evt-3'))), pg_temp.name_of('evt-3'), 'a claim');
update purple_flea.jobs
set lease_until = clock_timestamp() - interval '1 second'
where reference = pg_temp.name_of('evt-3');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-3'))), 'unknown lease_ran_out',
  'whose worker died is unknown');
select is(
  public.end_workflow_step(pg_temp.name_of('evt-3')) ->> 'state', 'unknown',
  'and the end of the run does not change that');

-- The end.
create function pg_temp.expires_in(event text) returns interval language sql as $$
  select date_trunc('minute', j.expires_at - clock_timestamp() + interval '30 seconds')
  from purple_flea.jobs j
  where j.reference = pg_temp.name_of(event)
$$;
create function pg_temp.age(event text, by interval) returns void language sql as $$
  update purple_flea.jobs
  set created_at = created_at - by,
      expires_at = expires_at - by
  where reference = pg_temp.name_of(event)
$$;
create function pg_temp.fail(event text) returns text language sql as $$
  select pg_temp.settle(
    pg_temp.name_of(event), pg_temp.ask(pg_temp.order(event)), 'pending', '{"reason": "not_reached"}')
$$;
select is(pg_temp.fail('evt-4'), 'settled', 'an attempt without effect');
select is(pg_temp.expires_in('evt-4'), interval '15 minutes', 'is followed by another, or none');
select pg_temp.age('evt-4', interval '10 minutes');
select is(pg_temp.fail('evt-4'), 'settled', 'each attempt');
select is(pg_temp.expires_in('evt-4'), interval '15 minutes', 'moves the end');
select pg_temp.age('evt-4', interval '14 minutes');
select is(pg_temp.fail('evt-4'), 'settled', 'and again');
select pg_temp.age('evt-4', interval '14 minutes');
select is(pg_temp.fail('evt-4'), 'settled', 'and again');
select pg_temp.age('evt-4', interval '14 minutes');
select is(pg_temp.fail('evt-4'), 'settled', 'up to an hour');
select is(pg_temp.expires_in('evt-4'), interval '8 minutes', 'after the first');
select pg_temp.age('evt-4', interval '9 minutes');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-4'))), 'dead too_old',
  'hours later nothing trades, and a rerun is told so');
select is(pg_temp.fail('evt-5'), 'settled', 'after the last attempt');
select is(
  public.end_workflow_step(pg_temp.name_of('evt-5')) ->> 'state', 'dead', 'the job ends at once');
select is(pg_temp.told(pg_temp.ask(pg_temp.order('evt-5'))), 'dead run_ended', 'for good');
select is(
  public.end_workflow_step(pg_temp.name_of('evt-1')) ->> 'state', 'executed',
  'what is executed stays so');
select is(
  public.end_workflow_step('wf-' || repeat('0', 32)) ->> 'state', 'not_found', 'or is not there');
select is(
  public.request_job('order', 'order-of-a-caller',
    '{"agent_id": "ours", "market": "BTC", "direction": "long", "size": 10}') ->> 'reference',
  'order-of-a-caller', 'a caller''s own job');
select is(
  public.end_workflow_step('order-of-a-caller') ->> 'state', 'pending',
  'is none of a workflow''s to end');
-- An operator releases an unknown job, for it was not executed: it is too old to trade now.
update purple_flea.jobs
set lease_until = clock_timestamp() - interval '1 day',
    claimed_at  = clock_timestamp() - interval '1 day',
    created_at  = clock_timestamp() - interval '2 hours'
where reference = pg_temp.name_of('evt-2');
select lives_ok(
  $$select purple_flea.release_job(pg_temp.name_of('evt-2'), 'no such order')$$, 'a release');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-2'))), 'dead too_old',
  'makes no job of hours ago trade');

-- A restore may have brought back a job that was executed.
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-r'), gen_random_uuid(), true)), 'waiting paused',
  'a job of another generation');
update purple_flea.jobs
set generation = gen_random_uuid()
where reference = pg_temp.name_of('evt-r');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-r'))), 'waiting restore_unconfirmed',
  'is not claimed');
select is(
  public.end_workflow_step(pg_temp.name_of('evt-r')) ->> 'state', 'pending',
  'and is not said to be unsent');

-- Held back: the pause, the agent's pause, the restore, the limits.
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-6'), gen_random_uuid(), true)), 'waiting paused',
  'a paused function only asks');
update purple_flea.trade_policies set paused = true where agent_id is null;
select is(pg_temp.told(pg_temp.ask(pg_temp.order('evt-6'))), 'waiting paused', 'a pause of all');
update purple_flea.trade_policies set paused = false where agent_id is null;
insert into purple_flea.trade_policies (agent_id, paused)
values ('ours', true);
select is(pg_temp.told(pg_temp.ask(pg_temp.order('evt-6'))), 'waiting paused', 'the agent''s pause');
select pg_temp.age('evt-6', interval '61 minutes');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-6'))), 'dead too_old',
  'a pause does not keep it alive');
delete from purple_flea.trade_policies where agent_id = 'ours';
insert into purple_flea.trade_policies (agent_id, daily_wager_limit)
values ('limited', 100);
select is(
  pg_temp.keep('limited', pg_temp.ask(pg_temp.order('evt-7', '{"agent": "limited"}')))
    is not null, true, 'an agent with a daily limit');
select is(
  pg_temp.told(pg_temp.ask(pg_temp.order('evt-8', '{"agent": "limited"}'))), 'waiting',
  'has one job at a time');
select is(pg_temp.kept('limited') #>> '{spent,wagered}', '0', 'with its stakes of the day');
select is(
  pg_temp.ask(pg_temp.order('evt-9', '{"agent": "nobody"}')) ->> 'refused', 'unknown_agent',
  'an agent is in the table');
select is(
  pg_temp.ask(pg_temp.step('a', 'evt-9', kind, details::jsonb)) ->> 'refused', code,
  'no job is made of ' || kind || ' ' || details
)
from (values
  ('order', '{"agent_id": "ours", "market": "BTC", "size": -1}', 'invalid_order'),
  ('bet', '{"agent_id": "ours", "game": "coin-flip", "side": "edge", "wager": 1}', 'invalid_bet'),
  ('balance', '{"agent_id": "ours"}', 'unknown_kind'),
  ('registration', '{"agent_id": "ours"}', 'unknown_kind'),
  ('escrow_release', '{"made_as": "escrow-1"}', 'unknown_escrow')
) as w (kind, details, code);
select throws_ok(
  format($$select pg_temp.ask(%L)$$, wrong), '22023', null, 'no step: ' || wrong::text)
from (values
  ('{}'),
  (pg_temp.order('evt-9')::jsonb - 'run'),
  (pg_temp.order('')::jsonb),
  (pg_temp.order('evt-9', '{"step": "two words"}')::jsonb),
  (pg_temp.order(repeat('e', 257))::jsonb),
  (pg_temp.order('evt-9', '{"details": []}')::jsonb)
) as w (wrong);
select is(
  pg_temp.keep('bet', pg_temp.ask(pg_temp.step('place-bet', '2026-11-30T09:00:00Z', 'bet',
    '{"agent_id": "ours", "game": "coin-flip", "side": "heads", "wager": 1}'))) is not null,
  true, 'a bet of a cron is named by its time');

-- A ledger that was uninstalled and made again knows no step and no job.
insert into public.trade_results (agent_id, market, wager, reference)
values ('ours', 'BTC', 10, pg_temp.name_of('evt-before'));
select is(pg_temp.told(pg_temp.ask(pg_temp.order('evt-before'))), 'skipped already_traded',
  'a step whose trade is recorded does not trade again');
insert into public.trade_results (agent_id, market, wager, reference)
values ('ours', 'BTC', 10, 'named-before');
select public.request_job(
  'trade', 'named-before', '{"agent_id": "ours", "market": "BTC", "size": "10"}');
select is(
  public.claim_jobs(array['named-before'], 1) #>> '{answers,0,reason}', 'already_traded',
  'nor does a caller''s trade');

-- The daily claim, with the workflow's own wallet.
select is(
  pg_temp.keep('claim', pg_temp.ask(pg_temp.step('claim-faucet', 'evt-10', 'daily_claim',
    '{"agent_id": "ours", "wallet_address": "0xours"}'))) is not null,
  true, 'a daily claim');
select is(pg_temp.kept('claim') ->> 'wallet_address', '0xours', 'names the workflow''s wallet');
select is(
  pg_temp.ask(pg_temp.step('claim-faucet', 'evt-11', 'daily_claim', '{"agent_id": "ours"}'))
    ->> 'refused',
  'under_way', 'two at a time are one too many');

-- An agent's account, for the steps that only read.
select is(
  public.workflow_account('ours'), '{"account": "ag_ours", "own_key": false}',
  'an agent with the shared key shows no key');
select is(
  public.workflow_account('nobody') ->> 'refused', 'unknown_agent', 'a stranger has no account');
update public.agents set api_key = 'purple_flea_key:theirs' where id = 'theirs';
select is(
  public.workflow_account('theirs') ->> 'own_key', 'true', 'an own key that is missing');
select is(public.workflow_account('theirs') ->> 'key', null, 'is not replaced by another');
select purple_flea.set_agent_key('theirs', 'sk_live_0123456789');
select is(public.workflow_account('theirs') ->> 'key', 'sk_live_0123456789', 'or is shown');

select * from finish();
rollback;
