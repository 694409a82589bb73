-- The stake of a deposit under a policy. tests/cases/stakes.json has more cases.
begin;
\ir setup/deposits.psql

-- The stake is the function's own formula.
select is(purple_flea.stake(balance, p), expected, format('of %s', balance))
from
  (
    values
      (100, 10.00), (5.05, 0.51), (5.0499, 0.50), (12345678.1235, 1234567.81), (0.04, 0),
      (null, 0)
  ) as c (balance, expected),
  purple_flea.trade_policies p
where p.agent_id is null;

-- A guess, and a risk factor, are those that Purple Flea takes.
select lives_ok(
  $$ insert into purple_flea.trade_policies (agent_id, game, guess, risk_factor)
     select a.id, 'hi-lo', 'lower', 0.1 from public.agents a limit 1 $$,
  'hi-lo is a game of policies'
);
select throws_ok(
  format('update purple_flea.trade_policies set %s where agent_id is null', wrong),
  '23514',
  null,
  wrong
)
from (
  values
    ('guess = ''equal'''), ('risk_factor = 0.09'), ('risk_factor = 1.01'),
    ('risk_factor = ''NaN'''), ('game = ''hilo''')
) as c (wrong);
select results_eq(
  'select p.risk_factor from purple_flea.trade_policies p where p.agent_id is null',
  'values (0.25)',
  'the shared policy has the risk factor of a new agent'
);

select * from finish();
rollback;
