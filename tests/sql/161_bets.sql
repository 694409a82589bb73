-- Bets that callers request: which are one, what they stake, and what an operator records.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('plain'), ('modest');

create function pg_temp.asks(reference text, details jsonb) returns text
  language sql
as $$
  select coalesce(a ->> 'reference', a ->> 'refused')
  from public.request_job('bet', reference, '{"agent_id": "plain"}' || details) as a
$$;
select is(
  pg_temp.asks('bet-' || n, details),
  'bet-' || n,
  'it is a bet: ' || details::text
)
from unnest(array[
  '{"game": "coin-flip", "side": "heads", "wager": 2.5}',
  '{"game": "crash", "cashout_at": 1.01, "wager": 0.01}',
  '{"game": "crash", "cashout_at": 100, "wager": 99999999.99}',
  '{"game": "hi-lo", "guess": "lower", "wager": "2.5"}'
]::jsonb[]) with ordinality as g (details, n);
select is(
  pg_temp.asks('wrong-1', details),
  'invalid_bet',
  'no job is made that no worker could read: ' || details::text
)
from unnest(array[
  '{}',
  '{"game": "coin-flip", "side": "heads"}',
  '{"game": "coin-flip", "side": "heads", "wager": "NaN"}',
  '{"game": "coin-flip", "side": "heads", "wager": -1}',
  '{"game": "coin-flip", "side": "heads", "wager": 100000000}',
  '{"game": "coin-flip", "side": "edge", "wager": 1}',
  '{"game": "coin-flip", "wager": 1}',
  '{"game": "coin-flip", "side": "heads", "guess": "higher", "wager": 1}',
  '{"game": "crash", "cashout_at": 1, "wager": 1}',
  '{"game": "crash", "cashout_at": 100.01, "wager": 1}',
  '{"game": "crash", "cashout_at": 1.005, "wager": 1}',
  '{"game": "crash", "cashout_at": "x", "wager": 1}',
  '{"game": "crash", "cashout_at": 2, "side": "heads", "wager": 1}',
  '{"game": "hi-lo", "guess": "equal", "wager": 1}',
  '{"game": "trade", "market": "BTC", "wager": 1}',
  '{"game": null, "wager": 1}'
]::jsonb[]) as details;
select is(pg_temp.asks('bet-1', '{"game": "coin-flip", "side": "heads", "wager": 2.50}'), 'bet-1',
  'the same request finds its job');
select is(pg_temp.asks('bet-1', '{"game": "coin-flip", "side": "tails", "wager": 2.50}'),
  'reference_taken', 'another under its name is refused');
select is(pg_temp.asks('signal-1', '{"game": "coin-flip", "side": "heads", "wager": 1}'),
  'invalid_reference', 'no request is called like a signal''s job');

select pg_temp.hold_all_but('bet-1');
create temporary table b as select pg_temp.claim('bet-1') as c;
select is(c -> 'row' ->> 'side', 'heads', 'a claim hands the request out') from b;
select is(stake, 2.5, 'and reserves the wager')
from purple_flea.jobs
where reference = 'bet-1';

-- A look-up finds the bet by the request's game, and not by the policy's.
update purple_flea.jobs
set state = 'unknown',
    changed_by = 'sweeper',
    reason = 'lease_ran_out',
    lookup_at = now() - interval '1 second',
    lease_until = now() - interval '10 minutes'
where reference = 'bet-1';
select is(
  public.claim_lookups(50, 2) -> 0 -> 'row' ->> 'game',
  'coin-flip',
  'a look-up gets the request'
);
select lives_ok(
  $$select purple_flea.record_bet('bet-1', 'pf-1', 2.5, true, 4.95)$$,
  'an operator records the bet'
);
select results_eq(
  $$select game, wager, payout from public.trade_results where reference = 'bet-1'$$,
  $$values ('coin-flip', 2.5, 4.95)$$,
  'with the game that was requested'
);

-- A bet counts in the limit of each game, and each game's account limit stops bets.
select is_empty(
  $$
    select calls
    from purple_flea.rate_limits
    where calls && '{crash,coin-flip,hi-lo}'
      and not calls && '{bet}'
  $$,
  'bets count in every limit of a game'
);
select * from finish();
rollback;
