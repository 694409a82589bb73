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
  ('signal.published', 'An agent has published a signal.'),
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
-- send() makes a warning of a lock that it does not get, so the time tells of it. A transaction
-- with many events waits once: a settlement has less time than all of its messages could take.
create or replace function purple_flea.broadcast(topic text, event text, payload jsonb)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- Realtime locks its table while it makes a partition.
  set lock_timeout = '100ms'
as $$
declare
  patience constant interval    := '100 milliseconds';
  began    constant timestamptz := clock_timestamp();
begin
  if current_setting('purple_flea.realtime_hangs', true) = 'on' then
    return;
  end if;
  begin
    if to_regnamespace('realtime') is not null then
      perform realtime.send(payload, event, topic, true);
    end if;
  exception when others then
    perform purple_flea.warn_of_realtime(sqlerrm);
  end;
  if clock_timestamp() - began >= patience then
    perform purple_flea.warn_of_realtime('a message took longer than ' || patience);
    perform set_config('purple_flea.realtime_hangs', 'on', true);
  end if;
end;
$$;
comment on function purple_flea.broadcast(text, text, jsonb) is
  'Sends a message to the subscribers of a private topic of Realtime, at the commit. Never fails. '
  'After a message that took long, the transaction sends no more.';

-- The comparison is current_generation()'s without the cluster's identifier, which Postgres reads
-- from a file: each event makes it. Only pg_upgrade changes the identifier alone, and after it
-- transactions are numbered on.
create or replace function purple_flea.epoch_of_writer() returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- While the database waits for a confirmation, its events belong to the time after it.
  return (
    select
      f.epoch + case
        when g.xmin = g.stamped_xid
          and g.timeline = left(pg_walfile_name(pg_current_wal_lsn()), 8)
          and g.jobs_oid = to_regclass('purple_flea.jobs')
          and g.database_oid = (
            select d.oid from pg_catalog.pg_database d where d.datname = current_database()
          )
          then 0
        else 1
      end
    from purple_flea.feed f
    cross join purple_flea.generation g
  );
end;
$$;
comment on function purple_flea.epoch_of_writer() is
  'Gives the epoch of the events that are written now.';

create or replace function purple_flea.begin_events() returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- No follower reads an event that a crash takes back.
  if current_setting('synchronous_commit') = 'off' then
    perform purple_flea.commit_synchronously();
  end if;
  -- A confirmation of a restore waits for this transaction, or this one waits for it and then sees
  -- its epoch.
  lock table public.frame_events in row exclusive mode;
  if current_setting('transaction_isolation') <> 'read committed' then
    -- Such a transaction cannot see an epoch that is newer than itself. It fails, as it does for
    -- any other row that has changed.
    perform from purple_flea.feed f where f.only_row for share;
  end if;
  return purple_flea.epoch_of_writer();
end;
$$;
comment on function purple_flea.begin_events() is
  'Lets this transaction write events, and gives their epoch.';

create or replace function purple_flea.event_payload(
  type    text,
  tenant  uuid,
  at      timestamptz,
  payload jsonb
) returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_strip_nulls(coalesce(payload, '{}')) || jsonb_build_object(
    'type', type,
    'tenant_id', tenant,
    'occurred_at', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
  );
end;
$$;
comment on function purple_flea.event_payload(text, uuid, timestamptz, jsonb) is
  'Gives an event as subscribers get it. Its time is UTC, in milliseconds.';

create or replace function purple_flea.position_after(subject text, epoch integer) returns bigint
  language plpgsql
  volatile  -- sees the last event although it was committed after this statement began
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A plan from the time when the table was empty would read all of it for each event.
  set enable_seqscan = off
  set jit = off
as $$
begin
  return greatest(
    pg_current_xact_id()::text::bigint,
    (
      select max(l.position)
      from public.frame_events l
      where l.subject = position_after.subject
        and l.epoch = position_after.epoch
    )
  );
end;
$$;
comment on function purple_flea.position_after(text, integer) is
  'Gives the position of a subject''s next event.';

create or replace function purple_flea.has_late_checks() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from pg_catalog.pg_constraint c
    where c.conrelid = 'public.frame_events'::regclass
      and c.condeferrable
  );
end;
$$;
comment on function purple_flea.has_late_checks() is
  'Says whether the events table has a constraint or a trigger that could fail a commit.';

create or replace function purple_flea.emit_all(events jsonb) returns void
  language plpgsql
  volatile
  -- The writer of a row may not write events.
  security definer
  set search_path = pg_catalog, pg_temp
  -- A plan from the time when the table was empty would read all of it for each event.
  set enable_seqscan = off
  set jit = off
as $$
declare
  -- Realtime drops messages above its rate without a sign. A subscriber that hears one of many
  -- events reads the others from the feed.
  most_told  constant integer     := 100;
  number     constant integer     := jsonb_array_length(events);
  at         constant timestamptz := date_trunc('milliseconds', clock_timestamp());
  into_epoch integer;
  made       bigint[];
  share      integer;
begin
  if number is null or number = 0 then
    return;
  elsif number = 1 then
    -- Most statements fire one event, which costs less this way.
    perform purple_flea.emit(
      events #>> '{0,type}',
      (events #>> '{0,tenant_id}')::uuid,
      events #>> '{0,subject}',
      events #> '{0,payload}'
    );
    return;
  end if;
  into_epoch := purple_flea.begin_events();
  begin
    with written as (
      insert into public.frame_events
        (tenant_id, type, subject, payload, occurred_at, epoch, position)
      select
        e.tenant_id,
        a.event ->> 'type',
        a.event ->> 'subject',
        purple_flea.event_payload(a.event ->> 'type', e.tenant_id, at, a.event -> 'payload'),
        at,
        into_epoch,
        purple_flea.position_after(a.event ->> 'subject', into_epoch)
      from jsonb_array_elements(events) with ordinality as a (event, n)
      cross join lateral (
        select coalesce((a.event ->> 'tenant_id')::uuid, purple_flea.operator_tenant()) as tenant_id
      ) as e
      order by a.n
      returning id
    )
    select array_agg(w.id order by w.id) into made from written w;
    if purple_flea.has_late_checks() then
      perform purple_flea.check_events_now();
    end if;
  exception
    when query_canceled or disk_full or out_of_memory or io_error then
      raise;  -- Nobody's constraint: the change itself could not be stored either.
    -- A trigger that asks another server may have any other error of that one's.
    when others or assert_failure then
      perform purple_flea.lose_events(number, sqlstate || ' ' || sqlerrm);
      return;
  end;
  if coalesce(cardinality(made), 0) < number then
    perform purple_flea.lose_events(
      number - coalesce(cardinality(made), 0), 'a trigger leaves rows out');
  end if;
  if to_regnamespace('realtime') is not null then
    share := purple_flea.take_realtime_share(least(most_told, cardinality(made)), false);
    perform purple_flea.broadcast(
      'tenant:' || e.tenant_id, e.type, e.payload || jsonb_build_object('id', e.id))
    from (
      select t.*
      from public.frame_events t
      where t.id = any (made[1:share])
      order by t.id
    ) as e;
  end if;
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
  -- The writer of a row may not write events.
  security definer
  set search_path = pg_catalog, pg_temp
  -- A plan from the time when the table was empty would read all of it for each event.
  set enable_seqscan = off
  set jit = off
as $$
declare
  at         constant timestamptz := date_trunc('milliseconds', clock_timestamp());
  tenant     constant uuid        := coalesce(emit.tenant_id, purple_flea.operator_tenant());
  said       constant jsonb       := purple_flea.event_payload(
    emit.type, tenant, at, emit.payload);
  into_epoch constant integer     := purple_flea.begin_events();
  made       bigint;
begin
  begin
    insert into public.frame_events
      (tenant_id, type, subject, payload, occurred_at, epoch, position)
    values (
      tenant,
      emit.type,
      emit.subject,
      said,
      at,
      into_epoch,
      -- position_after(), without the cost of a call.
      greatest(
        pg_current_xact_id()::text::bigint,
        (
          select max(l.position)
          from public.frame_events l
          where l.subject = emit.subject
            and l.epoch = into_epoch
        )
      )
    )
    returning id into made;
    if exists (
      select
      from pg_catalog.pg_constraint c
      where c.conrelid = 'public.frame_events'::regclass
        and c.condeferrable
    ) then
      perform purple_flea.check_events_now();
    end if;
  exception
    when query_canceled or disk_full or out_of_memory or io_error then
      raise;  -- Nobody's constraint: the change itself could not be stored either.
    -- A trigger that asks another server may have any other error of that one's.
    when others or assert_failure then
      perform purple_flea.lose_events(1, sqlstate || ' ' || sqlerrm);
      return;
  end;
  if made is null then
    perform purple_flea.lose_events(1, 'a trigger leaves rows out');
  elsif to_regnamespace('realtime') is not null then
    if purple_flea.take_realtime_share(1, false) = 1 then
      -- The payload names the event, so that a subscriber that hears of it in two ways knows.
      perform purple_flea.broadcast(
        'tenant:' || tenant, emit.type, said || jsonb_build_object('id', made));
    end if;
  end if;
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
