-- Leases end and old jobs expire; a job that cannot be changed waits alone.
begin;
\ir setup/ages.psql

-- A job's age limit is set once, when the job is made.
create temporary table made as
  select
    pg_temp.deposit('a', now() - interval '1 year') as imported,
    pg_temp.deposit('a', now() + interval '1 year') as to_come,
    pg_temp.deposit('a') as today;
select is(pg_temp.claimed(), array[to_come, today], 'a row of a year ago is not handed out')
from made;
select is(pg_temp.is_(imported), 'dead too_old', 'it is too old') from made;
select ok(
  j.expires_at between now() + interval '23 hours' and now() + interval '25 hours',
  'a time to come counts as now'
)
from purple_flea.jobs j, made m
where j.reference = m.to_come;

select * from finish();
rollback;
