-- Keys: they are shown once, their tenant's owners and admins make and revoke them, and a revoked
-- one opens nothing.
begin;
\ir setup/feed.psql

select matches(made ->> 'key', '^ek_[A-Za-z0-9_-]{43}$', 'a key has 256 random bits')
from keys where name = 'a';
select is(
  made ->> 'prefix',
  left(made ->> 'key', 11),
  'its prefix is shown'
)
from keys where name = 'a';
select is_empty(
  $$
    select from public.api_keys k, keys s
    where to_jsonb(k)::text like '%' || substr(s.made ->> 'key', 12) || '%'
  $$,
  'no table holds the key'
);
select is(
  encode(k.hash, 'hex'),
  pg_temp.hash('a'),
  'the table holds its SHA-256'
)
from public.api_keys k where k.label = 'a';
select throws_ok(
  format('select public.create_api_key(%L, %L, %L)', pg_temp.tenant('a'), label, scopes),
  '22023',
  null,
  'no such key is made: ' || why
)
from (values
  ('', '{events:read}', 'without a label'),
  (repeat('x', 101), '{events:read}', 'with a long label'),
  ('x', '{}', 'without a scope'),
  ('x', '{events:write}', 'with an unknown scope'),
  ('x', '{events:read,null}', 'with a null scope')
) as v (label, scopes, why);
select throws_ok(
  $$select public.create_api_key(gen_random_uuid(), 'x', '{events:read}')$$,
  '22023',
  'there is no such tenant',
  'nor one of no tenant'
);

-- Who makes and revokes keys.
insert into public.memberships (tenant_id, user_id, role) values
  (pg_temp.tenant('a'), '00000000-0000-0000-0000-0000000000ad', 'admin'),
  (pg_temp.tenant('a'), '00000000-0000-0000-0000-0000000000ee', 'member');
create temporary table known as
  select pg_temp.tenant('a') as tenant, (made ->> 'id')::uuid as key
  from keys
  where name = 'a';
grant select on known to authenticated, anon, service_role;
create temporary table made (who text, made jsonb);
grant select, insert on made to authenticated, service_role;

set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-0000000000ad"}';
select lives_ok(
  $$
    insert into made
    select 'admin', public.create_api_key(tenant, 'of the admin', '{events:read}')
    from known
  $$,
  'an admin makes a key'
);
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-0000000000ee"}';
select throws_ok(
  'select public.create_api_key(tenant, ''x'', ''{events:read}'') from known',
  '42501',
  null,
  'a member does not'
);
select throws_ok('select public.revoke_api_key(key) from known', '42501', null, 'nor revokes one');
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-00000000000b"}';
select throws_ok(
  'select public.create_api_key(tenant, ''x'', ''{events:read}'') from known',
  '42501',
  null,
  'an owner makes none for another tenant'
);
select throws_ok(
  'select public.revoke_api_key(key) from known',
  '42501',
  null,
  'and revokes none of another tenant'
);
select throws_ok(
  'select public.revoke_api_key(gen_random_uuid())',
  '42501',
  null,
  'and learns of no key whether it exists'
);
set local request.jwt.claims = '{"sub": "x"}';
select throws_ok(
  'select public.create_api_key(tenant, ''x'', ''{events:read}'') from known',
  '42501',
  null,
  'a subject that is no uuid makes none'
);
set local role anon;
select throws_ok(
  'select public.create_api_key(tenant, ''x'', ''{events:read}'') from known',
  '42501',
  null,
  'an anonymous caller makes none'
);
set local role purple_flea_worker;
select throws_ok(
  $$select public.create_api_key('00000000-0000-4000-8000-000000000001', 'x', '{events:read}')$$,
  '42501',
  null,
  'the worker makes none'
);
set local role service_role;
set local request.jwt.claims = '{"role": "service_role"}';
select lives_ok(
  $$
    insert into made
    select 'service', public.create_api_key(tenant, 'of the service', '{events:read}')
    from known
  $$,
  'the service makes one'
);
reset role;
select results_eq(
  $$select label, created_by from public.api_keys where label like 'of the %' order by 1$$,
  $$
    values
      ('of the admin', '00000000-0000-0000-0000-0000000000ad'::uuid),
      ('of the service', null)
  $$,
  'a key names its maker'
);

-- Use and revocation.
insert into keys select who, m.made from made m;
select is(pg_temp.read('admin') ->> 'state', 'ok', 'a key opens the feed');
select is(
  public.read_record(pg_temp.hash('admin'), 'agent', 'a') ->> 'state',
  'forbidden',
  'and nothing outside its scopes'
);
select is(
  (select count(*) from public.frame_events where type = 'api_key.used'),
  1::bigint,
  'its use is an event'
);
select is(pg_temp.read('admin') ->> 'state', 'ok', 'it is used again');
update public.api_keys
set last_used_at = last_used_at - interval '2 minutes'
where label = 'of the admin';
select is(pg_temp.read('admin') ->> 'state', 'ok', 'and again later');
select is(
  (select count(*) from public.frame_events where type = 'api_key.used'),
  1::bigint,
  'within an hour without another event'
);
select ok(
  last_used_at > clock_timestamp() - interval '1 minute',
  'but with the time of the use'
)
from public.api_keys where label = 'of the admin';
update public.api_keys
set last_used_at = last_used_at - interval '2 hours', use_told_at = use_told_at - interval '2 hours'
where label = 'of the admin';
select is(pg_temp.read('admin') ->> 'state', 'ok', 'and two hours later');
select is(
  (select count(*) from public.frame_events where type = 'api_key.used'),
  2::bigint,
  'with another event'
);
select is(
  public.revoke_api_key((made ->> 'id')::uuid) ->> 'prefix',
  made ->> 'prefix',
  'a key is revoked'
)
from keys where name = 'service';
select is(pg_temp.read('service') ->> 'state', 'unauthorized', 'and opens nothing from then on');
select is(
  public.read_record(pg_temp.hash('service'), 'agent', 'a') ->> 'state',
  'unauthorized',
  'no record either'
);
select lives_ok(
  format('select public.revoke_api_key(%L)', made ->> 'id'),
  'a second revocation is none'
)
from keys where name = 'service';
select is(
  (select count(*) from public.frame_events where type = 'api_key.revoked'),
  1::bigint,
  'a revocation is one event'
);
select is(
  payload - 'occurred_at',
  jsonb_build_object(
    'type', 'api_key.revoked',
    'status', 'revoked',
    'tenant_id', pg_temp.tenant('a'),
    'api_key_id', (select made ->> 'id' from keys where name = 'service')
  ),
  'which names the key'
)
from public.frame_events where type = 'api_key.revoked';
delete from public.memberships where user_id = '00000000-0000-0000-0000-0000000000ad';
select is(
  pg_temp.read('admin') ->> 'state',
  'unauthorized',
  'a key ends with its maker''s membership'
);
select is(pg_temp.read('a') ->> 'state', 'ok', 'and other keys go on');
select is(
  public.read_events(h) ->> 'state',
  'unauthorized',
  'no such key opens anything: ' || coalesce(h, 'null')
)
from unnest(
  array[null, '', 'x', repeat('0', 64), upper(pg_temp.hash('a')), pg_temp.hash('a') || '0']
) as h;

select * from finish();
rollback;
