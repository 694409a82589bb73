-- Writing events: what an event holds, in which place, and that nothing on the table of events
-- fails the transaction that fires one.
begin;
\ir setup/feed.psql

-- The number of lost events survives a rollback.
create temporary table before as select last_value as lost from purple_flea.feed_lost;
select purple_flea.emit(
  'test.executed',
  pg_temp.tenant('a'),
  'trade:one',
  '{"reference": "one", "status": null, "type": "forged", "tenant_id": "forged"}'
);
select is(
  payload - 'occurred_at',
  jsonb_build_object(
    'reference', 'one', 'type', 'test.executed', 'tenant_id', pg_temp.tenant('a')),
  'an event says its type and its tenant, and leaves out what is null'
)
from public.frame_events;
select matches(
  payload ->> 'occurred_at',
  '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$',
  'and its time, in UTC and milliseconds'
)
from public.frame_events;
select is(
  (payload ->> 'occurred_at')::timestamptz,
  occurred_at,
  'which is the column''s'
)
from public.frame_events;
set local timezone = 'Asia/Kolkata';
select pg_temp.fire('a', 'two');
select is(
  (payload ->> 'occurred_at')::timestamptz,
  occurred_at,
  'in each session''s time zone'
)
from public.frame_events where subject = 'trade:two';
reset timezone;
select is(
  position,
  pg_current_xact_id()::text::bigint,
  'its position is its transaction''s'
)
from public.frame_events where subject = 'trade:two';
insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position)
values
  (pg_temp.tenant('a'), 'test.unknown', 'trade:one', '{}', now(), 1, 9000000000000000000),
  (pg_temp.tenant('a'), 'test.unknown', 'trade:two', '{}', now(), 0, 9000000000000000000);
select pg_temp.fire('a', 'one');
select is(
  max(position) filter (where subject = 'trade:one' and type = 'test.executed'),
  9000000000000000000,
  'or that of the subject''s last event, if that is greater'
)
from public.frame_events;
select pg_temp.fire('a', 'two');
select is(
  max(position) filter (where subject = 'trade:two' and epoch > 0),
  pg_current_xact_id()::text::bigint,
  'in the same epoch'
)
from public.frame_events;
select purple_flea.emit_all((
  select jsonb_agg(jsonb_build_object(
    'type', 'test.executed', 'subject', 'trade:set', 'payload', jsonb_build_object('reference', n)))
  from generate_series(1, 300) as n
));
select is(
  array_agg((payload ->> 'reference')::integer order by position, id),
  array(select generate_series(1, 300)),
  'a set keeps its order'
)
from public.frame_events where subject = 'trade:set';
select is(
  count(*) filter (where tenant_id = purple_flea.operator_tenant()),
  300::bigint,
  'and belongs to the operator without a tenant'
)
from public.frame_events where subject = 'trade:set';
select lives_ok($$select purple_flea.emit_all('[]')$$, 'no events are none');
select lives_ok($$select purple_flea.emit_all(null)$$, 'and neither is null');
select is(last_value, before.lost, 'nothing was lost') from purple_flea.feed_lost, before;

-- Append-only.
select throws_ok(
  'update public.frame_events set type = type where true',
  '55000',
  null,
  'an event is never changed'
);
select throws_ok('truncate public.frame_events', '55000', null, 'nor are all forgotten');
select throws_ok(
  'delete from public.frame_events where id = (select max(id) from public.frame_events)',
  '55000',
  null,
  'nor is a young one deleted'
);

-- Nothing that a user makes on the table fails the transaction.
set local synchronous_commit = off;
create function pg_temp.fails(statement text, what text, undo text) returns setof text
  language plpgsql
as $$
declare
  were bigint := (select count(*) from public.frame_events);
  lost bigint := (select last_value from purple_flea.feed_lost);
begin
  execute statement;
  return next lives_ok($q$select pg_temp.fire('a', 'tried')$q$, what);
  return next is(
    (select count(*) from public.frame_events), were, what || ': the event is left out');
  return next is(
    (select last_value from purple_flea.feed_lost), lost + 1, what || ': and counted');
  return next lives_ok(
    $q$select purple_flea.emit_all('[{"type": "test.executed", "subject": "trade:tried"},
       {"type": "test.executed", "subject": "trade:tried"}]')$q$,
    what || ': for a set, too');
  return next is(
    (select last_value from purple_flea.feed_lost), lost + 3, what || ': which is counted');
  return next lives_ok('set constraints all immediate', what || ': nothing is left for the commit');
  set constraints all deferred;
  execute undo;
end;
$$;
create function public.user_raises() returns trigger language plpgsql as $$
begin
  raise exception 'a user''s trigger';
end;
$$;
create function public.user_asserts() returns trigger language plpgsql as $$
begin
  assert false, 'a user''s assertion';
end;
$$;
create function public.user_calls() returns trigger language plpgsql as $$
begin
  raise exception 'another server' using errcode = tg_argv[0];
end;
$$;
create function public.user_drops() returns trigger language plpgsql as $$
begin
  return null;
end;
$$;
select pg_temp.fails(
  $$alter table public.frame_events add constraint user_check check (type = 'x') not valid$$,
  'a user''s check',
  'alter table public.frame_events drop constraint user_check'
);
select pg_temp.fails(
  $$create trigger user_trigger before insert on public.frame_events
    for each row execute function public.user_raises()$$,
  'a user''s trigger',
  'drop trigger user_trigger on public.frame_events'
);
select pg_temp.fails(
  $$create trigger user_trigger after insert on public.frame_events
    for each statement execute function public.user_raises()$$,
  'a trigger after the statement',
  'drop trigger user_trigger on public.frame_events'
);
select pg_temp.fails(
  $$create trigger user_trigger before insert on public.frame_events
    for each row execute function public.user_asserts()$$,
  'a trigger that asserts',
  'drop trigger user_trigger on public.frame_events'
);
select pg_temp.fails(
  format(
    $$create trigger user_trigger before insert on public.frame_events
      for each row execute function public.user_calls(%L)$$, code),
  'a trigger with the error of another server, ' || code,
  'drop trigger user_trigger on public.frame_events'
)
from unnest(array['53300', '53400', '57P03', '58P01']) as code;
select pg_temp.fails(
  $$create trigger user_trigger before insert on public.frame_events
    for each row execute function public.user_drops()$$,
  'a trigger that leaves rows out',
  'drop trigger user_trigger on public.frame_events'
);
select pg_temp.fails(
  $$create constraint trigger user_trigger after insert on public.frame_events
    deferrable initially deferred for each row execute function public.user_raises()$$,
  'a deferred trigger',
  'drop trigger user_trigger on public.frame_events'
);
create table public.user_parents (id bigint primary key);
select pg_temp.fails(
  $$alter table public.frame_events add constraint user_fkey foreign key (position)
    references public.user_parents deferrable initially deferred not valid$$,
  'a deferred foreign key',
  'alter table public.frame_events drop constraint user_fkey'
);
select is(current_setting('synchronous_commit'), 'on', 'an event is committed synchronously');
select lives_ok(
  $$select purple_flea.emit('nonsense', null, 'trade:x', '{}')$$,
  'a wrong type is lost, too'
);

-- Epochs.
select is((select epoch from purple_flea.feed), 1, 'the feed begins with the first epoch');
select purple_flea.declare_restore('tested');
select pg_temp.fire('a', 'unconfirmed');
select is(
  (select epoch from public.frame_events where subject = 'trade:unconfirmed'),
  2,
  'an event before the confirmation belongs to the next'
);
select purple_flea.confirm_restore(nothing_lost => true);
select is((select epoch from purple_flea.feed), 2, 'which the confirmation begins');
select pg_temp.fire('a', 'confirmed');
select is(
  (select epoch from public.frame_events where subject = 'trade:confirmed'),
  2,
  'and an event after it belongs to the same'
);

-- Broadcasts.
\ir ../stack/src/realtime.sql
select pg_temp.fire('a', 'told');
select is(
  array_agg(concat_ws('|', m.topic, m.event, m.private, m.extension)),
  array['tenant:' || pg_temp.tenant('a') || '|test.executed|t|broadcast'],
  'an event is broadcast on its tenant''s private topic'
)
from realtime.messages m;
select is(
  m.payload,
  e.payload || jsonb_build_object('id', e.id),
  'with the same payload, and the event''s id'
)
from realtime.messages m
join public.frame_events e on e.subject = 'trade:told';
truncate realtime.messages;
select purple_flea.emit_all((
  select jsonb_agg(jsonb_build_object('type', 'test.executed', 'subject', 'trade:many'))
  from generate_series(1, 150) as n
));
select is(count(*), 100::bigint, 'of many at once the first are told') from realtime.messages;
select is(
  (select count(*) from public.frame_events where subject = 'trade:many'),
  150::bigint,
  'and all are written'
);
do $$
declare
  part regclass;
begin
  for part in select inhrelid from pg_inherits where inhparent = 'realtime.messages'::regclass loop
    execute format('drop table %s', part);
  end loop;
end;
$$;
select lives_ok(
  $$select pg_temp.fire('a', 'without a partition')$$,
  'a broadcast that Realtime cannot take fails nothing'
);
create sequence public.sends minvalue 0;
select setval('public.sends', 0);
create or replace function realtime.send(
  payload jsonb,
  event   text,
  topic   text,
  private boolean default true
) returns void language sql as $$
  select nextval('public.sends');
  select pg_sleep(0.11)
$$;
select purple_flea.emit_all((
  select jsonb_agg(jsonb_build_object('type', 'test.executed', 'subject', 'trade:slow'))
  from generate_series(1, 10) as n
));
select pg_temp.fire('a', 'slow') from generate_series(1, 10) as n;
select is(last_value, 1::bigint, 'a Realtime that keeps a transaction waiting does so once')
from public.sends;
select is(
  (select count(*) from public.frame_events where subject = 'trade:slow'),
  20::bigint,
  'and all of its events are written'
);
select is(
  set_config('purple_flea.realtime_hangs', '', true),
  '',
  'a test goes on as in another transaction'
);
drop function realtime.send(jsonb, text, text, boolean);
select lives_ok(
  $$select pg_temp.fire('a', 'without a function')$$,
  'nor does a Realtime of another version'
);
select is(
  (select count(*) from public.frame_events where subject like 'trade:without%'),
  2::bigint,
  'and their events are written'
);

select * from finish();
rollback;
