-- Looks at balances and daily claims, when their time has come.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, referral_code) values ('plain', 'ref_plain');
insert into public.agents (id) values ('modest'), ('other'), ('shared');
select purple_flea.set_agent_key(agent, 'sk_live_of_' || agent)
from unnest(array['plain', 'modest']) as agent;

-- The balance: on demand, on a schedule, and one look at a time.
select is(
  public.request_job('balance', 'look-1', '{"agent_id": "plain"}') ->> 'reference',
  'look-1',
  'a look is requested'
);
select is(
  public.request_job('balance', 'look-2', '{"agent_id": "plain"}') ->> 'reference',
  'look-1',
  'one at a time'
);
select pg_temp.hold_all_but('look-1');
create temporary table b as select pg_temp.claim('look-1') as c;
select pg_temp.settle('look-1', c, 'executed', '{"balance": 4.25}') from b;
select is(
  (select balance from public.agents where id = 'plain'),
  4.2500,
  'the balance is in the agent''s row'
);
update purple_flea.trade_policies set balance_every = '10 minutes' where agent_id is null;
update public.agents set balance_at = clock_timestamp() - interval '11 minutes' where id = 'modest';
update public.agents set balance_at = clock_timestamp() where id = 'plain';
select purple_flea.make_timely_jobs();
select purple_flea.make_timely_jobs();
select results_eq(
  $$select agent_id from purple_flea.jobs where kind = 'balance' and state = 'pending'$$,
  array['modest'],
  'when its time has come the next look is made, once, and none at an account that is no agent''s'
);
update purple_flea.trade_policies set balance_every = null where agent_id is null;

-- The daily claim, once in 24 hours, or when Purple Flea says.
insert into purple_flea.trade_policies (agent_id, claim_daily) values ('other', true);
select purple_flea.make_timely_jobs();
select purple_flea.make_timely_jobs();
create temporary table y as
  select reference as one
  from purple_flea.jobs
  where kind = 'daily_claim';
select is(
  one,
  'daily_claim-other-' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD'),
  'a claim is made for the day, where the policy says so'
)
from y;
select pg_temp.hold_all_but(one) from y;
select pg_temp.settle(one, c, 'executed', '{"credited": 0.5, "claim_id": "d-1"}')
from y, pg_temp.claim(one) as c;
select results_eq(
  $$select change_amount from public.wallet_changes where agent_id = 'other'$$,
  array[0.5],
  'and is a deposit'
);
select purple_flea.make_timely_jobs();
select is(
  (select count(*) from purple_flea.jobs where kind = 'daily_claim'),
  1::bigint,
  'once in 24 hours'
);
create function pg_temp.next_after(age interval, outcome jsonb) returns interval
  language sql
as $$
  select date_trunc('minute', purple_flea.next_daily_claim(
    jsonb_populate_record(null::purple_flea.jobs, jsonb_build_object(
      'changed_at', now() - age, 'result', outcome
    ))
  ) - now() + age)
$$;
select is(
  pg_temp.next_after('0', '{"credited": 0.5}'),
  '24 hours',
  'a claim is due again a day after the last one'
);
select is(
  pg_temp.next_after('0', jsonb_build_object('next_eligible_at', now() + interval '7 hours')),
  '7 hours',
  'or when Purple Flea says, before midnight as well'
);
select is(
  pg_temp.next_after('1 hour', '{"next_eligible_at": "2999-01-01T00:00:00Z"}'),
  '2 days',
  'but not in the far future'
);
select is(
  pg_temp.next_after('0', '{"next_eligible_at": "soon"}'),
  '24 hours',
  'and not by a text that is no time'
);
-- Time passes. The guard would let no executed job change.
alter table purple_flea.jobs disable trigger jobs_guard;
update purple_flea.jobs
set result = result || '{"next_eligible_at": "2026-01-01T00:00:00Z"}'
where kind = 'daily_claim';
alter table purple_flea.jobs enable trigger jobs_guard;
select purple_flea.make_timely_jobs();
select results_eq(
  $$
    select reference, state
    from purple_flea.jobs
    where kind = 'daily_claim'
    order by created_at desc
    limit 1
  $$,
  $$values ('daily_claim.2-other', 'pending')$$,
  'when its time has come the next claim is made, on the same day as well'
);
-- A claim carries the agent's wallet, and says whether a credit of the last day is not recorded.
update public.agents set wallet_address = '0xabc' where id = 'other';
select pg_temp.hold_all_but('daily_claim.2-other');
create temporary table lost as select pg_temp.claim('daily_claim.2-other') as c;
select is(c ->> 'wallet_address', '0xabc', 'the claim has the wallet''s address') from lost;
select is(c -> 'fresh', null, 'its first attempt has no credit that is not recorded') from lost;
select pg_temp.settle('daily_claim.2-other', c, 'pending', '{"reason": "no_answer"}') from lost;
select pg_temp.hold_all_but('daily_claim.2-other');
select is(
  pg_temp.claim('daily_claim.2-other') -> 'fresh',
  null,
  'nor has the next one where the ledger has a claim of the last 24 hours'
);
update purple_flea.jobs
set state = 'pending', due_at = clock_timestamp(), changed_by = 'worker', reason = 'no_answer'
where reference = 'daily_claim.2-other';
alter table purple_flea.jobs disable trigger jobs_guard;
update purple_flea.jobs
set changed_at = clock_timestamp() - interval '24 hours'
where kind = 'daily_claim' and state = 'executed';
alter table purple_flea.jobs enable trigger jobs_guard;
select is(
  pg_temp.claim('daily_claim.2-other') -> 'fresh',
  'true',
  'it may have one after a lost answer'
);
select throws_ok(
  $$update public.agents set wallet_address = '' where id = 'other'$$,
  '23514',
  null,
  'a wallet''s address is a short text'
);
insert into public.agents (id) select repeat('n', n) from generate_series(20, 40) as n;
update purple_flea.trade_policies set claim_daily = true where agent_id is null;
select lives_ok('select purple_flea.make_timely_jobs()', 'for an agent with any name');
update purple_flea.trade_policies set claim_daily = false where agent_id is null;
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
delete from purple_flea.trade_policies where agent_id = 'other';

select * from finish();
rollback;
