-- Balances that outcomes name: whose they are, and which of two is the newer.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('own'), ('other'), ('shared'), ('trader');
select purple_flea.set_agent_key(agent, 'sk_live_of_' || agent)
from unnest(array['own', 'other', 'trader']) as agent;
select purple_flea.set_agent_key('trader', 'sk_trade_of_trader', true);
create function pg_temp.deposit(agent text) returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
  values (agent, 'deposit', 100, 100)
  returning 'wallet-change-' || id
$$;
create function pg_temp.bet(balance numeric, nonce integer default 0) returns jsonb
  language sql
as $$
  select jsonb_build_object(
    'status', 'executed',
    'game', 'crash',
    'wager', 10,
    'outcome', 'win',
    'payout', 15,
    'bet_id', 'b' || nonce,
    'balance', balance,
    'proof', jsonb_build_object('nonce', nonce)
  )
$$;
create function pg_temp.balance(agent text) returns numeric language sql as $$
  select balance from public.agents where id = agent
$$;
create temporary table claims (name text, reference text, agent text, claimed jsonb);
create function pg_temp.claims(as_name text, agent text) returns void language plpgsql as $$
declare
  made text := pg_temp.deposit(agent);
begin
  perform pg_temp.hold_all_but(made);
  insert into claims values (as_name, made, agent, pg_temp.claim(made));
end
$$;
create function pg_temp.settles(wanted text, outcome jsonb, state text default 'executed')
  returns text
  language sql
as $$
  select pg_temp.settle(reference, claimed, state, outcome) from claims where name = wanted
$$;

-- An agent of its own account, and one of the shared account.
select pg_temp.claims('first', 'own');
select is(pg_temp.settles('first', pg_temp.bet(95.5)), 'settled', 'a bet names a balance');
select is(pg_temp.balance('own'), 95.5, 'which is the agent''s, whose key made the bet');
select is(a.balance_at, j.claimed_at, 'as of the claim')
from public.agents a, purple_flea.jobs j, claims c
where a.id = 'own' and c.name = 'first' and j.reference = c.reference;
select pg_temp.claims('of all', 'shared');
select is(
  pg_temp.settles('of all', pg_temp.bet(1234)),
  'settled',
  'so does one with the shared key'
);
select is(pg_temp.balance('shared'), 0.0, 'whose balance is no agent''s');
select pg_temp.claims('poor', 'shared');
select pg_temp.settles(
  'poor', '{"reason": "insufficient_balance", "balance": 3}', 'skipped');
select is(pg_temp.balance('shared'), 0.0, 'not even where it is the reason for a skip');
select pg_temp.claims('poor too', 'own');
select pg_temp.settles(
  'poor too', '{"reason": "insufficient_balance", "balance": 3}', 'skipped');
select is(pg_temp.balance('own'), 3.0, 'unlike that of an own account');

-- The newest claim counts, whichever outcome comes last.
select pg_temp.claims('older', 'own');
select pg_temp.claims('newer', 'own');
select pg_temp.settles('newer', pg_temp.bet(80));
select is(pg_temp.balance('own'), 80.0, 'the newest claim''s balance counts');
select is(pg_temp.settles('older', pg_temp.bet(90)), 'settled', 'an older claim is settled late');
select is(pg_temp.balance('own'), 80.0, 'without its balance');

-- Within one claim the bet that Purple Flea counted last.
create temporary table three as
  select pg_temp.deposit('other') as reference
  from generate_series(1, 3);
create temporary table token as select gen_random_uuid() as t;
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
update purple_flea.jobs
set due_at = clock_timestamp()
where reference in (select reference from three);
select public.claim_jobs('{}', 3, t) from token;
select is(
  (
    select count(*)
    from token
    cross join public.settle_jobs(
      (
        select json_agg(json_build_object(
          'reference', reference,
          'token', t,
          'state', 'executed',
          'result', pg_temp.bet(50 + n, case n when 2 then 12 else n end::integer)
        ))
        from (select reference, row_number() over (order by reference) as n from three) as numbered
      ),
      2
    ) as s,
    jsonb_array_elements(s) as r
    where r ->> 'did' = 'settled'
  ),
  3::bigint,
  'one claim has three bets of an agent'
);
select is(
  pg_temp.balance('other'),
  52.0,
  'the last of them by Purple Flea''s count has the balance'
);

-- A balance that is read, and a credit.
select is(
  public.request_job('balance', 'look-1', '{"agent_id": "shared"}') ->> 'reference',
  'look-1',
  'a look at the shared account is a job'
);
select pg_temp.hold_all_but('look-1');
select pg_temp.settle('look-1', pg_temp.claim('look-1'), 'executed', '{"balance": 77}');
select is(pg_temp.balance('shared'), 0.0, 'and does not change the agent');
select public.request_job('balance', 'look-2', '{"agent_id": "other"}');
select pg_temp.hold_all_but('look-2');
select pg_temp.settle('look-2', pg_temp.claim('look-2'), 'executed', '{"balance": 77}');
select is(pg_temp.balance('other'), 77.0, 'a look at an own account does');
select public.request_job('faucet', 'any', '{"agent_id": "shared"}');
select pg_temp.hold_all_but('faucet-shared');
select pg_temp.settle(
  'faucet-shared', pg_temp.claim('faucet-shared'), 'executed', '{"credited": 1, "balance": 900}');
select is(pg_temp.balance('shared'), 1.0, 'a credit to an agent of the shared account is added');
select is(new_balance, 1.0, 'and its deposit has that sum')
from public.wallet_changes
where agent_id = 'shared'
order by id desc
limit 1;
select public.request_job('faucet', 'any', '{"agent_id": "other"}');
select pg_temp.hold_all_but('faucet-other');
select pg_temp.settle(
  'faucet-other', pg_temp.claim('faucet-other'), 'executed', '{"credited": 1, "balance": 78}');
select is(pg_temp.balance('other'), 78.0, 'one to an own account has the account''s balance');

-- The key for trading opens another account.
select public.request_job(
  'trade',
  'order-9',
  '{"agent_id": "trader", "market": "BTC", "direction": "long", "size": 10}'
);
select pg_temp.hold_all_but('order-9');
select pg_temp.settle(
  'order-9',
  pg_temp.claim('order-9'),
  'skipped',
  '{"reason": "insufficient_balance", "balance": 5}'
);
select is(pg_temp.balance('trader'), 0.0, 'the trading account''s balance is not the agent''s');

select * from finish();
rollback;
