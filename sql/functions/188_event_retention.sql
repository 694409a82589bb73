-- Retention: events are deleted by their age, in the order of the feed, in small batches. For each
-- tenant the feed remembers the last one, so that a follower that was away for longer is told.

create or replace function purple_flea.keep_young_event() returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if old.occurred_at > clock_timestamp() - (select f.keep_for from purple_flea.feed f) then
    raise exception 'event % is kept for %', old.id, (select f.keep_for from purple_flea.feed f)
      using errcode = 'object_not_in_prerequisite_state',
            hint    = 'Followers may still have to read it.';
  end if;
  return old;
end;
$$;
comment on function purple_flea.keep_young_event() is
  'Refuses to delete an event before its time, whichever role asks.';

create or replace trigger purple_flea_keep_young
  before delete on public.frame_events
  for each row execute function purple_flea.keep_young_event();

create or replace function purple_flea.note_deleted_events() returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.feed_floors as f (tenant_id, epoch, position, id)
  select distinct on (g.tenant_id) g.tenant_id, g.epoch, g.position, g.id
  from gone g
  order by g.tenant_id, g.epoch desc, g.position desc, g.id desc
  on conflict (tenant_id) do update
  set epoch    = excluded.epoch,
      position = excluded.position,
      id       = excluded.id
  where (f.epoch, f.position, f.id) < (excluded.epoch, excluded.position, excluded.id);
  return null;
end;
$$;
comment on function purple_flea.note_deleted_events() is
  'Remembers the place of each tenant''s last deleted event.';

create or replace trigger purple_flea_note_deleted
  after delete on public.frame_events
  referencing old table as gone
  for each statement execute function purple_flea.note_deleted_events();

-- It deletes from the beginning of the feed on, and stops at the first event that is younger. No
-- event that a transaction has still to commit can come before these: none is above the end of the
-- feed.
create or replace function purple_flea.delete_old_events(most integer default 1000) returns integer
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
  before  constant timestamptz := clock_timestamp() - (select f.keep_for from purple_flea.feed f);
  feed    record               := purple_flea.feed_now();
  oldest  bigint[];
  deleted integer;
begin
  oldest := array(
    select w.id
    from (
      select e.id, bool_and(e.occurred_at <= before) over (order by e.n) as old
      from (
        select t.id, t.occurred_at, row_number() over () as n
        from (
          select s.id, s.occurred_at
          from public.frame_events s
          where (s.epoch, s.position) < (feed.epoch, feed.below)
          order by s.epoch, s.position, s.id
          limit most
        ) as t
      ) as e
    ) as w
    where w.old
  );
  if oldest = '{}' then
    return 0;
  end if;
  delete from public.frame_events e where e.id = any (oldest);
  get diagnostics deleted = row_count;
  return deleted;
end;
$$;
comment on function purple_flea.delete_old_events(integer) is
  'Deletes the oldest events, if they are older than feed.keep_for; says how many. The sweeper '
  'calls it.';
