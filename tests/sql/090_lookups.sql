-- Look-ups of unknown jobs.
begin;
\ir setup/deposits.psql

-- Looking up.
create temporary table lost as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000a') from lost;
select public.settle_job(
  one,
  '00000000-0000-4000-8000-00000000000a',
  'unknown',
  '{"reason": "timed_out"}'
)
from lost;
select is(
  public.claim_lookups(50),
  '[]',
  'nothing is looked up before its lease and the longest exchange are over'
);
select pg_temp.later(one, '102 seconds') from lost;
select is(public.claim_lookups(50), '[]', 'not a second earlier');
select pg_temp.later(one, '2 seconds') from lost;
create temporary table looking as select public.claim_lookups(50) as c;
select is(c #>> '{0,reference}', one, 'then it is handed out') from looking, lost;
select is(public.claim_lookups(50), '[]', 'to one at a time');
select is(
  public.settle_job(one, (c #>> '{0,token}')::uuid, 'unknown', '{"reason": "not_found"}') ->> 'did',
  'settled',
  'looked for in vain'
)
from looking, lost;
select is(pg_temp.state_of(one), 'unknown', 'it stays unknown: that proves nothing') from lost;
select ok(
  lookup_at > clock_timestamp() + interval '90 seconds',
  'and is looked for again, later and later'
)
from purple_flea.jobs, lost
where reference = one;
select is(
  public.settle_job(one, (c #>> '{0,token}')::uuid, 'pending', '{"reason": "x"}') ->> 'did',
  'too_late',
  'no worker releases it'
)
from looking, lost;

select * from finish();
rollback;
