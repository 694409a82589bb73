-- Results on the owners' topics of Realtime: who is told what, that nothing of it touches a
-- settlement, and the rate of messages.
begin;
\ir setup/deposits.psql

create function pg_temp.owner(letter text) returns uuid language sql as $$
  select ('00000000-0000-0000-0000-00000000000' || letter)::uuid
$$;
insert into public.agents (id, owner_id) values
  ('a1', pg_temp.owner('a')),
  ('a2', pg_temp.owner('a')),
  ('b1', pg_temp.owner('b')),
  ('nobodys', null);
create function pg_temp.outcomes(of_jobs text[], token uuid, state text, result jsonb)
  returns json
  language sql
as $$
  select json_agg(json_build_object(
    'reference', r, 'token', token, 'state', state,
    'result', jsonb_build_object('bet_id', r) || result
  ))
  from unnest(of_jobs) as r
$$;
create function pg_temp.settles(
  of_jobs text[],
  state   text default 'executed',
  result  jsonb default pg_temp.bet('x') - 'bet_id'
) returns jsonb language plpgsql as $$
declare
  token constant uuid := gen_random_uuid();
begin
  perform public.claim_jobs(of_jobs, 100, token);
  return public.settle_jobs(pg_temp.outcomes(of_jobs, token, state, result), 2);
end;
$$;
create function pg_temp.deposits(agent text, number integer default 1) returns text[]
  language sql
as $$
  select array_agg(pg_temp.deposit(agent)) from generate_series(1, number)
$$;
-- The events of the feed have topics of their own. The log has each message for the check against
-- the document.
create function pg_temp.told() returns text[] language plpgsql as $$
declare
  message jsonb;
  said    text[];
begin
  for message in select m.payload from realtime.messages m where m.topic like 'owner:%' loop
    raise log 'results told: %', message;
  end loop;
  select array_agg(
      m.topic || ' ' || m.event || ' ' || jsonb_array_length(m.payload -> 'results')
      order by m.topic
    )
    into said
  from realtime.messages m
  where m.topic like 'owner:%'
    and m.private
    and m.extension = 'broadcast';
  truncate realtime.messages;
  return coalesce(said, '{}');
end;
$$;
create function pg_temp.topic(letter text) returns text language sql as $$
  select 'owner:' || pg_temp.owner(letter)
$$;
create function pg_temp.message(letter text, number integer) returns text language sql as $$
  select pg_temp.topic(letter) || ' trade_result ' || number
$$;
create function pg_temp.spent() returns bigint language sql as $$
  select last_value from purple_flea.realtime_spent
$$;
create function pg_temp.dropped() returns bigint language sql as $$
  select (public.ledger_health() #>> '{feed,realtime,dropped}')::bigint
$$;
-- Leaves so many messages of the rate.
create function pg_temp.leave(number integer) returns void language sql as $$
  select setval(
    'purple_flea.realtime_spent',
    floor(extract(epoch from clock_timestamp()) * realtime_events_per_s)::bigint - number
  )
  from purple_flea.ledger
$$;

-- Without Realtime.
create temporary table kept as select pg_temp.spent() as spent;
select is(
  pg_temp.settles(pg_temp.deposits('a1')) #>> '{0,did}',
  'settled',
  'a database without Realtime settles'
);
select is(pg_temp.spent(), spent, 'and does nothing for it') from kept;

-- Who is told.
\ir ../stack/src/realtime.sql
create temporary table jobs as
  select pg_temp.deposits('a1', 2) as a1, pg_temp.deposits('a2') as a2,
    pg_temp.deposits('b1') as b1, pg_temp.deposits('nobodys') as nobodys;
create temporary table report as select pg_temp.settles(a1 || a2 || b1 || nobodys) as r from jobs;
select is(
  (select count(*) from report, jsonb_array_elements(r) as e where e ->> 'did' = 'settled'),
  5::bigint,
  'with Realtime the answer is the same'
);
select is(
  array_agg(distinct m.topic),
  array[pg_temp.topic('a'), pg_temp.topic('b')],
  'an owner gets a message, and an agent without an owner sends none'
)
from realtime.messages m where m.topic like 'owner:%';
select is(
  array(
    select e ->> 'reference' from jsonb_array_elements(m.payload -> 'results') as e order by 1
  ),
  array(select unnest(a1 || a2) order by 1),
  'it has the results of all of the owner''s agents, and no other'
)
from realtime.messages m, jobs where m.topic = pg_temp.topic('a');
select is(
  m.payload -> 'results',
  jsonb_build_array(jsonb_build_object(
    'reference', b1[1], 'agent_id', 'b1', 'kind', 'deposit', 'state', 'executed',
    'game', 'crash', 'wager', 10.0000, 'payout', 15.0000, 'outcome', 'win',
    'trade_result_id', (select t.id from public.trade_results t where t.reference = b1[1])
  )),
  'a result of a bet is small, and names its row'
)
from realtime.messages m, jobs where m.topic = pg_temp.topic('b');
select is(
  pg_temp.told(),
  array[pg_temp.message('a', 3), pg_temp.message('b', 1)],
  'a settlement sends an owner one message'
);

select pg_temp.settles(
  pg_temp.deposits('b1'),
  'executed',
  '{"status": "executed", "market": "BTC", "direction": "long", "wager": 10, "position_id": "p-1"}'
);
select is(
  (m.payload #> '{results,0}') - '{reference,trade_result_id}'::text[],
  '{"agent_id": "b1", "kind": "deposit", "state": "executed", "market": "BTC",
    "wager": 10.0000, "position_id": "p-1"}',
  'a trade''s names its position'
)
from realtime.messages m where m.topic = pg_temp.topic('b');
select pg_temp.told();
select pg_temp.settles(pg_temp.deposits('b1'), 'skipped', '{"reason": "below_minimum"}');
select is(
  (m.payload #> '{results,0}') - 'reference',
  '{"agent_id": "b1", "kind": "deposit", "state": "skipped", "reason": "below_minimum"}',
  'a bet that is not made has its reason'
)
from realtime.messages m where m.topic = pg_temp.topic('b');
select pg_temp.told();
select pg_temp.settles(pg_temp.deposits('b1'), 'pending', '{"reason": "unreachable"}');
select is(pg_temp.told(), '{}', 'a job that is tried again has no result');

create temporary table again as
  select pg_temp.deposits('b1') as job, gen_random_uuid() as token;
select public.claim_jobs(job, 1, token) from again;
select public.settle_jobs(pg_temp.outcomes(job, token, 'unknown', '{"reason": "x"}'), 2)
from again;
select is(pg_temp.told(), array[pg_temp.message('b', 1)], 'an unknown outcome is told');
update purple_flea.jobs j
set changed_at = j.changed_at - interval '1 hour'
from again
where j.reference = job[1];
select is(
  public.settle_jobs(
    pg_temp.outcomes(job, token, 'unknown', '{"reason": "not_found"}'), 2) #>> '{0,did}',
  'settled',
  'a look-up in vain is recorded'
)
from again;
select is(pg_temp.told(), '{}', 'and is no news');
select public.settle_jobs(pg_temp.outcomes(job, token, 'executed', pg_temp.bet(10, 'y')), 2)
from again;
select is(pg_temp.told(), array[pg_temp.message('b', 1)], 'a look-up that finds the bet is');
select is(
  public.settle_jobs(
    pg_temp.outcomes(job, token, 'executed', pg_temp.bet(10, 'y')), 2) #>> '{0,did}',
  'settled_before',
  'a repeated report is known'
)
from again;
select is(pg_temp.told(), '{}', 'and not told again');

-- An outcome that cannot be recorded takes the slow way for all.
create temporary table mixed as
  select pg_temp.deposits('a1', 3) as jobs, gen_random_uuid() as token;
select public.claim_jobs(jobs, 3, token) from mixed;
select public.settle_jobs(
  (
    select json_agg(json_build_object(
      'reference', r, 'token', token, 'state', 'executed',
      'result', pg_temp.bet('m' || n) || case n when 2 then '{"game": "poker"}' else '{}' end::jsonb
    ))
    from unnest(jobs) with ordinality as u (r, n)
  ),
  2
)
from mixed;
select is(
  pg_temp.told(),
  array[pg_temp.message('a', 2)],
  'beside an outcome that cannot be recorded the others are told'
);

create temporary table alone as
  select pg_temp.deposits('b1') as job, gen_random_uuid() as token;
select public.claim_jobs(job, 1, token) from alone;
select public.settle_job(job[1], token, 'executed', pg_temp.bet(10, 'alone')) from alone;
select is(pg_temp.told(), '{}', 'settle_job by itself tells nobody');

create temporary table sold as select pg_temp.deposits('a2') as job;
update public.agents set owner_id = pg_temp.owner('b') where id = 'a2';
select pg_temp.settles(job) from sold;
select is(
  pg_temp.told(),
  array[pg_temp.message('b', 1)],
  'the owner at the time of the settlement is told, and no former one'
);

create temporary table many as
  select
    array_agg(pg_temp.deposit(case when n % 2 = 0 then 'a1' else 'b1' end)) as jobs,
    gen_random_uuid() as token
  from generate_series(1, 64) as n;
select public.claim_jobs(jobs, 64, token) from many;
create temporary table row_before as select ctid as place from purple_flea.ledger;
select public.settle_jobs(
  pg_temp.outcomes(jobs, token, 'executed', pg_temp.bet('x') - 'bet_id'), 2)
from many;
select is(
  pg_temp.told(),
  array[pg_temp.message('a', 32), pg_temp.message('b', 32)],
  'of 64 outcomes each owner gets one message'
);
select is(l.ctid, place, 'and the count of messages writes no row that settlements share')
from purple_flea.ledger l, row_before;
select pg_temp.settles(
  pg_temp.deposits('a1', 100), 'skipped', jsonb_build_object('reason', repeat('€', 10000)));
select cmp_ok(
  (select octet_length(m.payload::text) from realtime.messages m where m.topic like 'owner:%'),
  '<',
  300000,
  'the largest message is far below 3,000 KB'
);
select is(pg_temp.told(), array[pg_temp.message('a', 100)], 'and is sent');

savepoint before;
select pg_temp.settles(pg_temp.deposits('a1'));
rollback to savepoint before;
select is(pg_temp.told(), '{}', 'a settlement that is rolled back sends nothing');

-- The rate.
update purple_flea.ledger set realtime_events_per_s = 1 where only_row;
select pg_temp.leave(-10);
create temporary table had as select pg_temp.dropped() as dropped;
select is(
  pg_temp.settles(pg_temp.deposits('a1')) #>> '{0,did}',
  'settled',
  'above the rate a settlement is as before'
);
select is(count(*), 0::bigint, 'and sends nothing') from realtime.messages;
select is(
  pg_temp.dropped(), dropped + 2, 'what is dropped, a result and its event, is counted') from had;
select is(
  public.ledger_health() #> '{feed,realtime,events_per_s}', '1', 'the health shows the rate');
select pg_temp.leave(2);
create temporary table left_over as select pg_temp.spent() as spent;
select pg_temp.settles(pg_temp.deposits('a1', 10));
select is(
  array(select distinct m.topic from realtime.messages m),
  array[pg_temp.topic('a')],
  'the events of the feed leave half of a burst to results'
);
select is(pg_temp.spent(), spent + 1, 'and a message spends its share') from left_over;
select pg_temp.told();
select pg_temp.leave(8);
select pg_temp.settles(pg_temp.deposits('a1', 10));
select is(
  count(*) filter (where m.topic like 'tenant:%') between 3 and 5,
  true,
  'and use the other half'
)
from realtime.messages m;
select pg_temp.told();
select pg_temp.leave(-10);
select purple_flea.emit('agent.online', null, 'agent:a1', '{"agent_id": "a1", "status": "idle"}');
select is(count(*), 0::bigint, 'a single event counts as well') from realtime.messages;
insert into public.agents (id, owner_id)
select 'of-' || n, gen_random_uuid() from generate_series(1, 20) as n;
select pg_temp.leave(2);
select pg_temp.settles(array_agg(pg_temp.deposit('of-' || n))) from generate_series(1, 20) as n;
select is(
  cardinality(pg_temp.told()) between 2 and 10, true, 'of many owners the first few are told');
select setval('purple_flea.realtime_spent', 0);
select pg_temp.settles(pg_temp.deposits('a1'));
select is(
  pg_temp.spent() >= extract(epoch from clock_timestamp())::bigint - 11,
  true,
  'nobody saves up more than a burst'
);
select pg_temp.told();
select pg_temp.leave(-1000);
select pg_temp.settles(pg_temp.deposits('a1'));
select is(
  pg_temp.told(), array[pg_temp.message('a', 1)], 'a clock that ran ahead silences nobody');
create temporary table off as select pg_temp.dropped() as dropped;
update purple_flea.ledger set realtime_events_per_s = 0 where only_row;
select pg_temp.settles(pg_temp.deposits('a1'));
select is(count(*), 0::bigint, 'a rate of 0 sends nothing') from realtime.messages;
select is(pg_temp.dropped(), dropped, 'which is no drop') from off;
select throws_ok(
  format('update purple_flea.ledger set realtime_events_per_s = %s where only_row', wrong),
  state,
  null,
  'no rate is ' || wrong
)
from (values ('-1', '23514'), ('10001', '23514'), ('null', '23502')) as v (wrong, state);
update purple_flea.ledger set realtime_events_per_s = 50 where only_row;

-- Nothing of Realtime's fails a settlement.
create function pg_temp.goes_on(what text) returns setof text language plpgsql as $$
declare
  job constant text[] := pg_temp.deposits('a1');
begin
  return next lives_ok(
    format('select pg_temp.settles(%L)', job), what || ' fails no settlement');
  return next is(pg_temp.state_of(job[1]), 'executed', what || ': the bet is settled');
  return next isnt(
    (select t.id from public.trade_results t where t.reference = job[1]), null,
    what || ': with its row');
  return next is(
    (select count(*) from public.frame_events e where e.subject = 'trade:' || job[1]),
    1::bigint,
    what || ': and its event');
end;
$$;
savepoint whole;
do $$
declare
  part regclass;
begin
  for part in select inhrelid from pg_inherits where inhparent = 'realtime.messages'::regclass loop
    execute format('drop table %s', part);
  end loop;
end;
$$;
select pg_temp.goes_on('a missing partition');
rollback to savepoint whole;
create or replace function realtime.send(
  payload jsonb, event text, topic text, private boolean default true
) returns void language plpgsql as $$
begin
  raise exception 'locked' using errcode = 'lock_not_available';
end;
$$;
select setval('purple_flea.realtime_warned', 0);
select pg_temp.goes_on('a lock');
select is(
  last_value > extract(epoch from clock_timestamp()) - 60, true, 'a failure is warned of')
from purple_flea.realtime_warned;
select setval('purple_flea.realtime_warned', extract(epoch from clock_timestamp())::bigint - 30);
create temporary table warned as select last_value as at from purple_flea.realtime_warned;
select pg_temp.goes_on('another lock');
select is(last_value, at, 'once a minute') from purple_flea.realtime_warned, warned;
rollback to savepoint whole;
create sequence public.sends minvalue 0;
select setval('public.sends', 0);
create or replace function realtime.send(
  payload jsonb, event text, topic text, private boolean default true
) returns void language sql as $$
  select nextval('public.sends');
  select pg_sleep(0.11)
$$;
select pg_temp.goes_on('a Realtime that keeps it waiting');
select is(last_value, 1::bigint, 'and it waits once') from public.sends;
rollback to savepoint whole;
revoke usage on schema realtime from postgres, public;
select pg_temp.goes_on('a missing right');
rollback to savepoint whole;
drop function realtime.send(jsonb, text, text, boolean);
select pg_temp.goes_on('a missing function');
rollback to savepoint whole;
create or replace function purple_flea.results_by_owner(settled text[])
  returns table (owner_id uuid, results jsonb)
  language plpgsql
as $$
begin
  raise exception 'broken';
end;
$$;
select pg_temp.goes_on('a message that cannot be made');
rollback to savepoint whole;
drop schema realtime cascade;
select pg_temp.goes_on('a missing schema');
rollback to savepoint whole;

-- Who may join and send.
truncate realtime.messages;
\ir ../../sql/platform/040_realtime.sql
insert into realtime.messages (topic, extension, private)
select topic, extension, true
from unnest(array[pg_temp.topic('a'), 'owner:', 'owner:x']) as topic
cross join unnest(array['broadcast', 'presence']) as extension;
create function pg_temp.joins(by_role text, topic text, sub text) returns text
  language plpgsql
as $$
declare
  seen text;
begin
  perform set_config('realtime.topic', topic, true);
  perform set_config('request.jwt.claims', jsonb_build_object('sub', sub)::text, true);
  perform set_config('role', by_role, true);
  select string_agg(m.extension, ',' order by m.extension) into seen
  from realtime.messages m
  where m.topic = joins.topic;
  perform set_config('role', 'none', true);
  return coalesce(seen, 'nothing');
end;
$$;
create function pg_temp.sends(by_role text, topic text, extension text) returns text
  language plpgsql
as $$
begin
  perform set_config('realtime.topic', topic, true);
  perform set_config('role', by_role, true);
  insert into realtime.messages (topic, extension, private) values (topic, extension, true);
  perform set_config('role', 'none', true);
  return 'sent';
exception when insufficient_privilege then
  return 'refused';
end;
$$;
select is(
  pg_temp.joins(by_role, topic, sub),
  sees,
  format('%s with %s sees %s of %s', by_role, sub, sees, topic)
)
from (values
  ('authenticated', pg_temp.topic('a'), pg_temp.owner('a')::text, 'broadcast'),
  ('authenticated', pg_temp.topic('a'), pg_temp.owner('b')::text, 'nothing'),
  ('authenticated', pg_temp.topic('a'), 'x', 'nothing'),
  ('authenticated', pg_temp.topic('a'), null, 'nothing'),
  ('authenticated', 'owner:', pg_temp.owner('a')::text, 'nothing'),
  ('authenticated', 'owner:', null, 'nothing'),
  ('authenticated', 'owner:x', 'x', 'nothing'),
  ('anon', pg_temp.topic('a'), pg_temp.owner('a')::text, 'nothing')
) as v (by_role, topic, sub, sees);
select is(
  pg_temp.sends('authenticated', pg_temp.topic('a'), 'broadcast'),
  'refused',
  'an owner sends nothing to the own topic'
);

-- A project's own policies open all topics. The owners' topics stay closed.
create policy everybody_listens on realtime.messages for select to anon, authenticated using (true);
create policy everybody_sends on realtime.messages
  for insert to anon, authenticated
  with check (true);
select is(
  pg_temp.joins(by_role, topic, sub),
  sees,
  format('beside open policies %s with %s sees %s of %s', by_role, sub, sees, topic)
)
from (values
  ('authenticated', pg_temp.topic('a'), pg_temp.owner('a')::text, 'broadcast,presence'),
  ('authenticated', pg_temp.topic('a'), pg_temp.owner('b')::text, 'presence'),
  ('authenticated', pg_temp.topic('a'), null, 'presence'),
  ('anon', pg_temp.topic('a'), pg_temp.owner('a')::text, 'presence'),
  ('authenticated', 'owner:x', pg_temp.owner('b')::text, 'broadcast,presence'),
  ('anon', 'owner:x', null, 'broadcast,presence')
) as v (by_role, topic, sub, sees);
select is(
  array[
    pg_temp.sends(by_role, pg_temp.topic('a'), 'broadcast'),
    pg_temp.sends(by_role, 'owner:x', 'broadcast')
  ],
  '{refused,sent}',
  'nobody makes up a result: ' || by_role
)
from unnest(array['anon', 'authenticated']) as by_role;

select * from finish();
rollback;
