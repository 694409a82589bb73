-- Subscriptions that send the feed's events to Inngest: the key is the secret, and stands nowhere
-- else; the event's name can start no workflow; its id is the same for each attempt.
begin;
\ir setup/receivers.psql

select throws_ok(
  format('select public.create_event_subscription(pg_temp.tenant(), %L, %L, %L, %L)',
    url, '{}', format, key),
  '22023', null, 'no subscription: ' || concat_ws(' ', url, format, key)
)
from (values
  ('https://inn.gs', 'inngest', null),
  ('https://inn.gs', 'inngest', ''),
  ('https://inn.gs', 'inngest', 'two words'),
  ('https://inn.gs', 'inngest', 'a/../b'),
  ('https://inn.gs', 'inngest', 'whsec_abc'),
  ('https://inn.gs', 'inngest', repeat('k', 257)),
  ('https://inn.gs/e/key_in_the_url', 'inngest', 'a-key'),
  ('https://inn.gs/e', 'inngest', 'a-key'),
  ('https://inn.gs', 'standard', 'a-key'),
  ('https://inn.gs', 'kafka', null),
  ('https://inn.gs', null, null),
  ('http://inn.gs', 'inngest', 'a-key')
) as w (url, format, key);
select is_empty('select from public.event_subscriptions', 'none of them is there');

create temporary table made as
select public.create_event_subscription(
  pg_temp.tenant(), 'https://inn.gs', '{}', 'inngest', 'an-event_key') as reply;
select is(
  (select array_agg(k) from made, jsonb_object_keys(reply) as k), '{id}',
  'the key is not given back');
insert into receivers select 'inngest', (reply ->> 'id')::uuid, null from made;
select is_empty(
  $$select s from public.event_subscriptions s where s::text like '%an-event_key%'$$,
  'and no column has it');
select is(
  purple_flea.secret(purple_flea.subscription_secret_name(pg_temp.r('inngest'))), 'an-event_key',
  'the vault has it');
select throws_ok(
  format('select purple_flea.set_secret(%L, %L)',
    purple_flea.subscription_secret_name(pg_temp.r('inngest')),
    'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE='),
  '22023', null, 'a signing secret is no event key');
select lives_ok(
  format('select purple_flea.set_secret(%L, %L)',
    purple_flea.subscription_secret_name(pg_temp.r('inngest')), 'another_key'),
  'another event key is');
select pg_temp.subscribe('one');
select throws_ok(
  format('select purple_flea.set_secret(%L, %L)',
    purple_flea.subscription_secret_name(pg_temp.r('one')), 'an-event_key'),
  '22023', null, 'an event key signs nothing');

update purple_flea.subscription_progress
set position = -1000001, event_id = 0
where subscription_id = pg_temp.r('inngest');
select pg_temp.event('trade:1');
create temporary table delivered as
select d.value as delivery
from jsonb_array_elements(public.claim_deliveries(10, 60) -> 'deliveries') as d;
create function pg_temp.delivery(called text) returns jsonb language sql as $$
  select delivery from delivered where delivery ->> 'subscription' = pg_temp.r(called)::text
$$;
create function pg_temp.body(called text) returns jsonb language sql as $$
  select (pg_temp.delivery(called) ->> 'body')::jsonb
$$;
select is(pg_temp.delivery('one') ->> 'format', 'standard', 'a usual delivery');
select is(
  array[
    pg_temp.delivery('inngest') ->> 'format', pg_temp.delivery('inngest') ->> 'url',
    pg_temp.delivery('inngest') ->> 'secret'
  ],
  array['inngest', 'https://inn.gs', 'another_key'], 'one to Inngest, with its key');
select is(
  pg_temp.body('inngest') - 'ts',
  jsonb_build_object(
    'name', 'purple-flea-edge/' || (select type from public.frame_events),
    'id', pg_temp.delivery('inngest') ->> 'webhook_id',
    'data', (select payload from public.frame_events)),
  'its body is an event of Inngest''s');
select is(
  pg_temp.delivery('inngest') ->> 'webhook_id', pg_temp.delivery('one') ->> 'webhook_id',
  'whose id is the event''s own');
select is(
  (pg_temp.body('inngest') ->> 'ts')::bigint,
  (select floor(extract(epoch from occurred_at) * 1000)::bigint from public.frame_events),
  'with its time in milliseconds');

select * from finish();
rollback;
