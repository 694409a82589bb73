-- The sweeper makes missing jobs, for all ids and times of their deposits.
begin;
\ir setup/ages.psql

select pg_temp.deposit('a');

-- Missing jobs.
alter table public.wallet_changes disable trigger purple_flea_jobs;
create temporary table ids as select currval('public.wallet_changes_id_seq') as last;
insert into public.wallet_changes (id, agent_id, change_type, new_balance)
values (1000000, 'a', 'deposit', 1);
select is(purple_flea.make_missing_jobs(), 1, 'an explicit id far ahead is found');
create temporary table behind as
  select
    pg_temp.deposit('a') as one,
    pg_temp.deposit('a', now() - interval '2 hours') as two,
    pg_temp.deposit('a', now() - interval '2 days') as old;
update purple_flea.ledger l set searched_at = now() - interval '11 minutes' where l.only_row;
select is(
  purple_flea.make_missing_jobs(),
  2,
  'a deposit behind the mark is found by its time, every ten minutes'
);
select is(pg_temp.is_(two), 'pending was_missing', 'and waits for its turn') from behind;
select is(purple_flea.make_missing_jobs(), 0, 'nothing is made twice');
select is(purple_flea.make_missing_jobs((select last from ids)), 1, 'an operator finds the rest');
select purple_flea.expire(false);
select is(pg_temp.is_(old), 'dead missed', 'a deposit found too late has a dead job')
from behind;
select is(s.state, 'dead', 'the operator sees it')
from purple_flea.stuck_jobs s, behind b
where s.reference = b.old;
select ok((public.ledger_health() ->> 'alarms')::int >= 1, 'and health counts it');
alter table public.wallet_changes enable trigger purple_flea_jobs;

-- The safe mark moves only past ids that no open transaction can still add.
update purple_flea.ledger l
set checked_until = 0, next_until = null, next_xid = null
where l.only_row;
select purple_flea.make_missing_jobs();
select is(
  (select l.checked_until from purple_flea.ledger l),
  0::bigint,
  'the mark does not move while this transaction is open'
);
select is((select l.next_until from purple_flea.ledger l), 1000000::bigint, 'but is noted');

select * from finish();
rollback;
