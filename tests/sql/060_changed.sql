-- A row that becomes a deposit later (functions/060_jobs.sql).
begin;
\ir setup/ages.psql

-- A row that becomes a deposit.
insert into public.wallet_changes (id, agent_id, change_type, new_balance)
values (2000000, 'a', 'withdrawal', 1);
update public.wallet_changes set change_type = 'deposit' where id = 2000000;
select is(
  pg_temp.is_('wallet-change-2000000'),
  'pending',
  'a row that is updated to a deposit has a job at once'
);
select throws_ok(
  $$update public.wallet_changes set change_type = 'payout' where id = 2000000$$,
  '23514',
  null,
  'and stays one'
);

select * from finish();
rollback;
