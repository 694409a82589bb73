-- Presence: agents that their owners track on the private topics agent-fleet:<owner>. A listener
-- reports them while they are tracked, and a report counts as a heartbeat (157_fleet.sql). The
-- topic proves the owner. What a client tracks there is its own word, so each agent is checked.

create or replace function purple_flea.note_presence(owner uuid, agents text[]) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  every constant interval    := '5 seconds';
  at    constant timestamptz := clock_timestamp();
  noted integer;
begin
  update public.agents a
  set last_seen_at = at,
      status       = case a.status when 'offline' then 'idle' else a.status end,
      idle_since   = case a.status when 'offline' then at else a.idle_since end
  from (
    select s.id
    from public.agents s
    where s.id = any (agents)
      and s.owner_id = owner
      and (
        s.status = 'offline'
        or s.last_seen_at is null
        -- A clock that was set back does not stop the heartbeats.
        or s.last_seen_at not between at - every and at
      )
    -- The next report comes in seconds. It need not wait for a row that a settlement holds.
    for no key update skip locked
  ) as there
  where a.id = there.id;
  get diagnostics noted = row_count;
  return noted;
end;
$$;
comment on function purple_flea.note_presence(uuid, text[]) is
  'Notes a heartbeat for those of the agents that are the owner''s, at most one in 5 seconds for '
  'each; says for how many.';

create or replace function public.report_presence(owner uuid, agents text[]) returns jsonb
  language plpgsql
  volatile
  -- The worker writes no agents.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 1000;  -- agents
begin
  if report_presence.owner is null or report_presence.agents is null then
    raise exception 'owner and agents are not null' using errcode = 'invalid_parameter_value';
  elsif array_ndims(report_presence.agents) > 1 or cardinality(report_presence.agents) > most then
    raise exception 'a report has one list of at most % agents', most
      using errcode = 'invalid_parameter_value';
  end if;
  return jsonb_build_object(
    'noted', purple_flea.note_presence(report_presence.owner, report_presence.agents),
    'refused', coalesce(
      (
        select jsonb_agg(
          jsonb_build_object('agent_id', left(named.id, 64), 'reason', 'not_the_owners')
          order by named.id
        )
        from (select distinct u.id from unnest(report_presence.agents) as u (id)) as named
        left join public.agents a on a.id = named.id and a.owner_id = report_presence.owner
        where a.id is null
      ),
      '[]'
    )
  );
end;
$$;
comment on function public.report_presence(uuid, text[]) is
  'Notes that an owner tracks these agents (at most 1,000) on the topic agent-fleet:<owner>: '
  '{noted, refused: [{agent_id, reason}]}. It counts as a heartbeat. Nothing is noted for an agent '
  'that is not that owner''s. For listeners.';

create or replace function public.fleet_owners(
  after uuid    default null,
  most  integer default 500
) returns jsonb
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  -- A plan from the time when the table was small would read all of it for each owner.
  set enable_seqscan = off
  set jit = off
as $$
declare
  limit_most constant integer := 1000;  -- owners of one answer
  owners     uuid[]           := '{}';
  next_owner uuid             := fleet_owners.after;
begin
  if fleet_owners.most is null or fleet_owners.most not between 1 and limit_most then
    raise exception 'most is 1 to %', limit_most using errcode = 'invalid_parameter_value';
  end if;
  -- One step along the index for each owner, however many agents the owner has.
  loop
    next_owner := (
      select a.owner_id
      from public.agents a
      where a.owner_id > coalesce(next_owner, '00000000-0000-0000-0000-000000000000')
      order by a.owner_id
      limit 1
    );
    exit when next_owner is null or cardinality(owners) >= fleet_owners.most;
    owners := owners || next_owner;
  end loop;
  return jsonb_build_object('owners', to_jsonb(owners), 'more', next_owner is not null);
end;
$$;
comment on function public.fleet_owners(uuid, integer) is
  'Gives the owners of agents, in the order of their ids, after one of them: {owners, more}. For '
  'listeners, which join the topic agent-fleet:<owner> of each.';
