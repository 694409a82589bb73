-- Writing events. emit() and emit_all() are the only way.
--
-- The feed is in the order of (epoch, position, id). A position is the number of the writing
-- transaction, or the position of the subject's last event, if that is greater. A reader gets the
-- events below the oldest transaction that is still open. So:
-- * No event is skipped. An event that a reader cannot see yet belongs to an open transaction. Its
--   position is at least that transaction's number, and the reader stops below it.
-- * The events of a subject are in order. A writer holds the lock of the subject's row, so it sees
--   the subject's last event, and takes no lower position and a higher id.

insert into purple_flea.event_types as known (type, description)
values
  ('trade.executed', 'Purple Flea has executed a bet, a trade, an order or a close.'),
  ('trade.skipped', 'A bet, a trade, an order or a close will not be made; nothing was staked.'),
  ('trade.rejected', 'Purple Flea or an operator has refused a bet, a trade, an order or a close.'),
  ('trade.unknown', 'Nobody knows yet whether Purple Flea has executed it; it is looked up.'),
  ('escrow.created', 'Purple Flea has made an escrow.'),
  ('escrow.released', 'An escrow was paid to its receiver.'),
  ('escrow.ended', 'An escrow ended otherwise: refused, cancelled, disputed or refunded.'),
  ('agent.registered', 'Purple Flea has made an account for an agent.'),
  ('agent.online', 'An agent is no longer offline.'),
  ('agent.offline', 'An agent is offline.'),
  ('api_key.used', 'A key was used; at most one event an hour for each key.'),
  ('api_key.revoked', 'A key opens nothing any more.')
on conflict (type) do update
set description = excluded.description;

create or replace view public.event_types with (security_barrier) as
  select t.type, t.description
  from purple_flea.event_types t;
comment on view public.event_types is 'The types of events that this database fires.';

-- Also deferred constraints of a user's, which would otherwise fail the commit.
create or replace function purple_flea.check_events_now() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  late record;
begin
  for late in
    select format('%s.%I', c.connamespace::regnamespace, c.conname) as name, c.condeferred
    from pg_catalog.pg_constraint c
    where c.conrelid = 'public.frame_events'::regclass
      and c.condeferrable
  loop
    execute format('set constraints %s immediate', late.name);
    if late.condeferred then
      execute format('set constraints %s deferred', late.name);
    end if;
  end loop;
end;
$$;
comment on function purple_flea.check_events_now() is
  'Checks the deferred constraints of the events table, and runs its deferred triggers.';

create or replace function purple_flea.lose_events(number bigint, why text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  each_s constant integer := 60;  -- a warning a minute
  now_s  constant bigint  := extract(epoch from clock_timestamp());
begin
  perform nextval('purple_flea.feed_lost') from generate_series(1, number);
  if (select w.last_value from purple_flea.feed_warned w) <= now_s - each_s then
    perform setval('purple_flea.feed_warned', now_s);
    raise warning 'purple_flea: events are lost, because a constraint or a trigger on '
      'public.frame_events refuses them: %', why
      using hint = 'Drop it. The changes that the events are about are stored.';
  end if;
end;
$$;
comment on function purple_flea.lose_events(bigint, text) is
  'Counts events that could not be written, and warns of them at most once a minute.';

-- A message is awareness and no delivery. A subscriber that missed one reads the feed.
create or replace function purple_flea.broadcast(topic text, event text, payload jsonb)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Realtime locks its table while it makes a partition.
  set lock_timeout = '100ms'
as $$
begin
  if to_regprocedure('realtime.send(jsonb, text, text, boolean)') is not null then
    execute 'select realtime.send($1, $2, $3, true)' using payload, event, topic;
  end if;
exception when others then
  raise warning 'purple_flea: a message for % was not sent: %', topic, sqlerrm;
end;
$$;
comment on function purple_flea.broadcast(text, text, jsonb) is
  'Sends a message to the subscribers of a private topic of Realtime, at the commit. Never fails.';

-- The payload names the event by its id, so that a subscriber that hears of it in two ways knows.
create or replace function purple_flea.broadcast_all(made jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Realtime drops messages above its rate without a sign. A subscriber that hears one of many
  -- events reads the others from the feed.
  most constant integer := 100;
begin
  if to_regnamespace('realtime') is null then
    return;
  end if;
  perform purple_flea.broadcast(
    'tenant:' || (m ->> 'tenant_id'),
    m ->> 'type',
    (m -> 'payload') || jsonb_build_object('id', m -> 'id')
  )
  from jsonb_array_elements(made) with ordinality as e (m, n)
  where e.n <= most;
end;
$$;
comment on function purple_flea.broadcast_all(jsonb) is
  'Sends the first 100 of an array of events to their tenants'' subscribers.';

create or replace function purple_flea.write_events(events jsonb) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  at   constant timestamptz := date_trunc('milliseconds', clock_timestamp());
  said constant text        := to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
  me   constant bigint      := pg_current_xact_id()::text::bigint;
  into_epoch    integer;
  made          jsonb;
begin
  -- While the database waits for a confirmation, its events belong to the time after it.
  into_epoch := (select f.epoch from purple_flea.feed f)
    + case when purple_flea.current_generation() is null then 1 else 0 end;
  with written as (
    insert into public.frame_events
      (tenant_id, type, subject, payload, occurred_at, epoch, position)
    select
      coalesce(e.tenant_id, purple_flea.operator_tenant()),
      e.type,
      e.subject,
      jsonb_strip_nulls(coalesce(e.payload, '{}')) || jsonb_build_object(
        'type', e.type,
        'tenant_id', coalesce(e.tenant_id, purple_flea.operator_tenant()),
        'occurred_at', said
      ),
      at,
      into_epoch,
      greatest(
        me,
        (
          select max(l.position)
          from public.frame_events l
          where l.subject = e.subject
            and l.epoch = into_epoch
        )
      )
    from jsonb_array_elements(events) with ordinality as a (event, n)
    cross join lateral jsonb_to_record(a.event)
      as e (tenant_id uuid, type text, subject text, payload jsonb)
    order by a.n
    returning id, tenant_id, type, payload
  )
  select jsonb_agg(to_jsonb(w) order by w.id) into made from written w;
  if exists (
    select
    from pg_catalog.pg_constraint c
    where c.conrelid = 'public.frame_events'::regclass
      and c.condeferrable
  ) then
    perform purple_flea.check_events_now();
  end if;
  return coalesce(made, '[]');
end;
$$;
comment on function purple_flea.write_events(jsonb) is
  'Inserts events, an array of {tenant_id, type, subject, payload}. Gives them as they are now.';

create or replace function purple_flea.emit_all(events jsonb) returns void
  language plpgsql
  volatile
  -- The writer of a row may not write events.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  number constant integer := jsonb_array_length(events);
  made   jsonb;
begin
  if number is null or number = 0 then
    return;
  end if;
  -- No follower reads an event that a crash takes back.
  perform purple_flea.commit_synchronously();
  -- A confirmation of a restore waits for this transaction, or this one waits for it and then sees
  -- its epoch.
  lock table public.frame_events in row exclusive mode;
  if current_setting('transaction_isolation') <> 'read committed' then
    -- Such a transaction cannot see an epoch that is newer than itself. It fails, as it does for
    -- any other row that has changed.
    perform from purple_flea.feed f where f.only_row for share;
  end if;
  begin
    made := purple_flea.write_events(events);
  exception
    when insufficient_resources or operator_intervention or system_error then
      raise;  -- Nobody's constraint: the change itself could not be stored either.
    when others then
      perform purple_flea.lose_events(number, sqlstate || ' ' || sqlerrm);
      return;
  end;
  if jsonb_array_length(made) < number then
    perform purple_flea.lose_events(
      number - jsonb_array_length(made), 'a trigger leaves rows out');
  end if;
  perform purple_flea.broadcast_all(made);
end;
$$;
comment on function purple_flea.emit_all(jsonb) is
  'Writes events, an array of {tenant_id, type, subject, payload}, in this transaction, and '
  'broadcasts them. No constraint and no trigger on the events table makes it fail.';

create or replace function purple_flea.emit(
  type      text,
  tenant_id uuid,
  subject   text,
  payload   jsonb
) returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.emit_all(jsonb_build_array(jsonb_build_object(
    'type', type,
    'tenant_id', tenant_id,
    'subject', subject,
    'payload', payload
  )));
end;
$$;
comment on function purple_flea.emit(text, uuid, text, jsonb) is
  'Writes an event in this transaction, and broadcasts it. The caller holds the lock of the '
  'subject''s row. No constraint and no trigger on the events table makes it fail.';

create or replace function purple_flea.feed_now(
  out epoch integer,
  out below bigint
)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if purple_flea.current_generation() is null then
    return;
  end if;
  select f.epoch, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
    into feed_now.epoch, feed_now.below
  from purple_flea.feed f;
end;
$$;
comment on function purple_flea.feed_now() is
  'Gives the end of the feed as it may be read now: events whose (epoch, position) is below it '
  'have none before them that is still to come. Null while the database waits for '
  'confirm_restore().';
