-- Retention: old events go in small batches, and a follower that missed some is told.
begin;
\ir setup/feed.psql

-- Events at or above the oldest open transaction stay: one that is still to come may be before
-- them.
insert into public.frame_events
  (tenant_id, type, subject, payload, occurred_at, epoch, position)
select
  gen_random_uuid(), 'test.executed', 'trade:open', '{}', now() - interval '31 days', 1,
  pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
select is(
  purple_flea.delete_old_events(1000),
  0,
  'an event that nobody may read yet is not deleted'
);
delete from public.frame_events where subject = 'trade:open';

insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
select
  pg_temp.tenant(agent), 'test.executed', 'trade:' || n, jsonb_build_object('reference', n),
  clock_timestamp() - age, 1, n
from (
  values
    ('a', 1, interval '32 days'), ('b', 2, '31 days'), ('a', 3, '30 days 1 minute'),
    ('a', 4, '29 days'), ('a', 5, '40 days'), ('b', 6, '1 day')
) as v (agent, n, age);
create temporary table was as
  select
    pg_temp.read('a', most => 1) ->> 'next' as after_one,
    pg_temp.read('a', most => 2) ->> 'next' as after_three,
    pg_temp.read('b', most => 1) ->> 'next' as b_after_two,
    pg_temp.read('nobodys') ->> 'next' as nobodys;

select is(purple_flea.delete_old_events(2), 2, 'a sweep deletes a batch of old events');
select is(purple_flea.delete_old_events(1000), 1, 'up to the first younger one');
select is(purple_flea.delete_old_events(1000), 0, 'and no more');
select results_eq(
  'select position from public.frame_events order by 1',
  array[4, 5, 6]::bigint[],
  'an old event behind a younger one waits for it'
);
select is(
  pg_temp.read('a', after_one) ->> 'state',
  'cursor_too_old',
  'who missed one is told'
)
from was;
select is(
  pg_temp.said(pg_temp.read('a', pg_temp.read('a', after_one) ->> 'start')),
  '4 5',
  'and starts with the oldest that is kept'
)
from was;
select is(pg_temp.said(pg_temp.read('a', after_three)), '4 5', 'who missed none goes on') from was;
select is(pg_temp.said(pg_temp.read('b', b_after_two)), '6', 'in each tenant by itself') from was;
select is(
  pg_temp.said(pg_temp.read('nobodys', nobodys)),
  '',
  'also where nothing was deleted'
)
from was;
select is(
  pg_temp.said(pg_temp.read('a')),
  '4 5',
  'a new reader begins with the oldest that is kept'
);

-- The latest of a feed whose events are all gone.
update purple_flea.feed set keep_for = '1 day';
select is(purple_flea.delete_old_events(1000), 3, 'the time is a setting');
select is(
  pg_temp.said(pg_temp.read('a', pg_temp.read('a', 'latest') ->> 'next')),
  '',
  'an emptied feed is empty'
);
select is(
  pg_temp.said(pg_temp.read('a', pg_temp.read('a') ->> 'next')),
  '',
  'from its beginning, too'
);
select is(
  pg_temp.read('a', after_three) ->> 'state',
  'cursor_too_old',
  'and its readers are told'
)
from was;
update purple_flea.feed set keep_for = '30 days';
select throws_ok(
  $$update purple_flea.feed set keep_for = '1 hour'$$, '23514', null, 'a day is kept in any case');

-- An old event may be deleted by hand, and the floor rises all the same. A young one may not.
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
values
  (pg_temp.tenant('nobodys'), 'test.executed', 'trade:8', '{}', now() - interval '31 days', 1, 8),
  (pg_temp.tenant('nobodys'), 'test.executed', 'trade:9', '{}', now() - interval '29 days', 1, 9);
select throws_ok(
  'delete from public.frame_events where position = 9', '55000', null, 'a young event is kept');
delete from public.frame_events where position = 8;
select is(
  pg_temp.read('nobodys', nobodys) ->> 'state',
  'cursor_too_old',
  'a deletion by hand is told, too'
)
from was;

-- The sweeper does it.
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
values (pg_temp.tenant('b'), 'test.executed', 'trade:0', '{}', now() - interval '31 days', 1, 0);
select purple_flea.sweep();
select is_empty(
  $$select from public.frame_events where subject = 'trade:0'$$, 'a sweep deletes old events');

-- By an index, however many events there are.
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
select pg_temp.tenant('b'), 'test.executed', 'trade:' || n, '{}', now(), 1, 10 + n
from generate_series(1, 20000) as n;
analyze public.frame_events;
create function pg_temp.plan(statement text) returns setof text language plpgsql as $$
begin
  return query execute 'explain (costs off) ' || statement;
end;
$$;
select matches(
  string_agg(line, E'\n'),
  'Index Scan using frame_events_order_idx',
  'retention walks along the order of the feed'
)
from pg_temp.plan(
  'select id, occurred_at from public.frame_events where (epoch, position) < (1, 10000000)
   order by epoch, position, id limit 1000') as line;

select * from finish();
rollback;
