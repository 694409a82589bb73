-- Reports of deliveries: attempts over a day, the log, and when a subscription is disabled.
begin;
\ir setup/receivers.psql

select throws_ok($$select public.settle_deliveries('{}')$$, '22023');
select throws_ok(
  $$select public.settle_deliveries((select jsonb_agg(n) from generate_series(1, 1001) as n))$$,
  '22023'
);
select is(
  public.settle_deliveries('[]'),
  '{"settled": 0, "stale": 0, "due": false}',
  'an empty report changes nothing'
);
select is(
  public.settle_deliveries(jsonb_build_array(jsonb_build_object(
    'subscription', gen_random_uuid(), 'event', 1, 'token', gen_random_uuid(), 'did', 'delivered'
  ))),
  '{"settled": 0, "stale": 1, "due": false}',
  'nor does one of a delivery that there is not'
);

-- Waits.
select is(
  (
    select array_agg(
      extract(epoch from purple_flea.delivery_wait(w.n::integer))
        between w.least_s and w.least_s * 1.2
      order by w.n
    )
    from unnest(array[5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 32400])
      with ordinality as w (least_s, n)
  ),
  array_fill(true, array[10]),
  'the waits grow, with a fifth of jitter'
);
select is(purple_flea.delivery_wait(11), null, 'after eleven attempts there is no other');
select ok(
  (select count(distinct purple_flea.delivery_wait(9)) from generate_series(1, 20)) > 15,
  'no two waits are the same'
);

-- A success, a failure.
select pg_temp.subscribe('one');
select pg_temp.event('trade:1');
select pg_temp.claim();
select pg_temp.report('one trade:1#1', 'failed', 500);
select is(
  (select array[a.attempt::text, a.outcome, a.status::text, a.error, a.ms::text, a.webhook_id]
   from public.event_delivery_attempts a),
  (select array['1', 'failed', '500', 'status', '12', delivery ->> 'webhook_id'] from claimed),
  'an attempt is logged'
);
select isnt(s.first_failure_at, null, 'a first failure is noted') from public.event_subscriptions s;
select pg_temp.later('7 s');
select is(pg_temp.claim(), '{one trade:1#2}', 'the event comes again');
select is(
  (select count(distinct delivery ->> 'webhook_id') from claimed),
  1::bigint,
  'under the same webhook-id'
);
select pg_temp.report('one trade:1#2');
select is(
  (select array_agg(a.outcome order by a.id) from public.event_delivery_attempts a),
  '{failed,delivered}',
  'the log has both'
);
select is(s.first_failure_at, null, 'a success ends the failures')
from public.event_subscriptions s;
select isnt(s.last_success_at, null, 'and is noted') from public.event_subscriptions s;
select is(count(*), 0::bigint, 'what is delivered is gone') from purple_flea.event_deliveries;

-- A receiver that asks for time.
select pg_temp.event('trade:2'), pg_temp.claim();
select pg_temp.claim();
select pg_temp.report('one trade:2#1', 'failed', 429, 120);
select is(pg_temp.wait_of('one'), 120::numeric, 'a receiver gets the time that it asks for');
select pg_temp.later('121 s');
select pg_temp.claim();
select pg_temp.report('one trade:2#2', 'failed', 503, 3);
select ok(pg_temp.wait_of('one') between 30 and 36, 'not less than the wait of its attempt');
select pg_temp.later('37 s');
select pg_temp.claim();
select pg_temp.report('one trade:2#3', 'failed', 503, 9999999999);
select is(pg_temp.wait_of('one'), 3600::numeric, 'and an hour at most');
select pg_temp.later('3601 s');
select pg_temp.claim();
select pg_temp.report('one trade:2#4', 'failed', 503, -5);
select ok(pg_temp.wait_of('one') between 600 and 720, 'no negative time counts');

-- Eleven attempts, beside successes: the event is given up, and the next of its subject comes.
select pg_temp.event('trade:2'), pg_temp.event('trade:3');
create function pg_temp.fail_on(subject text, until_attempt integer) returns void
  language plpgsql
as $$
declare
  name text;
begin
  for n in 1 .. 40 loop
    perform pg_temp.later('11 h');
    foreach name in array pg_temp.claim() loop
      if name ~ ('one ' || subject || '#') then
        perform pg_temp.report(name, 'failed', 500);
        exit when name ~ ('#' || until_attempt || '$');
      else
        perform pg_temp.report(name);
      end if;
    end loop;
    perform pg_temp.event('trade:other' || n);
    exit when exists (
      select from claimed c where c.name = 'one ' || subject || '#' || until_attempt
    );
  end loop;
end;
$$;
select pg_temp.fail_on('trade:2', 11);
select is(
  (select array[a.outcome, a.attempt::text, a.next_attempt_at::text]
   from public.event_delivery_attempts a where a.outcome = 'given_up'),
  array['given_up', '11', null],
  'after eleven attempts an event is given up'
);
select is(s.state, 'active', 'a receiver that takes other events stays subscribed')
from public.event_subscriptions s;
select isnt(d.due_at, null, 'and gets the next event of the subject')
from purple_flea.event_deliveries d
where d.subject = 'trade:2';

-- A day of failures.
delete from public.event_subscriptions where true;
select pg_temp.subscribe('failing'), pg_temp.event('trade:f');
update purple_flea.subscription_progress
set position = (select last_value - 1 from places), event_id = 9223372036854775807
where true;
select pg_temp.claim();
select pg_temp.report('failing trade:f#1', 'failed');
select pg_temp.later('23 h 59 min');
select is(pg_temp.claim(), '{failing trade:f#2}', 'a failing receiver is asked for a day');
select pg_temp.report('failing trade:f#2', 'failed');
select is(s.state, 'active', 'until then it is subscribed') from public.event_subscriptions s;
select pg_temp.later('2 min');
select pg_temp.claim();
select pg_temp.report('failing trade:f#3', 'failed');
select is(
  (select array[s.state, s.disabled_reason] from public.event_subscriptions s),
  '{disabled,failing}',
  'a day without a success disables it'
);
select is(
  (
    select array[
      e.subject, e.tenant_id::text, e.payload ->> 'subscription_id', e.payload ->> 'reason'
    ]
    from public.frame_events e
    where e.type = 'subscription.disabled'
  ),
  array[
    'subscription:' || pg_temp.r('failing'),
    pg_temp.tenant()::text,
    pg_temp.r('failing')::text,
    'failing'
  ],
  'with an event that says so'
);
select pg_temp.later('1 day');
select is(pg_temp.claim(), '{}', 'a disabled subscription gets nothing');
select pg_temp.event('trade:g');
select is(pg_temp.claim(), '{}', 'nor does it take events up');

-- Enabled again.
select throws_ok(
  $$select public.redeliver_events(pg_temp.r('failing'), 1)$$,
  '23514',
  'the subscription is disabled'
);
select is(
  public.enable_event_subscription(pg_temp.r('failing')) - 'id',
  '{"pending": 1, "missed": false}',
  'an owner enables it'
);
select is(
  pg_temp.claim(),
  '{failing trade:f#1,failing trade:g#1}',
  'then it goes on where it was, with attempts from one'
);
select is(s.first_failure_at, null, 'and with a day of its own') from public.event_subscriptions s;

-- 410.
select pg_temp.report('failing trade:f#1', 'failed', 410);
select is(
  (select array[s.state, s.disabled_reason] from public.event_subscriptions s),
  '{disabled,gone}',
  'an answer 410 disables a subscription at once'
);
select is(
  pg_temp.report('failing trade:g#1'),
  '{"settled": 1, "stale": 0, "due": false}',
  'what was in flight is still reported'
);
select is(s.state, 'disabled', 'and does not enable it') from public.event_subscriptions s;
select is(
  (select count(*) from public.frame_events where type = 'subscription.disabled'),
  2::bigint,
  'one event for each time'
);
insert into purple_flea.feed_floors
select pg_temp.tenant(), f.epoch, last_value + 1, 9 from places, purple_flea.feed f;
select is(
  public.enable_event_subscription(pg_temp.r('failing')) ->> 'missed',
  'true',
  'who enables it learns that the feed has deleted events meanwhile'
);
select purple_flea.drop_secret(purple_flea.subscription_secret_name(pg_temp.r('failing')));
select throws_ok(
  $$select public.enable_event_subscription(pg_temp.r('failing'))$$,
  '23514',
  'the secret of the subscription is missing'
);

-- The end of its maker's membership.
select pg_temp.subscribe('maker''s'), pg_temp.subscribe('other''s');
update public.event_subscriptions set created_by = '1a000000-0000-4000-8000-000000000000'
where id = pg_temp.r('maker''s');
update public.event_subscriptions set created_by = '1b000000-0000-4000-8000-000000000000'
where id = pg_temp.r('other''s');
select pg_temp.event('trade:m') is not null, purple_flea.fan_out();
delete from public.memberships where user_id = '1a000000-0000-4000-8000-000000000000';
select is(
  array(
    select concat_ws(' ', r.name, s.state, s.disabled_reason, p.due_at is not null)
    from public.event_subscriptions s
    join receivers r on r.id = s.id
    join purple_flea.subscription_progress p on p.subscription_id = s.id
    where s.created_by is not null
    order by r.name
  ),
  array['maker''s disabled member_left f', 'other''s active t'],
  'a former member''s receiver gets nothing more'
);
select is(
  (
    select e.payload ->> 'reason'
    from public.frame_events e
    where e.subject = 'subscription:' || pg_temp.r('maker''s')
  ),
  'member_left',
  'with an event that says so'
);
insert into public.memberships (tenant_id, user_id, role)
values (pg_temp.tenant(), '1a000000-0000-4000-8000-000000000000', 'admin');
delete from public.event_subscriptions s where s.created_by is not null;

-- What a listener must not do to the log.
select pg_temp.event('trade:h'), pg_temp.later('1 h');
select pg_temp.claim();
select public.settle_deliveries(jsonb_build_array(
  delivery || '{"did": "failed", "error": "DROP TABLE", "ms": -4, "status": null}'))
from claimed where name like 'failing trade:%' order by ctid desc limit 1;
select is(
  (
    select array[a.error, a.ms::text]
    from public.event_delivery_attempts a
    order by a.id desc
    limit 1
  ),
  '{other,0}',
  'a code of another form is not kept'
);

-- The log's end.
select ok((select count(*) from public.event_delivery_attempts) > 20, 'there is a log');
select pg_temp.later('-1 year');
update public.event_delivery_attempts set at = now() - interval '6 days' where true;
select is(purple_flea.prune_attempts(), 0, 'it is kept for a week');
update public.event_delivery_attempts set at = now() - interval '7 days 1 minute' where true;
select is(purple_flea.prune_attempts(10), 10, 'then it is deleted, some rows at once');
select purple_flea.sweep_part('attempts');
select is((select count(*) from public.event_delivery_attempts), 0::bigint, 'by the sweeper');

select * from finish();
rollback;
