-- The fleet: heartbeats, the view, and tasks with and without a payment.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, owner_id) values
  ('boss', '11111111-1111-1111-1111-111111111111'),
  ('rival', '22222222-2222-2222-2222-222222222222');
create function pg_temp.hire(agent text, waited interval, of_boss text default 'boss') returns void
  language sql
as $$
  insert into public.agents
    (id, api_key, owner_id, orchestrator_id, balance, balance_at, last_seen_at, idle_since)
  select
    agent, 'purple_flea_key:' || agent, a.owner_id, of_boss, 100, now(), clock_timestamp(),
    clock_timestamp() - waited
  from public.agents a
  where a.id = of_boss
$$;
-- The roles of the API call as users. A test writes as the superuser again afterwards.
create function pg_temp.as_user(digit text) returns void language sql as $$
  select set_config('role', 'authenticated', true), set_config(
    'request.jwt.claims',
    json_build_object('sub', translate('xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx', 'x', digit))::text,
    true
  )
$$;
create function pg_temp.as_service() returns void language sql as $$
  select set_config('role', 'service_role', true), set_config('request.jwt.claims', '', true)
$$;
create function pg_temp.agent(wanted text) returns public.agents language sql as $$
  select * from public.agents where id = wanted
$$;
create function pg_temp.silent(wanted text, for_how_long interval) returns void language sql as $$
  update public.agents set last_seen_at = clock_timestamp() - for_how_long where id = wanted
$$;
create function pg_temp.events_of(agent text, type text) returns bigint language sql as $$
  select count(*)
  from public.frame_events e
  where e.subject = 'agent:' || agent
    and e.type = events_of.type
$$;
-- What no refused call may change.
create function pg_temp.everything() returns text language sql as $$
  select concat(
    (select json_agg(a order by a.id) from public.agents a),
    (select count(*) from public.escrow_requests),
    (select count(*) from purple_flea.jobs)
  )
$$;

-- Heartbeats.
select is((pg_temp.agent('boss')).last_seen_at, null, 'an agent begins without a heartbeat');
select pg_temp.as_user('1');
select is(
  public.heartbeat('boss', 'Look at BTC') - 'last_seen_at',
  '{"agent_id": "boss", "status": "idle", "task": "Look at BTC", "task_state": null}',
  'an owner sends its agent''s heartbeat, with what the agent does'
);
reset role;
select ok(
  (pg_temp.agent('boss')).last_seen_at > clock_timestamp() - interval '5 seconds',
  'the heartbeat is recorded'
);
create temporary table written as select ctid as place from public.agents where id = 'boss';
select pg_temp.as_user('1');
select is(
  public.heartbeat('boss', 'Something else') ->> 'task',
  'Look at BTC',
  'another one within five seconds is answered with what is stored'
);
reset role;
select is(a.ctid, w.place, 'and writes nothing')
from public.agents a, written w
where a.id = 'boss';
select pg_temp.silent('boss', interval '6 seconds');
select pg_temp.as_service();
select is(public.heartbeat('boss') ->> 'task', 'Look at BTC', 'one without a task keeps the task');
reset role;
select ok(
  (pg_temp.agent('boss')).last_seen_at > clock_timestamp() - interval '5 seconds',
  'the service sends heartbeats, too'
);
select pg_temp.silent('boss', interval '6 seconds');
select is(public.heartbeat('boss', '') -> 'task', 'null'::jsonb, 'an empty task deletes the task');
select pg_temp.silent('boss', interval '-1 hour');
select public.heartbeat('boss');
select ok(
  (pg_temp.agent('boss')).last_seen_at < clock_timestamp(),
  'a clock that was set back does not stop the heartbeats'
);

-- Silence.
select pg_temp.silent('boss', interval '29 seconds');
select purple_flea.sweep();
select is((pg_temp.agent('boss')).status, 'idle', 'an agent is there 29 seconds after a heartbeat');
select pg_temp.silent('boss', interval '31 seconds');
select purple_flea.sweep();
select is((pg_temp.agent('boss')).status, 'offline', 'the sweeper makes it offline after 30');
select is(pg_temp.events_of('boss', 'agent.offline'), 1::bigint, 'and the feed says so');
select is((pg_temp.agent('rival')).status, 'idle', 'an agent that never sent one stays as it is');
select public.heartbeat('boss');
select is((pg_temp.agent('boss')).status, 'idle', 'a heartbeat makes an offline agent idle');
select is(pg_temp.events_of('boss', 'agent.online'), 1::bigint, 'and the feed says so, too');
select ok(
  (pg_temp.agent('boss')).idle_since > now(),
  'and it waits from then on'
);

-- Refused heartbeats.
create temporary table before as select pg_temp.everything() as everything;
select pg_temp.as_user('1');
select throws_ok(
  $$select public.heartbeat('rival')$$,
  '42501',
  'only the owner of the agent may do this',
  'a heartbeat for somebody else''s agent is refused'
);
select throws_ok(
  $$select public.heartbeat('nobody')$$,
  '42501',
  'only the owner of the agent may do this',
  'and one for an unknown agent, with the same words'
);
select throws_ok(
  format('select public.heartbeat(''boss'', %L)', repeat('ü', 201)),
  '22023',
  'a task has at most 200 characters',
  'and one with a task of 201 characters'
);
select pg_temp.as_service();
select throws_ok(
  $$select public.heartbeat('nobody')$$,
  '22023',
  'there is no such agent',
  'the service is told that an agent is unknown'
);
reset role;
select set_config('request.jwt.claims', '{"sub": "no-uuid"}', true);
set local role authenticated;
select throws_ok(
  $$select public.heartbeat('boss')$$,
  '42501',
  null,
  'a third party''s token owns no agent'
);
reset role;
select is(pg_temp.everything(), everything, 'a refused heartbeat changes nothing') from before;
select pg_temp.silent('boss', interval '6 seconds');
select lives_ok(
  format('select public.heartbeat(''boss'', %L)', repeat('ü', 200)),
  'a task of 200 characters is not refused'
);

-- Tasks.
select pg_temp.hire('new', interval '1 minute');
select pg_temp.hire('old', interval '3 minutes');
select pg_temp.hire('middle', interval '2 minutes');
select pg_temp.hire('theirs', interval '9 minutes', 'rival');
-- An orchestrator that names itself is no agent of its fleet.
update public.agents
set
  orchestrator_id = 'boss',
  api_key = 'purple_flea_key:boss',
  balance = 100,
  balance_at = now(),
  idle_since = now() - interval '1 hour'
where id = 'boss';
select pg_temp.as_user('1');
select is(
  public.assign_task('boss', 'Watch ETH', 100),
  '{"state": "assigned", "agent_id": "old"}',
  'the agent that has waited longest gets the task'
);
select is(
  public.assign_task('boss', 'Watch SOL', 0) ->> 'agent_id',
  'middle',
  'the next task goes to the next one'
);
select results_eq(
  $$select agent_id, task, task_state from public.fleet where task_state is not null order by 1$$,
  $$values ('middle', 'Watch SOL', 'assigned'), ('old', 'Watch ETH', 'assigned')$$,
  'the fleet shows the tasks'
);
select is(
  (select array_agg(agent_id order by agent_id) from public.fleet),
  '{boss,middle,new,old}',
  'and an owner''s agents alone'
);
reset role;
select pg_temp.silent('old', interval '6 seconds');
select is(
  public.heartbeat('old', 'Something else') ->> 'task',
  'Watch ETH',
  'an agent''s own word does not replace an assigned task'
);
select pg_temp.as_user('1');
select is(
  public.finish_task('old'),
  '{"agent_id": "old", "state": "free"}',
  'an owner finishes the task of its agent'
);
select lives_ok($$select public.finish_task('old')$$, 'and may say so twice');
reset role;
select is(
  ((pg_temp.agent('old')).task, (pg_temp.agent('old')).task_state)::text,
  '(,)',
  'then the agent has no task'
);
select ok((pg_temp.agent('old')).idle_since > now(), 'and waits from then on');

-- Agents that get none. `new` is the one whose turn it is.
select is(
  public.assign_task('boss', 'Anything', 50) ->> 'agent_id',
  'new',
  'it is the turn of `new`'
);
select public.finish_task('new');
update public.agents set idle_since = now() - interval '1 hour' where id = 'new';
create function pg_temp.passes_over(change text) returns text language plpgsql as $$
declare
  got text;
begin
  begin
    execute format('update public.agents set %s where id = ''new''', change);
    got := public.assign_task('boss', 'Anything', 50) ->> 'agent_id';
    raise exception 'undo';
  exception when raise_exception then
    return got;
  end;
end;
$$;
select is(pg_temp.passes_over('balance = 50'), 'new', 'a balance of the minimum is enough');
select is(pg_temp.passes_over(change), 'old', why)
from (
  values
    ('status = ''offline''', 'an offline agent gets no task'),
    ('status = ''trading''', 'nor one that says that it is trading'),
    ('last_seen_at = clock_timestamp() - interval ''31 seconds''', 'nor one without a heartbeat'),
    ('last_seen_at = null', 'nor one that never sent one'),
    ('balance = 49.9999', 'nor one with too little'),
    ('balance_at = null', 'nor one whose balance Purple Flea has not told'),
    ('api_key = ''''', 'nor one without an account of its own'),
    ('orchestrator_id = ''rival''', 'nor one of another fleet'),
    ('orchestrator_id = null', 'nor one of no fleet')
) as w (change, why);
insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
values ('new', 'deposit', 100, 100);
create temporary table d as
  select reference from purple_flea.jobs where agent_id = 'new' and kind = 'deposit';
grant select on d to public;
select pg_temp.hold_all_but(reference) from d;
select purple_flea.set_agent_key('new', 'sk_live_of_new_0123456789');
create temporary table c as select pg_temp.claim(reference) as claim from d;
select is(state, 'claimed', 'the deposit is claimed')
from d
join purple_flea.jobs using (reference);
select is(pg_temp.passes_over('task = null'), 'old', 'nor one with a claimed job');
select pg_temp.as_user('1');
select results_eq(
  $$select status, task from public.fleet where agent_id = 'new'$$,
  format($$values ('trading', 'deposit %s')$$, (select reference from d)),
  'the fleet shows it trading, and the job'
);
reset role;
update public.agents set status = 'offline' where id = 'new';
select pg_temp.settle(
  reference,
  claim,
  'executed',
  '{"status": "executed", "game": "crash", "wager": 1, "outcome": "loss", "payout": 0}'::jsonb
  || '{"balance": 99}'::jsonb
)
from c, d;
select is(state, 'executed', 'the job is settled') from d join purple_flea.jobs using (reference);
select is((pg_temp.agent('new')).status, 'offline', 'settling revives nobody');
update public.agents set status = 'idle' where id = 'new';
select pg_temp.as_user('1');
select results_eq(
  $$select status, task, balance from public.fleet where agent_id = 'new'$$,
  $$values ('idle', null::text, 99.0000)$$,
  'and the fleet shows it idle again, with its balance'
);
select is(public.assign_task('boss', 'One', 0) ->> 'agent_id', 'new', 'it gets a task again');
select is(public.assign_task('boss', 'Two', 0) ->> 'agent_id', 'old', 'then another one');
select is(
  public.assign_task('boss', 'Three', 0, 5, 'p-0'),
  '{"state": "none_available"}',
  'and then none is available'
);
reset role;
select is(count(*), 0::bigint, 'and nothing is paid') from public.escrow_requests;

-- Refused tasks.
delete from before where true;
insert into before select pg_temp.everything();
select pg_temp.as_user('1');
select throws_ok(
  format('select public.assign_task(%L, %L, %s, %s, %L)', boss, task, minimum, payment, reference),
  code,
  null,
  format('refused: %s', why)
)
from (
  values
    ('rival', 'Trade', '0', 'null', null, '42501', 'somebody else''s orchestrator'),
    ('nobody', 'Trade', '0', 'null', null, '42501', 'an unknown orchestrator'),
    ('boss', repeat('x', 201), '0', 'null', null, '22023', 'a task of 201 characters'),
    ('boss', '', '0', 'null', null, '22023', 'an empty task'),
    ('boss', null, '0', 'null', null, '22023', 'no task'),
    ('boss', 'Trade', '-0.01', 'null', null, '22023', 'a negative minimum'),
    ('boss', 'Trade', '''NaN''', 'null', null, '22023', 'a minimum that is no number'),
    ('boss', 'Trade', '''Infinity''', 'null', null, '22023', 'an infinite minimum'),
    ('boss', 'Trade', 'null', 'null', null, '22023', 'no minimum'),
    ('boss', 'Trade', '0', '0', 'p', '22023', 'a payment of 0'),
    ('boss', 'Trade', '0', '-1', 'p', '22023', 'a negative payment'),
    ('boss', 'Trade', '0', '''NaN''', 'p', '22023', 'a payment that is no number'),
    ('boss', 'Trade', '0', '''Infinity''', 'p', '22023', 'an infinite payment'),
    ('boss', 'Trade', '0', '1.00005', 'p', '22023', 'a payment that would be rounded'),
    ('boss', 'Trade', '0', '1', null, '22023', 'a payment without a reference'),
    ('boss', 'Trade', '0', 'null', 'p', '22023', 'a reference without a payment'),
    ('boss', 'Trade', '0', '1', 'a b', '22023', 'a reference with a space'),
    ('boss', 'Trade', '0', '1', repeat('x', 51), '22023', 'a reference of 51 characters')
) as w (boss, task, minimum, payment, reference, code, why);
select throws_ok(
  $$select public.finish_task('theirs')$$,
  '42501',
  null,
  'refused: the end of the task of somebody else''s agent'
);
reset role;
select is(pg_temp.everything(), everything, 'a refused task changes nothing') from before;

-- Payments.
select public.finish_task(id) from unnest('{new,old,middle}'::text[]) as id;
update public.agents set status = 'offline' where id in ('new', 'middle');
create temporary table p as select public.assign_task('boss', 'Paid work', 0, 2.5, 'p-1') as paid;
select is(
  paid - 'escrow_id',
  '{"state": "awaiting_payment", "agent_id": "old"}',
  'a task with a payment waits for it'
)
from p;
select is(
  public.assign_task('boss', 'Paid work', 0, 2.5, 'p-1'),
  paid || '{"state": "assigned_before"}',
  'a repeated payment is the one that was made'
)
from p;
select throws_ok(
  $$select public.assign_task('rival', 'Paid work', 0, 2.5, 'p-1')$$,
  '22023',
  'this reference names another orchestrator''s payment',
  'another orchestrator''s payment is not shown'
);
select results_eq(
  $$select sender_id, receiver_id, amount, description from public.escrow_requests$$,
  $$values ('boss', 'old', 2.5000, 'Paid work')$$,
  'its escrow is requested at once'
);
select is(
  public.assign_task('boss', 'More', 0) ->> 'state',
  'none_available',
  'its agent is taken'
);
select throws_ok(
  $$select public.finish_task('old')$$,
  '55000',
  null,
  'a task that has not begun has no end'
);
create temporary table e as select 'escrow-' || (paid ->> 'escrow_id') as one from p;
select pg_temp.hold_all_but(one) from e;
create temporary table m as select pg_temp.claim(one) as c from e;
select purple_flea.sweep();
select is(
  (pg_temp.agent('old')).task_state,
  'awaiting_payment',
  'a claimed payment is not locked yet'
);
select pg_temp.settle(
  one, c, 'executed', '{"pf_escrow_id": "esc_1", "escrow_status": "funded", "fee": 0.1}')
from m, e;
select is((pg_temp.agent('old')).task_state, 'assigned', 'a funded escrow assigns the task');
select public.finish_task('old');
select is((pg_temp.agent('old')).task_escrow_id, null, 'the agent is free when it has finished');
select is(status, 'pending', 'and the escrow goes on') from public.escrow_requests;

-- Payments that fail.
create temporary table r as select public.assign_task('boss', 'Dear work', 0, 3, 'p-2') as paid;
select pg_temp.hold_all_but('escrow-' || (paid ->> 'escrow_id')) from r;
create temporary table n as
  select pg_temp.claim('escrow-' || (paid ->> 'escrow_id')) as c
  from r;
select pg_temp.settle(
  'escrow-' || (paid ->> 'escrow_id'), c, 'rejected', '{"reason": "insufficient_balance"}')
from n, r;
select is(
  ((pg_temp.agent('old')).task, (pg_temp.agent('old')).task_state)::text,
  '(,)',
  'a refused payment frees the agent'
);
create temporary table g as select public.assign_task('boss', 'Work', 0, 4, 'p-3') as paid;
select pg_temp.hold_all_but('escrow-' || (paid ->> 'escrow_id')) from g;
create temporary table h as
  select pg_temp.claim('escrow-' || (paid ->> 'escrow_id')) as c
  from g;
select pg_temp.settle(
  'escrow-' || (paid ->> 'escrow_id'),
  c,
  'executed',
  '{"pf_escrow_id": "esc_3", "escrow_status": "funded", "fee": 0.1}'
)
from h, g;
update public.escrow_requests set status = 'refunded' where pf_escrow_id = 'esc_3';
select is((pg_temp.agent('old')).task_state, null, 'an ended escrow frees the agent');
select public.assign_task('boss', 'Work', 0, 4, 'p-4');
alter table public.escrow_requests disable trigger purple_flea_tell_fleet;
update public.escrow_requests set status = 'cancelled' where status = 'pending';
select is((pg_temp.agent('old')).task_state, 'awaiting_payment', 'an end that went unnoticed');
select purple_flea.sweep();
select is((pg_temp.agent('old')).task_state, null, 'is noticed by the next sweep');
alter table public.escrow_requests enable trigger purple_flea_tell_fleet;

-- Speed.
create temporary table scans as
  select pg_stat_get_xact_numscans('public.agents_free_idx'::regclass) as so_far;
select public.assign_task('boss', 'Anything', 1000);
select is(
  pg_stat_get_xact_numscans('public.agents_free_idx'::regclass) - so_far,
  1::bigint,
  'the index of a fleet''s free agents is read, however small the table is'
)
from scans;

select * from finish();
rollback;
