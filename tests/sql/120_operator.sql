-- An operator settles unknown jobs.
begin;
\ir setup/deposits.psql

create temporary table again as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('seven')) from again;
create temporary table lost as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('six')) from lost;
select pg_temp.later(one, '2 minutes') from lost;
select purple_flea.expire(false);

-- Operators.
select throws_like(
  format('select purple_flea.release_job(%L, %L)', one, 'why'),
  '%not unknown%',
  'only an unknown job is released'
)
from again;
create temporary table fresh as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000b') from fresh;
select public.settle_job(
  one,
  '00000000-0000-4000-8000-00000000000b',
  'unknown',
  '{"reason": "timed_out"}'
)
from fresh;
select throws_like(
  format('select purple_flea.release_job(%L, %L)', one, 'why'),
  '%may still be under way%',
  'and not while its claimant may be at work'
)
from fresh;
select pg_temp.later(one, '2 minutes') from fresh;
select isnt_empty(
  format('select from purple_flea.stuck_jobs where reference = %L', one),
  'operators see unknown jobs'
)
from fresh;
select lives_ok(
  format('select purple_flea.release_job(%L, %L)', one, 'looked at Purple Flea'),
  'an operator releases it'
)
from fresh;
select is(pg_temp.state_of(one), 'pending', 'to be bet on again') from fresh;
select results_eq(
  format(
    $$
      select changed_by, detail ->> 'why'
      from purple_flea.job_events
      where reference = %L
      order by id desc
      limit 1
    $$,
    one
  ),
  $$values ('operator', 'looked at Purple Flea')$$,
  'and is named for it'
)
from fresh;
select lives_ok(
  format('select purple_flea.close_job(%L, %L)', one, 'nothing there'),
  'or closes it'
)
from lost;
select is(pg_temp.state_of(one), 'rejected', 'without a bet') from lost;
create temporary table found as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000c') from found;
select pg_temp.later(one, '2 minutes') from found;
select purple_flea.expire(false);
select lives_ok(
  format('select purple_flea.record_bet(%L, %L, 10.00, true, 15.00)', one, 'b9'),
  'or records the bet that was found'
)
from found;
select is(payout, 15.0000, 'with its row of trade_results')
from public.trade_results, found
where reference = one;
select throws_like(
  format('select purple_flea.retry_job(%L)', one),
  '%not pending%',
  'only a pending job is tried again'
)
from found;

select * from finish();
rollback;
