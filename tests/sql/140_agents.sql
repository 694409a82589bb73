-- Agents: registrations, faucet claims, and the rows that they write.
begin;
\ir setup/services.psql

-- A new agent with the shared key claims the faucet; one whose key is not there is registered
-- first.
insert into public.agents (id) values ('plain');
insert into public.agents (id, api_key, orchestrator_id)
values ('keyed', 'purple_flea_key:keyed', 'plain');
select is(pg_temp.calls(), 1::bigint, 'new agents notify the function, once a transaction');
select is(
  (pg_temp.job('faucet-plain')).due_at <= clock_timestamp(),
  true,
  'a new agent claims the faucet'
);
select is(
  (pg_temp.job('registration-plain')).state,
  null,
  'and is not registered where it names no key'
);
select is(
  (pg_temp.job('registration-keyed')).state,
  'pending',
  'one that names a key which is not there is registered'
);
select is((pg_temp.job('faucet-keyed')).due_at, 'infinity', 'and claims the faucet when it is');
insert into public.agents (id) values ('an agent with a long and odd name, /?');
select ok(reference ~ '^faucet:[0-9a-f]{24}$', 'an agent with any name has a job with a plain one')
from purple_flea.jobs
where agent_id like 'an agent%';
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
select pg_temp.calls();
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
insert into public.agents (id) values ('modest'), ('other');
select is(pg_temp.calls(), 0::bigint, 'no notification is sent without a job');
select is_empty(
  $$select from purple_flea.jobs where agent_id in ('modest', 'other')$$,
  'where the policy says so no faucet is claimed'
);

-- A star means all accounts in rate_stops, so it must be no agent's key. An agent may be called so.
select throws_ok(
  $$insert into public.agents (id, api_key) values ('starry', '*')$$,
  '23514',
  null,
  'no agent has the key that means all accounts'
);
insert into public.agents (id) values ('*');
select lives_ok(
  $$select purple_flea.set_agent_key('*', 'sk_live_of_a_star')$$,
  'an agent may be called so'
);
select is(api_key, 'purple_flea_key:*', 'and its key is called after it')
from public.agents
where id = '*';

-- Registration: the key goes into the vault and nowhere else.
update public.agents set referral_code = 'ref_plain' where id = 'plain';
select pg_temp.hold_all_but('registration-keyed');
create temporary table r as select pg_temp.claim('registration-keyed') as c;
select is(c ->> 'referral_code', 'ref_plain', 'it is registered with its orchestrator''s code')
from r;
select is(c -> 'own_key', 'true', 'and has a key of its own, which is not there') from r;
select is(c -> 'key', null, 'not there') from r;
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('keyed', 'deposit', 100);
select is(
  pg_temp.settle(
    'registration-keyed',
    c,
    'executed',
    '{"account": "ag_1", "referral_code": "ref_keyed"}',
    'sk_live_very_secret'
  ),
  'settled',
  'it is settled with its key'
)
from r;
select is(
  purple_flea.secret('purple_flea_key:keyed'),
  'sk_live_very_secret',
  'the key is where the row names it'
);
select results_eq(
  $$select pf_agent_id, referral_code from public.agents where id = 'keyed'$$,
  $$values ('ag_1', 'ref_keyed')$$,
  'the agent''s row has its account and its code'
);
select is_empty(
  $$
    select from purple_flea.jobs j
    where j::text like '%very_secret%'
    union all
    select from purple_flea.job_events e
    where e::text like '%very_secret%'
  $$,
  'no job and no event has the key'
);
select is(
  (pg_temp.job('faucet-keyed')).due_at <= clock_timestamp(),
  true,
  'its faucet claim is let go'
);
select cmp_ok(pg_temp.calls(), '>=', 1::bigint, 'and the function is notified');
select is(
  public.request_job('registration', 'again', '{"agent_id": "keyed"}') ->> 'reference',
  'registration-keyed',
  'a second request gives the same job'
);

-- A key of a job that its worker could not settle is not stored.
insert into public.agents (id, api_key) values ('unsettled', 'purple_flea_key:unsettled');
select pg_temp.hold_all_but('registration-unsettled');
create temporary table u as select pg_temp.claim('registration-unsettled') as c;
select is(
  pg_temp.settle(
    'registration-unsettled',
    jsonb_build_object('token', gen_random_uuid()),
    'executed',
    '{}',
    'sk_stolen'
  ),
  'unknown_token',
  'a worker without a claim settles nothing'
)
from u;
select is(purple_flea.secret('purple_flea_key:unsettled'), null, 'and sets no key');
select is(
  pg_temp.settle('registration-unsettled', c, 'unknown', '{"reason": "timed_out"}'),
  'settled',
  'a retryable job is never unknown'
)
from u;
select is((pg_temp.job('registration-unsettled')).state, 'pending', 'but pending again');
update purple_flea.jobs set due_at = clock_timestamp() where reference = 'registration-unsettled';
select pg_temp.claim('registration-unsettled');
update purple_flea.jobs
set lease_until = clock_timestamp() - interval '1 second'
where reference = 'registration-unsettled';
select purple_flea.expire(false);
select is(
  (pg_temp.job('registration-unsettled')).state,
  'pending',
  'also when its claimant is gone'
);
select is(
  pg_temp.settle('registration-unsettled', c, 'executed', '{"account": "ag_2"}', 'sk_live_late'),
  'settled',
  'a late answer will do'
)
from u;
select is(purple_flea.secret('purple_flea_key:unsettled'), 'sk_live_late', 'with its key');
select is_empty(
  $$select from purple_flea.job_events where kind = 'conflict'$$,
  'and is no conflict'
);

-- A deposit that was claimed before the key was there, and comes back after.
insert into public.agents (id, api_key) values ('racer', 'purple_flea_key:racer');
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('racer', 'deposit', 100);
create temporary table q as
  select reference as one
  from purple_flea.jobs
  where agent_id = 'racer' and kind = 'deposit';
create temporary table q1 as select pg_temp.claim('registration-racer') as c;
select pg_temp.hold_all_but(one) from q;
create temporary table q2 as select pg_temp.claim(one) as c from q;
select pg_temp.settle('registration-racer', c, 'executed', '{"account": "ag_4"}', 'sk_racer')
from q1;
select pg_temp.settle(one, c, 'pending', '{"reason": "agent_without_key", "retry_after_s": 60}')
from q2, q;
select is(
  (pg_temp.job(one)).due_at <= clock_timestamp(),
  true,
  'a deposit that waited for the key is due'
)
from q;

-- The faucet's credit becomes a deposit. A credit that is recorded already does not.
select pg_temp.hold_all_but('faucet-keyed');
create temporary table f as select pg_temp.claim('faucet-keyed') as c;
select is(c ->> 'account', 'ag_1', 'it is claimed for the account') from f;
select is(c ->> 'key', 'sk_live_very_secret', 'with the agent''s own key') from f;
select pg_temp.settle('faucet-keyed', c, 'executed', '{"credited": 1, "claim_id": "c-1"}') from f;
select results_eq(
  $$
    select change_amount, new_balance
    from public.wallet_changes
    where agent_id = 'keyed' and change_amount is not null
  $$,
  $$values (1.0000, 1.0000)$$,
  'its credit is a deposit'
);
select is(
  (select balance from public.agents where id = 'keyed'),
  1.0000,
  'and the agent''s balance'
);
select ok(
  exists (
    select from purple_flea.jobs j
    join public.wallet_changes w on w.id = j.wallet_change_id
    where w.agent_id = 'keyed' and w.change_amount = 1
  ),
  'which has its job'
);
select pg_temp.hold_all_but('faucet-plain');
create temporary table g as select pg_temp.claim('faucet-plain') as c;
select pg_temp.settle('faucet-plain', c, 'rejected', '{"reason": "already_claimed"}') from g;
select is_empty(
  $$select from public.wallet_changes where agent_id = 'plain'$$,
  'the balance of an account of its own is no deposit'
);
select is(
  public.request_job('faucet', 'x', '{"agent_id": "plain"}') ->> 'reference',
  'faucet.2-plain',
  'a claim without effect may be requested again'
);
update public.agents set balance = 5 where id = 'plain';
-- By a name that no other agent's can have.
insert into public.agents (id) values ('twin'), ('twin-2');
select public.request_job('faucet', 'x', jsonb_build_object('agent_id', t))
from unnest(array['twin', 'twin-2']) as t;
select pg_temp.hold_all_but('faucet-twin');
select pg_temp.settle('faucet-twin', c, 'rejected', '{"reason": "agent_not_found"}')
from pg_temp.claim('faucet-twin') as c;
select is(
  public.request_job('faucet', 'x', '{"agent_id": "twin"}') ->> 'reference',
  'faucet.2-twin',
  'an agent whose name ends in a number is another'
);
update purple_flea.trade_policies set claim_faucet = true where agent_id is null;
insert into public.agents (id, api_key) values ('given', 'purple_flea_key:given');
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
select pg_temp.hold_all_but('registration-given');
select pg_temp.settle('registration-given', c, 'executed', '{"account": "ag_3"}', 'sk_given')
from pg_temp.claim('registration-given') as c;
create temporary table v as select pg_temp.claim('faucet-given') as c;
select is(
  c -> 'fresh',
  'true',
  'a registered account may have a credit that its registration brought'
)
from v;
select is((select c -> 'fresh' from g), null, 'no other account is fresh');
select pg_temp.settle(
  'faucet-given',
  c,
  'executed',
  '{"credited": 1, "balance": 496, "reason": "already_claimed"}'
)
from v;
select results_eq(
  $$select change_amount, new_balance from public.wallet_changes where agent_id = 'given'$$,
  $$values (1.0000, 496.0000)$$,
  'which is a deposit, without the other money of the account'
);

-- A stored key stays when another registration brings a key.
insert into public.agents (id, api_key) values ('late', 'purple_flea_key:late');
select pg_temp.hold_all_but('registration-late');
create temporary table k as select pg_temp.claim('registration-late') as c;
select purple_flea.set_secret('purple_flea_key:late', 'sk_by_hand');
select pg_temp.settle('registration-late', c, 'executed', '{"account": "ag_6"}', 'sk_second')
from k;
select is(
  (pg_temp.job('registration-late')).reason,
  'key_is_there',
  'a registration that comes too late says so'
);
select is(purple_flea.secret('purple_flea_key:late'), 'sk_by_hand', 'and changes no key');
select is(
  purple_flea.secret('purple_flea_unused_key:late'),
  'sk_second',
  'its own is kept beside it'
);
select is(
  (select pf_agent_id from public.agents where id = 'late'),
  null,
  'and its account is not the agent''s'
);
select ok(
  exists (
    select from purple_flea.job_events
    where reference = 'registration-late' and kind = 'alarm'
  ),
  'an operator has to look'
);
delete from purple_flea.job_events where reference = 'registration-late' and kind = 'alarm';
select is(
  public.request_job('registration', 'x', '{"agent_id": "late"}') ->> 'refused',
  'already_registered',
  'a request registers no agent twice either'
);

select * from finish();
rollback;
