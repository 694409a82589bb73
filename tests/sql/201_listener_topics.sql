-- Who may hear and send on the private topics of listeners: each role on each topic, also where the
-- project's own policies open all topics.
begin;
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
create function pg_temp.owner(digit text) returns uuid language sql as $$
  select translate('xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx', 'x', digit)::uuid
$$;
insert into public.agents (id, owner_id) values
  ('one', pg_temp.owner('1')),
  ('two', pg_temp.owner('2')),
  ('nobodys', null);
\ir ../stack/src/realtime.sql
grant usage on schema realtime to postgres with grant option;
set local role postgres;
\ir ../../sql/platform/040_realtime.sql
\ir ../../sql/platform/041_listener_topics.sql
reset role;

create temporary table topics (topic text, hears text[], sends text[]);
insert into topics values
  ('doorbell', '{service_role,worker}', '{service_role}'),
  ('trade-signals:one', '{service_role,user 1,worker}', '{service_role,user 1}'),
  ('trade-signals:two', '{service_role,user 2,worker}', '{service_role,user 2}'),
  ('trade-signals:nobodys', '{service_role,worker}', '{service_role}'),
  ('trade-signals:no-such', '{service_role,worker}', '{service_role}'),
  ('trade-signals:', '{service_role,worker}', '{service_role}'),
  ('trade-signals:one/two', '{service_role,worker}', '{service_role}'),
  ('trade-signals:' || repeat('a', 286), '{service_role,worker}', '{service_role}'),
  ('trade-signals', '{service_role}', '{service_role}'),
  (
    'agent-fleet:' || pg_temp.owner('1'), '{service_role,user 1,worker}', '{service_role,user 1}'),
  ('agent-fleet:', '{service_role,worker}', '{service_role}'),
  ('agent-fleet:one', '{service_role,worker}', '{service_role}');
insert into realtime.messages (topic, extension, private)
select t.topic, e, true from topics t, unnest(array['broadcast', 'presence']) as e;

-- A role of the project's own, which a token may name.
create role purple_flea_test_role nologin;
grant usage on schema realtime to purple_flea_test_role;
grant select, insert on realtime.messages to purple_flea_test_role;

create temporary table callers (name text, role name, claims text);
insert into callers values
  ('anonymous', 'anon', ''),
  ('user 1', 'authenticated', jsonb_build_object('sub', pg_temp.owner('1'))),
  ('user 2', 'authenticated', jsonb_build_object('sub', pg_temp.owner('2'))),
  ('third party', 'authenticated', '{"sub": "auth0|1"}'),
  ('no claims', 'authenticated', 'no json'),
  ('worker', 'purple_flea_worker', '{"role": "purple_flea_worker"}'),
  ('of the project', 'purple_flea_test_role', '{"role": "purple_flea_test_role"}'),
  ('service_role', 'service_role', '{"role": "service_role"}');
create function pg_temp.become(caller callers, topic text) returns void language plpgsql as $$
begin
  perform set_config('realtime.topic', topic, true);
  perform set_config('request.jwt.claims', caller.claims, true);
  perform set_config('role', caller.role, true);
end;
$$;
create function pg_temp.hears(caller callers, topic text, extension text) returns boolean
  language plpgsql
as $$
declare
  heard boolean;
begin
  perform pg_temp.become(caller, topic);
  heard := exists (
    select from realtime.messages m
    where m.topic = hears.topic and m.extension = hears.extension
  );
  reset role;
  return heard;
end;
$$;
create function pg_temp.sends(caller callers, topic text, extension text) returns boolean
  language plpgsql
as $$
begin
  perform pg_temp.become(caller, topic);
  insert into realtime.messages (topic, extension, private) values (topic, extension, true);
  reset role;
  return true;
exception when insufficient_privilege then
  reset role;
  return false;
end;
$$;
create function pg_temp.hold(under text) returns setof text language plpgsql as $$
declare
  t topics;
begin
  for t in select * from topics loop
    return next is(
      array(
        select c.name from callers c where pg_temp.hears(c, t.topic, 'broadcast') order by 1),
      t.hears,
      format('%s: who hears %s', under, left(t.topic, 60))
    );
    return next is(
      array(
        select c.name from callers c where pg_temp.sends(c, t.topic, 'broadcast') order by 1),
      t.sends,
      format('%s: who sends on %s', under, left(t.topic, 60))
    );
    return next is(
      array(
        select c.name from callers c where pg_temp.sends(c, t.topic, 'presence') order by 1),
      case when starts_with(t.topic, 'agent-fleet:') then t.sends else '{service_role}' end,
      format('%s: who tracks presence on %s', under, left(t.topic, 60))
    );
  end loop;
end;
$$;
grant select on topics, callers to public;
select pg_temp.hold('by our policies');
select is(
  array(select c.name from callers c where pg_temp.hears(
    c, 'agent-fleet:' || pg_temp.owner('1'), 'presence') order by 1),
  '{service_role,user 1,worker}',
  'who sees presence of a fleet'
);
update topics set hears = hears || '{third party,user 1,user 2}' where topic = 'trade-signals';

-- Policies of the project's own that open all topics.
create policy open_to_read on realtime.messages for select to public using (true);
create policy open_to_write on realtime.messages for insert to public with check (true);
grant insert on realtime.messages to purple_flea_worker;
delete from topics where topic = 'trade-signals' or topic !~ ':';
select is(
  array(select c.name from callers c where pg_temp.sends(c, 'doorbell', 'broadcast') order by 1),
  '{service_role}',
  'beside open policies nobody rings the doorbell'
);
select is(
  array(select c.name from callers c where pg_temp.hears(c, 'doorbell', 'broadcast') order by 1),
  '{service_role,worker}',
  'and the worker alone hears it'
);
select is(
  array(
    select format('%s %s', c.name, t.topic)
    from callers c, topics t
    where pg_temp.sends(c, t.topic, 'broadcast') <> (c.name = any (t.sends))
      or pg_temp.hears(c, t.topic, 'broadcast') <> (c.name = any (t.hears))
  ),
  '{}',
  'and every other topic is as private as before'
);
select is(
  pg_temp.hears(c, 'another', 'broadcast'), false, 'the worker hears no topic of the project''s')
from callers c where c.name = 'worker';

-- A user of Supabase Auth as the listener.
update purple_flea.ledger set listener_user = pg_temp.owner('9') where only_row;
insert into callers values
  ('listener', 'authenticated', jsonb_build_object('sub', pg_temp.owner('9')));
drop policy open_to_read on realtime.messages;
select ok(
  pg_temp.hears(c, t, 'broadcast') and not pg_temp.sends(c, t, 'broadcast'),
  'the listener''s user hears and does not send on ' || t
)
from
  callers c,
  unnest(array['doorbell', 'trade-signals:one', 'agent-fleet:' || pg_temp.owner('1')]) as t
where c.name = 'listener';

select * from finish();
rollback;
