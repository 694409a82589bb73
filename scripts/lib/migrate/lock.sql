-- Takes the locks of a migration. The functions are in pg_temp, so they exist for this session
-- only.

-- Names the sessions that have held a lock on a table since before a time: process, role and time,
-- never their statements. It names the longest ones only, because those that queued up behind the
-- migration are no reason.
create or replace function pg_temp.purple_flea_holders(locked regclass, before timestamptz)
  returns text
  language sql
  volatile
as $$
  select coalesce(
    string_agg(
      format(
        'process %s (%s, %s)',
        h.pid,
        coalesce('role ' || h.usename, h.backend_type, 'role unknown'),
        coalesce(
          'in its transaction for '
            || extract(epoch from clock_timestamp() - h.xact_start)::integer || ' s',
          'this role may not see for how long'
        )
      ),
      ', '
      order by h.xact_start
    ),
    'a session that is gone now'
  )
  from (
    select a.pid, a.usename, a.backend_type, a.xact_start
    from pg_catalog.pg_stat_activity a
    where (a.xact_start is null or a.xact_start < before)
      and a.pid <> pg_backend_pid()
      and a.pid in (
        select l.pid
        from pg_catalog.pg_locks l
        where l.locktype = 'relation'
          and l.relation = locked
          and l.granted
          and l.database = (
            select d.oid from pg_catalog.pg_database d where d.datname = current_database()
          )
      )
    order by a.xact_start
    limit 3
  ) as h
$$;

-- Gives the optional parts that this database has, or gets by this run.
create or replace function pg_temp.purple_flea_parts() returns text[]
  language plpgsql
  volatile
as $$
declare
  wanted   constant text[] := string_to_array(current_setting('purple_flea.parts'), ',');
  recorded text[];
begin
  if to_regclass('purple_flea.schema_migrations') is not null then
    execute $q$
      select array_agg(distinct split_part(m.name, '/', 1))
      from purple_flea.schema_migrations m
      where m.name like '%/%'
    $q$ into recorded;
  end if;
  return wanted || coalesce(recorded, '{}');
end;
$$;

-- Gives every table that a migration may change, in the one order in which they are locked: the
-- order in which a deposit reaches them.
create or replace function pg_temp.purple_flea_tables() returns setof regclass
  language sql
  volatile
as $$
  select c.oid::regclass
  from pg_catalog.pg_class c
  where c.relkind in ('r', 'p')
    and (
      c.relnamespace = to_regnamespace('purple_flea')
      or (
        c.relnamespace = 'public'::regnamespace
        and c.relname in (
          'wallet_changes', 'agents', 'escrow_requests', 'close_requests', 'trade_results',
          'tenants', 'memberships', 'api_keys', 'frame_events', 'event_subscriptions',
          'event_delivery_attempts', 'trade_signals', 'signal_policies', 'signal_follows',
          'signal_answers'
        )
      )
      or (
        c.relnamespace = 'public'::regnamespace
        and c.relname in (
          'channels', 'channel_timeline', 'frame_submissions', 'frame_media', 'approval_policies'
        )
        and 'frames' = any ((select pg_temp.purple_flea_parts())::text[])
      )
    )
  order by
    array_position(
      array[
        'wallet_changes', 'agents', 'escrow_requests', 'close_requests', 'trade_results', 'jobs',
        'job_events', 'channels', 'frame_submissions', 'frame_media', 'approval_policies',
        'channel_timeline', 'tenants', 'memberships', 'api_keys', 'frame_events',
        'subscription_progress', 'event_subscriptions', 'event_deliveries', 'trade_signals',
        'signal_policies', 'signal_follows', 'signal_answers'
      ],
      c.relname::text
    ),
    c.relname
$$;

-- Locks all of them within `patience`, or raises lock_not_available and holds none.
create or replace function pg_temp.purple_flea_lock_all(mode text, patience interval) returns void
  language plpgsql
  volatile
as $$
declare
  began  constant timestamptz := clock_timestamp();
  ends   constant timestamptz := began + patience;
  locked regclass;
begin
  for locked in select * from pg_temp.purple_flea_tables() loop
    -- lock_timeout is for one lock. The rest of the patience bounds all of them together.
    perform set_config(
      'lock_timeout',
      greatest(1, extract(epoch from ends - clock_timestamp()) * 1000)::integer || 'ms',
      true
    );
    execute format('lock table %s in %s mode', locked, mode);
  end loop;
exception when lock_not_available then
  raise exception 'table % is in use', locked
    using errcode = 'lock_not_available',
          detail  = pg_temp.purple_flea_holders(locked, began);
end;
$$;

create or replace function pg_temp.purple_flea_lock(tries integer) returns void
  language plpgsql
  volatile
as $$
declare
  -- A waiting migration makes deposits queue up behind it. It gives up before any of them has
  -- waited for deadlock_timeout (1 s by default), so that Postgres never chooses a deposit as the
  -- victim of a deadlock with the migration.
  most_ms  constant integer  := 800;
  patience constant interval := make_interval(secs => least(
    most_ms,
    (
      select 0.8 * s.setting::numeric
      from pg_catalog.pg_settings s
      where s.name = 'deadlock_timeout'
    )
  ) / 1000.0);
  -- Longer than deadlock_timeout: only for a session that waits so long does Postgres end an
  -- autovacuum that is in its way. Deposits do not queue up behind this mode.
  vacuum_patience constant interval := '3 seconds';
  left_to_try integer := tries;
  held_by     text;
begin
  loop
    begin
      perform pg_temp.purple_flea_lock_all('share update exclusive', vacuum_patience);
      perform pg_temp.purple_flea_lock_all('access exclusive', patience);
      -- The wait for a view or the publication is as short.
      perform set_config('lock_timeout', most_ms || 'ms', true);
      return;
    exception when lock_not_available then
      left_to_try := left_to_try - 1;
      get stacked diagnostics held_by = pg_exception_detail;
      if left_to_try <= 0 then
        raise exception '%', sqlerrm using errcode = 'lock_not_available', detail = held_by;
      end if;
      raise notice '%: %; trying again', sqlerrm, held_by;
    end;
    -- The migration holds no table meanwhile.
    perform pg_sleep(least(tries - left_to_try, 5));
  end loop;
end;
$$;
