-- The watch for the next job, and jobs that are reserved for the caller that requested them.
begin;
-- No function is called here, and each deposit would warn of that.
set local client_min_messages = error;
select plan(28);
update purple_flea.trade_policies set claim_faucet = false;
insert into public.agents (id) values ('a'), ('limited');
insert into purple_flea.trade_policies (agent_id, daily_wager_limit) values ('limited', 1000);

create function pg_temp.deposit() returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
  values ('a', 'deposit', 100, 100)
  returning 'wallet-change-' || id
$$;
create function pg_temp.watch(who text, linger_ms integer default 1000) returns boolean
  language sql
as $$
  select (
    public.claim_jobs(watcher => md5(who)::uuid, linger_ms => linger_ms) ->> 'watching'
  )::boolean
$$;
create function pg_temp.await(who text, wait_ms integer) returns boolean language sql as $$
  select public.await_jobs(md5(who)::uuid, wait_ms)
$$;

select is(
  (public.claim_jobs() ->> 'watching')::boolean,
  false,
  'a claim that does not ask for the watch does not get it'
);
select is(pg_temp.watch('one', 0), false, 'nor one that would not wait');
select is(purple_flea.is_watched(), false, 'there is no watcher');
select is(pg_temp.watch('one'), true, 'the first worker gets the watch');
select is(purple_flea.is_watched(), true, 'and others may rely on it');
select is(pg_temp.watch('two'), false, 'one at a time');
select is(pg_temp.await('two', 1000), false, 'a worker without the watch does not wait');
select is(pg_temp.watch('one'), true, 'its watcher goes on with it');
select ok(
  until between clock_timestamp() + interval '2 seconds'
    and clock_timestamp() + interval '3 seconds',
  'for a wait, the next one, and a second'
)
from purple_flea.watch;

select pg_temp.deposit();
select is(pg_temp.await('one', 1000), true, 'a wait ends when a job is due');
select is(purple_flea.is_watched(), true, 'and the watch goes on');
select is(
  jsonb_array_length(public.claim_jobs() -> 'jobs'),
  1,
  'the wait itself has claimed nothing'
);
select is(pg_temp.await('one', 50), false, 'without a job it ends in time');
select is(purple_flea.is_watched(), false, 'and with it the watch');
select is(pg_temp.watch('two'), true, 'which another worker can get now');

select lives_ok(
  $$select public.end_watch(md5('one')::uuid)$$,
  'to end a watch that is over is no mistake'
);
select is(purple_flea.is_watched(), true, 'and ends no other watch');
select lives_ok(
  $$select public.end_watch(md5('two')::uuid, true)$$,
  'a watch can be ended before its time'
);
select is(purple_flea.is_watched(), false, 'and is over at once');
select pg_temp.watch('gone');
update purple_flea.watch set until = clock_timestamp() - interval '1 millisecond';
select is(purple_flea.is_watched(), false, 'a watch whose watcher is gone runs out');
select is(pg_temp.watch('two'), true, 'and another takes it');

select throws_ok(
  $$select public.await_jobs(md5('two')::uuid, 3001)$$,
  '22023',
  null,
  'no worker waits longer than 3 seconds'
);
select throws_ok(
  $$select public.await_jobs(md5('two')::uuid, -1)$$,
  '22023',
  null,
  'or less than none'
);
select throws_ok(
  $$select public.claim_jobs(watcher => md5('two')::uuid, linger_ms => 3001)$$,
  '22023',
  null,
  'or means to'
);

-- A watcher does not take a requested job before the caller that requested it claims it.
select public.request_job(
  'order',
  'mine',
  '{"agent_id": "a", "market": "BTC", "direction": "long", "size": 25}'
);
select public.request_job(
  'order',
  'limited',
  '{"agent_id": "limited", "market": "BTC", "direction": "long", "size": 25}'
);
select is(
  jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs'),
  0,
  'a requested job is not the watcher''s'
);
select is(
  public.claim_jobs('{mine}', 1) #>> '{jobs,0,reference}',
  'mine',
  'but the caller''s that names it'
);
select is(
  public.claim_jobs('{limited}', 1) #>> '{jobs,0,reference}',
  'limited',
  'with a daily limit, too'
);
select public.request_job(
  'order',
  'forgotten',
  '{"agent_id": "a", "market": "BTC", "direction": "long", "size": 25}'
);
update purple_flea.jobs set due_at = due_at - interval '1 second' where reference = 'forgotten';
select is(
  public.claim_jobs('{}', 10) #>> '{jobs,0,reference}',
  'forgotten',
  'after a second the watcher takes a job that no caller claimed'
);

select * from finish();
rollback;
