-- The seats of requests to GET /events that wait: at most 32 at the same time, however many
-- instances of the function there are. The function takes a seat once, after its first look has
-- found no event, and leaves it once. Its looks in between are calls of read_events() alone.

create or replace function public.take_feed_seat(waiter uuid, wait_s integer) returns boolean
  language plpgsql
  volatile
  -- The caller may not read the seats.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most_s constant integer  := 20;
  grace  constant interval := '10 seconds';  -- for calls of the ledger that take long
begin
  if take_feed_seat.waiter is null then
    raise exception 'a waiter has a name' using errcode = 'invalid_parameter_value';
  end if;
  if take_feed_seat.wait_s is null or take_feed_seat.wait_s not between 1 and most_s then
    raise exception 'wait_s is 1 to %', most_s using errcode = 'invalid_parameter_value';
  end if;
  update purple_flea.feed_seats s
  set waiter = take_feed_seat.waiter,
      until  = clock_timestamp() + make_interval(secs => take_feed_seat.wait_s) + grace
  where s.seat = (
    -- A locked seat is about to be taken or to be left, and nobody waits for it.
    select f.seat
    from purple_flea.feed_seats f
    where f.until < clock_timestamp()
    order by f.seat
    limit 1
    for update skip locked
  );
  return found;
end;
$$;
comment on function public.take_feed_seat(uuid, integer) is
  'Takes a seat for a request that waits for an event, for wait_s seconds; says whether there was '
  'a free one.';

create or replace function public.leave_feed_seat(waiter uuid) returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  update purple_flea.feed_seats s
  set waiter = null,
      until  = '-infinity'
  where s.waiter = leave_feed_seat.waiter;
end;
$$;
comment on function public.leave_feed_seat(uuid) is
  'Leaves the seat of a request that waits no longer.';
