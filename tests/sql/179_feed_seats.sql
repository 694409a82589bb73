-- The seats of requests that wait for an event.
begin;
select * from no_plan();

create function pg_temp.waiter(n integer) returns uuid
  language sql
  immutable
as $$
  select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

select is(
  (select count(*) from generate_series(1, 32) n where public.take_feed_seat(pg_temp.waiter(n), 20)),
  32::bigint,
  '32 requests wait at the same time'
);
select is(public.take_feed_seat(pg_temp.waiter(33), 20), false, 'and the next one does not');

select public.leave_feed_seat(pg_temp.waiter(7));
select is(public.take_feed_seat(pg_temp.waiter(33), 20), true, 'it takes a seat that was left');
select public.leave_feed_seat(pg_temp.waiter(7));
select is(public.take_feed_seat(pg_temp.waiter(34), 1), false, 'a seat is left only once');

update purple_flea.feed_seats s
set until = clock_timestamp() - interval '1 millisecond'
where s.waiter = pg_temp.waiter(12);
select is(
  public.take_feed_seat(pg_temp.waiter(34), 1),
  true,
  'a request that ended without leaving its seat keeps it only for its time'
);
select ok(
  max(s.until) <= clock_timestamp() + interval '11 seconds',
  'a seat is kept for the wait, and ten seconds'
)
from purple_flea.feed_seats s
where s.waiter = pg_temp.waiter(34);

select throws_ok(
  format('select public.take_feed_seat(%L, %L)', pg_temp.waiter(1), seconds),
  '22023',
  'wait_s is 1 to 20',
  format('a wait of %s s is refused', seconds)
)
from unnest(array[0, 21]) as seconds;
select throws_ok(
  'select public.take_feed_seat(null, 1)',
  '22023',
  'a waiter has a name',
  'a waiter without a name is refused'
);

select * from finish();
rollback;
