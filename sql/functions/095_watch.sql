revoke all on purple_flea.watch from public, anon, authenticated, service_role, purple_flea_worker;

-- The lock's key, by which both sides mean the same one.
create or replace function purple_flea.unrung() returns bigint
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended('purple_flea:unrung', 3)
$$;
comment on function purple_flea.unrung() is 'The key of the lock that jobs hold whose makers did not ring.';
revoke all on function purple_flea.unrung() from public, anon, authenticated, service_role, purple_flea_worker;

-- The two statements are apart because the second must see what was committed before the first got its lock.
create or replace function purple_flea.is_watched() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock_shared(purple_flea.unrung()) then
    return false;
  end if;
  return exists (select from purple_flea.watch w where w.until > clock_timestamp());
end;
$$;
comment on function purple_flea.is_watched() is 'Whether the jobs of this transaction will be seen without a ring.';
revoke all on function purple_flea.is_watched() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.keep_watch(watcher uuid, linger interval) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  grace constant interval := '1 second';  -- for the way from the end of a wait to the next claim
  standing purple_flea.watch;
begin
  -- Nobody waits for somebody else's: whoever has it now is about to take it, or to end it.
  select * into standing from purple_flea.watch w where w.only_row for update skip locked;
  if not found or (standing.watcher is distinct from keep_watch.watcher and standing.until > clock_timestamp()) then
    return false;
  end if;
  -- Said again only when half of it is over: a row that each claim writes would be the busiest of all.
  if standing.watcher is distinct from keep_watch.watcher or standing.until < clock_timestamp() + grace + linger then
    update purple_flea.watch w set watcher = keep_watch.watcher, until = clock_timestamp() + grace + 2 * linger where w.only_row;
  end if;
  return true;
end;
$$;
comment on function purple_flea.keep_watch(uuid, interval) is 'Takes the watch, or goes on with it; says whether it is the caller''s.';
revoke all on function purple_flea.keep_watch(uuid, interval) from public, anon, authenticated, service_role, purple_flea_worker;

-- Ends a watch, unless something is due after all: says whether it is over. Without a job in sight, whoever waits for the
-- lock waits for a transaction that relies on this watch; not for long, and what it makes is then left to the sweeper.
create or replace function purple_flea.stop_watch(watcher uuid, whatever_is_due boolean) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '1s'
as $$
begin
  begin
    perform pg_advisory_xact_lock(purple_flea.unrung());
  exception when lock_not_available then
    null;
  end;
  if not whatever_is_due and purple_flea.is_due(clock_timestamp()) then
    return false;
  end if;
  update purple_flea.watch w set until = '-infinity' where w.watcher = stop_watch.watcher;
  return true;
end;
$$;
comment on function purple_flea.stop_watch(uuid, boolean) is 'Ends a watch under the lock of those who rely on it; unless a job is due, if that counts.';
revoke all on function purple_flea.stop_watch(uuid, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.await_jobs(watcher uuid, wait_ms integer) returns boolean
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most     constant integer  := 3000;             -- a wait holds a connection
  pause    constant interval := '4 milliseconds'; -- between looks, and never less than four times as long as one takes
  ends     timestamptz;
  looks_at timestamptz;
begin
  if await_jobs.wait_ms is null or await_jobs.wait_ms not between 0 and most then
    raise exception 'wait_ms is 0 to %', most using errcode = 'invalid_parameter_value';
  end if;
  select least(w.until, clock_timestamp() + make_interval(secs => await_jobs.wait_ms / 1000.0)) into ends
  from purple_flea.watch w
  where w.watcher = await_jobs.watcher and w.until > clock_timestamp();
  if not found then
    return false;
  end if;
  loop
    looks_at := clock_timestamp();
    if purple_flea.is_due(looks_at) then
      return true;
    end if;
    exit when looks_at > ends;
    perform pg_sleep(extract(epoch from greatest(pause, 4 * (clock_timestamp() - looks_at))));
  end loop;
  return not purple_flea.stop_watch(await_jobs.watcher, false);
end;
$$;
comment on function public.await_jobs(uuid, integer) is 'Waits for a job that is due, for at most so long: true if there is one, otherwise the watch is over.';
revoke all on function public.await_jobs(uuid, integer) from public, anon, authenticated;
grant execute on function public.await_jobs(uuid, integer) to service_role, purple_flea_worker;

create or replace function public.end_watch(watcher uuid, hand_over boolean default false) returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.stop_watch(end_watch.watcher, true);
  if end_watch.hand_over then
    perform purple_flea.try_ring();
  end if;
end;
$$;
comment on function public.end_watch(uuid, boolean) is 'Ends a watch, and rings for what is due if somebody else is to go on with it.';
revoke all on function public.end_watch(uuid, boolean) from public, anon, authenticated;
grant execute on function public.end_watch(uuid, boolean) to service_role, purple_flea_worker;
