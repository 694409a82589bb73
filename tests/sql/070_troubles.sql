-- A trigger of an application that refuses a change keeps no other job waiting
-- (functions/070_expiry.sql).
begin;
\ir setup/neighbours.psql

-- An application's trigger that refuses the ledger's rows.
insert into public.escrow_requests (sender_id, receiver_id, amount)
values ('a', 'b', 1)
returning 'escrow-' || id as escrow \gset
create temporary table late as select pg_temp.deposit('a') as one;
create temporary table claim as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
select is(jsonb_array_length(c -> 'jobs'), 2, 'an escrow and a deposit are under way') from claim;
create function pg_temp.refuses() returns trigger language plpgsql as $$
begin
  raise exception 'not in my table';
end
$$;
create trigger refuses
  before update on public.escrow_requests
  for each row
  execute function pg_temp.refuses();
update purple_flea.jobs set lease_until = now() - interval '1 second' where state = 'claimed';
select lives_ok('select purple_flea.expire(false)', 'a trigger that refuses stops no sweep');
select is(pg_temp.is_(one), 'unknown lease_ran_out', 'the other''s lease has ended') from late;
select is(pg_temp.is_(:'escrow'), 'claimed', 'the bad one waits alone');
select matches(t.why, 'not in my table', 'with the reason')
from purple_flea.job_troubles t
where t.reference = :'escrow';
select is(
  s.reason || ': ' || s.trouble,
  'cannot_be_changed: P0001: not in my table',
  'that an operator sees'
)
from purple_flea.stuck_jobs s
where s.reference = :'escrow';
select ok(public.ledger_health() -> 'why' ? 'cannot_be_changed', 'and health tells of');
select lives_ok($$select public.claim_jobs('{}', 10)$$, 'a claim goes on');
select lives_ok('select public.claim_lookups(10)', 'so does a look-up');
select is(
  (select t.times from purple_flea.job_troubles t where t.reference = :'escrow'),
  1,
  'it is not tried again at once'
);
update purple_flea.job_troubles t
set retry_at = now() - interval '1 second'
where t.reference = :'escrow';
select purple_flea.expire(false);
select is(
  (select t.times from purple_flea.job_troubles t where t.reference = :'escrow'),
  2,
  'but later'
);
drop trigger refuses on public.escrow_requests;
update purple_flea.job_troubles t
set retry_at = now() - interval '1 second'
where t.reference = :'escrow';
select purple_flea.expire(false);
select is(
  pg_temp.is_(:'escrow'),
  'unknown lease_ran_out',
  'once nothing refuses any more it goes on'
);
select is((select count(*)::int from purple_flea.job_troubles), 0, 'and its trouble is forgotten');

select * from finish();
rollback;
