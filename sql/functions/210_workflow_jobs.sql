-- The jobs of workflows' money steps: how one is asked for, and why nothing but its own step claims
-- it.

-- A pending job of a workflow is never due. So no claim, no notification and no sweep finds it,
-- whatever made it pending: an attempt without effect, a lease that was given back, an operator.
-- Its step claims it by name (claim_workflow_step). It expires soon after the last attempt, also
-- while its agent is paused: hours later nothing may trade.
create or replace function purple_flea.hold_workflow_job() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  limits constant record := purple_flea.workflow_limits();
begin
  new.due_at     := 'infinity';
  new.expires_at := least(new.expires_at, new.created_at + limits.bound);
  return new;
end;
$$;
comment on function purple_flea.hold_workflow_job() is
  'Keeps a pending job of a workflow from all claims but its own step''s, and its end near.';

create or replace trigger jobs_hold_workflow
  before insert or update on purple_flea.jobs
  for each row when (new.state = 'pending' and purple_flea.is_of_workflow(new.reference))
  execute function purple_flea.hold_workflow_job();

-- A claim that the ledger or another run makes for the same agent is the same money.
create or replace function purple_flea.request_workflow_claim(
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
  insert into purple_flea.jobs
    (reference, idempotency_key, kind, agent_id, request, due_at, expires_at)
  select
    request_workflow_claim.reference,
    purple_flea.new_idempotency_key(request_workflow_claim.reference),
    k.kind,
    agent,
    details,
    'infinity',
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = 'daily_claim'
  on conflict do nothing;
  if not found then
    return purple_flea.refused('under_way');
  end if;
  return purple_flea.asked_for(reference);
end;
$$;
comment on function purple_flea.request_workflow_claim(text, text, jsonb) is
  'Asks for the daily claim of a workflow, unless another one of the agent is under way.';

create or replace function purple_flea.make_workflow_job(
  kind      text,
  reference text,
  agent     text,
  details   jsonb,
  subject   text
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  case kind
    when 'order' then
      return purple_flea.request_order(kind, reference, agent, details);
    when 'bet' then
      return purple_flea.request_bet(reference, agent, details);
    when 'daily_claim' then
      return purple_flea.request_workflow_claim(reference, agent, details);
    when 'escrow' then
      return purple_flea.request_workflow_escrow(reference, agent, details, subject);
    when 'escrow_release', 'escrow_cancel' then
      return purple_flea.request_workflow_escrow_step(kind, reference, agent, details);
    else
      return purple_flea.refused('unknown_kind');
  end case;
end;
$$;
comment on function purple_flea.make_workflow_job(text, text, text, jsonb, text) is
  'Makes the job of a workflow''s step: {"reference": …} or {"refused": code}.';

create or replace function purple_flea.check_workflow_step(asked jsonb) returns void
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  longest constant integer := 256;  -- characters of an id
begin
  if coalesce(asked ->> 'function', '') !~ '^[A-Za-z0-9._-]{1,64}$'
    or coalesce(asked ->> 'step', '') !~ '^[A-Za-z0-9._-]{1,64}$'
    or char_length(coalesce(asked ->> 'event', '')) not between 1 and longest
    or char_length(coalesce(asked ->> 'run', '')) not between 1 and longest
    or char_length(asked ->> 'subject') not between 1 and longest
    or jsonb_typeof(asked -> 'details') is distinct from 'object' then
    raise exception 'a step is {function, event, step, run, kind, details}, and perhaps a subject'
      using errcode = 'invalid_parameter_value';
  end if;
end;
$$;
comment on function purple_flea.check_workflow_step(jsonb) is
  'Raises invalid_parameter_value for what cannot be a workflow''s step.';

create or replace function purple_flea.ask_workflow_step(asked jsonb) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  name   constant text := purple_flea.workflow_reference(
    asked ->> 'function', asked ->> 'event', asked ->> 'step');
  agent  constant text := asked ->> 'agent';
  known  purple_flea.workflow_steps;
  answer jsonb;
begin
  -- Two servers may run the same event.
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:workflow:' || name, 6));
  update purple_flea.workflow_steps s
  set asked       = s.asked + 1,
      asked_at    = clock_timestamp(),
      last_run_id = ask_workflow_step.asked ->> 'run'
  where s.reference = name
  returning * into known;
  if found then
    if (known.agent_id, known.kind, known.details, known.subject) is distinct from
       (agent, asked ->> 'kind', asked -> 'details', asked ->> 'subject') then
      return purple_flea.refused('reference_taken');
    end if;
    return purple_flea.asked_for(known.job);
  elsif not exists (select from public.agents a where a.id = agent) then
    return purple_flea.refused('unknown_agent');
  end if;
  answer := purple_flea.make_workflow_job(
    asked ->> 'kind', name, agent, asked -> 'details', asked ->> 'subject');
  if answer ? 'reference' then
    insert into purple_flea.workflow_steps (
      reference, function_id, event_id, step, run_id, last_run_id, agent_id, kind, details,
      subject, job
    )
    values (
      name, asked ->> 'function', asked ->> 'event', asked ->> 'step', asked ->> 'run',
      asked ->> 'run', agent, asked ->> 'kind', asked -> 'details', asked ->> 'subject',
      answer ->> 'reference'
    );
  end if;
  return answer;
end;
$$;
comment on function purple_flea.ask_workflow_step(jsonb) is
  'Asks for the job of a workflow''s step, once for each event: {"reference": …} or {"refused": '
  'code}. A step that asks for something else than before is refused as reference_taken.';
