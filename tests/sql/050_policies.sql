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

select * from finish();
rollback;
