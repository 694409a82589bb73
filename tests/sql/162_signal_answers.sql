-- Answers to signals: followers' owners hear of a signal once, nothing of it fails the publication,
-- and a sweep finishes what could not be done at once.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
create function pg_temp.owner(letter text) returns uuid language sql as $$
  select ('00000000-0000-0000-0000-00000000000' || letter)::uuid
$$;
insert into public.agents (id, owner_id) values ('boss', pg_temp.owner('a'));
insert into public.agents (id, owner_id, orchestrator_id) values
  ('a1', pg_temp.owner('a'), 'boss'),
  ('b1', pg_temp.owner('b'), 'boss'),
  ('b2', pg_temp.owner('b'), 'boss'),
  ('nobodys', null, 'boss');
insert into public.agents (id, owner_id) values ('c1', pg_temp.owner('c'));
select public.set_signal_policy(id, '{"max_size": 5}')
from public.agents
where orchestrator_id = 'boss';
create function pg_temp.publishes(more jsonb default '{}') returns jsonb language sql as $$
  select public.publish_signal(
    '{"agent_id": "boss", "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 5}' || more)
$$;

-- Realtime.
select is(pg_temp.publishes() ->> 'jobs', '4', 'a database without Realtime publishes');
\ir ../stack/src/realtime.sql
create temporary table s as select pg_temp.publishes('{"id": "one"}') as a;
select pg_temp.publishes('{"id": "one"}');
select results_eq(
  $$
    select m.topic, m.payload -> 'agent_ids'
    from realtime.messages m
    where m.event = 'signal'
      and m.private
      and m.extension = 'broadcast'
    order by m.topic
  $$,
  $$
    values
      ('owner:' || pg_temp.owner('a'), '["a1"]'::jsonb),
      ('owner:' || pg_temp.owner('b'), '["b1", "b2"]')
  $$,
  'each owner of followers hears once, on its private topic, and nobody else'
);
select is(
  array_agg(distinct m.payload ->> 'signal_id'),
  array[a ->> 'signal_id'],
  'of the signal by its id'
)
from s, realtime.messages m
where m.event = 'signal'
group by a;
select is_empty(
  $$select from realtime.messages where topic like 'trade-signals%'$$,
  'a listener hears none of it'
);
do $$
declare
  message jsonb;
begin
  for message in select m.payload from realtime.messages m where m.event = 'signal' loop
    raise log 'signal told: %', message;
  end loop;
end;
$$;
truncate realtime.messages;
select pg_temp.publishes('{"kind": "price"}');
select is((select count(*) from realtime.messages where event = 'signal'), 2::bigint,
  'they hear of a price, too');
truncate realtime.messages;
update purple_flea.ledger set realtime_events_per_s = 0;
select is(pg_temp.publishes() ->> 'jobs', '4', 'without a rate the signal is published');
select is((select count(*) from realtime.messages where event = 'signal'), 0::bigint,
  'and not told');
update purple_flea.ledger set realtime_events_per_s = 50;
create or replace function realtime.send(
  payload jsonb,
  event   text,
  topic   text,
  private boolean default true
) returns void
  language plpgsql
as $$
begin
  raise exception 'no partition';
end;
$$;
select is(pg_temp.publishes() ->> 'jobs', '4', 'a broken Realtime fails no publication');

-- Sweeps.
create temporary table late as select pg_temp.publishes() ->> 'signal_id' as id;
update public.signal_answers w
set state = 'waiting', reason = 'agent_locked', reference = null
where w.signal_id = (select id from late)
  and w.agent_id in ('b1', 'b2');
delete from public.signal_answers w
where w.signal_id = (select id from late)
  and w.agent_id = 'b2';
update purple_flea.jobs j
set due_at = 'infinity'
where j.state = 'pending';
-- The follower that a backup shows as waiting may have traded since.
savepoint whole;
insert into public.agents (id, orchestrator_id) values ('b3', 'boss');
select public.set_signal_policy('b3', '{"max_size": 5}');
insert into public.signal_answers (signal_id, agent_id, state, reason)
select id, 'b3', 'waiting', 'agent_locked' from late;
create function pg_temp.answer_of(agent text) returns text language sql as $$
  select concat_ws(' ', w.state, w.reason)
  from public.signal_answers w
  join late on late.id = w.signal_id
  where w.agent_id = agent
$$;
select purple_flea.declare_restore('from a disk');
select purple_flea.sweep();
select is(pg_temp.answer_of('b3'), 'waiting agent_locked',
  'a restored database asks no follower before an operator confirms it');
savepoint restored;
select purple_flea.confirm_restore(true);
select purple_flea.sweep();
select is(pg_temp.answer_of('b3'), 'asked', 'the next sweep asks it, if nothing was lost');
rollback to savepoint restored;
select purple_flea.confirm_restore();
select purple_flea.sweep();
select is(pg_temp.answer_of('b3'), 'declined restored', 'and otherwise it is asked no more');
rollback to savepoint whole;
select purple_flea.sweep();
select is(w.state, 'waiting', 'a follower whose job is there already stays apart')
from public.signal_answers w
where w.signal_id = (select id from late)
  and w.agent_id = 'b1';
update public.trade_signals s
set expires_at = now() - interval '1 second'
where s.id = (select id from late);
select purple_flea.sweep();
select is(
  concat_ws(' ', w.state, w.reason),
  'declined signal_expired',
  'a follower that could not be asked in time declines'
)
from public.signal_answers w
where w.signal_id = (select id from late)
  and w.agent_id = 'b1';
update public.trade_signals s
set created_at = now() - interval '31 days'
where s.id = (select id from late);
select purple_flea.sweep();
select is_empty(
  $$select from public.trade_signals s join late using (id)$$,
  'an old signal is deleted'
);
select is_empty(
  $$select from public.signal_answers w join late on late.id = w.signal_id$$,
  'with its answers'
);
select is((select count(*) from public.trade_signals), 5::bigint, 'and no other');

-- Above the most followers of one signal.
savepoint whole;
insert into public.agents (id) values ('a0');
insert into public.signal_follows (agent_id, sender_id) values ('a0', 'boss');
select is(purple_flea.followers('boss', 2), '{a1,b1}',
  'a follower without a policy takes no place of one that would answer');
rollback to savepoint whole;

-- Followers that fail slowly.
savepoint whole;
insert into public.agents (id, orchestrator_id) values ('slow', 'boss');
select public.set_signal_policy('slow', '{"max_size": 5}');
create function pg_temp.fail() returns trigger language plpgsql as $$
begin
  perform pg_sleep(0.3);
  raise exception 'broken';
end;
$$;
create trigger fail before insert on purple_flea.jobs
  for each row when (new.agent_id = 'slow') execute function pg_temp.fail();
insert into public.trade_signals (
  id, sender_id, market, action, confidence, size, came_by, content_hash, expires_at)
select
  encode(sha256(n::text::bytea), 'hex'), 'boss', 'BTC', 'BUY', 1, 5, 'published', '',
  now() + interval '1 hour'
from generate_series(1, 8) n;
insert into public.signal_answers (signal_id, agent_id, state, reason)
select s.id, 'slow', 'waiting', 'agent_locked'
from public.trade_signals s
where s.content_hash = '';
select purple_flea.finish_signals();
select ok(
  count(*) filter (where w.reason like 'failed%') between 1 and 4 and count(*) = 8,
  'a sweep that takes too long leaves the rest to the next one'
)
from public.signal_answers w
where w.agent_id = 'slow';
rollback to savepoint whole;

-- A flood.
insert into public.agents (id, orchestrator_id) values ('a2', 'boss');
select public.set_signal_policy('a2', '{"max_size": 5}');
select pg_temp.publishes() from generate_series(1, 30);
select results_eq(
  $$
    select w.state, w.reason, count(*)
    from public.signal_answers w
    where w.agent_id = 'a2'
    group by w.state, w.reason
    order by w.state
  $$,
  $$values ('asked', null, 20::bigint), ('declined', 'too_many_pending', 10)$$,
  'a sender that floods fills no queue: its followers have 20 pending answers at most'
);
select public.claim_jobs('{}', 100) from generate_series(1, 2);
update purple_flea.jobs j set due_at = now() where j.agent_id = 'a2' and j.state = 'pending';
select public.claim_jobs('{}', 100) from generate_series(1, 2);
select is(pg_temp.publishes() ->> 'state', 'published', 'the next signal');
select is(w.state, 'asked', 'is answered again, once they are claimed')
from public.signal_answers w
where w.agent_id = 'a2'
order by w.answered_at desc
limit 1;

select * from finish();
rollback;
