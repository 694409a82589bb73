-- Lanes. A lane is all that one agent has waiting of one kind. Either all of a lane may be claimed
-- or nothing of it. Claims walk from lane to lane where the first due jobs may not be claimed.

-- A job is ready when it is due. A request that has just made a job may claim it a second earlier
-- than other workers. The same bound stands beside each call, for the index. Without a search path
-- of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.is_ready(job purple_flea.jobs, wanted text[]) returns boolean
  language sql
  stable
as $$
  select job.due_at <= statement_timestamp()
    -- A request has just made the job, or asked for another look.
    or ((job.attempts = 0 or job.kind = 'escrow_status') and job.reference = any (wanted))
$$;
comment on function purple_flea.is_ready(purple_flea.jobs, text[]) is
  'Says whether a request that names some jobs may claim this pending job now.';

-- Walks from lane to lane along an index, however many jobs each lane has.
create or replace function purple_flea.lanes(after_agent text, most integer)
  returns table (agent_id text, kind text, due_at timestamptz)
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  -- See expire().
  set jit = off
  set enable_bitmapscan = off
  set enable_seqscan = off
as $$
  with recursive lane as (
    (
      select j.agent_id, j.kind, j.due_at
      from purple_flea.jobs j
      where j.state = 'pending'
        and j.agent_id > after_agent
      order by j.agent_id, j.kind, j.due_at
      limit 1
    )
    union all
    select next.*
    from lane
    cross join lateral (
      select j.agent_id, j.kind, j.due_at
      from purple_flea.jobs j
      where j.state = 'pending'
        and (j.agent_id, j.kind) > (lane.agent_id, lane.kind)
      order by j.agent_id, j.kind, j.due_at
      limit 1
    ) as next
  )
  select lane.agent_id, lane.kind, lane.due_at
  from lane
  limit most
$$;
comment on function purple_flea.lanes(text, integer) is
  'Gives the first waiting job of each agent and kind, beginning after an agent.';

create or replace function purple_flea.remember_lane(start text, after text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Another claim may be writing it. One of the two is enough.
  if after <> start
    and pg_try_advisory_xact_lock(hashtextextended('purple_flea:lane_cursor', 4)) then
    update purple_flea.ledger l
    set lane_cursor = after
    where l.only_row
      and l.lane_cursor = start;
  end if;
end;
$$;
comment on function purple_flea.remember_lane(text, text) is
  'Notes the agent after which the next claim begins to look.';

create or replace function purple_flea.open_among(
  agents       text[],
  kinds        text[],
  dues         timestamptz[],
  exhausted    jsonb,
  generation   uuid,
  limited_only boolean
) returns table (agent_id text, kind text, due_at timestamptz, one_at_a_time boolean)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select
      l.agent_id,
      l.kind,
      l.due_at,
      p.limited and not purple_flea.is_retryable(l.kind)
    from unnest(agents, kinds, dues) as l (agent_id, kind, due_at)
    join purple_flea.effective_policies p
      on p.agent_id = l.agent_id
      and not p.paused
      and (p.limited or not limited_only)
    where l.due_at <= statement_timestamp()
      and (open_among.generation is not null or purple_flea.is_retryable(l.kind))
      and (
        exhausted = '{}'
        or not purple_flea.is_stopped(l.kind, p.game, p.account, exhausted)
      );
end;
$$;
comment on function
  purple_flea.open_among(text[], text[], timestamptz[], jsonb, uuid, boolean) is
  'Gives those lanes of a list whose first job is due and may be claimed.';

-- Gives the lanes with a due job that may be claimed, marked one_at_a_time if the agent has a daily
-- limit. Stops when there are enough. If it has not seen every lane by then, the next claim begins
-- behind it, so that each lane has its turn.
create or replace function purple_flea.open_lanes(
  exhausted    jsonb,
  generation   uuid,
  limited_only boolean,
  enough       integer,
  remember     boolean
) returns table (agent_id text, kind text, due_at timestamptz, one_at_a_time boolean)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  chunk   constant integer     := 500;  -- lanes at a time, in some milliseconds
  -- Thousands of lanes.
  ends    constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  start   constant text        := (select l.lane_cursor from purple_flea.ledger l);
  after   text    := start;
  wrapped boolean := false;  -- whether the walk has passed the last lane and begun again
  whole   boolean := false;  -- whether the walk has seen every lane
  found   integer := 0;
  seen    integer;
  agents  text[];
  kinds   text[];
  dues    timestamptz[];
  in_part integer;
begin
  loop
    select
      coalesce(array_agg(l.agent_id), '{}'),
      coalesce(array_agg(l.kind), '{}'),
      coalesce(array_agg(l.due_at), '{}')
      into agents, kinds, dues
    from purple_flea.lanes(after, chunk) l
    where not wrapped
      or l.agent_id <= start;
    seen := cardinality(agents);
    return query
      select o.*
      from purple_flea.open_among(
        agents, kinds, dues, exhausted, open_lanes.generation, limited_only) o;
    get diagnostics in_part = row_count;
    found := found + in_part;
    if seen = chunk then
      after := agents[seen];
    elsif wrapped or start = '' then
      whole := true;
    else
      wrapped := true;
      after   := '';
    end if;
    exit when whole or found >= enough or clock_timestamp() > ends;
  end loop;
  if remember then
    perform purple_flea.remember_lane(start, case when whole then '' else after end);
  end if;
end;
$$;
comment on function purple_flea.open_lanes(jsonb, uuid, boolean, integer, boolean) is
  'Gives lanes with a job that may be claimed now: enough of them, or all.';
