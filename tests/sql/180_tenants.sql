-- Tenants: whose agents are whose, and which rows of the feed each role reads.
begin;
\ir setup/feed.psql

select is(
  (select count(*) from public.tenants where owner_id is not null),
  2::bigint,
  'each owner of agents has a tenant'
);
select results_eq(
  $$
    select t.owner_id, m.role
    from public.memberships m
    join public.tenants t on t.id = m.tenant_id and t.owner_id = m.user_id
    order by 1
  $$,
  $$
    values
      ('00000000-0000-0000-0000-00000000000a'::uuid, 'owner'),
      ('00000000-0000-0000-0000-00000000000b', 'owner')
  $$,
  'and is its owner'
);
select is(
  purple_flea.tenant_of('nobodys'),
  '00000000-0000-4000-8000-000000000001'::uuid,
  'an agent without an owner belongs to the operator'
);
select is(
  purple_flea.tenant_of('no such agent'),
  purple_flea.operator_tenant(),
  'and so does an agent that is gone'
);
insert into public.tenants (id, name) values ('00000000-0000-4000-8000-0000000000ff', 'a team');
update public.agents set tenant_id = '00000000-0000-4000-8000-0000000000ff' where id = 'b';
select is(
  purple_flea.tenant_of('b'),
  '00000000-0000-4000-8000-0000000000ff'::uuid,
  'an agent''s own tenant comes before its owner''s'
);
update public.agents set owner_id = '00000000-0000-0000-0000-00000000000c' where id = 'nobodys';
select is(
  (select t.owner_id from public.tenants t where t.id = purple_flea.tenant_of('nobodys')),
  '00000000-0000-0000-0000-00000000000c'::uuid,
  'a new owner gets a tenant'
);
delete from public.memberships where user_id = '00000000-0000-0000-0000-00000000000c';
insert into public.agents (id, owner_id) values ('c', '00000000-0000-0000-0000-00000000000c');
select is_empty(
  $$select from public.memberships where user_id = '00000000-0000-0000-0000-00000000000c'$$,
  'an owner who left the tenant is not brought back by another agent'
);
select throws_ok(
  $$delete from public.tenants where id = '00000000-0000-4000-8000-000000000001'$$,
  '23514',
  null,
  'the operator''s tenant stays'
);
select throws_ok(
  $$update public.tenants set id = gen_random_uuid() where name = 'operator'$$,
  '23514',
  null,
  'with its id'
);
select throws_ok(
  $$delete from public.tenants where name = 'a team'$$,
  '23503',
  null,
  'a tenant with agents stays, too'
);

select throws_ok(
  $$delete from public.tenants where owner_id = '00000000-0000-0000-0000-00000000000a'$$,
  '23503',
  'the agents of its owner belong to the tenant',
  'and so does an owner''s, whose agents'' events would be the operator''s'
);
select throws_ok(
  $$update public.tenants set owner_id = null
    where owner_id = '00000000-0000-0000-0000-00000000000a'$$,
  '23503',
  'the agents of its owner belong to the tenant',
  'which keeps its owner'
);
select lives_ok(
  $$update public.tenants set name = 'renamed', owner_id = owner_id
    where owner_id = '00000000-0000-0000-0000-00000000000a'$$,
  'its name is free'
);
select lives_ok(
  $$delete from public.tenants where owner_id = '00000000-0000-0000-0000-00000000000b'$$,
  'the tenant of an owner whose agents belong to others is deleted'
);

update public.agents set tenant_id = null where id = 'b';
select is(
  (select t.owner_id from public.tenants t where t.id = pg_temp.tenant('b')),
  '00000000-0000-0000-0000-00000000000b'::uuid,
  'and is made anew for an agent that comes back'
);
update public.agents set tenant_id = '00000000-0000-4000-8000-0000000000ff' where id = 'b';

-- What members read.
select pg_temp.fire('a', 'of-a'), pg_temp.fire('b', 'of-the-team');
insert into public.memberships (tenant_id, user_id)
values (pg_temp.tenant('a'), '00000000-0000-0000-0000-00000000000d');
create temporary table counted as
  select pg_temp.tenant('a') as tenant, pg_temp.tenant('b') as team;
grant select on counted to authenticated, anon, service_role;

set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-00000000000d"}';
select results_eq(
  'select id from public.tenants',
  'select tenant from counted',
  'a member reads the tenant'
);
select results_eq(
  'select user_id from public.memberships order by 1',
  $$
    values
      ('00000000-0000-0000-0000-00000000000a'::uuid),
      ('00000000-0000-0000-0000-00000000000d')
  $$,
  'and its members'
);
select results_eq('select label from public.api_keys', array['a'], 'and its keys');
select throws_ok('select hash from public.api_keys', '42501', null, 'but not their hashes');
select results_eq(
  'select subject from public.frame_events',
  array['trade:of-a'],
  'and its events, and no other'
);
select throws_ok(
  $$insert into public.frame_events
      (tenant_id, type, subject, payload, occurred_at, epoch, position)
    select tenant, 'test.executed', 'trade:x', '{}', now(), 1, 1 from counted$$,
  '42501',
  null,
  'but writes none'
);
select throws_ok(
  $$insert into public.memberships (tenant_id, user_id)
    select team, '00000000-0000-0000-0000-00000000000d' from counted$$,
  '42501',
  null,
  'and joins no tenant alone'
);
reset role;
delete from public.memberships where user_id = '00000000-0000-0000-0000-00000000000d';
set local role authenticated;
select is_empty('select from public.frame_events', 'a former member reads no event');
select is_empty('select from public.tenants', 'no tenant');
select is_empty('select id from public.api_keys', 'no key');
select is_empty('select from public.memberships', 'and no membership');
set local request.jwt.claims = '{"sub": "someone@elsewhere"}';
select is_empty('select from public.frame_events', 'a subject that is no uuid reads no event');
select is_empty('select from public.memberships', 'and raises nothing');
set local request.jwt.claims = 'no json';
select is_empty('select from public.frame_events', 'nor do claims that are no JSON');
set local request.jwt.claims = '';
select is_empty('select from public.frame_events', 'a user without an id reads no event');
set local role anon;
select throws_ok(
  format('select from public.%I', t),
  '42501',
  null,
  'anonymous callers see no ' || t
)
from unnest(array['tenants', 'memberships', 'frame_events', 'event_types']) as t;
select throws_ok('select id from public.api_keys', '42501', null, 'nor any key');
set local role service_role;
select isnt_empty('select from public.frame_events', 'the service reads events');
select throws_ok('delete from public.frame_events where id = 1', '42501', null, 'and deletes none');
select throws_ok('select hash from public.api_keys', '42501', null, 'it reads no hash');
select throws_ok(
  $$update public.api_keys set revoked_at = null where true$$,
  '42501',
  null,
  'and revives no key'
);
select lives_ok(
  $$insert into public.tenants (name) values ('made by the service')$$,
  'it makes tenants'
);
reset role;

-- The policies' cost: one look-up by primary key for a row, however many tenants a user has.
insert into public.tenants (name, owner_id)
select 'n', md5(n::text)::uuid from generate_series(1, 3000) as n;
insert into public.memberships (tenant_id, user_id)
select id, '00000000-0000-0000-0000-00000000000e' from public.tenants;
analyze public.memberships;
create function pg_temp.plan(statement text) returns setof text language plpgsql as $$
begin
  return query execute 'explain (costs off) ' || statement;
end;
$$;
grant execute on function pg_temp.plan(text) to authenticated;
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-00000000000e"}';
select ok(
  string_agg(line, E'\n')
    ~ 'Index Cond: \(\((tenant_id = .* AND \(user_id|user_id = .* AND \(tenant_id)'
    and string_agg(line, E'\n') not like '%hashed%',
  t || ': a row is allowed by one look-up of its membership'
)
from unnest(array['frame_events', 'api_keys', 'tenants']) as t
cross join lateral pg_temp.plan(
  format('select id from public.%I where id::text = %L', t, 'x')) as line
group by t;
reset role;

-- Private topics of Realtime.
\ir ../stack/src/realtime.sql
\ir ../../sql/platform/040_realtime.sql
insert into realtime.messages (topic, extension, private) values
  ('tenant:' || pg_temp.tenant('a'), 'broadcast', true),
  ('tenant:' || pg_temp.tenant('a'), 'presence', true);
create function pg_temp.joins(topic text, claims text) returns text language plpgsql as $$
declare
  seen text;
begin
  perform set_config('realtime.topic', topic, true);
  perform set_config('request.jwt.claims', claims, true);
  set local role authenticated;
  select string_agg(m.extension, ',') into seen
  from realtime.messages m
  where m.topic = joins.topic;
  reset role;
  return coalesce(seen, 'nothing');
end;
$$;
select is(
  pg_temp.joins('tenant:' || tenant, '{"sub": "00000000-0000-0000-0000-00000000000a"}'),
  'broadcast',
  'a member joins the tenant''s topic, and its presence is nobody''s'
)
from counted;
select is(
  pg_temp.joins('tenant:' || tenant, '{"sub": "00000000-0000-0000-0000-00000000000b"}'),
  'nothing',
  'a stranger does not'
)
from counted;
select is(
  pg_temp.joins(topic, '{"sub": "00000000-0000-0000-0000-00000000000a"}'),
  'nothing',
  'no other topic is opened: ' || topic
)
from unnest(array['tenant:', 'tenant:x', 'agent:a', 'tenant:' || pg_temp.tenant('b')]) as topic;
select is(
  pg_temp.joins('tenant:' || tenant, '{"sub": "x"}'),
  'nothing',
  'a subject that is no uuid raises nothing'
)
from counted;
select set_config('request.jwt.claims', '{"sub": "00000000-0000-0000-0000-00000000000a"}', true);
set local role authenticated;
select throws_ok(
  format(
    $$insert into realtime.messages (topic, extension, private) values (%L, 'broadcast', true)$$,
    'tenant:' || tenant
  ),
  '42501',
  null,
  'a member sends nothing to the topic'
)
from counted;

-- A project's own policies open all topics. The events' topics stay closed.
reset role;
create policy everybody_listens on realtime.messages
  for select to anon, authenticated
  using (true);
create policy everybody_sends on realtime.messages
  for insert to anon, authenticated
  with check (true);
insert into realtime.messages (topic, extension, private) values ('lobby', 'broadcast', true);
select is(
  pg_temp.joins(topic, format('{"sub": "00000000-0000-0000-0000-00000000000%s"}', who)),
  sees,
  format('%s sees %s of %s', who, sees, kind)
)
from counted
cross join lateral (values
  ('a', 'lobby', 'lobby', 'broadcast'),
  ('b', 'lobby', 'lobby', 'broadcast'),
  ('a', 'a tenant', 'tenant:' || tenant, 'broadcast,presence'),
  ('b', 'a tenant', 'tenant:' || tenant, 'presence')
) as v (who, kind, topic, sees);
create function pg_temp.sends(by_role text, to_topic text) returns text language plpgsql as $$
begin
  perform set_config('realtime.topic', to_topic, true);
  perform set_config('role', by_role, true);
  insert into realtime.messages (topic, extension, private) values (to_topic, 'broadcast', true);
  perform set_config('role', 'none', true);
  return 'sent';
exception when insufficient_privilege then
  return 'refused';
end;
$$;
select is(
  array[pg_temp.sends(by_role, 'lobby'), pg_temp.sends(by_role, 'tenant:' || tenant)],
  '{sent,refused}',
  'nobody makes up an event: ' || by_role
)
from counted
cross join unnest(array['anon', 'authenticated']) as by_role;
select set_config('realtime.topic', 'tenant:' || tenant, true) from counted;
set local role anon;
select results_eq(
  $$select topic, extension from realtime.messages where extension = 'broadcast'
    group by topic, extension order by topic$$,
  $$values ('lobby', 'broadcast')$$,
  'anonymous callers hear no events'
);
reset role;

select * from finish();
rollback;
