-- Requests that make a row or change one: escrows, their steps, and closes of positions. The row's
-- triggers make the job. Each function answers {"reference": …} or {"refused": code}.

create or replace function purple_flea.refused(code text) returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('refused', code)
$$;
comment on function purple_flea.refused(text) is 'Gives the answer to a request that is refused.';

create or replace function purple_flea.asked_for(reference text) returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Without a reference, another job has the caller's name.
  select case
    when reference is null then purple_flea.refused('reference_taken')
    else jsonb_build_object('reference', reference)
  end
$$;
comment on function purple_flea.asked_for(text) is
  'Gives the answer to a request: the reference of its job.';

create or replace function purple_flea.request_escrow(reference text, agent text, details jsonb)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  asked text;
begin
  if not exists (select from public.agents a where a.id = details ->> 'receiver_id') then
    return purple_flea.refused('unknown_agent');
  end if;
  insert into public.escrow_requests
    (sender_id, receiver_id, amount, description, timeout_hours, asked_as)
  values (
    agent,
    details ->> 'receiver_id',
    (details ->> 'amount')::numeric,
    details ->> 'description',
    (details ->> 'timeout_hours')::integer,
    request_escrow.reference
  )
  on conflict (asked_as) do nothing;
  select 'escrow-' || e.id into asked
  from public.escrow_requests e
  where e.asked_as = request_escrow.reference
    and e.sender_id = agent
    and e.receiver_id = details ->> 'receiver_id'
    and e.amount = (details ->> 'amount')::numeric
    and e.description is not distinct from details ->> 'description'
    and e.timeout_hours is not distinct from (details ->> 'timeout_hours')::integer;
  return purple_flea.asked_for(asked);
end;
$$;
comment on function purple_flea.request_escrow(text, text, jsonb) is 'Asks for a new escrow.';

create or replace function purple_flea.escrow_job_that_counts(kind text, escrow bigint) returns text
  language sql
  volatile  -- sees a job that another transaction has just made
  set search_path = pg_catalog, pg_temp
as $$
  select j.reference
  from purple_flea.jobs j
  where j.escrow_id = escrow
    and j.kind = escrow_job_that_counts.kind
    and not purple_flea.ended_without_effect(j.state)
$$;
comment on function purple_flea.escrow_job_that_counts(text, bigint) is
  'Gives the job of an escrow''s step that is under way, unknown or executed.';

create or replace function purple_flea.request_escrow_step(
  kind    text,
  escrow  bigint,
  agent   text,
  details jsonb
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  wanted text;
  asked  text;
begin
  select s.status into wanted
  from unnest(array['released', 'cancelled', 'completed', 'disputed']) as s (status)
  where purple_flea.escrow_kind(s.status) = kind;
  if not exists (
    select
    from public.escrow_requests e
    where e.id = escrow
      and (agent is null or agent in (e.sender_id, e.receiver_id))
  ) then
    return purple_flea.refused('unknown_escrow');
  end if;
  asked := purple_flea.escrow_job_that_counts(kind, escrow);
  if asked is null then
    begin
      -- The step may have ended without effect before. Then this requests it once more.
      update public.escrow_requests e
      set requested_status = null
      where e.id = escrow
        and e.requested_status = wanted;
      perform set_config('purple_flea.acting_party', coalesce(agent, ''), true);
      update public.escrow_requests e
      set requested_status = wanted,
          dispute_reason   = details ->> 'reason'
      where e.id = escrow;
      perform set_config('purple_flea.acting_party', '', true);
    exception when check_violation then
      -- Another caller may have asked for the same at the same time.
      asked := purple_flea.escrow_job_that_counts(kind, escrow);
      if asked is not null then
        return purple_flea.asked_for(asked);
      end if;
      return (
        select jsonb_build_object(
          'refused', 'escrow_not_open',
          'status', e.status,
          'requested_status', e.requested_status
        )
        from public.escrow_requests e
        where e.id = escrow
      );
    end;
    asked := purple_flea.escrow_job_that_counts(kind, escrow);
  end if;
  return purple_flea.asked_for(asked);
end;
$$;
comment on function purple_flea.request_escrow_step(text, bigint, text, jsonb) is
  'Asks for a step of an escrow. The agent names the party that disputes.';

create or replace function purple_flea.request_escrow_status(escrow bigint) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  found_escrow public.escrow_requests;
  asked        text;
begin
  -- The lock keeps two callers from making two looks.
  select * into found_escrow from public.escrow_requests e where e.id = escrow for no key update;
  if not found then
    return purple_flea.refused('unknown_escrow');
  end if;
  asked := purple_flea.escrow_job_that_counts('escrow_status', escrow);
  if asked is null then
    return purple_flea.asked_for(purple_flea.make_escrow_step(
      found_escrow, 'escrow_status', found_escrow.sender_id));
  end if;
  -- The caller does not wait for the next hour. It claims the job at once, others a second later.
  update purple_flea.jobs j
  set due_at = clock_timestamp() + interval '1 second'
  where j.reference = asked
    and j.state = 'pending'
    and j.due_at <> 'infinity'
    and j.due_at > statement_timestamp();
  return purple_flea.asked_for(asked);
end;
$$;
comment on function purple_flea.request_escrow_status(bigint) is
  'Asks for an escrow''s state at Purple Flea.';

create or replace function purple_flea.close_that_counts(agent text, pf_position text) returns text
  language sql
  volatile  -- sees a row that another transaction has just made
  set search_path = pg_catalog, pg_temp
as $$
  select 'close-' || c.id
  from public.close_requests c
  where c.agent_id = agent
    and c.position_id = pf_position
    and c.status in ('pending', 'closed')
$$;
comment on function purple_flea.close_that_counts(text, text) is
  'Gives the job that closes or has closed a position.';

create or replace function purple_flea.request_close(agent text, pf_position text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Another caller may ask for the same at the same time. It waits here, and then finds the row.
  perform from public.agents a where a.id = agent for no key update;
  if purple_flea.close_that_counts(agent, pf_position) is null then
    insert into public.close_requests (agent_id, position_id)
    values (agent, pf_position)
    -- Another transaction may insert a row of its own at the same time.
    on conflict do nothing;
  end if;
  return purple_flea.asked_for(purple_flea.close_that_counts(agent, pf_position));
end;
$$;
comment on function purple_flea.request_close(text, text) is 'Asks for a position''s close.';
