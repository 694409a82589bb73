-- One job at a time for each agent with a daily limit.
begin;
\ir setup/neighbours.psql

-- A backlog of one agent, under the shared policy's daily limit.
update purple_flea.jobs set state = 'rejected', reason = 'test' where state = 'claimed';
update purple_flea.trade_policies set daily_wager_limit = 1000000 where agent_id is null;
insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
select 'busy', 'deposit', 100, 100
from generate_series(1, 1500);
create temporary table waiting as select pg_temp.deposit('quiet') as one;
create temporary table both_agents as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
select is(
  (
    select array_agg(j #>> '{row,agent_id}' order by 1)
    from both_agents, jsonb_array_elements(c -> 'jobs') as j
  ),
  array['busy', 'quiet'],
  'of each agent one job is handed out, however much another has waiting'
);
create temporary table named as select pg_temp.deposit('sleepy') as one;
select is(
  public.claim_jobs(array[one], 1, gen_random_uuid()) #>> '{jobs,0,reference}',
  one,
  'and one that the caller names'
)
from named;
update purple_flea.trade_policies set daily_wager_limit = null where agent_id is null;

select * from finish();
rollback;
