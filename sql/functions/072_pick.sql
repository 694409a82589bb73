-- Which jobs are claimed next. In the usual case the first ones in the order they are due; where those may not be claimed
-- (paused, rate limited, waiting for an operator's word), agent by agent, so that what is held back keeps no other waiting.

-- Whether it is a job's time: it is due, or it was made by hand just now and its own request claims it. (Such a job is due
-- for others a second later. The same bound stands beside each call, for the index.)
create or replace function purple_flea.is_ready(job purple_flea.jobs, wanted text[]) returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select job.due_at <= statement_timestamp() or (job.attempts = 0 and job.reference = any (wanted))
$$;
comment on function purple_flea.is_ready(purple_flea.jobs, text[]) is 'Whether a pending job may be claimed now by a request that names some jobs.';
revoke all on function purple_flea.is_ready(purple_flea.jobs, text[]) from public, anon, authenticated, service_role, purple_flea_worker;

-- A lane is what one agent has waiting of one kind: either all of it may be claimed or nothing. Walks from lane to lane
-- along an index, however many jobs each has.
create or replace function purple_flea.lanes(after_agent text, most integer)
  returns table (agent_id text, kind text, due_at timestamptz)
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  -- A node that is off costs 1e10 in the plan. Postgres compiles so expensive a plan, which takes it seconds.
  set jit = off
  set enable_bitmapscan = off
  set enable_seqscan = off
as $$
  with recursive lane as (
    (select j.agent_id, j.kind, j.due_at from purple_flea.jobs j
     where j.state = 'pending' and j.agent_id > after_agent
     order by j.agent_id, j.kind, j.due_at limit 1)
    union all
    select next.* from lane
    cross join lateral (
      select j.agent_id, j.kind, j.due_at from purple_flea.jobs j
      where j.state = 'pending' and (j.agent_id, j.kind) > (lane.agent_id, lane.kind)
      order by j.agent_id, j.kind, j.due_at limit 1
    ) as next
  )
  select lane.agent_id, lane.kind, lane.due_at from lane limit most
$$;
comment on function purple_flea.lanes(text, integer) is 'The first waiting job of each agent and kind, beginning after an agent.';
revoke all on function purple_flea.lanes(text, integer) from public, anon, authenticated, service_role, purple_flea_worker;

-- The lanes that have a job due which may be claimed, one_at_a_time where the agent has a daily limit. Stops when there are
-- enough; where it has not been round by then, the next claim goes on behind it, so that each lane has its turn.
create or replace function purple_flea.open_lanes(exhausted jsonb, generation uuid, limited_only boolean, enough integer, remember boolean)
  returns table (agent_id text, kind text, due_at timestamptz, one_at_a_time boolean)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  chunk   constant integer     := 500;  -- lanes at a time: some milliseconds
  ends    constant timestamptz := clock_timestamp() + interval '100 milliseconds';  -- some thousand lanes
  start   constant text        := (select l.lane_cursor from purple_flea.ledger l);
  after   text    := start;
  round   boolean := false;  -- whether the end has been passed, and it goes on from the beginning
  whole   boolean := false;  -- whether every lane has been looked at
  found   integer := 0;
  seen    integer;
  agents  text[];
  kinds   text[];
  dues    timestamptz[];
  in_part integer;
begin
  loop
    select coalesce(array_agg(l.agent_id), '{}'), coalesce(array_agg(l.kind), '{}'), coalesce(array_agg(l.due_at), '{}')
      into agents, kinds, dues
    from purple_flea.lanes(after, chunk) l
    where not round or l.agent_id <= start;
    seen := cardinality(agents);
    return query
      select l.agent_id, l.kind, l.due_at, p.limited and not purple_flea.is_repeatable(l.kind)
      from unnest(agents, kinds, dues) as l (agent_id, kind, due_at)
      join purple_flea.effective_policies p on p.agent_id = l.agent_id and not p.paused and (p.limited or not limited_only)
      where l.due_at <= statement_timestamp()
        and (open_lanes.generation is not null or purple_flea.is_repeatable(l.kind))
        and (exhausted = '{}' or not purple_flea.is_stopped(l.kind, p.game, p.account, exhausted));
    get diagnostics in_part = row_count;
    found := found + in_part;
    if seen = chunk then
      after := agents[seen];
    elsif round or start = '' then
      whole := true;
    else
      round := true;
      after := '';
    end if;
    exit when whole or found >= enough or clock_timestamp() > ends;
  end loop;
  if remember and after <> start and (not whole or start <> '') and pg_try_advisory_xact_lock(hashtextextended('purple_flea:lane_cursor', 4)) then
    update purple_flea.ledger l set lane_cursor = case when whole then '' else after end where l.only_row and l.lane_cursor = start;
  end if;
end;
$$;
comment on function purple_flea.open_lanes(jsonb, uuid, boolean, integer, boolean) is 'The lanes with a job that may be claimed now: enough of them, or all.';
revoke all on function purple_flea.open_lanes(jsonb, uuid, boolean, integer, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- One job for each agent with a daily limit, and none while another of its is under way: what it may stake depends on what
-- was settled.
create or replace function purple_flea.pick_limited(wanted text[], most integer, exhausted jsonb, generation uuid) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  candidates text[];
  picked     text[];
  for_all    boolean := (select p.limited from purple_flea.trade_policies p where p.agent_id is null);
begin
  if not for_all and not exists (select from purple_flea.trade_policies p where p.limited) then
    return '{}';
  end if;
  select array_agg(first.reference order by first.asked desc, first.due_at) into candidates
  from (
    select distinct on (candidate.agent_id) candidate.*
    from (
      -- Those that are asked for by name.
      select j.agent_id, j.reference, j.due_at, true as asked
      from purple_flea.jobs j
      join purple_flea.effective_policies p on p.agent_id = j.agent_id and p.limited and not p.paused
      where j.reference = any (wanted) and j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second'
        and j.expires_at > statement_timestamp() and not purple_flea.is_repeatable(j.kind)
        and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_limited.generation)
        and purple_flea.is_ready(j, wanted)
        and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
      union all
      select lane.agent_id, due.reference, due.due_at, false
      from (
        select l.agent_id, l.kind from purple_flea.open_lanes(exhausted, pick_limited.generation, true, most, true) l where for_all and l.one_at_a_time
        union all
        select p.agent_id, k.kind
        from purple_flea.effective_policies p
        join purple_flea.trade_policies own on own.agent_id = p.agent_id and own.limited
        cross join unnest(array['deposit', 'trade', 'order', 'escrow']) as k (kind)
        where not for_all and not p.paused
          and (exhausted = '{}' or not purple_flea.is_stopped(k.kind, p.game, p.account, exhausted))
      ) as lane
      cross join lateral (
        select j.reference, j.due_at
        from purple_flea.jobs j
        where j.agent_id = lane.agent_id and j.kind = lane.kind and j.state = 'pending' and j.due_at <= statement_timestamp()
          and j.expires_at > statement_timestamp()
          and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_limited.generation)
        order by j.due_at limit 1
      ) as due
    ) as candidate
    order by candidate.agent_id, candidate.asked desc, candidate.due_at
  ) as first
  where not exists (select from purple_flea.jobs busy where busy.agent_id = first.agent_id and busy.state = 'claimed');
  if coalesce(cardinality(candidates), 0) = 0 then
    return '{}';
  end if;
  -- Two claims at once must not both find an agent free: the second one does without it. Only when the agent is locked is it
  -- looked at, in a statement of its own that sees what the other has done.
  select coalesce(array_agg(locked.reference), '{}') into candidates
  from (
    select j.reference, j.agent_id from unnest(candidates) with ordinality as c (reference, n)
    join purple_flea.jobs j using (reference)
    order by c.n limit most
  ) as locked
  where pg_try_advisory_xact_lock(hashtextextended('purple_flea:' || locked.agent_id, 0));
  select coalesce(array_agg(still.reference), '{}') into picked
  from (
    select j.reference from purple_flea.jobs j
    where j.reference = any (candidates) and j.state = 'pending'
      and not exists (select from purple_flea.jobs busy where busy.agent_id = j.agent_id and busy.state = 'claimed')
    for update of j skip locked
  ) as still;
  return picked;
end;
$$;
comment on function purple_flea.pick_limited(text[], integer, jsonb, uuid) is 'Locks the next job of each agent with a daily limit.';
revoke all on function purple_flea.pick_limited(text[], integer, jsonb, uuid) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.pick_jobs(wanted text[], most integer, exhausted jsonb, generation uuid) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A backlog grows faster than the statistics on it: without them all of it would be sorted for each claim, where walking
  -- along the index of what is due finds the first ones at once.
  set enable_sort = off
  set jit = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  -- Due jobs that are looked at in their order before it goes agent by agent: some hundred look-ups of a policy.
  window_rows constant integer := 4 * most + 100;
  picked      text[] := '{}';
begin
  if (select p.paused from purple_flea.trade_policies p where p.agent_id is null) then
    return '{}';
  end if;
  if cardinality(wanted) > 0 then
    select coalesce(array_agg(asked.reference), '{}') into picked
    from (
      select j.reference from purple_flea.jobs j
      join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.paused and (not p.limited or purple_flea.is_repeatable(j.kind))
      where j.reference = any (wanted) and j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second'
        and j.expires_at > statement_timestamp() and purple_flea.is_ready(j, wanted)
        and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_jobs.generation)
        and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
      limit most for update of j skip locked
    ) as asked;
  end if;
  picked := picked || purple_flea.pick_limited(wanted, most - cardinality(picked), exhausted, generation);
  select picked || coalesce(array_agg(due.reference), '{}') into picked
  from (
    select j.reference
    from (
      select w.reference, w.due_at from purple_flea.jobs w
      where w.state = 'pending' and w.due_at <= statement_timestamp()
      order by w.due_at limit window_rows
    ) as first
    join purple_flea.jobs j on j.reference = first.reference
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.paused and (not p.limited or purple_flea.is_repeatable(j.kind))
    where j.state = 'pending' and j.due_at <= statement_timestamp() and j.reference <> all (picked)
      and j.expires_at > statement_timestamp()
      and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_jobs.generation)
      and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
    order by first.due_at limit most - cardinality(picked) for update of j skip locked
  ) as due;
  if cardinality(picked) < most and exists (
    select from purple_flea.jobs w where w.state = 'pending' and w.due_at <= statement_timestamp() order by w.due_at offset window_rows limit 1) then
    -- What is due first is held back. Each other lane has its turn.
    select picked || coalesce(array_agg(due.reference), '{}') into picked
    from (
      select j.reference
      from (select l.agent_id, l.kind from purple_flea.open_lanes(exhausted, pick_jobs.generation, false, most, true) l where not l.one_at_a_time) as lane
      cross join lateral (
        select w.reference from purple_flea.jobs w
        where w.agent_id = lane.agent_id and w.kind = lane.kind and w.state = 'pending' and w.due_at <= statement_timestamp()
          and w.expires_at > statement_timestamp()
        order by w.due_at limit most
      ) as first
      join purple_flea.jobs j on j.reference = first.reference
      where j.state = 'pending' and j.due_at <= statement_timestamp() and j.reference <> all (picked)
        and not purple_flea.awaits_confirmation(j.kind, j.generation, pick_jobs.generation)
      limit most - cardinality(picked) for update of j skip locked
    ) as due;
  end if;
  return picked;
end;
$$;
comment on function purple_flea.pick_jobs(text[], integer, jsonb, uuid) is 'Locks the jobs that are to be claimed next, those that are asked for by name first.';
revoke all on function purple_flea.pick_jobs(text[], integer, jsonb, uuid) from public, anon, authenticated, service_role, purple_flea_worker;

-- Jobs among those picked that are not to be done any more: a restore has brought back what is archived, or an import a
-- deposit that has its row of trade_results already.
create or replace function purple_flea.set_done_aside(picked text[]) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  archived text[] := array(select a.reference from purple_flea.jobs_archive a where a.reference = any (picked));
  traded   text[] := array(
    -- A result that is older than the deposit belongs to another one, whose id has come again.
    select t.reference from public.trade_results t
    join purple_flea.jobs j on j.reference = t.reference
    join public.wallet_changes w on w.id = j.wallet_change_id
    where t.reference = any (picked) and t.created_at >= w.created_at);
begin
  if archived = '{}' and traded = '{}' then
    return picked;
  end if;
  update purple_flea.jobs j set state = 'dead', changed_by = 'sweeper', reason = 'done_before' where j.reference = any (archived);
  update purple_flea.jobs j
  set state = 'skipped', changed_by = 'sweeper', reason = 'already_traded',
      result = jsonb_build_object('status', 'skipped', 'reason', 'already_traded', 'reference', j.reference, 'agent_id', j.agent_id)
  where j.reference = any (traded) and j.reference <> all (archived);
  return array(
    select p.reference from unnest(picked) with ordinality as p (reference, n)
    where p.reference <> all (archived) and p.reference <> all (traded)
    order by p.n);
end;
$$;
comment on function purple_flea.set_done_aside(text[]) is 'Which of these locked jobs are yet to be done. Those that are archived become dead, those that have a result skipped.';
revoke all on function purple_flea.set_done_aside(text[]) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_due(at timestamptz default statement_timestamp()) returns boolean
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
  set enable_sort = off  -- as in expire()
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
    or not exists (select from purple_flea.jobs j where j.state = 'pending' and j.due_at <= is_due.at order by j.due_at limit 1) then
    return false;
  end if;
  present := purple_flea.current_generation();
  if exists (
    select from (
      select w.agent_id, w.kind, w.generation from purple_flea.jobs w
      where w.state = 'pending' and w.due_at <= is_due.at
      order by w.due_at limit window_rows
    ) as first
    join purple_flea.effective_policies p on p.agent_id = first.agent_id and not p.paused
    where not purple_flea.awaits_confirmation(first.kind, first.generation, present)
  ) then
    return true;
  end if;
  select count(*) into looked_at from (
    select from purple_flea.jobs w where w.state = 'pending' and w.due_at <= is_due.at order by w.due_at limit window_rows
  ) as first;
  return looked_at = window_rows and exists (select from purple_flea.open_lanes('{}', present, false, 1, false));
end;
$$;
comment on function purple_flea.is_due(timestamptz) is 'Whether any job is due that is not held back.';
revoke all on function purple_flea.is_due(timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;
