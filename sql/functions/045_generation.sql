-- The database's generation. A restore, a copy or a failover can bring back jobs whose bets have
-- been made since. Such a database hands out no stake until an operator confirms it
-- (046_restore.sql).

create or replace function purple_flea.database_identity(
  out system_identifier bigint,
  out database_oid      oid,
  out timeline          text,
  out jobs_oid          oid
)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  database_oid := (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  jobs_oid     := to_regclass('purple_flea.jobs');
  timeline     := left(pg_walfile_name(pg_current_wal_lsn()), 8);
  begin
    system_identifier := (select c.system_identifier from pg_catalog.pg_control_system() c);
  exception when insufficient_privilege then
    -- Without the server's identifier the other three and the row's own xmin have to be enough.
    system_identifier := 0;
  end;
end;
$$;
comment on function purple_flea.database_identity() is
  'Gives the facts by which this database differs from a restored one, a copy, or one that '
  'another server has taken over.';

create or replace function purple_flea.current_generation() returns uuid
  language plpgsql  -- see timing()
  volatile          -- sees a confirmation in the same transaction
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select g.id
    from purple_flea.generation g
    join purple_flea.database_identity() i
      on i.system_identifier = g.system_identifier
      and i.database_oid = g.database_oid
      and i.timeline = g.timeline
      and i.jobs_oid = g.jobs_oid
    where g.xmin = g.stamped_xid
  );
end;
$$;
comment on function purple_flea.current_generation() is
  'Gives the generation whose jobs may stake money; null while the database waits for '
  'confirm_restore().';

-- Writes the row twice. The second time the row gets its own xmin, which differs from the
-- transaction's id if a subtransaction writes.
create or replace function purple_flea.stamp(generation uuid, because text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Writers of events queue up behind this one. It waits for no transaction of hours.
  set lock_timeout = '10s'
as $$
declare
  written_by xid;
  present    record;
begin
  present := purple_flea.database_identity();
  -- A generation has an epoch of the event feed. Every transaction that has written events of the
  -- last one has ended when this has its lock.
  lock table public.frame_events in share row exclusive mode;
  update purple_flea.feed f
  set epoch = f.epoch + 1
  where f.only_row
    and exists (select from purple_flea.generation g where g.id <> stamp.generation);
  update purple_flea.generation g
  set id                = stamp.generation,
      system_identifier = present.system_identifier,
      database_oid      = present.database_oid,
      timeline          = present.timeline,
      jobs_oid          = present.jobs_oid,
      stamped_at        = clock_timestamp(),
      stamped_because   = because
  where g.only_row
  returning g.xmin into written_by;
  update purple_flea.generation g
  set stamped_xid = written_by
  where g.only_row;
end;
$$;
comment on function purple_flea.stamp(uuid, text) is
  'Makes a generation the one whose jobs may stake money in this database.';

-- Without a search path of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.awaits_confirmation(
  kind               text,
  generation         uuid,
  current_generation uuid
) returns boolean
  language sql
  immutable
  security invoker
as $$
  select not purple_flea.is_retryable(kind)
    and (current_generation is null or generation is distinct from current_generation)
$$;
comment on function purple_flea.awaits_confirmation(text, uuid, uuid) is
  'Says whether a job of a generation moves money and may not be handed out before '
  'confirm_restore().';
