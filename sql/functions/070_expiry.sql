-- What time alone decides: leases end, and what has waited too long is buried. One job that cannot be changed, because a row
-- that belongs to it is locked or an application's trigger refuses, waits alone: the others go on.

-- Changes jobs that the caller has locked, all in one statement. Raises if one of them cannot be changed.
create or replace function purple_flea.change_at_once(picked text[], doing text) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  timing  record;
  at      timestamptz := clock_timestamp();
  changed integer;
begin
  timing := purple_flea.timing();
  case doing
    when 'end_lease' then
      -- Nobody knows what became of a claim whose time ran out; what Purple Flea performs at most once is tried again.
      update purple_flea.jobs j
      set state = case when purple_flea.is_repeatable(j.kind) then 'pending' else 'unknown' end,
          changed_by = 'sweeper', reason = 'lease_ran_out', due_at = at,
          lookup_at = case when not purple_flea.is_repeatable(j.kind) then j.lease_until + timing.lookup_wait end
      where j.reference = any (picked) and j.state = 'claimed';
    when 'bury' then
      -- A pause condemns nothing: it moves the end by as long as it has lasted, and while it lasts by an hour more.
      update purple_flea.jobs j
      set expires_at = j.expires_at + (held.so_far - j.extended), extended = held.so_far
      from purple_flea.jobs t
      cross join lateral (
        select purple_flea.held_for(t.agent_id, t.created_at)
               + case when purple_flea.is_held(t.agent_id) then timing.max_age / 24 else '0' end as so_far
      ) as held
      where j.reference = t.reference and t.reference = any (picked) and t.state = 'pending' and held.so_far > t.extended;
      update purple_flea.jobs j
      set state = 'dead', changed_by = 'sweeper', reason = case j.reason when 'missed' then 'missed' else 'too_old' end
      where j.reference = any (picked) and j.state = 'pending' and j.expires_at < at;
    when 'give_back' then
      update purple_flea.jobs j
      set state = 'pending', changed_by = 'worker', reason = 'abandoned', result = '{"reason": "abandoned"}',
          due_at = at + purple_flea.wait_before_retry(j.attempts, 0, true), bet_day = null
      where j.reference = any (picked) and j.state = 'claimed';
  end case;
  get diagnostics changed = row_count;
  delete from purple_flea.job_troubles t where t.reference = any (picked);
  return changed;
end;
$$;
comment on function purple_flea.change_at_once(text[], text) is 'Ends leases (end_lease), buries or extends what is too old (bury), or gives claimed jobs back (give_back).';
revoke all on function purple_flea.change_at_once(text[], text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.change_jobs(picked text[], doing text) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Rows that triggers write to may be locked by an application: not waited for here, tried again later.
  set lock_timeout = '100ms'
as $$
declare
  ends    constant timestamptz := clock_timestamp() + interval '1 second';  -- what is not reached is looked at again next time
  changed integer := 0;
  asked   text;
begin
  if coalesce(cardinality(picked), 0) = 0 then
    return 0;
  end if;
  begin
    return purple_flea.change_at_once(picked, doing);
  exception when others then
    null;  -- One of them; which one shows below.
  end;
  foreach asked in array picked loop
    exit when clock_timestamp() > ends;
    begin
      changed := changed + purple_flea.change_at_once(array[asked], doing);
    exception when others then
      perform purple_flea.note_trouble(asked, doing, sqlstate || ': ' || sqlerrm);
    end;
  end loop;
  return changed;
end;
$$;
comment on function purple_flea.change_jobs(text[], text) is 'The same for each job on its own, if one of them cannot be changed. That one is noted in job_troubles. Says how many were changed.';
revoke all on function purple_flea.change_jobs(text[], text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.note_trouble(asked text, doing text, why text) returns void
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  -- Ten seconds, then twice as long each time, up to ten minutes.
  insert into purple_flea.job_troubles as known (reference, doing, why, retry_at)
  values (asked, doing, left(why, 500), clock_timestamp() + interval '10 seconds')
  on conflict (reference) do update
  set doing = excluded.doing, why = excluded.why, times = known.times + 1,
      retry_at = clock_timestamp() + least(interval '10 minutes', interval '10 seconds' * power(2, least(known.times, 10)))
$$;
comment on function purple_flea.note_trouble(text, text, text) is 'Notes that a job could not be changed, and when that is tried again.';
revoke all on function purple_flea.note_trouble(text, text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Called by each claim and look-up, and by the sweeper.
--
-- Wherever rows are looked for by their time it is statement_timestamp(), which an index can be asked for;
-- clock_timestamp() would be compared with every row.
create or replace function purple_flea.expire(holding boolean) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Whatever the statistics say of the backlog: its first one is found by walking along an index.
  set enable_sort = off
  -- A node that is off costs 1e10 in the plan. Postgres compiles so expensive a plan, which takes it seconds.
  set jit = off
as $$
declare
  most constant integer := 1000;  -- rows at a time, so that nobody waits long for a lock of ours
begin
  if holding then
    perform purple_flea.record_hold();
  end if;
  -- Looked for first, because it is seldom there, and an update costs even then.
  if (select late.lease_until from purple_flea.jobs late where late.state = 'claimed' order by late.lease_until limit 1) < statement_timestamp() then
    perform purple_flea.change_jobs(array(
      select late.reference from purple_flea.jobs late
      where late.state = 'claimed' and late.lease_until < statement_timestamp()
        and not exists (select from purple_flea.job_troubles t where t.reference = late.reference and t.retry_at > statement_timestamp())
      order by late.lease_until limit most for update skip locked
    ), 'end_lease');
  end if;
  if (select old.expires_at from purple_flea.jobs old where old.state = 'pending' order by old.expires_at limit 1) < statement_timestamp() then
    perform purple_flea.change_jobs(array(
      select old.reference from purple_flea.jobs old
      where old.state = 'pending' and old.expires_at < statement_timestamp()
        and not exists (select from purple_flea.job_troubles t where t.reference = old.reference and t.retry_at > statement_timestamp())
      order by old.expires_at limit most for update skip locked
    ), 'bury');
  end if;
end;
$$;
comment on function purple_flea.expire(boolean) is 'Ends leases and buries what has waited too long; while bets are held back nothing grows old.';
revoke all on function purple_flea.expire(boolean) from public, anon, authenticated, service_role, purple_flea_worker;
