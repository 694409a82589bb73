-- Requests: a caller of the function's own paths asks for a job, instead of writing a row. The same
-- reference asks once. Each function answers {"reference": …} or {"refused": code}.

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

create or replace function purple_flea.request_stake(
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
  insert into purple_flea.jobs (
    reference, idempotency_key, kind, agent_id, generation, request, due_at, expires_at
  )
  select
    request_stake.reference,
    purple_flea.new_idempotency_key(request_stake.reference),
    k.kind,
    agent,
    purple_flea.current_generation(),
    details,
    statement_timestamp(),
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = request_stake.kind
    -- A conflict alone could wait for a transaction that archives the job, and then find none.
    and not exists (
      select from purple_flea.all_jobs j where j.reference = request_stake.reference
    )
  on conflict do nothing;
  select * into found_job
  from purple_flea.all_jobs j
  where j.reference = request_stake.reference;
  -- Release 0.1.0 wrote `long` into a request that chose no direction.
  if (found_job.kind, '{"direction": "long"}' || found_job.request) is distinct from
     (request_stake.kind, '{"direction": "long"}' || details) then
    return purple_flea.refused('reference_taken');
  end if;
  return purple_flea.asked_for(request_stake.reference);
end;
$$;
comment on function purple_flea.request_stake(text, text, text, jsonb) is
  'Asks for a job that stakes money, under the name that its caller gives it.';

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
begin
  -- The function checks the same. A job that no worker can read would never end.
  if coalesce(details ->> 'size', '') !~ '^[0-9]{1,8}(\.[0-9]{1,4})?$'
    or coalesce(details ->> 'market', '') !~ '^[A-Za-z0-9._:/-]{1,20}$'
    or coalesce(details ->> 'direction', 'long') not in ('long', 'short')
    or coalesce(details ->> 'leverage', '1') !~ '^([1-9]|[1-4][0-9]|50)$' then
    return purple_flea.refused('invalid_order');
  end if;
  return purple_flea.request_stake(kind, request_order.reference, agent, details);
end;
$$;
comment on function purple_flea.request_order(text, text, text, jsonb) is
  'Asks for a trade or an order.';

-- 47 characters leave room for the idempotency key's random digits. A reference that becomes a
-- job's name must not be one that a row's own job could have.
create or replace function purple_flea.is_free_reference(kind text, reference text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select reference ~ '^[A-Za-z0-9._:-]{1,47}$'
    -- Those are workflows' names, of escrows too.
    and reference !~ '^wf-'
    and (
      kind = 'escrow'
      or reference !~ '^(wallet-change|escrow|close|faucet|registration|daily_claim|signal)[-:.]'
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
    when 'bet' then
      answer := purple_flea.request_bet(name, agent, details);
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
  'already_registered, escrow_not_open, invalid_order, invalid_bet, reference_taken, '
  'unknown_kind.';
