-- How a step of a workflow claims its job. One call asks for the job, renews its end, and claims
-- it; a second one ends it after the last attempt. Everything else is as in claim_jobs().

create or replace function purple_flea.renew_workflow_job(reference text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  limits constant record := purple_flea.workflow_limits();
begin
  update purple_flea.jobs j
  set expires_at = least(j.created_at + limits.bound, clock_timestamp() + limits.renewal)
  where j.reference = renew_workflow_job.reference
    and j.state = 'pending'
    and j.expires_at > clock_timestamp()
    and purple_flea.is_of_workflow(j.reference);
end;
$$;
comment on function purple_flea.renew_workflow_job(text) is
  'Moves the end of a workflow''s pending job: this attempt may be followed by another.';

create or replace function purple_flea.pick_workflow_job(
  reference  text,
  exhausted  jsonb,
  generation uuid
) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  job   purple_flea.jobs;
  rules purple_flea.effective_policies;
begin
  if not purple_flea.is_of_workflow(reference) then
    -- An owner has asked for the same. Workers claim that job.
    return '{}';
  end if;
  select * into job
  from purple_flea.jobs j
  where j.reference = pick_workflow_job.reference
    and j.state = 'pending'
    and j.expires_at > clock_timestamp()
  for update skip locked;
  if not found
    or purple_flea.awaits_confirmation(job.kind, job.generation, pick_workflow_job.generation) then
    return '{}';
  end if;
  select * into rules from purple_flea.effective_policies p where p.agent_id = job.agent_id;
  if rules.paused
    or purple_flea.is_stopped(job.kind, rules.game, rules.account, exhausted)
    -- Its receiver is being registered, or the escrow is not made.
    or exists (
      select
      from public.escrow_requests e
      where e.id = job.escrow_id
        and purple_flea.escrow_due_at(job.kind, e) = 'infinity'
    ) then
    return '{}';
  end if;
  if rules.limited and not purple_flea.is_retryable(job.kind) then
    -- One job at a time, as in pick_limited().
    if not pg_try_advisory_xact_lock(hashtextextended('purple_flea:' || job.agent_id, 0))
      or exists (
        select
        from purple_flea.jobs busy
        where busy.agent_id = job.agent_id
          and busy.state = 'claimed'
      ) then
      return '{}';
    end if;
  end if;
  return array[job.reference];
end;
$$;
comment on function purple_flea.pick_workflow_job(text, jsonb, uuid) is
  'Locks the job of a workflow''s step if it may be claimed now.';

create or replace function public.claim_workflow_step(
  step        jsonb,
  claim       uuid,
  api         text,
  protocol    integer,
  patience_ms integer,
  paused      boolean default false
) returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Frozen rows have their times in UTC, whatever the session's zone.
  set timezone = 'UTC'
  set jit = off  -- see expire()
as $$
declare
  slots     constant integer := case when paused then 0 else 1 end;
  exhausted jsonb := '{}';
  picked    text[];
  answer    jsonb;
  limits    boolean;
  present   uuid;
  at        timestamptz;
begin
  perform purple_flea.check_workflow_step(step);
  if claim is null then
    raise exception 'a claim has a token' using errcode = 'invalid_parameter_value';
  elsif not purple_flea.speaks(claim_workflow_step.protocol) then
    return jsonb_build_object(
      'mismatch', true, 'token', claim, 'lease_ms', 0, 'jobs', '[]'::jsonb,
      'answers', '[]'::jsonb, 'more', false, 'watching', false, 'lookups', false);
  end if;
  perform purple_flea.commit_synchronously();
  perform purple_flea.expire(paused);
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || claim, 1));
  answer := purple_flea.ask_workflow_step(step);
  if answer ? 'refused' then
    return jsonb_build_object(
      'refused', (answer ->> 'refused'), 'token', claim, 'lease_ms', 0, 'jobs', '[]'::jsonb,
      'answers', '[]'::jsonb, 'more', false, 'watching', false, 'lookups', false);
  end if;
  perform purple_flea.renew_workflow_job(answer ->> 'reference');
  limits := purple_flea.counts_slots(claim_workflow_step.api);
  if limits then
    perform pg_advisory_xact_lock(hashtextextended('purple_flea:rate_slots', 2));
    exhausted := purple_flea.exhausted(claim_workflow_step.api);
  end if;
  present := purple_flea.current_generation();
  if slots > 0
    and not (select p.paused from purple_flea.trade_policies p where p.agent_id is null)
    and not exists (select from purple_flea.abandoned_claims c where c.token = claim)
    and not purple_flea.is_repeated(claim) then
    picked := purple_flea.end_done_before(
      purple_flea.pick_workflow_job(answer ->> 'reference', exhausted, present));
    -- The claim holds every lock by now. One whose caller has given up takes nothing.
    at := clock_timestamp();
    if at > statement_timestamp() + make_interval(secs => patience_ms / 1000.0) then
      picked := '{}';
    end if;
    if picked <> '{}' then
      if limits then
        picked := purple_flea.take_slots(
          picked, claim_workflow_step.api, exhausted, claim, at + (purple_flea.timing()).lease);
      end if;
      perform purple_flea.take(picked, claim, at, limits);
    end if;
  end if;
  return purple_flea.claim_reply(
      claim, array[answer ->> 'reference'], slots, exhausted, present,
      claim_workflow_step.protocol)
    || '{"watching": false}';
end;
$$;
comment on function public.claim_workflow_step(jsonb, uuid, text, integer, integer, boolean) is
  'Asks for the job of a workflow''s step and claims it, unless it is held back. The step is '
  '{function, event, step, run, agent, kind, details, subject}. Gives the reply of claim_jobs(), '
  'or in refused: unknown_agent, unknown_counterparty, unknown_escrow, escrow_taken, '
  'escrow_not_open, invalid_order, invalid_bet, invalid_escrow, reference_taken, under_way, '
  'unknown_kind.';

-- The row lock waits for the end of a claim that is under way. Only what was never sent, or was
-- certainly not executed, is pending; but not what a restore brought back.
create or replace function public.end_workflow_step(reference text) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  ended text;
begin
  perform purple_flea.commit_synchronously();
  update purple_flea.jobs j
  set state      = 'dead',
      changed_by = 'worker',
      reason     = 'run_ended'
  where j.reference = end_workflow_step.reference
    and j.state = 'pending'
    and purple_flea.is_of_workflow(j.reference)
    and not purple_flea.awaits_confirmation(
      j.kind, j.generation, purple_flea.current_generation())
  returning j.state into ended;
  return jsonb_build_object(
    'reference', end_workflow_step.reference,
    'state', coalesce(
      ended,
      (select j.state from purple_flea.all_jobs j where j.reference = end_workflow_step.reference),
      'not_found'
    )
  );
end;
$$;
comment on function public.end_workflow_step(text) is
  'Ends the pending job of a workflow''s step after the last attempt: nothing is sent for it any '
  'more. Gives the state that the job has then.';

-- For the steps that only read: the account that they show Purple Flea. Whoever may claim jobs gets
-- the same key with the claim of a look at the agent's balance.
create or replace function public.workflow_account(agent text) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    (
      select jsonb_strip_nulls(jsonb_build_object(
        'account', a.pf_agent_id,
        'wallet_address', a.wallet_address,
        'own_key', a.api_key <> '',
        'key', case
          when a.api_key <> ''
            then purple_flea.agent_key(a.api_key, purple_flea.call_of('balance', null))
        end
      ))
      from public.agents a
      where a.id = workflow_account.agent
    ),
    purple_flea.refused('unknown_agent')
  );
end;
$$;
comment on function public.workflow_account(text) is
  'Gives the account of a workflow''s agent: {account, wallet_address, own_key, key}, or '
  '{"refused": "unknown_agent"}.';
