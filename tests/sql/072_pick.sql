-- A backlog that is held back keeps no other job waiting.
begin;
\ir setup/neighbours.psql

-- A backlog that is held back.
update purple_flea.jobs set state = 'rejected', reason = 'test' where state = 'claimed';
insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
select 'busy', 'deposit', 100, 100
from generate_series(1, 1500);
insert into purple_flea.trade_policies (agent_id, paused) values ('busy', true);
create temporary table behind as
  select pg_temp.deposit('quiet') as one, pg_temp.deposit('quiet') as two;
select is(
  public.claim_jobs('{}', 10, gen_random_uuid()) -> 'jobs' @> jsonb_build_array(
    jsonb_build_object('reference', one),
    jsonb_build_object('reference', two)
  ),
  true,
  'paused jobs keep no other job waiting'
)
from behind;
select ok(not purple_flea.is_due(), 'then nothing more is due');
select is(
  (select n.jobs from purple_flea.not_executed() n where n.reason = 'paused'),
  1000::bigint,
  'health counts the jobs that are held back, to a thousand'
);

select * from finish();
rollback;
