-- Settling: what the function calls with the outcome. Once or ten times makes no difference; the job, its event and the
-- row of trade_results are one transaction.

-- A report that comes from the last claimant, or from who looked its job up.
create or replace function purple_flea.settle_as_last(job purple_flea.jobs, new_state text, outcome jsonb) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  same_bet boolean := (job.result ->> 'bet_id') is not distinct from (outcome ->> 'bet_id');
begin
  -- (pending: an operator released it, and its bet had been made all the same. It must not be claimed again.)
  if job.state = 'claimed' or (job.state in ('unknown', 'pending') and new_state = 'executed') then
    perform purple_flea.apply(job, new_state, outcome, 'worker');
    return 'settled';
  elsif job.state = 'unknown' and new_state = 'unknown' and outcome ->> 'reason' in ('not_found', 'no_history', 'history_too_long', 'history_unreadable') then
    -- Looked for in vain, which proves nothing. Later, and less and less often, it is looked for again.
    update purple_flea.jobs j
    set reason    = outcome ->> 'reason',
        lookup_at = case outcome ->> 'reason' when 'no_history' then 'infinity' else purple_flea.next_look_up(j) end
    where j.reference = job.reference;
    perform purple_flea.note(job, 'look_up', outcome ->> 'reason', outcome, 'worker');
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
comment on function purple_flea.settle_as_last(purple_flea.jobs, text, jsonb) is 'What the last claimant''s report does to a job.';
revoke all on function purple_flea.settle_as_last(purple_flea.jobs, text, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.settle_job(reference text, token uuid, state text, result jsonb, secret text default null) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
<<settle_why>>
declare
  job purple_flea.jobs;
  did text;
  why text;
begin
  if settle_job.state is null or settle_job.state not in ('pending', 'executed', 'skipped', 'rejected', 'unknown')
    or jsonb_typeof(settle_job.result) is distinct from 'object' or settle_job.token is null then
    raise exception 'an outcome is pending, executed, skipped, rejected or unknown, with its token and a result'
      using errcode = 'invalid_parameter_value';
  end if;
  select * into job from purple_flea.jobs j where j.reference = settle_job.reference for update;
  if not found then
    -- What is archived is settled for good; but nothing that is said of it gets lost.
    select * into job from purple_flea.jobs_archive a where a.reference = settle_job.reference;
    if not found then
      return jsonb_build_object('reference', settle_job.reference, 'did', 'not_found');
    end if;
  end if;
  -- Asked again for what does no harm twice, rather than never known.
  if settle_job.state = 'unknown' and purple_flea.is_repeatable(job.kind) then
    settle_job.state := 'pending';
  end if;
  if settle_job.secret is not null and job.kind <> 'registration' then
    raise exception 'only a registration brings a key' using errcode = 'invalid_parameter_value';
  end if;
  if settle_job.token is distinct from job.token then
    if not exists (select from purple_flea.all_job_events e where e.reference = job.reference and e.token = settle_job.token) then
      return jsonb_build_object('reference', job.reference, 'did', 'unknown_token');
    end if;
    -- An earlier claimant. If it bet, two bets may have been made: somebody has to look. While nobody else is at it, its
    -- bet is at least the last one.
    if job.state = 'pending' and settle_job.state = 'executed'
      and (settle_job.secret is null or purple_flea.keep_key(job.agent_id, settle_job.secret)) then
      perform purple_flea.note(job, case when purple_flea.is_repeatable(job.kind) then 'late_answer' else 'conflict' end,
                               'not_the_last_claimant', settle_job.result, 'worker', settle_job.token);
      perform purple_flea.apply(job, 'executed', settle_job.result, 'worker');
      return jsonb_build_object('reference', job.reference, 'did', 'settled', 'state', 'executed');
    end if;
    -- What may be done twice is no conflict.
    did := case when settle_job.state = 'executed' and not purple_flea.is_repeatable(job.kind) then 'conflict' else 'late_answer' end;
    perform purple_flea.note(job, did, 'not_the_last_claimant', settle_job.result, 'worker', settle_job.token);
    return jsonb_build_object('reference', job.reference, 'did', did, 'state', job.state);
  end if;
  begin
    if settle_job.secret is not null and settle_job.state = 'executed' and job.state in ('claimed', 'pending')
      and not purple_flea.keep_key(job.agent_id, settle_job.secret) then
      perform purple_flea.note(job, 'alarm', 'key_is_there', settle_job.result, 'worker');
      -- (From pending nothing is rejected. It is claimed again, and skipped.)
      settle_job.state  := case job.state when 'claimed' then 'rejected' else 'pending' end;
      settle_job.result := settle_job.result || '{"status": "rejected", "reason": "key_is_there"}';
    end if;
    did := purple_flea.settle_as_last(job, settle_job.state, settle_job.result);
  exception
    when deadlock_detected or serialization_failure or lock_not_available or insufficient_resources or operator_intervention then
      -- Another time it will do.
      raise;
    when others then
      -- Whatever is wrong with it, it is kept. The lease makes the job unknown, and somebody can read why.
      did := 'not_settled';
      why := left('not_settled: ' || sqlerrm, 200);
      if not exists (select from purple_flea.all_job_events e where e.reference = job.reference and e.kind = 'alarm' and e.why = settle_why.why) then
        perform purple_flea.note(job, 'alarm', why, settle_job.result, 'worker');
      end if;
      if job.state in ('claimed', 'unknown') then
        update purple_flea.jobs j
        set result    = settle_job.result,
            lookup_at = case j.state when 'unknown' then purple_flea.next_look_up(j) end
        where j.reference = job.reference;
      end if;
  end;
  return jsonb_build_object('reference', job.reference, 'did', did,
    'state', coalesce((select j.state from purple_flea.jobs j where j.reference = job.reference), job.state));
end;
$$;
comment on function public.settle_job(text, uuid, text, jsonb, text) is 'Reports a claimed job''s outcome, and a key that came with it: settled, settled_before, too_late, conflict, late_answer, not_settled, unknown_token or not_found.';
revoke all on function public.settle_job(text, uuid, text, jsonb, text) from public, anon, authenticated;
grant execute on function public.settle_job(text, uuid, text, jsonb, text) to service_role, purple_flea_worker;

-- Reads the outcomes of an array, each on its own: one that jsonb cannot hold keeps none of the others. What cannot be read
-- has no state.
create or replace function purple_flea.read_outcomes(outcomes json) returns jsonb
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  outcome json;
  read    jsonb := '[]';
begin
  for outcome in select o from json_array_elements(outcomes) as o loop
    begin
      read := read || jsonb_build_object(
        'reference', outcome ->> 'reference', 'token', (outcome ->> 'token')::uuid, 'state', outcome ->> 'state',
        'result', (outcome -> 'result')::jsonb, 'secret', outcome ->> 'secret');
    exception when data_exception then
      read := read || jsonb_build_object('reference', purple_flea.readable_text(outcome, 'reference'));
    end;
  end loop;
  return read;
end;
$$;
comment on function purple_flea.read_outcomes(json) is 'The outcomes of an array of {reference, token, state, result, secret}.';
revoke all on function purple_flea.read_outcomes(json) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.readable_text(object json, field text) returns text
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return object ->> field;
exception when data_exception then
  return null;
end;
$$;
comment on function purple_flea.readable_text(json, text) is 'A text of an object, or null where Postgres cannot hold it.';
revoke all on function purple_flea.readable_text(json, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Which of these jobs can be settled without waiting: the job, its agent and its escrow are locked here, in one order, and
-- what another transaction has locked is left out.
create or replace function purple_flea.lock_for_settling(asked text[]) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- As take(): a few jobs by their names.
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  ours    text[];
  agents  text[];
  escrows bigint[];
begin
  select array_agg(locked.reference) into ours
  from (select j.reference from purple_flea.jobs j where j.reference = any (asked) order by j.reference for update skip locked) as locked;
  -- A row of trade_results refers to its agent, for which Postgres takes this very lock.
  select array_agg(locked.id) into agents
  from (
    select a.id from public.agents a
    where a.id in (select j.agent_id from purple_flea.jobs j where j.reference = any (ours))
    order by a.id for key share skip locked
  ) as locked;
  select array_agg(locked.id) into escrows
  from (
    select e.id from public.escrow_requests e
    where e.id in (select j.escrow_id from purple_flea.jobs j where j.reference = any (ours))
    order by e.id for no key update skip locked
  ) as locked;
  return array(
    select j.reference from purple_flea.jobs j
    where j.reference = any (ours) and j.agent_id = any (agents) and (j.escrow_id is null or j.escrow_id = any (escrows)));
end;
$$;
comment on function purple_flea.lock_for_settling(text[]) is 'Locks jobs and what their outcomes are written to; gives those that no other transaction holds.';
revoke all on function purple_flea.lock_for_settling(text[]) from public, anon, authenticated, service_role, purple_flea_worker;

-- The usual outcomes of a call, in one statement for all: of claimed jobs, by their claimant. Those that are not among them,
-- or all if one of them cannot be recorded, are left to settle_job.
create or replace function purple_flea.settle_usual(outcomes jsonb) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- As take(): a few jobs by their names.
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  usual jsonb;
begin
  select jsonb_agg(jsonb_build_object('reference', j.reference, 'result', o.result, 'state',
           case when o.state = 'unknown' and purple_flea.is_repeatable(j.kind) then 'pending' else o.state end))
    into usual
  from jsonb_to_recordset(outcomes) as o (reference text, token uuid, state text, result jsonb, secret text)
  join purple_flea.jobs j using (reference)
  where j.state = 'claimed' and j.token = o.token and o.secret is null and jsonb_typeof(o.result) = 'object'
    and o.state in ('pending', 'executed', 'skipped', 'rejected', 'unknown');
  if usual is null then
    return '{}';
  end if;
  perform purple_flea.apply_all(usual, 'worker');
  return array(select u ->> 'reference' from jsonb_array_elements(usual) as u);
exception when others then
  return '{}';
end;
$$;
comment on function purple_flea.settle_usual(jsonb) is 'Settles what claimants report of their own claimed jobs; gives the references of what was settled.';
revoke all on function purple_flea.settle_usual(jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.settle_jobs(outcomes json, protocol integer default 1) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- What an application's trigger writes to may be locked. The row is tried again alone.
  set lock_timeout = '100ms'
  -- As in claim_jobs().
  set plan_cache_mode = force_generic_plan
as $$
declare
  most    constant integer     := 100;  -- the outcomes of one claim
  ends    constant timestamptz := clock_timestamp() + interval '2 seconds';  -- the caller waits for 5
  outcome record;
  read    jsonb;
  free    text[];
  usual   text[];
  report  jsonb;
  reports jsonb := '[]';
begin
  if json_typeof(outcomes) is distinct from 'array' or json_array_length(outcomes) > most then
    raise exception 'outcomes are an array of at most %', most using errcode = 'invalid_parameter_value';
  end if;
  perform purple_flea.commit_synchronously();
  read  := purple_flea.read_outcomes(outcomes);
  if jsonb_path_exists(read, '$[*].secret ? (@ != null)') then
    perform purple_flea.hide_parameters();
  end if;
  free  := purple_flea.lock_for_settling(array(select o ->> 'reference' from jsonb_array_elements(read) as o));
  -- (A reference that comes twice in one call is not the usual case.)
  usual := purple_flea.settle_usual((
    select jsonb_agg(once.outcome)
    from (
      select min(o::text)::jsonb as outcome from jsonb_array_elements(read) as o
      where o ->> 'reference' = any (free) group by o ->> 'reference' having count(*) = 1
    ) as once));
  for outcome in
    select o.*, (o.reference = any (free)) is not true
             and exists (select from purple_flea.jobs j where j.reference = o.reference) as held_by_another
    from jsonb_array_elements(read) with ordinality as e (element, n)
    cross join lateral jsonb_to_record(e.element) as o (reference text, token uuid, state text, result jsonb, secret text)
    order by o.reference, e.n
  loop
    if outcome.state is null then
      report := jsonb_build_object('reference', outcome.reference, 'did', 'not_readable');
    elsif outcome.reference = any (usual) then
      report := jsonb_build_object('reference', outcome.reference, 'did', 'settled',
        'state', (select j.state from purple_flea.jobs j where j.reference = outcome.reference));
    elsif outcome.held_by_another or clock_timestamp() > ends then
      report := jsonb_build_object('reference', outcome.reference, 'did', 'not_now');
    else
      begin
        report := public.settle_job(outcome.reference, outcome.token, outcome.state, outcome.result, outcome.secret);
      exception
        when data_exception then
          report := jsonb_build_object('reference', outcome.reference, 'did', 'not_readable');
        when deadlock_detected or serialization_failure or lock_not_available then
          report := jsonb_build_object('reference', outcome.reference, 'did', 'not_now');
      end;
    end if;
    if report ->> 'did' = 'not_now' and settle_jobs.protocol < 2 then
      -- Release 0.1.0 does not know the word: it asks again for all, as after any failure.
      raise exception 'job % is locked', outcome.reference using errcode = 'lock_not_available';
    end if;
    reports := reports || report;
  end loop;
  return reports;
end;
$$;
comment on function public.settle_jobs(json, integer) is 'settle_job for every outcome of an array of {reference, token, state, result, secret}. One that fails does not touch the others; one whose rows are locked is answered not_now and is to be asked for again.';
revoke all on function public.settle_jobs(json, integer) from public, anon, authenticated;
grant execute on function public.settle_jobs(json, integer) to service_role, purple_flea_worker;
