-- Webhook subscriptions: who may make one, which URLs and types it may have, and its secret.
begin;
\ir setup/receivers.psql

-- URLs.
select is(purple_flea.is_subscription_url(url), true, 'a receiver: ' || url)
from unnest(array[
  'https://hooks.example.com', 'https://hooks.example.com/',
  'https://Hooks.Example.com/a/b-c_d%20e',
  'https://hooks.example.com:443/', 'https://hooks.example.com:8443/a', 'https://a.b.xn--p1ai/',
  'https://hooks.example.com:65535', 'https://1.example.com/', 'https://mylocal.example/',
  'https://internal.example.com/'
]) as url;
select is(purple_flea.is_subscription_url(url), false, 'no receiver: ' || left(url, 60))
from unnest(array[
  '', 'hooks.example.com', 'http://hooks.example.com/', 'ftp://hooks.example.com/', 'https://',
  'https://localhost/', 'https://localhost:8443/', 'https://a.localhost/', 'https://printer.local/',
  'https://metadata.google.internal/', 'https://router.home.arpa/', 'https://intranet/',
  'https://127.0.0.1/', 'https://10.0.0.1/', 'https://169.254.169.254/', 'https://[::1]/',
  'https://2130706433/', 'https://0x7f.1/', 'https://127.1/', 'https://0x7f000001/',
  'https://user@hooks.example.com/', 'https://user:word@hooks.example.com/',
  'https://hooks.example.com@127.0.0.1/', 'https://hooks.example.com/@127.0.0.1',
  'https://hooks.example.com/?token=1', 'https://hooks.example.com/#a',
  'https://hooks.example.com:22/', 'https://hooks.example.com:80/', 'https://hooks.example.com:0/',
  'https://hooks.example.com:65536/', 'https://hooks.example.com:99999/',
  'https://hooks.example.com:/', 'https://hooks example.com/', 'https://hooks.example.com/a b',
  E'https://hooks.example.com/\n', 'https://hooks.example.com./', 'https://-a.example.com/',
  'https://hooks..example.com/', 'https://hooks.example.com\@127.0.0.1/',
  'https://hooks.example.com/' || repeat('a', 2048)
]) as url;

-- Making one.
select is(
  pg_temp.subscribe('all') is not null,
  true,
  'the service makes a subscription'
);
select ok(
  purple_flea.is_webhook_secret((select secret from receivers)),
  'and gets its secret, in the form of Standard Webhooks'
);
select is(
  purple_flea.secret('purple_flea_subscription:' || pg_temp.r('all')),
  (select secret from receivers),
  'which is where secrets are'
);
select is(
  (select to_jsonb(s)::text like '%whsec_%' from public.event_subscriptions s),
  false,
  'and nowhere in its row'
);
select pg_temp.subscribe('another');
select isnt(
  (select secret from receivers where name = 'all'),
  (select secret from receivers where name = 'another'),
  'each has a secret of its own'
);
select throws_ok(
  $$select public.create_event_subscription(pg_temp.tenant(), 'http://hooks.example.com/')$$,
  '22023',
  'this URL cannot be a receiver''s'
);
select throws_ok(
  $$select public.create_event_subscription(pg_temp.tenant(), null)$$,
  '22023',
  'this URL cannot be a receiver''s'
);
select throws_ok(
  $$select public.create_event_subscription(
    pg_temp.tenant(), 'https://hooks.example.com/', '{test.executed, test.made_up}')$$,
  '22023',
  'there are no events of the types: test.made_up'
);
select throws_ok(
  $$select public.create_event_subscription(
    pg_temp.tenant(), 'https://hooks.example.com/', array[null])$$,
  '22023',
  'types are an array of at most 64 types'
);
select throws_ok(
  $$select public.create_event_subscription(gen_random_uuid(), 'https://hooks.example.com/')$$,
  '22023',
  'there is no such tenant'
);
select pg_temp.subscribe('two', '{test.executed,test.online,test.executed}');
select is(s.types, '{test.executed,test.online}', 'types are kept once each')
from public.event_subscriptions s
where s.id = pg_temp.r('two');

-- A thousand of one tenant.
insert into public.event_subscriptions (tenant_id, url)
select pg_temp.tenant(), 'https://hooks.example.com/' || n
from generate_series(1, 1000 - 3) as n;
select throws_ok(
  $$select public.create_event_subscription(pg_temp.tenant(), 'https://hooks.example.com/')$$,
  '23514',
  'the tenant has 1000 subscriptions, and may have no more'
);
select lives_ok(
  $$select pg_temp.subscribe('other tenant', '{}', '20000000-0000-4000-8000-000000000000')$$,
  'another tenant still may'
);
delete from public.event_subscriptions where id not in (select id from receivers);

-- Who may.
create function pg_temp.as_user(person text, statement text) returns text language plpgsql as $$
declare
  answer text;
begin
  perform set_config('request.jwt.claims', json_build_object('sub', person)::text, true);
  set local role authenticated;
  execute statement into answer;
  reset role;
  return answer;
exception when others then
  reset role;
  return sqlstate;
end;
$$;
grant select on receivers to authenticated;
create function pg_temp.tries(person text) returns text[] language sql as $$
  select array[
    left(pg_temp.as_user(person, $q$select public.create_event_subscription(
      '10000000-0000-4000-8000-000000000000', 'https://hooks.example.com/') ->> 'secret'$q$), 6),
    pg_temp.as_user(person, format(
      'select public.enable_event_subscription(%L) ->> ''missed''', pg_temp.r('two'))),
    pg_temp.as_user(person, format(
      'select public.redeliver_events(%L, 1) ->> ''queued''', pg_temp.r('two'))),
    pg_temp.as_user(person, 'select (count(*) > 0)::text from public.event_subscriptions'),
    pg_temp.as_user(person, format(
      'select public.delete_event_subscription(%L)::text', pg_temp.r('two')))
  ]
$$;
select is(
  pg_temp.tries('1b000000-0000-4000-8000-000000000000'),
  '{42501,42501,42501,true,42501}',
  'a member reads subscriptions, and changes none'
);
select is(
  pg_temp.tries('2b000000-0000-4000-8000-000000000000'),
  '{42501,42501,42501,false,42501}',
  'a stranger does neither'
);
select is(pg_temp.tries('no uuid'), '{42501,42501,42501,false,42501}', 'nor does a strange token');
select is(
  pg_temp.tries('2a000000-0000-4000-8000-000000000000'),
  '{42501,42501,42501,true,42501}',
  'the owner of another tenant reads that tenant''s alone'
);
select is(
  pg_temp.tries('1a000000-0000-4000-8000-000000000000'),
  array['whsec_', 'false', '0', 'true', ''],
  'an admin makes, enables, sends anew, and deletes'
);
select is(
  pg_temp.as_user(
    '1a000000-0000-4000-8000-000000000000',
    'select string_agg(distinct tenant_id::text, '','') from public.event_subscriptions'
  ),
  '10000000-0000-4000-8000-000000000000',
  'an admin sees no other tenant''s'
);
select is(
  pg_temp.as_user('1a000000-0000-4000-8000-000000000000', q),
  '42501',
  'no user may: ' || q
)
from unnest(array[
  'select public.claim_deliveries(1, 60)::text',
  'select public.settle_deliveries(''[]'')::text',
  'insert into public.event_subscriptions (tenant_id, url) values (null, null) returning url',
  'update public.event_subscriptions set url = url where true returning url',
  'delete from public.event_subscriptions where true returning url',
  'delete from public.event_delivery_attempts where true returning error'
]) as q;

set local role anon;
select throws_ok(q, '42501')
from unnest(array[
  $$select public.create_event_subscription(
    '10000000-0000-4000-8000-000000000000', 'https://hooks.example.com/')$$,
  'select public.enable_event_subscription(gen_random_uuid())',
  'select public.delete_event_subscription(gen_random_uuid())',
  'select public.redeliver_events(gen_random_uuid(), 1)',
  'select * from public.event_subscriptions',
  'select * from public.event_delivery_attempts'
]) as q;
reset role;

-- Deleting one.
select is(
  purple_flea.secret('purple_flea_subscription:' || pg_temp.r('two')),
  null,
  'a deleted subscription leaves no secret'
);
delete from public.tenants where id = '20000000-0000-4000-8000-000000000000';
select is(
  purple_flea.secret('purple_flea_subscription:' || pg_temp.r('other tenant')),
  null,
  'nor does a deleted tenant'
);
select throws_ok(
  $$select public.delete_event_subscription(gen_random_uuid())$$,
  '22023',
  'there is no such subscription'
);

-- An operator changes a secret.
select lives_ok(
  $$select purple_flea.set_secret(
    'purple_flea_subscription:' || pg_temp.r('all'),
    'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=')$$,
  'an operator sets a subscription''s secret'
);
select throws_ok(
  $$select purple_flea.set_secret('purple_flea_subscription:' || pg_temp.r('all'), 'short')$$,
  '22023'
);
select throws_ok(
  $$select purple_flea.set_secret(
    'purple_flea_subscription:' || gen_random_uuid(),
    'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=')$$,
  '22023'
);

-- The record.
select is(
  purple_flea.record_subscription(pg_temp.tenant(), pg_temp.r('all')::text) ->> 'state',
  'active',
  'a subscription is a record of its tenant'
);
select is(purple_flea.record_subscription(pg_temp.tenant(), 'x'), null, 'another id is none');
select is(
  purple_flea.record_subscription(gen_random_uuid(), pg_temp.r('all')::text),
  null,
  'nor is it another tenant''s'
);

select * from finish();
rollback;
