-- A sweep, and the health that shows it (functions/110_sweeper.sql).
begin;
\ir setup/deposits.psql

-- The sweeper.
alter table public.wallet_changes disable trigger purple_flea_jobs;
create temporary table missing as select pg_temp.deposit('a') as one;
alter table public.wallet_changes enable trigger purple_flea_jobs;
select is(pg_temp.state_of(one), null, 'a deposit without a job') from missing;
select matches(purple_flea.sweep(), '^not notified|^notified', 'is made one by the sweeper');
select is(pg_temp.state_of(one), 'pending', 'and waits for its turn') from missing;
-- Ids need not begin at 1.
insert into public.wallet_changes (id, agent_id, change_type, new_balance)
select id, 'a', 'deposit', 100 from unnest(array[0, -5]) as id;
select is(
  pg_temp.state_of('wallet-change-' || id),
  'pending',
  'a deposit has a job with the id ' || id
)
from unnest(array[0, -5]) as id;
alter table public.wallet_changes disable trigger purple_flea_jobs;
insert into public.wallet_changes (id, agent_id, change_type, new_balance)
values (-9000000000, 'a', 'deposit', 100);
alter table public.wallet_changes enable trigger purple_flea_jobs;
update purple_flea.ledger set searched_at = null;
select purple_flea.make_missing_jobs();
select is(pg_temp.state_of('wallet-change--9000000000'), 'pending', 'and is found without one');

update purple_flea.ledger
set
  starts_after = (select max(id) from public.wallet_changes),
  checked_until = (select max(id) from public.wallet_changes);
alter table public.wallet_changes disable trigger purple_flea_jobs;
create temporary table older as select pg_temp.deposit('a') as one;
alter table public.wallet_changes enable trigger purple_flea_jobs;
update purple_flea.ledger set starts_after = starts_after + 1;
select purple_flea.make_missing_jobs(1);
select is(pg_temp.state_of(one), null, 'a deposit from before the ledger gets none') from older;
select is(public.ledger_health() ->> 'sweeper', 'ok', 'a recent sweep is ok');
update purple_flea.ledger set swept_at = clock_timestamp() - interval '4 minutes';
select is(public.ledger_health() ->> 'sweeper', 'missing', 'an absent sweep is missing');

select * from finish();
rollback;
