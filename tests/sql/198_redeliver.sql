-- An event, or a range of them, is delivered once more when an operator asks for it.
begin;
\ir setup/receivers.psql

select pg_temp.subscribe('one', '{test.executed}');
create temporary table ids as
  select pg_temp.event('trade:' || n % 2) as id, n from generate_series(1, 6) as n;
select pg_temp.event('agent:1', 'test.online');
create function pg_temp.id(number integer) returns bigint language sql as $$
  select id from ids where n = number
$$;
create function pg_temp.deliver_all() returns bigint[] language plpgsql as $$
declare
  ids bigint[] := '{}';
  delivery jsonb;
begin
  for n in 1 .. 20 loop
    for delivery in
      select d from jsonb_array_elements(public.claim_deliveries(100, 60) -> 'deliveries') as d
    loop
      ids := ids || (delivery ->> 'event')::bigint;
      perform public.settle_deliveries(
        jsonb_build_array(delivery || '{"did": "delivered", "status": 200, "ms": 1}'));
    end loop;
  end loop;
  return ids;
end;
$$;
select is(
  public.redeliver_events(pg_temp.r('one'), pg_temp.id(1), pg_temp.id(6)),
  '{"queued": 0}',
  'events that a subscription has still to pass come anyway'
);
select is(cardinality(pg_temp.deliver_all()), 6, 'all are delivered');
create temporary table first_ids as
  select event_id, webhook_id from public.event_delivery_attempts;

select is(
  public.redeliver_events(pg_temp.r('one'), pg_temp.id(3)),
  '{"queued": 1}',
  'one is asked for'
);
select is(
  public.redeliver_events(pg_temp.r('one'), pg_temp.id(3)),
  '{"queued": 0}',
  'one that is pending already is not asked for twice'
);
select is(pg_temp.deliver_all(), array[pg_temp.id(3)], 'and comes alone');
select is(
  (
    select array_agg(distinct a.webhook_id)
    from public.event_delivery_attempts a
    where a.event_id = pg_temp.id(3)
  ),
  (select array_agg(webhook_id) from first_ids where event_id = pg_temp.id(3)),
  'under the webhook-id that it had'
);

select is(
  public.redeliver_events(pg_temp.r('one'), pg_temp.id(2), pg_temp.id(5)),
  '{"queued": 4}',
  'a range is asked for'
);
create temporary table again as select pg_temp.deliver_all() as ids;
select is(
  (
    select array_agg(u.id order by u.turn)
    from again a, unnest(a.ids) with ordinality as u (id, turn)
    join ids k on k.id = u.id
    where k.n % 2 = p
  ),
  (select array_agg(k.id order by k.n) from ids k where k.n between 2 and 5 and k.n % 2 = p),
  'and comes in order for each subject'
)
from generate_series(0, 1) as p;
select is(
  public.redeliver_events(pg_temp.r('one'), 0, 9223372036854775807),
  '{"queued": 6}',
  'only events of its types, and of its tenant'
);
select is((select p.pending from purple_flea.subscription_progress p), 6, 'they are pending');
select pg_temp.event('trade:0');
select is(
  (select (pg_temp.deliver_all())[1:6] <@ array(select id from ids)),
  true,
  'a new event of a subject comes after them'
);

-- Of a subject, one at a time, whatever an operator asks for.
select pg_temp.event('trade:1') as newest \gset
select pg_temp.claim();
select is(
  public.redeliver_events(pg_temp.r('one'), pg_temp.id(1)), '{"queued": 1}',
  'an event is asked for while a later one of its subject is in flight'
);
select is(pg_temp.claim(), '{}', 'it waits for that one');
select pg_temp.report('one trade:1#1', 'failed', 500);
select pg_temp.claim();
select is(
  (select (delivery ->> 'event')::bigint from claimed order by ctid desc limit 1),
  pg_temp.id(1),
  'and comes before it is tried again'
);
select pg_temp.report('one trade:1#1');
select is(pg_temp.claim(), '{one trade:1#2}', 'which it then is');
select pg_temp.report('one trade:1#2');

-- Too many.
select pg_temp.event('trade:m' || n) from generate_series(1, 1001) as n;
update purple_flea.subscription_progress set position = (select last_value from places) where true;
select throws_ok(
  $$select public.redeliver_events(pg_temp.r('one'), 0, 9223372036854775807)$$,
  '23514',
  'these are more events than the 1000 that the subscription has room for'
);
select throws_ok(
  $$select public.redeliver_events(gen_random_uuid(), 1)$$,
  '22023',
  'there is no such subscription'
);

select * from finish();
rollback;
