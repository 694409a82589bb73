-- Claims of deliveries: one listener at a time, in order for each subject, and fair to each
-- subscription.
begin;
\ir setup/receivers.psql

select throws_ok(format('select public.claim_deliveries(%s, %s)', most, lease), '22023')
from (values ('0', '60'), ('1001', '60'), ('null', '60'), ('1', '4'), ('1', '601'), ('1', 'null'))
  as v (most, lease);

-- The order of a subject.
select pg_temp.subscribe('one');
select pg_temp.event('trade:1'), pg_temp.event('trade:1'), pg_temp.event('trade:1'),
  pg_temp.event('trade:2');
select is(
  pg_temp.claim(),
  '{one trade:1#1,one trade:2#1}',
  'the second event of a subject waits for the first, and other subjects do not'
);
select is(pg_temp.claim(), '{}', 'a claimed delivery is nobody else''s');
select is(
  pg_temp.report('one trade:1#1'),
  '{"settled": 1, "stale": 0, "due": true}',
  'a report of a success says that the next one is due'
);
select is(pg_temp.claim(), '{one trade:1#1}', 'which is then claimed');
select is(
  (
    select array_agg((delivery ->> 'event')::bigint order by ctid)
    from claimed
    where name = 'one trade:1#1'
  ),
  (select array_agg(id order by id) from (
    select id from public.frame_events where subject = 'trade:1' order by id limit 2) as e),
  'in the order of the feed'
);
select pg_temp.report('one trade:1#1', 'failed', 500), pg_temp.report('one trade:2#1');
select is(pg_temp.claim(), '{}', 'the third waits while the second is tried again');
select pg_temp.later('7 s');
select is(pg_temp.claim(), '{one trade:1#2}', 'the second comes again');
select pg_temp.report('one trade:1#2');
select is(pg_temp.claim(), '{one trade:1#1}', 'and then the third');

-- The lease.
select pg_temp.later('59 s');
select is(pg_temp.claim(), '{}', 'a lease counts until it ends');
select pg_temp.later('2 s');
select is(
  pg_temp.claim(),
  '{one trade:1#2}',
  'then the delivery comes again: its listener is gone'
);
select is(
  pg_temp.report('one trade:1#1'),
  '{"settled": 0, "stale": 1, "due": false}',
  'a report of the first claim changes nothing'
);
select is(
  (select count(*) from purple_flea.event_deliveries),
  1::bigint,
  'and the delivery is still the second claim''s'
);
select pg_temp.report('one trade:1#2', 'not_sent');
select is(
  pg_temp.claim(),
  '{one trade:1#2}',
  'a delivery that a listener gives back is due at once, and was no attempt'
);
select pg_temp.report('one trade:1#2');
select is(p.pending, 0, 'nothing is pending')
from purple_flea.subscription_progress p;
select is(p.due_at, null, 'and nothing is due')
from purple_flea.subscription_progress p;

-- Places.
select pg_temp.subscribe('two');
update purple_flea.subscription_progress p
set position = (select last_value from places), event_id = 9223372036854775807
where true;
select pg_temp.event('trade:p' || n) from generate_series(1, 10) as n;
select is(cardinality(pg_temp.claim(6)), 6, 'a claim takes no more than it is asked for');
select is(cardinality(pg_temp.claim()), 2, 'and the next one what is left');
select is(
  array(select name from claimed where name like '%trade:p%' order by name),
  array(
    select format('%s trade:p%s#1', r, n)
    from unnest(array['one', 'two']) as r, generate_series(1, 4) as n
    order by r, n
  ),
  'each subscription has four places, for the first events of the feed'
);
select pg_temp.report('one trade:p1#1', 'failed', 500);
select is(pg_temp.claim(), '{}', 'after a failure it has one: three are still in flight');
select pg_temp.report(name, 'not_sent') from (
  select distinct name from claimed where name ~ '^one trade:p[234]#') as n;
select is(cardinality(pg_temp.claim()), 1, 'and one more when these are back');

-- A thousand others that are due for longer.
delete from purple_flea.event_deliveries where true;
update purple_flea.subscription_progress set pending = 0, due_at = null where true;
select pg_temp.subscribe('crowd' || n) from generate_series(1, 50) as n;
update purple_flea.subscription_progress p
set position = (select last_value from places), event_id = 9223372036854775807
where true;
select pg_temp.event('trade:crowd');
select purple_flea.fan_out();
select is(
  (select count(*) from (
    select cardinality(pg_temp.claim(10)) as n from generate_series(1, 8)) as c where n = 10),
  5::bigint,
  'a claim takes as many as it is asked for'
);

-- Receivers with a backlog that answer at once.
delete from public.event_subscriptions where true;
select pg_temp.subscribe('backlog' || n) from generate_series(1, 6) as n;
select pg_temp.subscribe('other');
update purple_flea.subscription_progress p
set position = (select last_value from places), event_id = 9223372036854775807
where true;
update public.event_subscriptions set types = '{test.online}' where id = pg_temp.r('other');
select pg_temp.event('trade:b' || n) from generate_series(1, 20) as n;
select purple_flea.fan_out();
select pg_temp.event('trade:other', 'test.online');
truncate claimed;
create function pg_temp.answer(turns integer) returns void language plpgsql as $$
begin
  for turn in 1..turns loop
    perform public.settle_deliveries((
      select coalesce(jsonb_agg(d || '{"did": "delivered", "status": 200, "ms": 1}'), '[]')
      from jsonb_array_elements(public.claim_deliveries(7, 60) -> 'deliveries') as d
    ));
  end loop;
end;
$$;
select pg_temp.answer(2);
select is(
  (select p.pending from purple_flea.subscription_progress p
   where p.subscription_id = pg_temp.r('other')),
  0,
  'a backlog of other receivers delays nobody for longer than a turn'
);
select is(
  (select array_agg(distinct p.pending) from purple_flea.subscription_progress p
   where p.subscription_id <> pg_temp.r('other')) <@ '{17,18,19,20}',
  true,
  'and their own turns come as often'
);
select pg_temp.answer(20);
select is(sum(p.pending), 0::bigint, 'until all is delivered')
from purple_flea.subscription_progress p;
delete from public.event_subscriptions where true;

-- An event that the feed no longer has.
select pg_temp.subscribe('late');
select pg_temp.event('trade:gone'), pg_temp.event('trade:gone');
update purple_flea.subscription_progress p
set position = (select last_value - 2 from places), event_id = 9223372036854775807
where p.subscription_id = pg_temp.r('late');
select purple_flea.fan_out();
alter table public.frame_events disable trigger user;
delete from public.frame_events where id in (
  select min(id) from public.frame_events where subject = 'trade:gone');
alter table public.frame_events enable trigger user;
select ok(
  'late trade:gone#1' <> all (pg_temp.claim()),
  'an event that the feed has deleted is not sent'
);
select ok('late trade:gone#1' = any (pg_temp.claim()), 'and the next of its subject is');
select is(p.pending, 1, 'it is not pending either')
from purple_flea.subscription_progress p where p.subscription_id = pg_temp.r('late');

-- A secret that cannot be read.
select purple_flea.drop_secret(purple_flea.subscription_secret_name(pg_temp.r('late')));
select pg_temp.report('late trade:gone#1', 'not_sent');
select ok('late trade:gone#1' = any (pg_temp.claim()), 'a delivery without a secret is claimed');
select is(
  (
    select delivery ->> 'secret'
    from claimed
    where name = 'late trade:gone#1'
    order by ctid desc
    limit 1
  ),
  null,
  'the listener reports that it could not sign'
);

select * from finish();
rollback;
