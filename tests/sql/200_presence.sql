-- Presence: what a listener reports counts as a heartbeat, of the owner's own agents only.
begin;
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
create function pg_temp.owner(digit text) returns uuid language sql as $$
  select translate('xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx', 'x', digit)::uuid
$$;
insert into public.agents (id, owner_id, status) values
  ('one', pg_temp.owner('1'), 'offline'),
  ('two', pg_temp.owner('1'), 'idle'),
  ('theirs', pg_temp.owner('2'), 'offline'),
  ('nobodys', null, 'offline');
create function pg_temp.there() returns text[] language sql as $$
  select coalesce(array_agg(a.id order by a.id), '{}')
  from public.agents a
  where a.last_seen_at > clock_timestamp() - interval '5 seconds' and a.status <> 'offline'
$$;
create function pg_temp.silent(wanted text, for_how_long interval) returns void language sql as $$
  update public.agents set last_seen_at = clock_timestamp() - for_how_long where id = wanted
$$;
create function pg_temp.row_of(wanted text) returns tid language sql as $$
  select a.ctid from public.agents a where a.id = wanted
$$;

select set_config('role', 'purple_flea_worker', true);
select is(
  public.report_presence(
    pg_temp.owner('1'), array['one', 'theirs', 'nobodys', 'no-such', repeat('€', 300), null]),
  jsonb_build_object('noted', 1, 'refused', jsonb_build_array(
    jsonb_build_object('agent_id', 'no-such', 'reason', 'not_the_owners'),
    jsonb_build_object('agent_id', 'nobodys', 'reason', 'not_the_owners'),
    jsonb_build_object('agent_id', 'theirs', 'reason', 'not_the_owners'),
    jsonb_build_object('agent_id', repeat('€', 64), 'reason', 'not_the_owners'),
    jsonb_build_object('agent_id', null, 'reason', 'not_the_owners')
  )),
  'a report names what it refuses, and why'
);
reset role;
select is(pg_temp.there(), array['one'], 'and notes the owner''s own agent alone: it is online');
select is(
  array(
    select e.type from public.frame_events e where e.subject = 'agent:one'
    and e.type = 'agent.online'
  ),
  array['agent.online'],
  'and the feed says so'
);
create temporary table before as select pg_temp.row_of('one') as place;
select is(
  public.report_presence(pg_temp.owner('1'), array['one', 'one']),
  '{"noted": 0, "refused": []}',
  'a second report within five seconds'
);
select is(pg_temp.row_of('one'), place, 'writes nothing') from before;
select pg_temp.silent('one', '6 seconds');
select is(
  public.report_presence(pg_temp.owner('1'), array['one', 'two']) -> 'noted',
  '2',
  'later ones are noted'
);
select is(pg_temp.there(), array['one', 'two'], 'for each agent');
select pg_temp.silent('one', '-1 hour');
select is(
  public.report_presence(pg_temp.owner('1'), array['one']) -> 'noted',
  '1',
  'a clock that was set back stops no presence'
);
select pg_temp.silent('one', '31 seconds');
select purple_flea.end_heartbeats();
select is(pg_temp.there(), array['two'], 'an agent that is tracked no longer goes offline');
select is(
  public.report_presence(pg_temp.owner('1'), '{}'),
  '{"noted": 0, "refused": []}',
  'an empty report changes nothing'
);
select throws_ok(
  format('select public.report_presence(%s)', wrong), '22023', null, wrong || ' is refused')
from unnest(array[
  $$null, '{one}'$$,
  $$'11111111-1111-1111-1111-111111111111', null$$,
  $$'11111111-1111-1111-1111-111111111111', array[['one', 'two'], ['one', 'two']]$$,
  $$'11111111-1111-1111-1111-111111111111', array_fill('one'::text, array[1001])$$
]) as wrong;

-- The owners whose topics a listener joins.
select is(
  public.fleet_owners(),
  jsonb_build_object(
    'owners', jsonb_build_array(pg_temp.owner('1'), pg_temp.owner('2')), 'more', false),
  'the owners of agents, each once, and nobody for an agent without one'
);
select is(
  public.fleet_owners(null, 1),
  jsonb_build_object('owners', jsonb_build_array(pg_temp.owner('1')), 'more', true),
  'as many as are wanted, and whether there are more'
);
select is(
  public.fleet_owners(pg_temp.owner('1'), 1),
  jsonb_build_object('owners', jsonb_build_array(pg_temp.owner('2')), 'more', false),
  'and the rest of them'
);
select is(
  public.fleet_owners(pg_temp.owner('2')), '{"owners": [], "more": false}', 'up to the end');
select throws_ok(
  format('select public.fleet_owners(null, %s)', wrong), '22023', null, wrong || ' is refused')
from unnest(array['0', '1001', 'null']) as wrong;

select is(
  array_agg(r order by r),
  '{purple_flea_worker,service_role}',
  f || ' is for listeners, and for nobody else'
)
from
  unnest(array['anon', 'authenticated', 'service_role', 'purple_flea_worker',
    'purple_flea_operator']) as r,
  unnest(array['public.report_presence(uuid, text[])', 'public.fleet_owners(uuid, integer)']) as f
where has_function_privilege(r, f, 'execute')
group by f;

select * from finish();
rollback;
