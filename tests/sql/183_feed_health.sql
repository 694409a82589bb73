-- The feed's health: how far it is behind. (tests/feed.rs has the transaction that holds it back.)
begin;
\ir setup/feed.psql

select is(
  purple_flea.feed_health() - '{lost,realtime}'::text[],
  '{"lag_s": 0, "waiting_events": 0, "held_by": null}',
  'an empty feed is not behind'
);
select pg_temp.fire('a', n::text) from generate_series(1, 3) as n;
select is(
  purple_flea.feed_health() -> 'waiting_events', '3', 'events of an open transaction wait');
select is(
  public.ledger_health() -> 'feed',
  purple_flea.feed_health(),
  'the ledger''s health shows it'
);
select ok(
  not public.ledger_health() -> 'why' ? 'feed_held_back', 'a short wait is no reason to worry');
alter table public.frame_events disable trigger purple_flea_keep;
update public.frame_events set occurred_at = occurred_at - interval '90 seconds' where true;
select is(purple_flea.feed_health() -> 'lag_s', '90', 'the lag is the oldest event''s age');
select ok(
  public.ledger_health() -> 'why' ? 'feed_held_back'
    and public.ledger_health() ->> 'status' = 'degraded',
  'after a minute the health is degraded'
);
select pg_temp.settle();
select is(purple_flea.feed_health() -> 'lag_s', '0', 'readable events do not wait');
select pg_temp.fire('a', 'many') from generate_series(1, 1100);
select is(
  purple_flea.feed_health() -> 'waiting_events', '1000', 'events are counted to 1,000');

-- Lost events.
alter table public.frame_events add constraint user_check check (type = 'x') not valid;
create temporary table before as select (purple_flea.feed_health() ->> 'lost')::bigint as lost;
select pg_temp.fire('a', 'lost');
select is(
  (purple_flea.feed_health() ->> 'lost')::bigint, lost + 1, 'lost events are counted') from before;

select * from finish();
rollback;
