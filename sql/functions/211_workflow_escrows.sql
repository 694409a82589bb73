-- The escrows of workflows. A row of escrow_requests is made as for any other caller; the jobs of
-- its steps have the names of the workflow's steps.

-- An event names its counterparty by the id of an agent, by Purple Flea's id of it, or by the
-- address of its wallet. Only an agent that the operator has put into the table is paid.
create or replace function purple_flea.counterparty(named text) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  found_agents text[];
begin
  found_agents := array(
    select a.id
    from public.agents a
    where named in (a.id, a.pf_agent_id, a.wallet_address)
    limit 2
  );
  return case cardinality(found_agents) when 1 then found_agents[1] end;
end;
$$;
comment on function purple_flea.counterparty(text) is
  'Gives the one agent with this id, this account at Purple Flea or this wallet; null: there is '
  'none, or more than one.';

-- Two events with one escrow's name would make two escrows, and one confirmation would release
-- both.
create or replace function purple_flea.is_subject_taken(subject text) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:workflow-subject:' || subject, 7));
  return exists (
    select
    from purple_flea.workflow_steps s
    join purple_flea.all_jobs j on j.reference = s.job
    where s.subject = is_subject_taken.subject
      and not purple_flea.ended_without_effect(j.state)
  );
end;
$$;
comment on function purple_flea.is_subject_taken(text) is
  'Says whether a workflow has made an escrow of this name, or may still make it.';

create or replace function purple_flea.request_workflow_escrow(
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
declare
  receiver constant text := purple_flea.counterparty(details ->> 'counterparty');
  answer   jsonb;
begin
  if receiver is null then
    return purple_flea.refused('unknown_counterparty');
  elsif receiver = agent then
    return purple_flea.refused('invalid_escrow');
  elsif purple_flea.is_subject_taken(subject) then
    return purple_flea.refused('escrow_taken');
  end if;
  perform set_config('purple_flea.step_name', reference, true);
  answer := purple_flea.request_escrow(
    reference, agent, details || jsonb_build_object('receiver_id', receiver));
  perform set_config('purple_flea.step_name', '', true);
  return case
    when answer ? 'refused' then answer
    else purple_flea.asked_for(reference)
  end;
exception when check_violation or data_exception then
  -- The row's own checks: an amount of 0, a description of two characters.
  return purple_flea.refused('invalid_escrow');
end;
$$;
comment on function purple_flea.request_workflow_escrow(text, text, jsonb, text) is
  'Asks for an escrow of a workflow.';

create or replace function purple_flea.request_workflow_escrow_step(
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
  escrow constant bigint := (
    select e.id
    from public.escrow_requests e
    where e.asked_as = details ->> 'made_as'
      and e.sender_id = agent
  );
  answer jsonb;
begin
  if escrow is null or not purple_flea.is_of_workflow(details ->> 'made_as') then
    return purple_flea.refused('unknown_escrow');
  end if;
  perform set_config('purple_flea.step_name', reference, true);
  answer := purple_flea.request_escrow_step(kind, escrow, null, '{}');
  perform set_config('purple_flea.step_name', '', true);
  return answer;
end;
$$;
comment on function purple_flea.request_workflow_escrow_step(text, text, text, jsonb) is
  'Asks for a step of an escrow that a workflow has made. An owner may have asked for the same '
  'step before: then that job answers.';

-- For Purple Flea's own webhooks: which workflow waits for the escrow, and who may confirm it.
create or replace function public.workflow_escrow(pf_escrow_id text) returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    (
      select jsonb_build_object(
        'escrow_id', s.subject,
        'counterparty', s.details ->> 'counterparty',
        'names', to_jsonb(array_remove(array[r.id, r.pf_agent_id, r.wallet_address], null)),
        'status', e.status
      )
      from public.escrow_requests e
      join purple_flea.workflow_steps s on s.reference = e.asked_as
      join public.agents r on r.id = e.receiver_id
      where e.pf_escrow_id = workflow_escrow.pf_escrow_id
      order by e.id desc
      limit 1
    ),
    purple_flea.refused('unknown_escrow')
  );
end;
$$;
comment on function public.workflow_escrow(text) is
  'Gives the workflow''s escrow that Purple Flea knows by this id: {escrow_id, counterparty, '
  'names, status}, where names are all that its counterparty is known by; or {"refused": '
  '"unknown_escrow"}.';
