-- Fan-out: each subscription gets the events that it wants, once, as far as the feed may be read.
begin;
\ir setup/receivers.psql

select pg_temp.event('trade:early');
select public.create_event_subscription(pg_temp.tenant(), 'https://hooks.example.com/');
select is(pg_temp.claim(), '{}', 'a new subscription gets no earlier event');
select is(
  (select p.position >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1
   from purple_flea.subscription_progress p),
  true,
  'and begins with the transactions that are open'
);
delete from public.event_subscriptions where true;

select pg_temp.subscribe('all'), pg_temp.subscribe('online', '{test.online}'),
  pg_temp.subscribe('other', '{}', '20000000-0000-4000-8000-000000000000');
select pg_temp.event('trade:1'), pg_temp.event('agent:1', 'test.online'),
  pg_temp.event('trade:2', tenant => '20000000-0000-4000-8000-000000000000');
select is(
  pg_temp.claim(),
  '{all agent:1#1,all trade:1#1,all trade:early#1,online agent:1#1,other trade:2#1}',
  'each subscription gets its tenant''s events of its types'
);
select is(pg_temp.claim(), '{}', 'and none twice');
select is(
  (select count(distinct delivery ->> 'webhook_id') from claimed where name like '% agent:1#1'),
  1::bigint,
  'an event has one webhook-id'
);
select is(
  (select count(distinct delivery ->> 'webhook_id') from claimed),
  4::bigint,
  'and each event another'
);
select ok(
  (select bool_and(delivery ->> 'webhook_id' ~ '^evt_[0-9a-f]{32}$') from claimed),
  'a webhook-id is plain'
);
select is(
  (select (delivery ->> 'body')::jsonb from claimed where name = 'online agent:1#1'),
  '{"type": "test.online"}',
  'the body is the event'
);
select is(
  (select delivery ->> 'secret' from claimed where name = 'online agent:1#1'),
  (select secret from receivers where name = 'online'),
  'a claim has the subscription''s secret'
);

select pg_temp.report(name) from claimed;

-- The end of the feed.
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
select pg_temp.tenant(), 'test.executed', 'trade:open', '{}', now(), f.epoch,
  pg_current_xact_id()::text::bigint
from purple_flea.feed f;
select is(pg_temp.claim(), '{}', 'an event of a transaction that is open is not delivered');
select pg_temp.event('trade:below');
select is(pg_temp.claim(), '{all trade:below#1}', 'nor is it together with one that is committed');
update purple_flea.feed set epoch = epoch + 1 where only_row;
select is(
  pg_temp.claim(),
  '{all trade:open#1}',
  'one of an earlier generation is, and has the order of the feed'
);

-- A database that may be a restored one.
create temporary table generation as select * from purple_flea.generation;
update purple_flea.generation set jobs_oid = 0 where only_row;
select pg_temp.event('trade:restored');
select is(
  public.claim_deliveries(10, 60),
  '{"state": "restore_unconfirmed", "deliveries": [], "more": false}',
  'a database that waits for a confirmation delivers nothing'
);
select is(
  (select count(*) from purple_flea.event_deliveries where subject = 'trade:restored'),
  0::bigint,
  'and takes no event up'
);
select purple_flea.stamp(g.id, 'tested') from generation g;
select is(pg_temp.claim(), '{all trade:restored#1}', 'after it, it goes on');

-- A backlog.
delete from purple_flea.event_deliveries where true;
update purple_flea.subscription_progress set pending = 0, due_at = null where true;
select pg_temp.event('trade:b' || n) from generate_series(1, 1200) as n;
select is(
  (select count(*) from generate_series(1, 30) where purple_flea.fan_out()),
  24::bigint,
  'a fan-out takes few events at once, and says that there are more'
);
select is(
  (
    select array[
      p.pending,
      (
        select count(*)
        from purple_flea.event_deliveries d
        where d.subscription_id = p.subscription_id
      )
    ]
    from purple_flea.subscription_progress p
    where p.subscription_id = pg_temp.r('all')
  ),
  '{1000,1000}',
  'a subscription has at most 1,000 pending deliveries'
);
select isnt(s.held_back_since, null, 'and says since when it gets no more')
from public.event_subscriptions s where s.id = pg_temp.r('all');
select is(s.held_back_since, null, 'one that does not want them passes them')
from public.event_subscriptions s where s.id = pg_temp.r('online');
select is(
  (
    select p.position
    from purple_flea.subscription_progress p
    where p.subscription_id = pg_temp.r('online')
  ),
  (select last_value from places),
  'up to the end of the feed'
);
select is(cardinality(pg_temp.claim()), 4, 'four are in flight at once');
select is(pg_temp.claim(), '{}', 'and no more');
select pg_temp.report(name) from claimed where name like 'all trade:b%';
select is(s.held_back_since, null, 'room for new events ends the wait')
from public.event_subscriptions s where s.id = pg_temp.r('all');
select purple_flea.fan_out();
select is(p.pending, 1000, 'and no event was skipped')
from purple_flea.subscription_progress p where p.subscription_id = pg_temp.r('all');
select is(
  (
    select max(d.position) - min(d.position)
    from purple_flea.event_deliveries d
    where d.subscription_id = pg_temp.r('all')
  ),
  999::bigint,
  'the next events follow the last ones'
);

-- Trouble.
create function pg_temp.trouble() returns trigger language plpgsql as $$
begin
  raise 'trouble';
end;
$$;
create trigger trouble before insert on purple_flea.event_deliveries
  for each row execute function pg_temp.trouble();
select pg_temp.event('agent:2', 'test.online');
select pg_temp.later('60 s');
select ok(
  cardinality(pg_temp.claim()) > 0,
  'a fan-out that fails does not keep pending deliveries from being claimed'
);
drop trigger trouble on purple_flea.event_deliveries;
select ok('online agent:2#1' = any (pg_temp.claim()), 'and loses no event');

-- A receiver that has taken nothing yet, or nothing since a failure.
select pg_temp.report(name) from claimed where name like 'online %';
update public.event_subscriptions
set first_failure_at = now()
where id = pg_temp.r('online');
select pg_temp.subscribe('new');
select pg_temp.event('agent:n' || n, 'test.online') from generate_series(1, 30) as n;
select purple_flea.fan_out() from generate_series(1, 10);
select is(
  array_agg(p.pending order by r.name),
  '{20,20}',
  'a receiver that has taken nothing yet, or has failed, has few deliveries ready'
)
from purple_flea.subscription_progress p
join receivers r on r.id = p.subscription_id
where r.name in ('new', 'online');
update purple_flea.event_deliveries
set due_at = clock_timestamp() + interval '1 hour'
where subscription_id = pg_temp.r('online');
select purple_flea.fan_out() from generate_series(1, 10);
select is(p.pending, 30, 'those that wait for another attempt keep no other from coming')
from purple_flea.subscription_progress p where p.subscription_id = pg_temp.r('online');
select pg_temp.claim();
select pg_temp.report(min(name)) from claimed where name like 'new %';
select purple_flea.fan_out() from generate_series(1, 3);
select is(p.pending, 19 + 3 * 50, 'a receiver that has taken an event gets the others')
from purple_flea.subscription_progress p where p.subscription_id = pg_temp.r('new');

select * from finish();
rollback;
