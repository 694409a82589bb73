-- Transitions that time alone decides: leases end, and jobs that have waited too long expire. A job
-- that cannot be changed, because a row that belongs to it is locked or an application's trigger
-- refuses, waits alone. The other jobs go on.

-- A worker whose lease ran out may have executed its job. A retryable job is claimed again; any
-- other becomes unknown.
create or replace function purple_flea.end_leases(picked text[]) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  lookup_wait constant interval    := (purple_flea.timing()).lookup_wait;
  at          constant timestamptz := clock_timestamp();
  changed     integer;
begin
  update purple_flea.jobs j
  set state      = case when purple_flea.is_retryable(j.kind) then 'pending' else 'unknown' end,
      changed_by = 'sweeper',
      reason     = 'lease_ran_out',
      due_at     = at,
      lookup_at  = case
                     when not purple_flea.is_retryable(j.kind) then j.lease_until + lookup_wait
                   end
  where j.reference = any (picked)
    and j.state = 'claimed';
  get diagnostics changed = row_count;
  return changed;
end;
$$;
comment on function purple_flea.end_leases(text[]) is
  'Ends the claims of locked jobs whose leases ran out; says how many.';

-- A pause expires no job: the pause moves the end by as long as it has lasted. While it lasts, the
-- end is an hour later still, so that the next sweeps pass the job over.
create or replace function purple_flea.expire_locked(picked text[]) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  while_paused constant interval := '1 hour';
  changed      integer;
begin
  update purple_flea.jobs j
  set expires_at = j.expires_at + (held.so_far - j.extended),
      extended   = held.so_far
  from purple_flea.jobs t
  cross join lateral (
    select
      purple_flea.held_for(t.agent_id, t.created_at)
        + case when purple_flea.is_held(t.agent_id) then while_paused else '0' end as so_far
  ) as held
  where j.reference = t.reference
    and t.reference = any (picked)
    and t.state = 'pending'
    -- A signal expires during a pause, too.
    and not purple_flea.answers_signal(t.reference)
    and held.so_far > t.extended;
  update purple_flea.jobs j
  set state      = case when purple_flea.answers_signal(j.reference) then 'skipped' else 'dead' end,
      changed_by = 'sweeper',
      result     = case
                     when purple_flea.answers_signal(j.reference) then jsonb_build_object(
                       'status', 'skipped',
                       'reason', 'signal_expired',
                       'reference', j.reference,
                       'agent_id', j.agent_id
                     )
                     else j.result
                   end,
      reason     = case
                     when purple_flea.answers_signal(j.reference) then 'signal_expired'
                     when j.reason = 'missed' then 'missed'
                     when j.result ->> 'purple_flea_code' = 'ip_rate_limited'
                       then 'one_claim_a_day'
                     else 'too_old'
                   end
  where j.reference = any (picked)
    and j.state = 'pending'
    and j.expires_at < clock_timestamp();
  get diagnostics changed = row_count;
  return changed;
end;
$$;
comment on function purple_flea.expire_locked(text[]) is
  'Moves the end of locked jobs by their pauses, and expires those that are too old still; says '
  'how many expired.';

create or replace function purple_flea.give_back(picked text[]) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  at      constant timestamptz := clock_timestamp();
  changed integer;
begin
  update purple_flea.jobs j
  set state      = 'pending',
      changed_by = 'worker',
      reason     = 'abandoned',
      result     = '{"reason": "abandoned"}',
      due_at     = at + purple_flea.wait_before_retry(j.attempts, 0, true),
      bet_day    = null
  where j.reference = any (picked)
    and j.state = 'claimed';
  get diagnostics changed = row_count;
  return changed;
end;
$$;
comment on function purple_flea.give_back(text[]) is
  'Makes locked jobs pending again that their worker never began; says how many.';

-- Raises if one of the jobs cannot be changed.
create or replace function purple_flea.change_at_once(picked text[], doing text) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  changed integer;
begin
  case doing
    when 'end_lease' then changed := purple_flea.end_leases(picked);
    when 'expire'    then changed := purple_flea.expire_locked(picked);
    when 'give_back' then changed := purple_flea.give_back(picked);
  end case;
  delete from purple_flea.job_troubles t where t.reference = any (picked);
  return changed;
end;
$$;
comment on function purple_flea.change_at_once(text[], text) is
  'Changes locked jobs together: end_lease, expire or give_back. Says how many were changed.';

create or replace function purple_flea.change_jobs(picked text[], doing text) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- An application may lock rows that triggers write to. The sweeper tries such a job again later.
  set lock_timeout = '100ms'
as $$
declare
  -- The next sweep looks again at the jobs that are not reached by then.
  ends    constant timestamptz := clock_timestamp() + interval '1 second';
  changed integer := 0;
  name    text;
begin
  if coalesce(cardinality(picked), 0) = 0 then
    return 0;
  end if;
  begin
    return purple_flea.change_at_once(picked, doing);
  exception when others then
    null;  -- One of the jobs cannot be changed. The loop finds out which.
  end;
  foreach name in array picked loop
    exit when clock_timestamp() > ends;
    begin
      changed := changed + purple_flea.change_at_once(array[name], doing);
    exception when others then
      perform purple_flea.note_trouble(name, doing, sqlstate || ': ' || sqlerrm);
    end;
  end loop;
  return changed;
end;
$$;
comment on function purple_flea.change_jobs(text[], text) is
  'Changes locked jobs together, or one by one if one of them cannot be changed. Notes that one '
  'in job_troubles. Says how many were changed.';

create or replace function purple_flea.note_trouble(reference text, doing text, why text)
  returns void
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  -- The first wait is ten seconds. It doubles each time, up to ten minutes.
  insert into purple_flea.job_troubles as known (reference, doing, why, retry_at)
  values (reference, doing, left(why, 500), clock_timestamp() + interval '10 seconds')
  on conflict on constraint job_troubles_pkey do update
  set doing    = excluded.doing,
      why      = excluded.why,
      times    = known.times + 1,
      retry_at = clock_timestamp() + least(
        interval '10 minutes',
        interval '10 seconds' * power(2, least(known.times, 10))
      )
$$;
comment on function purple_flea.note_trouble(text, text, text) is
  'Notes that a job could not be changed, and when the ledger tries again.';

-- A look comes first, because a lease seldom runs out, and an update costs even then. Rows are
-- looked for by statement_timestamp(), which an index can answer; Postgres would compare
-- clock_timestamp() with every row. Only expire() calls this and the next function, and its
-- settings for the planner hold in them.
create or replace function purple_flea.lock_late(most integer) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (
    select late.lease_until
    from purple_flea.jobs late
    where late.state = 'claimed'
    order by late.lease_until
    limit 1
  ) < statement_timestamp() then
    return array(
      select late.reference
      from purple_flea.jobs late
      where late.state = 'claimed'
        and late.lease_until < statement_timestamp()
        and not exists (
          select
          from purple_flea.job_troubles t
          where t.reference = late.reference
            and t.retry_at > statement_timestamp()
        )
      order by late.lease_until
      limit most
      for update skip locked
    );
  end if;
  return '{}';
end;
$$;
comment on function purple_flea.lock_late(integer) is
  'Locks the claimed jobs whose leases ran out first.';

-- While a restore awaits confirmation no job expires: it may have been bet on, and is to be looked
-- up.
create or replace function purple_flea.lock_overdue(most integer) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (
    select old.expires_at
    from purple_flea.jobs old
    where old.state = 'pending'
    order by old.expires_at
    limit 1
  ) < statement_timestamp()
    and purple_flea.current_generation() is not null then
    return array(
      select old.reference
      from purple_flea.jobs old
      where old.state = 'pending'
        and old.expires_at < statement_timestamp()
        and not exists (
          select
          from purple_flea.job_troubles t
          where t.reference = old.reference
            and t.retry_at > statement_timestamp()
        )
      order by old.expires_at
      limit most
      for update skip locked
    );
  end if;
  return '{}';
end;
$$;
comment on function purple_flea.lock_overdue(integer) is
  'Locks the pending jobs that were to expire first.';

-- Each claim, each look-up and each sweep calls it.
create or replace function purple_flea.expire(holding boolean) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Whatever the statistics say of a backlog, an index finds its first job.
  set enable_sort = off
  -- A node that is off costs 1e10 in the plan. Postgres compiles so expensive a plan for seconds.
  set jit = off
as $$
declare
  most constant integer := 1000;  -- jobs at a time, so that no transaction waits for them long
begin
  if holding then
    perform purple_flea.record_hold();
  end if;
  perform purple_flea.change_jobs(purple_flea.lock_late(most), 'end_lease');
  perform purple_flea.change_jobs(purple_flea.lock_overdue(most), 'expire');
end;
$$;
comment on function purple_flea.expire(boolean) is
  'Ends leases and expires jobs that have waited too long. While bets are held back no job grows '
  'old.';
