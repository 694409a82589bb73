-- Claims: the frozen rows, the lease and the answers.
begin;
\ir setup/deposits.psql

-- Claiming freezes and leases.
create temporary table d as select pg_temp.deposit('a', 123.45) as one;
create temporary table first_claim as select pg_temp.claims(one, pg_temp.t('one')) as c from d;
select is(c #>> '{jobs,0,reference}', one, 'a due job is claimed') from first_claim, d;
select is(c #>> '{jobs,0,row,new_balance}', '123.4500', 'with its row frozen, to the digit')
from first_claim;
select is(c #>> '{jobs,0,policy,wager_fraction}', '0.100000', 'and its policy') from first_claim;
select is(c #>> '{jobs,0,stake}', '12.3500', 'and the most that it can cost') from first_claim;
select ok((c ->> 'lease_ms')::int between 29000 and 30000, 'for half a minute') from first_claim;
select is(c #>> '{answers,0,state}', 'claimed', 'and the caller is told') from first_claim;
select is(
  pg_temp.claims(one, pg_temp.t('one')) #>> '{jobs,0,reference}',
  one,
  'the same claim gets it again'
)
from d;
select is(
  (select attempts from purple_flea.jobs, d where reference = one),
  1,
  'without counting as an attempt'
);
select is(
  pg_temp.claims(one, pg_temp.t('two')) #>> '{answers,0,state}',
  'in_flight',
  'for another claim it is in flight'
)
from d;
select throws_ok(
  'select public.claim_jobs(array[]::text[], 101)',
  '22023',
  null,
  'a claim takes at most 100'
);
select throws_ok(
  'select public.claim_jobs(array[]::text[], -1)',
  '22023',
  null,
  'and no fewer than none'
);
select is(
  public.claim_jobs(array['nobody', 'wallet-change-0']) -> 'answers' -> 1 ->> 'state',
  'not_found',
  'every reference is answered for'
);

-- A pause here, or in the settings of the function (a limit of 0).
create temporary table asleep as select pg_temp.deposit('asleep') as one;
select is(
  pg_temp.claims(one, pg_temp.t('five')) #>> '{answers,0,reason}',
  'paused',
  'a paused agent''s job waits'
)
from asleep;
create temporary table held as select one, pg_temp.deposit('a') as two from asleep;
select is(
  public.claim_jobs(array[two], 0) #>> '{answers,0,reason}',
  'paused',
  'so does every job when the function is paused'
)
from held;
select is(
  jsonb_array_length(public.claim_jobs(array[two], 0) -> 'jobs'),
  0,
  'and nothing is claimed'
)
from held;
select pg_temp.later(one, '25 hours'), pg_temp.later(two, '25 hours') from held;
select public.claim_jobs(array[two], 0) from held;
select is(
  array[pg_temp.state_of(one), pg_temp.state_of(two)],
  array['pending', 'pending'],
  'a pause condemns nothing'
)
from held;
update purple_flea.jobs
set expires_at = clock_timestamp() - interval '1 second'
where reference = (select two from held);
select is(
  public.claim_jobs(array[two], 1, pg_temp.t('six')) #>> '{answers,0,state}',
  'dead',
  'only age does'
)
from held;
update purple_flea.trade_policies set paused = true where agent_id is null;
select pg_temp.deposit('a');
select is(
  jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs'),
  0,
  'the shared policy''s pause holds back all agents'
);
update purple_flea.trade_policies set paused = false where agent_id is null;
select public.claim_jobs('{}', 100);

-- A daily limit: one job at a time, and the claim carries the day's spending.
create temporary table few as
  select pg_temp.deposit('limited') as one, pg_temp.deposit('limited') as two;
create temporary table few_claim as
  select public.claim_jobs(array[one, two], 10, pg_temp.t('five')) as c
  from few;
select is(
  jsonb_array_length(c -> 'jobs'),
  1,
  'of an agent with a limit one job is claimed at a time'
)
from few_claim;
select is(
  c #> '{jobs,0,spent}',
  '{"wagered": 0, "lost": 0, "open": 0}',
  'with the day''s spending'
)
from few_claim;
select is(c ->> 'more', 'true', 'and the word that there is more') from few_claim;
select is(c #>> '{jobs,0,stake}', '9.9900', 'no more is staked than the policy allows')
from few_claim;
select is(
  jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs'),
  0,
  'and no other while it is under way'
);
select throws_ok(
  format(
    $$
      update purple_flea.jobs
      set
        state = 'claimed',
        changed_by = 'worker',
        token = gen_random_uuid(),
        claimed_at = now(),
        lease_until = now(),
        request = '{}',
        policy = '{}',
        bet_day = current_date,
        limited = true
      where reference = %L
    $$,
    two
  ),
  '23505',
  null,
  'not even by an update'
)
from few;
select public.settle_job(
  one,
  pg_temp.t('five'),
  'executed',
  pg_temp.bet(9.99, 'b8') || '{"outcome": "loss", "payout": 0}'
)
from few;
create temporary table second_claim as
  select public.claim_jobs(array[two], 10, pg_temp.t('six')) as c
  from few;
select is(
  c #> '{jobs,0,spent}',
  '{"wagered": 9.9900, "lost": 9.9900, "open": 0}',
  'a settled bet counts'
)
from second_claim;
select pg_temp.later(two, '31 seconds'), pg_temp.deposit('limited') from few;
select is(
  public.claim_jobs('{}', 10) #> '{jobs,0,spent}',
  '{"wagered": 9.9900, "lost": 9.9900, "open": 9.9900}',
  'an unknown bet counts as its worst outcome'
);

-- A token serves one claim. When all its jobs are settled, a repeated claim takes nothing more.
create temporary table once as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('eight')) from once;
select public.settle_job(one, pg_temp.t('eight'), 'skipped', '{"reason": "test"}') from once;
select pg_temp.deposit('a');
select is(
  pg_temp.claims(one, pg_temp.t('eight')) -> 'jobs',
  '[]',
  'a claim that was settled takes nothing more'
)
from once;
select public.claim_jobs('{}', 100);

-- A claim that is later than its caller waits takes nothing.
create temporary table slow as select pg_temp.deposit('a') as one;
select is(
  public.claim_jobs('{}', 10, gen_random_uuid(), patience_ms => 0) -> 'jobs',
  '[]',
  'a late claim takes nothing'
);
select is(pg_temp.is_(one), 'pending', 'and nothing happens to its job') from slow;
select is(
  jsonb_array_length(public.claim_jobs('{}', 10, gen_random_uuid(), patience_ms => 4000) -> 'jobs'),
  1,
  'one in time does'
);

-- Given up: before the claim, after it, in part, and after its lease.
update purple_flea.jobs set state = 'rejected', reason = 'test' where state = 'claimed';
create temporary table given as
  select
    pg_temp.deposit('a') as one,
    pg_temp.deposit('a') as two,
    gen_random_uuid() as early,
    gen_random_uuid() as late;
select is(
  public.abandon_claim(early),
  '{"gave_back": 0}',
  'a claim can be given up before it arrives'
)
from given;
select is(public.claim_jobs('{}', 10, early) -> 'jobs', '[]', 'then it takes nothing') from given;
select is(jsonb_array_length(public.claim_jobs('{}', 10, late) -> 'jobs'), 2, 'another takes both')
from given;
select is(public.abandon_claim(late, array[one]), '{"gave_back": 1}', 'and gives one back')
from given;
select is(pg_temp.is_(one), 'pending abandoned', 'which waits again') from given;
select is(pg_temp.is_(two), 'claimed', 'the other is still under way') from given;
select is(
  public.settle_job(two, late, 'executed', pg_temp.bet('late')) ->> 'did',
  'settled',
  'and is settled'
)
from given;
update purple_flea.jobs j set lease_until = now() - interval '1 second' where j.state = 'claimed';
select is(public.claim_jobs('{}', 10, early) -> 'jobs', '[]', 'a given-up claim stays without jobs')
from given;
create temporary table again as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
select is(c #>> '{jobs,0,reference}', one, 'a returned job is handed out') from again, given;
select public.abandon_claim((c ->> 'token')::uuid) from again;
select ok(j.due_at > clock_timestamp(), 'a second time it waits: nothing is due at once twice')
from purple_flea.jobs j, given g
where j.reference = g.one;
update purple_flea.jobs j set due_at = now() from given g where j.reference = g.one;
create temporary table third as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
update purple_flea.jobs j set lease_until = now() - interval '1 second' where j.state = 'claimed';
select purple_flea.expire(false);
select is(
  public.abandon_claim((c ->> 'token')::uuid),
  '{"gave_back": 0}',
  'after its lease nothing is given back'
)
from third;
select is(pg_temp.is_(one), 'unknown lease_ran_out', 'an unknown job stays unknown') from given;

-- A version that the ledger does not speak.
create temporary table newer as select pg_temp.deposit('a') as one;
select is(c ->> 'mismatch', 'true', 'a newer function is told')
from public.claim_jobs('{}', 10, protocol => 3) as c;
select is(public.claim_jobs('{}', 10, protocol => 0) -> 'jobs', '[]', 'and gets nothing');
select is(public.claim_lookups(10, 3), '[]', 'nor look-ups');
select is(pg_temp.is_(one), 'pending', 'its deposit waits') from newer;

-- The commit of a claim waits for the disk, for any default of the database.
set local synchronous_commit = off;
select public.claim_jobs('{}', 1);
select is(current_setting('synchronous_commit'), 'on', 'claims commit synchronously');
set local synchronous_commit = off;
select public.settle_jobs('[]');
select is(current_setting('synchronous_commit'), 'on', 'so do settlements');
set local synchronous_commit = local;
select public.abandon_claim(gen_random_uuid());
select is(current_setting('synchronous_commit'), 'local', 'a safe setting stays as it is');

select * from finish();
rollback;
