-- Purple Flea's rate limits: slots, stops, and waiting jobs.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, referral_code) values ('plain', 'ref_plain');
insert into public.agents (id) values ('other'), ('keyed');
select purple_flea.set_agent_key('keyed', 'sk_keyed_own');

-- Purple Flea's limits, which the ledger keeps before a call is made.
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
delete from purple_flea.rate_slots;
insert into public.wallet_changes (agent_id, change_type, new_balance)
select 'other', 'deposit', 100
from generate_series(1, 70);
create temporary table many as select public.claim_jobs('{}', 100, gen_random_uuid(), 'live') as c;
select is(jsonb_array_length(c -> 'jobs'), 60, 'no more are claimed than Purple Flea takes')
from many;
select is(c -> 'more', 'true', 'and more are due') from many;
create temporary table waiting as
  select max(reference) as one
  from purple_flea.jobs
  where state = 'pending' and agent_id = 'other';
select is(
  pg_temp.claim(one, 'live') #>> '{answer,reason}',
  'rate_limited',
  'the others wait, and know why'
)
from waiting;
select ok(
  (pg_temp.claim(one, 'live') #>> '{answer,retry_after_s}')::int between 60 and 91,
  'and for how long'
)
from waiting;
select is(pg_temp.claim(one, 'live') -> 'reference', null, 'and are not claimed') from waiting;
select is(
  public.request_job('balance', 'look-3', '{"agent_id": "other"}') ->> 'reference',
  'look-3',
  'what has no limit'
);
select is(pg_temp.claim('look-3', 'live') ->> 'reference', 'look-3', 'does not wait');
select is(
  jsonb_array_length(public.claim_jobs('{}', 1, gen_random_uuid(), 'gateway') -> 'jobs'),
  1,
  'the gateway has no such limit'
);
-- A finished call keeps its slot for a minute. A call that was not made gives its slot back.
create temporary table two as
  select array_agg(reference) as r
  from (
    select j ->> 'reference' as reference
    from many, jsonb_array_elements(c -> 'jobs') as j
    limit 2
  ) as x;
select public.settle_job(r[1], (c ->> 'token')::uuid, 'skipped', '{"reason": "below_min_balance"}')
from two, many;
select public.settle_job(
  r[2],
  (c ->> 'token')::uuid,
  'executed',
  '{"game": "crash", "wager": 10, "outcome": "loss", "payout": 0}'
)
from two, many;
select is(
  (select count(*) from purple_flea.rate_slots, two where reference = r[1]),
  0::bigint,
  'a call that was not sent gives its slot back'
);
select ok(
  (
    select held_until
    from purple_flea.rate_slots, two
    where reference = r[2]
  ) between clock_timestamp() + interval '58 seconds' and clock_timestamp() + interval '60 seconds',
  'a call that was sent keeps its slot for a minute more'
);
select is(
  jsonb_array_length(public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs'),
  1,
  'so that one more is claimed'
);
update purple_flea.rate_slots set held_until = held_until - interval '2 minutes';
select is(
  jsonb_array_length(public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs'),
  8,
  'and the rest when their time has come'
);
-- Sixty for each account, where agents have their own.
delete from purple_flea.rate_slots;
update purple_flea.trade_policies set game = 'hi-lo' where agent_id is null;
insert into purple_flea.trade_policies (agent_id, game) values ('keyed', 'crash');
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
insert into purple_flea.rate_slots (reference, token, call, account, held_until, within)
select
  'look-3',
  gen_random_uuid(),
  'coin-flip',
  'purple_flea_key:keyed',
  clock_timestamp() + interval '1 minute',
  '1 minute'
from generate_series(1, 59);
insert into public.wallet_changes (agent_id, change_type, new_balance)
select 'keyed', 'deposit', 100
from generate_series(1, 3);
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('other', 'deposit', 100);
select results_eq(
  $$
    select j #>> '{row,agent_id}'
    from jsonb_array_elements(
      public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs'
    ) as j
    order by 1
  $$,
  array['keyed', 'other'],
  'sixty of an account for all games together, even if others have room'
);
-- Purple Flea's own 429 counts, too.
select pg_temp.hold_all_but(max(reference))
from purple_flea.jobs
where state = 'pending' and agent_id = 'keyed' and kind = 'deposit';
delete from purple_flea.rate_slots;
create temporary table s as
  select max(reference) as one
  from purple_flea.jobs
  where state = 'pending' and due_at < 'infinity';
create temporary table s1 as select pg_temp.claim(one) as c from s;
select pg_temp.settle(
  one,
  c,
  'pending',
  '{"reason": "rate_limited", "retry_after_s": 30, "purple_flea_code": "rate_limited"}'
)
from s, s1;
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('keyed', 'deposit', 100);
select is(
  jsonb_array_length(public.claim_jobs('{}', 100) -> 'jobs'),
  0,
  'after a "too many" no worker makes the same call'
);
update purple_flea.rate_stops set until = clock_timestamp();
select is(jsonb_array_length(public.claim_jobs('{}', 100) -> 'jobs'), 1, 'until its time is over');

select * from finish();
rollback;
