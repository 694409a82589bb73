-- Requests: a caller of the function's own paths asks for a job, instead of writing a row. The same
-- reference asks once. Each function answers {"reference": …} or {"refused": code}.

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

create or replace function purple_flea.request_registration(agent text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  asked text;
begin
  select j.reference into asked
  from purple_flea.jobs j
  where j.agent_id = agent
    and j.kind = 'registration'
    and j.state in ('pending', 'claimed', 'executed')
  order by j.created_at desc
  limit 1;
  if asked is null
    and (select purple_flea.secret(a.api_key) from public.agents a where a.id = agent) is not null
  then
    return purple_flea.refused('already_registered');
  end if;
  return purple_flea.asked_for(coalesce(
    asked,
    purple_flea.make_agent_job(
      'registration', agent, purple_flea.agent_reference('registration', agent))
  ));
end;
$$;
comment on function purple_flea.request_registration(text) is 'Asks for an agent''s registration.';

create or replace function purple_flea.request_look(kind text, reference text, agent text)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  named purple_flea.jobs;
begin
  select * into named from purple_flea.all_jobs j where j.reference = request_look.reference;
  if not found then
    return purple_flea.asked_for(
      purple_flea.make_agent_job(kind, agent, request_look.reference));
  elsif (named.kind, named.agent_id) is distinct from (request_look.kind, agent) then
    return purple_flea.refused('reference_taken');
  end if;
  return purple_flea.asked_for(named.reference);
end;
$$;
comment on function purple_flea.request_look(text, text, text) is
  'Asks for a job that needs an agent and nothing else: a look at its balance, the daily claim.';

create or replace function purple_flea.request_order(
  kind      text,
  reference text,
  agent     text,
  details   jsonb
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  found_job purple_flea.jobs;
begin
  -- The function checks the same. A job that no worker can read would never end.
  if coalesce(details ->> 'size', '') !~ '^[0-9]{1,8}(\.[0-9]{1,4})?$'
    or coalesce(details ->> 'market', '') !~ '^[A-Za-z0-9._:/-]{1,20}$'
    or coalesce(details ->> 'direction', 'long') not in ('long', 'short')
    or coalesce(details ->> 'leverage', '1') !~ '^([1-9]|[1-4][0-9]|50)$' then
    return purple_flea.refused('invalid_order');
  end if;
  insert into purple_flea.jobs (
    reference, idempotency_key, kind, agent_id, generation, request, due_at, expires_at
  )
  select
    request_order.reference,
    purple_flea.new_idempotency_key(request_order.reference),
    k.kind,
    agent,
    purple_flea.current_generation(),
    details,
    statement_timestamp(),
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = request_order.kind
    -- A conflict alone could wait for a transaction that archives the job, and then find none.
    and not exists (
      select from purple_flea.all_jobs j where j.reference = request_order.reference
    )
  on conflict do nothing;
  select * into found_job
  from purple_flea.all_jobs j
  where j.reference = request_order.reference;
  -- Release 0.1.0 wrote `long` into a request that chose no direction.
  if (found_job.kind, '{"direction": "long"}' || found_job.request) is distinct from
     (request_order.kind, '{"direction": "long"}' || details) then
    return purple_flea.refused('reference_taken');
  end if;
  return purple_flea.asked_for(request_order.reference);
end;
$$;
comment on function purple_flea.request_order(text, text, text, jsonb) is
  'Asks for a trade or an order.';

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
          dispute_reason   = coalesce(details ->> 'reason', e.dispute_reason)
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
  -- The caller does not wait for the next hour.
  update purple_flea.jobs j
  set due_at = statement_timestamp()
  where j.reference = asked
    and j.state = 'pending'
    and j.due_at <> 'infinity'
    and j.due_at > statement_timestamp();
  return purple_flea.asked_for(asked);
end;
$$;
comment on function purple_flea.request_escrow_status(bigint) is
  'Asks for an escrow''s state at Purple Flea.';

-- 47 characters leave room for the idempotency key's random digits. A reference that becomes a
-- job's name must not be one that a row's own job could have.
create or replace function purple_flea.is_free_reference(kind text, reference text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select reference ~ '^[A-Za-z0-9._:-]{1,47}$'
    and (
      kind = 'escrow'
      or reference !~ '^(wallet-change|escrow|close|faucet|registration|daily_claim)[-:.]'
    )
$$;
comment on function purple_flea.is_free_reference(text, text) is
  'Says whether a caller''s reference can name a job, or an escrow.';

-- The same stake or escrow under two names would move money twice, so their callers name them. Of
-- any other request the reference is only an id, which may have any form.
create or replace function purple_flea.name_of_request(kind text, reference text) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when purple_flea.is_free_reference(kind, reference) then reference
    when not purple_flea.is_staking(kind) and kind <> 'escrow'
      then 'by-hand-' || gen_random_uuid()
  end;
end;
$$;
comment on function purple_flea.name_of_request(text, text) is
  'Gives the name under which a request is made: the caller''s reference, or another where that is '
  'only an id; null for a reference that cannot name it.';

-- Escrows have names of their own, and keep their callers' references apart from the jobs'.
create or replace function purple_flea.is_of_other_kind(kind text, reference text) returns boolean
  language plpgsql
  volatile  -- sees a job that another transaction has just made
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when kind = 'escrow' then exists (
      select from purple_flea.all_jobs j where j.reference = is_of_other_kind.reference
    )
    when exists (
      select
      from purple_flea.job_kinds k
      where k.kind = is_of_other_kind.kind
        and k.named_by_caller
    ) then exists (
      select from public.escrow_requests e where e.asked_as = is_of_other_kind.reference
    )
    else false
  end;
end;
$$;
comment on function purple_flea.is_of_other_kind(text, text) is
  'Says whether a caller has used this reference for a request of another kind.';

create or replace function public.request_job(kind text, reference text, details jsonb)
  returns jsonb
  language plpgsql
  volatile
  -- The caller may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  agent  text   := coalesce(details ->> 'agent_id', details ->> 'sender_id');
  escrow bigint := (details ->> 'escrow_id')::bigint;
  name   text   := purple_flea.name_of_request(kind, request_job.reference);
  answer jsonb;
begin
  if name is null then
    return purple_flea.refused('invalid_reference');
  elsif purple_flea.is_of_other_kind(kind, name) then
    return purple_flea.refused('reference_taken');
  elsif kind not like 'escrow\_%'
    and not exists (select from public.agents a where a.id = agent) then
    return purple_flea.refused('unknown_agent');
  end if;
  case kind
    when 'registration' then
      answer := purple_flea.request_registration(agent);
    when 'faucet' then
      answer := purple_flea.asked_for(purple_flea.make_agent_job(
        kind, agent, purple_flea.agent_reference(kind, agent)));
    when 'trade', 'order' then
      answer := purple_flea.request_order(kind, name, agent, details);
    when 'close' then
      answer := purple_flea.request_close(agent, details ->> 'position_id');
    when 'escrow' then
      answer := purple_flea.request_escrow(name, agent, details);
    when 'escrow_release', 'escrow_cancel', 'escrow_complete', 'escrow_dispute' then
      answer := purple_flea.request_escrow_step(kind, escrow, agent, details);
    when 'escrow_status' then
      answer := purple_flea.request_escrow_status(escrow);
    else
      -- A retryable kind that its caller names needs an agent, and no code of its own here.
      answer := case
        when exists (
          select
          from purple_flea.job_kinds k
          where k.kind = request_job.kind
            and k.retryable
            and k.named_by_caller
        ) then purple_flea.request_look(kind, name, agent)
        else purple_flea.refused('unknown_kind')
      end;
  end case;
  -- The request that made the job claims it at once. Other workers can claim it a second later.
  update purple_flea.jobs j
  set due_at = clock_timestamp() + interval '1 second'
  where j.reference = answer ->> 'reference'
    and j.state = 'pending'
    and j.attempts = 0
    and j.due_at <= clock_timestamp();
  return answer;
end;
$$;
comment on function public.request_job(text, text, jsonb) is
  'Asks for a job of a kind. Gives the reference of the job that answers the request, or the '
  'reason why there is none: invalid_reference, unknown_agent, unknown_escrow, '
  'already_registered, escrow_not_open, invalid_order, reference_taken, unknown_kind.';
