-- Settling: the function reports an outcome. It makes no difference how often it reports the same.
-- The job, its event and its row of trade_results are one transaction.

create or replace function purple_flea.settle_as_last(
  job       purple_flea.jobs,
  new_state text,
  outcome   jsonb
) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  reason   constant text    := outcome ->> 'reason';
  in_vain  constant text[]  := '{not_found,no_history,history_too_long,history_unreadable}';
  same_bet constant boolean := job.result ->> 'bet_id' is not distinct from outcome ->> 'bet_id';
begin
  -- An operator can have released a job whose bet had been made all the same. Then the job is
  -- pending, and must not be claimed again.
  if job.state = 'claimed' or (job.state in ('unknown', 'pending') and new_state = 'executed') then
    perform purple_flea.apply(job, new_state, outcome, 'worker');
    return 'settled';
  elsif job.state = 'unknown' and new_state = 'unknown' and reason = any (in_vain) then
    -- A look-up in vain proves nothing. The ledger looks again, less and less often.
    update purple_flea.jobs j
    set reason    = settle_as_last.outcome ->> 'reason',
        lookup_at = case settle_as_last.outcome ->> 'reason'
                      when 'no_history' then 'infinity'
                      else purple_flea.next_look_up(j)
                    end
    where j.reference = job.reference;
    perform purple_flea.note(job, 'look_up', reason, outcome, 'worker');
    return 'settled';
  elsif job.state = new_state and (new_state <> 'executed' or same_bet) then
    return 'settled_before';
  elsif new_state = 'executed' then
    perform purple_flea.note(job, 'conflict', 'another_outcome', outcome, 'worker');
    return 'conflict';
  else
    perform purple_flea.note(job, 'late_answer', new_state, outcome, 'worker');
    return 'too_late';
  end if;
end;
$$;
comment on function purple_flea.settle_as_last(purple_flea.jobs, text, jsonb) is
  'Settles a report that comes from the last claimant, or from a look-up.';

-- If an earlier claimant bet, two bets may have been made, and an operator has to look. While no
-- other worker has the job, its bet is at least the last one.
create or replace function purple_flea.settle_as_earlier(
  job       purple_flea.jobs,
  token     uuid,
  new_state text,
  outcome   jsonb,
  secret    text
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Retryable operations are executed at most once, so there is no conflict.
  did constant text := case
    when new_state = 'executed' and not purple_flea.is_retryable(job.kind) then 'conflict'
    else 'late_answer'
  end;
begin
  if not exists (
    select
    from purple_flea.all_job_events e
    where e.reference = job.reference
      and e.token = settle_as_earlier.token
  ) then
    return jsonb_build_object('reference', job.reference, 'did', 'unknown_token');
  end if;
  if job.state = 'pending'
    and new_state = 'executed'
    and (secret is null or purple_flea.keep_key(job.agent_id, secret)) then
    perform purple_flea.note(job, did, 'not_the_last_claimant', outcome, 'worker', token);
    perform purple_flea.apply(job, 'executed', outcome, 'worker');
    return jsonb_build_object('reference', job.reference, 'did', 'settled', 'state', 'executed');
  end if;
  perform purple_flea.note(job, did, 'not_the_last_claimant', outcome, 'worker', token);
  return jsonb_build_object('reference', job.reference, 'did', did, 'state', job.state);
end;
$$;
comment on function purple_flea.settle_as_earlier(purple_flea.jobs, uuid, text, jsonb, text) is
  'Settles a report that comes from an earlier claimant than the last.';

create or replace function purple_flea.settle_with_key(
  job       purple_flea.jobs,
  new_state text,
  outcome   jsonb,
  secret    text
) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if secret is not null
    and new_state = 'executed'
    and purple_flea.is_under_way(job.state)
    and not purple_flea.keep_key(job.agent_id, secret) then
    perform purple_flea.note(job, 'alarm', 'key_is_there', outcome, 'worker');
    return purple_flea.settle_as_last(
      job,
      -- No pending job becomes rejected. The job is claimed again, and skipped.
      case job.state when 'claimed' then 'rejected' else 'pending' end,
      outcome || '{"status": "rejected", "reason": "key_is_there"}'
    );
  end if;
  return purple_flea.settle_as_last(job, new_state, outcome);
end;
$$;
comment on function purple_flea.settle_with_key(purple_flea.jobs, text, jsonb, text) is
  'Settles the last claimant''s report, and keeps the key that came with it.';

-- The lease makes the job unknown, and an operator can read the reason.
create or replace function purple_flea.keep_unsettled(
  job     purple_flea.jobs,
  outcome jsonb,
  trouble text
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  said constant text := left('not_settled: ' || trouble, 200);
begin
  if not exists (
    select
    from purple_flea.all_job_events e
    where e.reference = job.reference
      and e.kind = 'alarm'
      and e.why = said
  ) then
    perform purple_flea.note(job, 'alarm', said, outcome, 'worker');
  end if;
  if job.state in ('claimed', 'unknown') then
    update purple_flea.jobs j
    set result    = outcome,
        lookup_at = case j.state when 'unknown' then purple_flea.next_look_up(j) end
    where j.reference = job.reference;
  end if;
end;
$$;
comment on function purple_flea.keep_unsettled(purple_flea.jobs, jsonb, text) is
  'Keeps an outcome that cannot be recorded, and raises an alarm.';

create or replace function public.settle_job(
  reference text,
  token     uuid,
  state     text,
  result    jsonb,
  secret    text default null
) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  job       purple_flea.jobs;
  new_state text := settle_job.state;
  did       text;
begin
  if new_state is null
    or new_state not in ('pending', 'executed', 'skipped', 'rejected', 'unknown')
    or jsonb_typeof(settle_job.result) is distinct from 'object'
    or settle_job.token is null then
    raise exception 'an outcome is pending, executed, skipped, rejected or unknown, '
      'with its token and a result'
      using errcode = 'invalid_parameter_value';
  end if;
  select * into job from purple_flea.jobs j where j.reference = settle_job.reference for update;
  if not found then
    -- An archived job is final, but the ledger keeps every report on it.
    select * into job from purple_flea.jobs_archive a where a.reference = settle_job.reference;
    if not found then
      return jsonb_build_object('reference', settle_job.reference, 'did', 'not_found');
    end if;
  end if;
  if new_state = 'unknown' and purple_flea.is_retryable(job.kind) then
    new_state := 'pending';
  end if;
  if settle_job.secret is not null and job.kind <> 'registration' then
    raise exception 'only a registration brings a key' using errcode = 'invalid_parameter_value';
  end if;
  if settle_job.token is distinct from job.token then
    return purple_flea.settle_as_earlier(
      job, settle_job.token, new_state, settle_job.result, settle_job.secret);
  end if;
  begin
    did := purple_flea.settle_with_key(job, new_state, settle_job.result, settle_job.secret);
  exception
    when deadlock_detected or serialization_failure or lock_not_available
      or insufficient_resources or operator_intervention then
      raise;  -- The same report can be recorded another time.
    when others then
      did := 'not_settled';
      perform purple_flea.keep_unsettled(job, settle_job.result, sqlerrm);
  end;
  return jsonb_build_object(
    'reference', job.reference,
    'did', did,
    'state', coalesce(
      (select j.state from purple_flea.jobs j where j.reference = job.reference),
      job.state
    )
  );
end;
$$;
comment on function public.settle_job(text, uuid, text, jsonb, text) is
  'Records a claimed job''s outcome, and a key that came with it. Answers settled, '
  'settled_before, too_late, conflict, late_answer, not_settled, unknown_token or not_found.';
