-- This project's own events: what fires each, for whom, and what fires none.
begin;
\ir setup/feed.psql

create function pg_temp.events(of_subject text) returns text language sql as $$
  select string_agg(
    concat_ws(' ', type, payload ->> 'status', payload ->> 'actor'),
    ', '
    order by epoch, position, id
  )
  from public.frame_events
  where subject like of_subject
$$;
create function pg_temp.deposit(agent text) returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
  values (agent, 'deposit', 100, 100)
  returning 'wallet-change-' || id
$$;
create temporary table d (name text primary key, reference text, token uuid);
insert into d
select name, pg_temp.deposit(case name when 'executed' then 'a' else 'b' end)
from unnest(array['executed', 'skipped', 'rejected', 'unknown', 'pending', 'dead']) as name;
select is(pg_temp.events('trade:%'), null, 'a deposit fires no event of the feed');
update purple_flea.jobs
set due_at = 'infinity'
where reference in (select reference from d where name = 'dead');
update d
set token = (public.claim_jobs(array[reference], 1) ->> 'token')::uuid
where name <> 'dead';
select is(pg_temp.events('trade:%'), null, 'nor does a claim');
create temporary table answers as
  select public.settle_jobs((
    select json_agg(json_build_object(
      'reference', reference, 'token', token, 'state', name,
      'result', json_build_object(
        'status', name, 'reason', case when name <> 'executed' then 'tested' end, 'game', 'crash',
        'wager', 10, 'payout', 15, 'outcome', 'win', 'bet_id', 'b1')
    ))
    from d where name <> 'dead'
  ), 2) as said;
select is(
  pg_temp.events('trade:' || reference),
  case name when 'pending' then null else format('trade.%s %s worker', name, name) end,
  'a settlement fires one event: ' || name
)
from d where name <> 'dead';
select is(
  (
    select e.payload - 'occurred_at'
    from public.frame_events e
    where e.subject = 'trade:' || reference
  ),
  jsonb_build_object(
    'type', 'trade.executed', 'tenant_id', pg_temp.tenant('a'), 'agent_id', 'a',
    'reference', reference, 'status', 'executed', 'actor', 'worker'),
  'with the small payload'
)
from d where name = 'executed';
select is(count(distinct tenant_id), 2::bigint, 'each for its agent''s tenant')
from public.frame_events where subject like 'trade:%';
select public.settle_jobs((
  select json_agg(json_build_object(
    'reference', reference, 'token', token, 'state', name, 'result', json_build_object(
      'status', name, 'game', 'crash', 'wager', 10, 'payout', 15, 'outcome', 'win', 'bet_id', 'b1')
  ))
  from d where name = 'executed'
), 2);
select is(
  (select count(*) from public.frame_events where subject like 'trade:%'),
  4::bigint,
  'a report that comes again fires none'
);
update purple_flea.jobs set lookup_at = clock_timestamp() where state = 'unknown';
select is(
  (select count(*) from public.frame_events where subject like 'trade:%'),
  4::bigint,
  'nor does an update that changes no state'
);
update purple_flea.jobs j
set state = 'dead', changed_by = 'sweeper', reason = 'too_old'
from d
where d.name = 'dead' and j.reference = d.reference;
select is(
  pg_temp.events('trade:' || reference),
  'trade.skipped dead sweeper',
  'a deposit that became too old is skipped'
)
from d where name = 'dead';
update purple_flea.jobs j
set
  lease_until = clock_timestamp() - interval '2 minutes',
  claimed_at = clock_timestamp() - interval '3 minutes'
from d
where d.name = 'unknown' and j.reference = d.reference;
select purple_flea.close_job(reference, 'tested') from d where name = 'unknown';
select is(
  pg_temp.events('trade:' || reference),
  'trade.unknown unknown worker, trade.rejected rejected operator',
  'the events of a trade are in order'
)
from d where name = 'unknown';

-- Registrations.
insert into public.agents (id, api_key) values ('new', 'purple_flea_key:new');
create temporary table registered as select public.claim_jobs('{registration-new}', 1) as claim;
select public.settle_job(
  'registration-new',
  (claim ->> 'token')::uuid,
  'executed',
  '{"status": "executed", "account": "pf"}',
  'sk_test_key_1'
)
from registered;
select is(
  pg_temp.events('agent:new'),
  'agent.registered executed worker',
  'a registration is an event of its agent'
);

-- Agents' states.
update public.agents set status = 'trading' where id = 'a';
select is(pg_temp.events('agent:a'), null, 'an agent that begins to trade was online');
update public.agents set status = 'offline' where id = 'a';
update public.agents set status = 'offline', balance = 3 where id = 'a';
update public.agents set status = 'idle' where id = 'a';
select is(
  pg_temp.events('agent:a'),
  'agent.offline offline, agent.online idle',
  'going offline and coming back are an event each, and a no-op is none'
);

-- Escrows.
insert into public.agents (id, owner_id) values ('a2', '00000000-0000-0000-0000-00000000000a');
insert into public.escrow_requests (id, sender_id, receiver_id, amount)
values (990001, 'a', 'b', 1), (990002, 'a', 'a2', 1), (990003, 'b', 'a', 1);
select is(pg_temp.events('escrow:%'), null, 'an escrow that is asked for is no event yet');
update public.escrow_requests set pf_escrow_id = 'e' || id where id in (990001, 990002);
select results_eq(
  $$
    select type, tenant_id, payload ->> 'agent_id', payload -> 'escrow_id'
    from public.frame_events where subject = 'escrow:990001' order by 3
  $$,
  $$
    values
      ('escrow.created', pg_temp.tenant('a'), 'a', '990001'::jsonb),
      ('escrow.created', pg_temp.tenant('b'), 'b', '990001')
  $$,
  'both parties'' tenants hear of an escrow'
);
select is(
  pg_temp.events('escrow:990002'), 'escrow.created pending', 'a tenant of both parties hears once');
update public.escrow_requests set status = 'released' where id = 990002;
update public.escrow_requests set fee = 1 where id = 990002;
select is(
  pg_temp.events('escrow:990002'),
  'escrow.created pending, escrow.released released',
  'its release is an event, and its fee none'
);
update public.escrow_requests set status = 'refused', reason = 'x' where id = 990003;
select is(
  pg_temp.events('escrow:990003'),
  'escrow.ended refused, escrow.ended refused',
  'any other end is an event for both'
);
update public.escrow_requests set pf_escrow_id = 'e', status = 'disputed' where id = 990003;

-- Every event has a type that is described.
select is_empty(
  $$
    select e.type from public.frame_events e
    where not exists (select from public.event_types t where t.type = e.type)
  $$,
  'every event''s type is described'
);

-- A statement that changes many jobs costs no comparison of each with each.
insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
select 'a', 'deposit', 100, 100 from generate_series(1, 20000);
create temporary table took as select clock_timestamp() as began;
update purple_flea.jobs
set state = 'dead', changed_by = 'sweeper', reason = 'missed'
where state = 'pending' and kind = 'deposit';
select cmp_ok(
  clock_timestamp() - began,
  '<',
  -- In one go it takes seconds, on a busy machine half a minute.
  interval '3 minutes',
  'the events of 20,000 jobs are written in one go'
)
from took;
select cmp_ok(
  (select count(*) from public.frame_events where type = 'trade.skipped'),
  '>',
  20000::bigint,
  'and none is missing'
);

select * from finish();
rollback;
