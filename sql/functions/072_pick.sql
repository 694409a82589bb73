-- The choice of the jobs that are claimed next. In the usual case a claim takes the first jobs in
-- the order in which they are due. If those may not be claimed (paused, rate limited, awaiting an
-- operator's confirmation), the claim goes from lane to lane, so that a job that is held back keeps
-- no other waiting.
--
-- Only pick_jobs() calls the other functions here, and its settings for the planner hold in them.

create or replace function purple_flea.pick_named(
  wanted     text[],
  most       integer,
  exhausted  jsonb,
  generation uuid
) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select j.reference
    from purple_flea.jobs j
    join purple_flea.effective_policies p
      on p.agent_id = j.agent_id
      and not p.paused
      and (not p.limited or purple_flea.is_retryable(j.kind))
    where j.reference = any (wanted)
      and j.state = 'pending'
      and j.due_at <= statement_timestamp() + interval '1 second'
      and j.expires_at > statement_timestamp()
      and purple_flea.is_ready(j, wanted)
      and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_named.generation)
      and (
        exhausted = '{}'
        or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted)
      )
    limit most
    for update of j skip locked
  );
end;
$$;
comment on function purple_flea.pick_named(text[], integer, jsonb, uuid) is
  'Locks the jobs that a claim names, except those of agents with a daily limit.';

create or replace function purple_flea.pick_due(
  but_not     text[],
  most        integer,
  window_rows integer,
  exhausted   jsonb,
  generation  uuid
) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select j.reference
    from (
      select w.reference, w.due_at
      from purple_flea.jobs w
      where w.state = 'pending'
        and w.due_at <= statement_timestamp()
      order by w.due_at
      limit window_rows
    ) as first
    join purple_flea.jobs j on j.reference = first.reference
    join purple_flea.effective_policies p
      on p.agent_id = j.agent_id
      and not p.paused
      and (not p.limited or purple_flea.is_retryable(j.kind))
    where j.state = 'pending'
      and j.due_at <= statement_timestamp()
      and j.reference <> all (but_not)
      and j.expires_at > statement_timestamp()
      and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_due.generation)
      and (
        exhausted = '{}'
        or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted)
      )
    order by first.due_at
    limit most
    for update of j skip locked
  );
end;
$$;
comment on function purple_flea.pick_due(text[], integer, integer, jsonb, uuid) is
  'Locks the jobs that may be claimed among the first due ones.';

create or replace function purple_flea.has_more_due(window_rows integer) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from purple_flea.jobs w
    where w.state = 'pending'
      and w.due_at <= statement_timestamp()
    order by w.due_at
    offset window_rows
    limit 1
  );
end;
$$;
comment on function purple_flea.has_more_due(integer) is
  'Says whether more jobs are due than the first ones.';

create or replace function purple_flea.pick_by_lane(
  but_not    text[],
  most       integer,
  enough     integer,
  exhausted  jsonb,
  generation uuid
) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select j.reference
    from (
      select l.agent_id, l.kind
      from purple_flea.open_lanes(exhausted, pick_by_lane.generation, false, enough, true) l
      where not l.one_at_a_time
    ) as lane
    cross join lateral (
      select w.reference
      from purple_flea.jobs w
      where w.agent_id = lane.agent_id
        and w.kind = lane.kind
        and w.state = 'pending'
        and w.due_at <= statement_timestamp()
        and w.expires_at > statement_timestamp()
      order by w.due_at
      limit enough
    ) as first
    join purple_flea.jobs j on j.reference = first.reference
    where j.state = 'pending'
      and j.due_at <= statement_timestamp()
      and j.reference <> all (but_not)
      and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_by_lane.generation)
    limit most
    for update of j skip locked
  );
end;
$$;
comment on function purple_flea.pick_by_lane(text[], integer, integer, jsonb, uuid) is
  'Locks jobs that may be claimed, lane by lane.';

create or replace function purple_flea.pick_jobs(
  wanted     text[],
  most       integer,
  exhausted  jsonb,
  generation uuid
) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A backlog grows faster than the statistics on it. By those Postgres would sort all of it for
  -- each claim. The index of due jobs gives the first ones at once.
  set enable_sort = off
  set jit = off  -- see expire()
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  -- Due jobs that a claim looks at before it goes from lane to lane: some hundred look-ups of a
  -- policy.
  window_rows constant integer := 4 * most + 100;
  picked      text[] := '{}';
begin
  if (select p.paused from purple_flea.trade_policies p where p.agent_id is null) then
    return '{}';
  end if;
  if cardinality(wanted) > 0 then
    picked := purple_flea.pick_named(wanted, most, exhausted, generation);
  end if;
  picked := picked
    || purple_flea.pick_limited(wanted, most - cardinality(picked), exhausted, generation);
  picked := picked
    || purple_flea.pick_due(picked, most - cardinality(picked), window_rows, exhausted, generation);
  if cardinality(picked) < most and purple_flea.has_more_due(window_rows) then
    picked := picked
      || purple_flea.pick_by_lane(picked, most - cardinality(picked), most, exhausted, generation);
  end if;
  return picked;
end;
$$;
comment on function purple_flea.pick_jobs(text[], integer, jsonb, uuid) is
  'Locks the jobs that are claimed next. Jobs that the claim names come first.';

-- A restore can bring back an archived job, and an import a deposit that has its row of
-- trade_results. A ledger that was uninstalled and made again has forgotten the names of requests
-- and of workflows' steps, and trade_results has them still.
create or replace function purple_flea.end_done_before(picked text[]) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  archived text[] := array(
    select a.reference
    from purple_flea.jobs_archive a
    where a.reference = any (picked)
  );
  traded   text[] := array(
    select t.reference
    from public.trade_results t
    join purple_flea.jobs j on j.reference = t.reference
    left join public.wallet_changes w on w.id = j.wallet_change_id
    where t.reference = any (picked)
      and case
        when j.wallet_change_id is null then purple_flea.is_staking(j.kind)
        -- An older result belongs to another deposit, whose id has come again.
        else t.created_at >= w.created_at
      end
  );
begin
  if archived = '{}' and traded = '{}' then
    return picked;
  end if;
  update purple_flea.jobs j
  set state      = 'dead',
      changed_by = 'sweeper',
      reason     = 'done_before'
  where j.reference = any (archived);
  update purple_flea.jobs j
  set state      = 'skipped',
      changed_by = 'sweeper',
      reason     = 'already_traded',
      result     = jsonb_build_object(
                     'status', 'skipped',
                     'reason', 'already_traded',
                     'reference', j.reference,
                     'agent_id', j.agent_id
                   )
  where j.reference = any (traded)
    and j.reference <> all (archived);
  return array(
    select p.reference
    from unnest(picked) with ordinality as p (reference, n)
    where p.reference <> all (archived)
      and p.reference <> all (traded)
    order by p.n
  );
end;
$$;
comment on function purple_flea.end_done_before(text[]) is
  'Ends the locked jobs that have been executed before: archived ones as dead, those with a '
  'result as skipped. Gives the others.';

create or replace function purple_flea.is_due(at timestamptz default statement_timestamp())
  returns boolean
  language plpgsql
  volatile  -- sees the claim's own changes
  set search_path = pg_catalog, pg_temp
  set enable_sort = off  -- see expire()
  set jit = off
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  window_rows constant integer := 100;
  present     uuid;
  looked_at   integer;
begin
  if (select p.paused from purple_flea.trade_policies p where p.agent_id is null)
    or not exists (
      select
      from purple_flea.jobs j
      where j.state = 'pending'
        and j.due_at <= is_due.at
      order by j.due_at
      limit 1
    ) then
    return false;
  end if;
  present := purple_flea.current_generation();
  if exists (
    select
    from (
      select w.agent_id, w.kind, w.generation
      from purple_flea.jobs w
      where w.state = 'pending'
        and w.due_at <= is_due.at
      order by w.due_at
      limit window_rows
    ) as first
    join purple_flea.effective_policies p
      on p.agent_id = first.agent_id
      and not p.paused
    where not purple_flea.awaits_confirmation(first.kind, first.generation, present)
  ) then
    return true;
  end if;
  select count(*) into looked_at
  from (
    select
    from purple_flea.jobs w
    where w.state = 'pending'
      and w.due_at <= is_due.at
    order by w.due_at
    limit window_rows
  ) as first;
  return looked_at = window_rows
    and exists (select from purple_flea.open_lanes('{}', present, false, 1, false));
end;
$$;
comment on function purple_flea.is_due(timestamptz) is
  'Says whether any job is due that is not held back.';
