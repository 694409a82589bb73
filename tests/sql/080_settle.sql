-- Settlements: once or twice, late, by an earlier claimant, after a release.
begin;
\ir setup/deposits.psql

create temporary table d as select pg_temp.deposit('a', 123.45) as one;
select pg_temp.claims(one, pg_temp.t('one')) from d;

-- Settling twice has the effect of settling once.
select is(
  public.settle_job(one, pg_temp.t('one'), 'executed', pg_temp.bet(12.35, 'b1')) ->> 'did',
  'settled',
  'the claimant settles'
)
from d;
select is(
  public.settle_job(one, pg_temp.t('one'), 'executed', pg_temp.bet(12.35, 'b1')) ->> 'did',
  'settled_before',
  'and again without effect'
)
from d;
select results_eq(
  $$
    select agent_id, game, wager, outcome, payout, bet_id
    from public.trade_results
    join d on reference = one
  $$,
  $$values ('a', 'crash', 12.3500::numeric(12,4), 'win', 18.5250::numeric(12,4), 'b1')$$,
  'trade_results has the outcome once'
);
select is(
  pg_temp.claims(one, pg_temp.t('two')) #>> '{answers,0,result,bet_id}',
  'b1',
  'a later caller gets the outcome'
)
from d;
select is(
  public.settle_job(one, pg_temp.t('one'), 'executed', pg_temp.bet(12.35, 'b2')) ->> 'did',
  'conflict',
  'another bet on it is a conflict'
)
from d;
select is(
  public.settle_job(one, gen_random_uuid(), 'executed', pg_temp.bet(12.35, 'b3')) ->> 'did',
  'unknown_token',
  'an unknown token is refused'
)
from d;
select is(
  public.settle_job('nobody', gen_random_uuid(), 'executed', '{}') ->> 'did',
  'not_found',
  'so is a job that is not there'
);
select throws_ok(
  $$select public.settle_job('x', gen_random_uuid(), 'dead', '{}')$$,
  '22023',
  null,
  'no worker settles to dead'
);
select throws_ok(
  $$select public.settle_job('x', gen_random_uuid(), 'executed', '[]')$$,
  '22023',
  null,
  'nor without a result'
);

-- A claim that runs out; its late answer; the next claimant and the last one's outcome.
create temporary table late as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('two')) from late;
select pg_temp.later(one, '31 seconds') from late;
select is(
  pg_temp.claims(one, pg_temp.t('three')) #>> '{answers,0,state}',
  'unknown',
  'a lease that ran out leaves the outcome unknown'
)
from late;
select is(
  public.settle_job(one, pg_temp.t('two'), 'rejected', '{"reason": "no"}') ->> 'did',
  'too_late',
  'a late refusal is kept, and an operator decides'
)
from late;
select is(
  public.settle_job(one, pg_temp.t('two'), 'executed', pg_temp.bet(10, 'b4')) ->> 'did',
  'settled',
  'a late bet is the truth'
)
from late;
select is(pg_temp.state_of(one), 'executed', 'and settles it') from late;

create temporary table again as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('seven')) from again;
select is(
  public.settle_job(
    one,
    pg_temp.t('seven'),
    'pending',
    '{"reason": "rate_limited", "retry_after_s": 7}'
  ) ->> 'did',
  'settled',
  'what was not executed waits'
)
from again;
select ok(
  due_at between clock_timestamp() + interval '6.9 seconds'
    and clock_timestamp() + interval '10.6 seconds',
  'as long as it was told, and a little by chance'
)
from purple_flea.jobs, again
where reference = one;
select is(
  pg_temp.claims(one, pg_temp.t('three')) #>> '{answers,0,state}',
  'waiting',
  'and is not claimed before'
)
from again;
select pg_temp.later(one, '1 minute') from again;
select is(pg_temp.claims(one, pg_temp.t('three')) #>> '{answers,0,state}', 'claimed', 'but then')
from again;
select is(
  public.settle_job(one, pg_temp.t('seven'), 'executed', pg_temp.bet(10, 'b5')) ->> 'did',
  'conflict',
  'a bet of an earlier claimant is a conflict'
)
from again;
select is(pg_temp.state_of(one), 'claimed', 'and changes nothing') from again;
select is(e.detail ->> 'bet_id', 'b5', 'but is kept with its bet')
from purple_flea.job_events e, again
where reference = one and kind = 'conflict';
select ok((public.ledger_health() ->> 'alarms')::int >= 1, 'and is an alarm');

-- A bet that turns out to have been made on a job that was released: it must not be bet on again.
create temporary table hasty as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('nine')) from hasty;
select pg_temp.later(one, '2 minutes') from hasty;
select purple_flea.expire(false);
select purple_flea.release_job(one, 'too hasty') from hasty;
select is(
  public.settle_job(one, pg_temp.t('nine'), 'executed', pg_temp.bet(10, 'b10')) ->> 'did',
  'settled',
  'the late answer of a released job'
)
from hasty;
select is(pg_temp.state_of(one), 'executed', 'keeps it from being bet on again') from hasty;
select isnt(bet_day, null, 'and counts on its day')
from purple_flea.jobs, hasty
where reference = one;

-- A wait that must be a mistake.
create temporary table patient as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000d') from patient;
select public.settle_job(
  one,
  '00000000-0000-4000-8000-00000000000d',
  'pending',
  '{"reason": "x", "retry_after_s": 1e12}'
)
from patient;
select ok(due_at < clock_timestamp() + interval '2 hours', 'is cut to less than two hours')
from purple_flea.jobs, patient
where reference = one;

select * from finish();
rollback;
