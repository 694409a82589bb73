-- Settling: what the function calls with the outcome. Once or ten times makes no difference; the job, its event and the
-- row of trade_results are one transaction.

-- Records an outcome. Raises where it cannot be one.
create or replace function purple_flea.apply(job purple_flea.jobs, new_state text, outcome jsonb, by_whom text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  timing   record;
  at       timestamptz := clock_timestamp();
  wait     interval;
  staked   numeric(12,4) := (outcome ->> 'wager')::numeric;
  paid     numeric(12,4) := (outcome ->> 'payout')::numeric;
begin
  timing := purple_flea.timing();
  if new_state = 'executed' and job.kind in ('deposit', 'trade', 'order') then
    insert into public.trade_results (agent_id, game, wager, outcome, payout, reference, bet_id,
                                      market, direction, entry_price, position_id, order_id, proof)
    values (job.agent_id, outcome ->> 'game', staked, outcome ->> 'outcome', paid, job.reference, outcome ->> 'bet_id',
            outcome ->> 'market', outcome ->> 'direction', (outcome ->> 'entry_price')::numeric, outcome ->> 'position_id',
            outcome ->> 'order_id', outcome -> 'proof');
  end if;
  -- Half of the wait is chance, so that what failed together does not come back together.
  wait := greatest(
    make_interval(secs => case jsonb_typeof(outcome -> 'retry_after_s')
      when 'number' then least(3600, greatest(0, (outcome ->> 'retry_after_s')::numeric))::double precision
      else 0
    end),
    least(timing.backoff_max, timing.backoff * power(2, least(job.attempts, 20) - 1))
  ) * (1 + random() / 2);
  if outcome ->> 'reason' = 'out_of_time' or (
    -- The key may have come meanwhile, and let go what waited for it before this one did.
    outcome ->> 'reason' = 'agent_without_key'
    and (select purple_flea.secret(a.api_key) from public.agents a where a.id = job.agent_id) is not null
  ) then
    wait := interval '0';
  end if;
  update purple_flea.jobs j
  set state      = new_state,
      changed_by = by_whom,
      reason     = outcome ->> 'reason',
      result     = outcome,
      due_at     = case new_state when 'pending' then at + wait else j.due_at end,
      -- A released job that turns out to have been bet on counts on the day of its claim.
      bet_day    = case when new_state in ('executed', 'unknown') and j.policy is not null and j.kind in ('deposit', 'trade', 'order')
                     then coalesce(j.bet_day, (j.claimed_at at time zone 'UTC')::date) end,
      lookup_at  = case new_state when 'unknown' then j.lease_until + timing.lookup_wait end,
      wager      = case new_state when 'executed' then staked end,
      payout     = case new_state when 'executed' then paid end
  where j.reference = job.reference;
  if outcome ? 'balance' then
    update public.agents a set balance = (outcome ->> 'balance')::numeric, balance_at = at where a.id = job.agent_id;
  end if;
  -- (A trade is filled for a little more or less than it was asked for.)
  if new_state = 'executed' and outcome ? 'game' and staked > job.stake then
    perform purple_flea.note(job, 'alarm', 'staked_more_than_the_policy_allows', outcome, by_whom);
  end if;
end;
$$;
comment on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) is 'Brings a job into a state with its outcome, and makes the row of trade_results.';
revoke all on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.note(job purple_flea.jobs, kind text, why text, detail jsonb, by_whom text, token uuid default null) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, kind, from_state, to_state, why, attempt, changed_by, token, detail)
  select job.reference, note.kind, job.state, job.state, note.why, job.attempts, by_whom, coalesce(note.token, job.token), note.detail
  -- (Its caller has it locked: it is archived or not.)
  where exists (select from purple_flea.jobs j where j.reference = job.reference);
  if not found then
    insert into purple_flea.job_events_archive (id, reference, at, kind, from_state, to_state, why, attempt, changed_by, token, detail)
    values (nextval(pg_get_serial_sequence('purple_flea.job_events', 'id')), job.reference, clock_timestamp(), note.kind, job.state, job.state,
            note.why, job.attempts, by_whom, coalesce(note.token, job.token), note.detail);
  end if;
end;
$$;
comment on function purple_flea.note(purple_flea.jobs, text, text, jsonb, text, uuid) is 'Notes what changed no state.';
revoke all on function purple_flea.note(purple_flea.jobs, text, text, jsonb, text, uuid) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.next_look_up(job purple_flea.jobs) returns timestamptz
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- As long again as it has been; and after a day no more.
  select case
    when clock_timestamp() > job.claimed_at + interval '1 day' then 'infinity'
    else clock_timestamp() + greatest(clock_timestamp() - job.claimed_at, interval '1 second')
  end
$$;
comment on function purple_flea.next_look_up(purple_flea.jobs) is 'When an unknown job that was looked for in vain is looked for again: later and later, for a day.';
revoke all on function purple_flea.next_look_up(purple_flea.jobs) from public, anon, authenticated, service_role, purple_flea_worker;

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

create or replace function public.settle_jobs(outcomes jsonb) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most    constant integer := 100;  -- the outcomes of one claim
  outcome jsonb;
  done    jsonb := '[]';
begin
  if jsonb_typeof(outcomes) is distinct from 'array' or jsonb_array_length(outcomes) > most then
    raise exception 'outcomes are an array of at most %', most using errcode = 'invalid_parameter_value';
  end if;
  -- Always in the same order, so that two of these never wait for each other.
  for outcome in select o from jsonb_array_elements(outcomes) as o order by o ->> 'reference' loop
    begin
      done := done || public.settle_job(outcome ->> 'reference', (outcome ->> 'token')::uuid, outcome ->> 'state', outcome -> 'result',
        outcome ->> 'secret');
    exception when data_exception then
      -- One that cannot be read keeps none of the others.
      done := done || jsonb_build_object('reference', outcome ->> 'reference', 'did', 'not_readable');
    end;
  end loop;
  return done;
end;
$$;
comment on function public.settle_jobs(jsonb) is 'settle_job for every outcome of an array of {reference, token, state, result, secret}; one that fails does not touch the others.';
revoke all on function public.settle_jobs(jsonb) from public, anon, authenticated;
grant execute on function public.settle_jobs(jsonb) to service_role, purple_flea_worker;
