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

-- The faucet's claim of the day, once a day.
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
  'once a day'
);
insert into public.agents (id) select repeat('n', n) from generate_series(20, 40) as n;
update purple_flea.trade_policies set claim_daily = true where agent_id is null;
select lives_ok('select purple_flea.make_timely_jobs()', 'for an agent with any name');
update purple_flea.trade_policies set claim_daily = false where agent_id is null;
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
delete from purple_flea.trade_policies where agent_id = 'other';

select * from finish();
rollback;
