-- A deposit in a transaction that sees the database as it was at the transaction's begin.
begin isolation level repeatable read;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('a');
update purple_flea.watch
set
  watcher = gen_random_uuid(),
  until = clock_timestamp() + interval '1 minute';
select is(
  purple_flea.is_watched(),
  false,
  'such a transaction cannot see that a watch has ended, and relies on none'
);
select pg_temp.calls();
insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
values ('a', 'deposit', 100, 100);
select is(count(*), 1::bigint, 'its deposit has a job')
from purple_flea.jobs
where kind = 'deposit';
select is(pg_temp.calls(), 1::bigint, 'and notifies the function');

select * from finish();
rollback;
