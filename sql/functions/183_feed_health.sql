-- How far the feed is behind, and the transaction that holds it back. An open transaction of any
-- database of the server does, once it has written something: its events may still be to come.

create or replace function purple_flea.oldest_writer() returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object(
      'database', w.database,
      'pid', w.pid,
      'application', w.application,
      'since', w.since
    )
    from (
      -- Every role sees which process has which transaction. Its name and its time are hidden from
      -- an owner that is no member of pg_read_all_stats.
      select
        l.transactionid               as xid,
        a.datname                     as database,
        l.pid,
        nullif(a.application_name, '') as application,
        a.xact_start                  as since
      from pg_catalog.pg_locks l
      join pg_catalog.pg_stat_activity a on a.pid = l.pid
      where l.locktype = 'transactionid'
        and l.mode = 'ExclusiveLock'
        and l.granted
        and l.pid <> pg_backend_pid()
      union all
      select p.transaction, p.database, null, 'prepared transaction ' || p.gid, p.prepared
      from pg_catalog.pg_prepared_xacts p
    ) as w
    order by age(w.xid) desc
    limit 1
  );
end;
$$;
comment on function purple_flea.oldest_writer() is
  'Gives the open transaction that began to write first, in any database of the server: {database, '
  'pid, application, since}; null if there is none. A prepared transaction has no process.';

create or replace function purple_flea.feed_health() returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set enable_bitmapscan = off
  set enable_seqscan = off
  set jit = off
as $$
declare
  most    constant integer := 1000;  -- events that are counted
  feed    constant record  := purple_flea.feed_now();
  waiting bigint;
  lag_s   bigint;
begin
  select count(*), floor(extract(epoch from clock_timestamp() - min(w.occurred_at)))
    into waiting, lag_s
  from (
    select e.occurred_at
    from public.frame_events e
    where (e.epoch, e.position) >= (feed.epoch, feed.below)
    order by e.epoch, e.position, e.id
    limit most
  ) as w;
  return jsonb_build_object(
    'lag_s', greatest(0, coalesce(lag_s, 0)),
    'waiting_events', waiting,
    -- Transactions of milliseconds hold nothing back.
    'held_by', case when lag_s >= 1 then purple_flea.oldest_writer() end,
    'lost', (select l.last_value from purple_flea.feed_lost l),
    'realtime', jsonb_build_object(
      'events_per_s', (select l.realtime_events_per_s from purple_flea.ledger l),
      'dropped', (select d.last_value from purple_flea.realtime_dropped d)
    )
  );
end;
$$;
comment on function purple_flea.feed_health() is
  'Gives the age in seconds of the oldest event that nobody may read yet, how many such events '
  'there are (counted to 1,000), the transaction that holds them back, how many events were lost '
  'in all, and the rate of messages over Realtime with how many of them were dropped above it.';
