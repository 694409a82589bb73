-- The choice for agents with a daily limit: one job for each agent, and none while the agent has a
-- claimed job. The stake that a job may have depends on the outcome of the one before.
--
-- Only pick_jobs() calls these functions, and its settings for the planner hold in them.

create or replace function purple_flea.limited_lanes(
  for_all    boolean,
  most       integer,
  exhausted  jsonb,
  generation uuid
) returns table (agent_id text, kind text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if for_all then
    return query
      select l.agent_id, l.kind
      from purple_flea.open_lanes(exhausted, limited_lanes.generation, true, most, true) l
      where l.one_at_a_time;
  else
    return query
      select p.agent_id, k.kind
      from purple_flea.trade_policies own
      join purple_flea.effective_policies p on p.agent_id = own.agent_id
      cross join purple_flea.job_kinds k
      where own.limited
        and not p.paused
        and not k.retryable
        and (
          exhausted = '{}'
          or not purple_flea.is_stopped(k.kind, p.game, p.account, exhausted)
        );
  end if;
end;
$$;
comment on function purple_flea.limited_lanes(boolean, integer, jsonb, uuid) is
  'Gives the lanes of agents with a daily limit: those of all agents if the shared policy has '
  'one.';

create or replace function purple_flea.limited_candidates(
  wanted     text[],
  for_all    boolean,
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
  return (
    select coalesce(array_agg(first.reference order by first.named desc, first.due_at), '{}')
    from (
      select distinct on (candidate.agent_id) candidate.*
      from (
        select j.agent_id, j.reference, j.due_at, true as named
        from purple_flea.jobs j
        join purple_flea.effective_policies p
          on p.agent_id = j.agent_id
          and p.limited
          and not p.paused
        where j.reference = any (wanted)
          and j.state = 'pending'
          and j.due_at <= statement_timestamp() + interval '1 second'
          and j.expires_at > statement_timestamp()
          and not purple_flea.is_retryable(j.kind)
          and not purple_flea.awaits_confirmation(
            j.kind, j.generation, limited_candidates.generation)
          and purple_flea.is_ready(j, wanted)
          and (
            exhausted = '{}'
            or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted)
          )
        union all
        select lane.agent_id, due.reference, due.due_at, false
        from purple_flea.limited_lanes(
          for_all, most, exhausted, limited_candidates.generation) as lane
        cross join lateral (
          select j.reference, j.due_at
          from purple_flea.jobs j
          where j.agent_id = lane.agent_id
            and j.kind = lane.kind
            and j.state = 'pending'
            and j.due_at <= statement_timestamp()
            and j.expires_at > statement_timestamp()
            and not purple_flea.awaits_confirmation(
              j.kind, j.generation, limited_candidates.generation)
          order by j.due_at
          limit 1
        ) as due
      ) as candidate
      order by candidate.agent_id, candidate.named desc, candidate.due_at
    ) as first
    where not exists (
      select
      from purple_flea.jobs busy
      where busy.agent_id = first.agent_id
        and busy.state = 'claimed'
    )
  );
end;
$$;
comment on function
  purple_flea.limited_candidates(text[], boolean, integer, jsonb, uuid) is
  'Gives the next job of each agent with a daily limit and without a claimed job.';

create or replace function purple_flea.pick_limited(
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
declare
  candidates text[];
  for_all    boolean := (
    select p.limited from purple_flea.trade_policies p where p.agent_id is null
  );
begin
  if not for_all and not exists (select from purple_flea.trade_policies p where p.limited) then
    return '{}';
  end if;
  candidates := purple_flea.limited_candidates(wanted, for_all, most, exhausted, generation);
  if candidates = '{}' then
    return '{}';
  end if;
  -- Two claims at once must not both find an agent free, so each locks its agents. A claim that
  -- does not get the lock passes the agent over.
  candidates := array(
    select first.reference
    from (
      select j.reference, j.agent_id
      from unnest(candidates) with ordinality as c (reference, n)
      join purple_flea.jobs j using (reference)
      order by c.n
      limit most
    ) as first
    where pg_try_advisory_xact_lock(hashtextextended('purple_flea:' || first.agent_id, 0))
  );
  -- A statement of its own, which sees the changes of the claim that had the lock before.
  return array(
    select j.reference
    from purple_flea.jobs j
    where j.reference = any (candidates)
      and j.state = 'pending'
      and not exists (
        select
        from purple_flea.jobs busy
        where busy.agent_id = j.agent_id
          and busy.state = 'claimed'
      )
    for update of j skip locked
  );
end;
$$;
comment on function purple_flea.pick_limited(text[], integer, jsonb, uuid) is
  'Locks the next job of each agent with a daily limit.';
