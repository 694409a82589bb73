-- A pause moves the end of jobs by as long as it lasts.
begin;
\ir setup/ages.psql

-- A pause moves the end by as long as it lasts, whether or not a sweeper comes meanwhile.
insert into purple_flea.trade_policies (agent_id) values ('held');
create temporary table paused as select pg_temp.deposit('held') as one;
update purple_flea.trade_policies set paused = true where agent_id = 'held';
-- A day and an hour go by, without a sweeper.
update purple_flea.jobs j
set
  created_at = created_at - interval '25 hours',
  expires_at = expires_at - interval '25 hours',
  due_at = due_at - interval '25 hours'
from paused p
where j.reference = p.one;
update purple_flea.pauses p
set held = tstzrange(lower(p.held) - interval '25 hours', null)
where p.agent_id = 'held';
update purple_flea.trade_policies set paused = false where agent_id = 'held';
select is(
  (
    select count(*)::int
    from purple_flea.pauses p
    where p.agent_id = 'held' and not upper_inf(p.held)
  ),
  1,
  'the pause''s end is written down'
);
select is(pg_temp.claimed(), array[one], 'a job that was paused for a day has not grown old')
from paused;
update purple_flea.jobs j
set
  state = 'pending',
  reason = 'rate_limited',
  due_at = now(),
  expires_at = now() - interval '1 second'
from paused p
where j.reference = p.one;
select public.claim_jobs('{}', 1);
select is(pg_temp.is_(one), 'dead too_old', 'a pause is counted once') from paused;
delete from purple_flea.trade_policies where agent_id = 'held';
insert into purple_flea.trade_policies (agent_id, paused) values ('held', true);
delete from purple_flea.trade_policies where agent_id = 'held';
select is(
  (select count(*)::int from purple_flea.pauses p where upper_inf(p.held)),
  0,
  'a policy that goes ends its pause'
);
-- Two pauses at once count once.
insert into purple_flea.pauses (held, by)
values (tstzrange(now() - interval '5 hours', now() - interval '3 hours'), 'policy');
insert into purple_flea.pauses (agent_id, held, by)
values ('a', tstzrange(now() - interval '4 hours', now() - interval '2 hours'), 'policy');
select is(
  purple_flea.held_for('a', now() - interval '10 hours'),
  interval '3 hours',
  'pauses that overlap count once'
);
select is(
  purple_flea.held_for('a', now() - interval '210 minutes'),
  interval '90 minutes',
  'and from the job''s making on'
);
select public.claim_jobs('{}', 0);
select ok(purple_flea.is_held('a'), 'the function''s own pause is written down, too');
select public.claim_jobs('{}', 0) from generate_series(1, 3);
select is(
  (select count(*)::int from purple_flea.pauses p where p.by = 'function'),
  1,
  'in one row, however often it asks'
);

select * from finish();
rollback;
