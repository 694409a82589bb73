-- The watch. While a worker long-polls the database for the next job, no notification is needed.
-- One worker at a time keeps the watch: its claims renew it, and between them it waits in
-- await_jobs().
--
-- One advisory lock ensures that no job is missed when a watch ends. A transaction that makes jobs
-- takes the lock shared until its commit, and then looks for a watch. The watcher takes the lock
-- exclusively, and then looks for due jobs once more. If the watcher is gone without an end, its
-- watch runs out in seconds, and the sweeper notifies the function.

create or replace function purple_flea.watch_lock() returns bigint
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended('purple_flea:watch', 3)
$$;
comment on function purple_flea.watch_lock() is
  'Gives the key of the lock between the watcher and transactions that rely on the watch.';

-- The two statements are apart, because the second must see what was committed before the first got
-- its lock. A transaction of another isolation level sees only what was committed before it began.
create or replace function purple_flea.is_watched() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed'
    or not pg_try_advisory_xact_lock_shared(purple_flea.watch_lock()) then
    return false;
  end if;
  return exists (select from purple_flea.watch w where w.until > clock_timestamp());
end;
$$;
comment on function purple_flea.is_watched() is
  'Says whether a watcher will see the jobs of this transaction without a notification.';

create or replace function purple_flea.keep_watch(watcher uuid, linger interval) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  grace    constant interval := '1 second';  -- for the way from the end of a wait to the next claim
  standing purple_flea.watch;
begin
  -- A locked row means that another worker is about to take the watch, or to end it.
  select * into standing from purple_flea.watch w where w.only_row for update skip locked;
  if not found
    or (standing.watcher is distinct from keep_watch.watcher and standing.until > clock_timestamp())
  then
    return false;
  end if;
  -- The worker renews its watch only when half of it is over. A row that each claim writes would be
  -- the busiest of all.
  if standing.watcher is distinct from keep_watch.watcher
    or standing.until < clock_timestamp() + grace + linger then
    update purple_flea.watch w
    set watcher = keep_watch.watcher,
        until   = clock_timestamp() + grace + 2 * linger
    where w.only_row;
  end if;
  return true;
end;
$$;
comment on function purple_flea.keep_watch(uuid, interval) is
  'Takes the watch or renews it; says whether the caller has it.';

-- Without a due job the wait for the lock is a wait for a transaction that relies on this watch. It
-- does not wait for long. A job that comes later than that is left to the sweeper.
create or replace function purple_flea.stop_watch(watcher uuid, even_if_due boolean) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '1s'
as $$
begin
  begin
    perform pg_advisory_xact_lock(purple_flea.watch_lock());
  exception when lock_not_available then
    null;
  end;
  if not even_if_due and purple_flea.is_due(clock_timestamp()) then
    return false;
  end if;
  update purple_flea.watch w
  set until = '-infinity'
  where w.watcher = stop_watch.watcher;
  return true;
end;
$$;
comment on function purple_flea.stop_watch(uuid, boolean) is
  'Ends a watch, unless a job is due and that counts; says whether it ended.';

create or replace function public.await_jobs(watcher uuid, wait_ms integer) returns boolean
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most_ms  constant integer  := 3000;              -- because a wait holds a connection
  pause    constant interval := '2 milliseconds';  -- between looks; or four times a look's time
  ends     timestamptz;
  looks_at timestamptz;
begin
  if await_jobs.wait_ms is null or await_jobs.wait_ms not between 0 and most_ms then
    raise exception 'wait_ms is 0 to %', most_ms using errcode = 'invalid_parameter_value';
  end if;
  select least(w.until, clock_timestamp() + make_interval(secs => await_jobs.wait_ms / 1000.0))
    into ends
  from purple_flea.watch w
  where w.watcher = await_jobs.watcher
    and w.until > clock_timestamp();
  if not found then
    return false;
  end if;
  loop
    looks_at := clock_timestamp();
    -- Most looks find nothing, and this one costs a third of is_due().
    perform from purple_flea.jobs j where j.state = 'pending' and j.due_at <= looks_at limit 1;
    if found and purple_flea.is_due(looks_at) then
      return true;
    end if;
    exit when looks_at > ends;
    perform pg_sleep(extract(epoch from greatest(pause, 4 * (clock_timestamp() - looks_at))));
  end loop;
  return not purple_flea.stop_watch(await_jobs.watcher, false);
end;
$$;
comment on function public.await_jobs(uuid, integer) is
  'Waits for a due job, for at most wait_ms milliseconds. Returns true if there is one; otherwise '
  'the watch is over.';

create or replace function public.end_watch(watcher uuid, hand_over boolean default false)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.stop_watch(end_watch.watcher, true);
  if end_watch.hand_over then
    perform purple_flea.notify_if_due();
  end if;
end;
$$;
comment on function public.end_watch(uuid, boolean) is
  'Ends a watch. With hand_over it notifies the function of due jobs, for another worker.';
