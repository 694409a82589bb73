-- Recording an outcome: the job, its event, its row of trade_results and its agent's balance. Settling (080_settle.sql), look-ups
-- and operators end here.

-- After how long a job is tried again that executed nothing. Never at once a second time: whatever the reason was, it would
-- be the same in the next millisecond.
create or replace function purple_flea.wait_before_retry(attempts integer, asked_s numeric, at_once boolean) returns interval
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  timing record;
begin
  if at_once and attempts <= 1 then
    return '0';
  end if;
  timing := purple_flea.timing();
  -- Half of the wait is chance, so that what failed together does not come back together.
  return greatest(
    make_interval(secs => least(3600, greatest(0, coalesce(asked_s, 0)))::double precision),
    least(timing.backoff_max, timing.backoff * power(2, least(greatest(attempts, 1), 20) - 1))
  ) * (1 + random() / 2);
end;
$$;
comment on function purple_flea.wait_before_retry(integer, numeric, boolean) is 'How long a job waits after so many attempts: what was asked for, or longer each time.';
revoke all on function purple_flea.wait_before_retry(integer, numeric, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- Records outcomes of jobs that the caller has locked: an array of {reference, state, result}. Raises where one of them
-- cannot be recorded.
create or replace function purple_flea.apply_all(outcomes jsonb, by_whom text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- As take(): a few jobs by their names.
  set enable_hashjoin = off
  set enable_mergejoin = off
as $$
declare
  timing record;
  at     timestamptz := clock_timestamp();
  above  record;
begin
  timing := purple_flea.timing();
  insert into public.trade_results (agent_id, game, wager, outcome, payout, reference, bet_id,
                                    market, direction, entry_price, position_id, order_id, proof)
  select j.agent_id, o.result ->> 'game', (o.result ->> 'wager')::numeric, o.result ->> 'outcome', (o.result ->> 'payout')::numeric,
         j.reference, o.result ->> 'bet_id', o.result ->> 'market', o.result ->> 'direction', (o.result ->> 'entry_price')::numeric,
         o.result ->> 'position_id', o.result ->> 'order_id', o.result -> 'proof'
  from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
  join purple_flea.jobs j using (reference)
  where o.state = 'executed' and j.kind in ('deposit', 'trade', 'order')
  order by j.reference;
  update purple_flea.jobs j
  set state      = o.state,
      changed_by = by_whom,
      reason     = case o.result ->> 'reason' when 'agent_without_key' then purple_flea.key_reason(t.key_name) else o.result ->> 'reason' end,
      result     = o.result,
      due_at     = case o.state when 'pending' then at + purple_flea.wait_before_retry(t.attempts,
                     case jsonb_typeof(o.result -> 'retry_after_s') when 'number' then (o.result ->> 'retry_after_s')::numeric end,
                     o.result ->> 'reason' in ('out_of_time', 'abandoned')
                     -- The key may have come meanwhile, and let go what waited for it before this one did.
                     or (o.result ->> 'reason' = 'agent_without_key' and purple_flea.secret(t.key_name) is not null)) else j.due_at end,
      -- A released job that turns out to have been bet on counts on the day of its claim.
      bet_day    = case when o.state in ('executed', 'unknown') and t.policy is not null and t.kind in ('deposit', 'trade', 'order')
                     then coalesce(t.bet_day, (t.claimed_at at time zone 'UTC')::date) end,
      lookup_at  = case o.state when 'unknown' then t.lease_until + timing.lookup_wait end,
      wager      = case o.state when 'executed' then (o.result ->> 'wager')::numeric end,
      payout     = case o.state when 'executed' then (o.result ->> 'payout')::numeric end
  from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
  join purple_flea.jobs t using (reference)
  where j.reference = t.reference;
  update public.agents a
  set balance = newest.balance, balance_at = at
  from (
    select distinct on (j.agent_id) j.agent_id, (o.result ->> 'balance')::numeric as balance
    from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
    join purple_flea.jobs j using (reference)
    where o.result ? 'balance'
    order by j.agent_id, j.claimed_at desc
  ) as newest
  where a.id = newest.agent_id;
  -- (A trade is filled for a little more or less than it was asked for.)
  for above in
    select j as job, o.result
    from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
    join purple_flea.jobs j using (reference)
    where o.state = 'executed' and o.result ? 'game' and j.wager > j.stake
  loop
    perform purple_flea.note(above.job, 'alarm', 'staked_more_than_the_policy_allows', above.result, by_whom);
  end loop;
end;
$$;
comment on function purple_flea.apply_all(jsonb, text) is 'Brings locked jobs into their states with their outcomes, and makes the rows of trade_results.';
revoke all on function purple_flea.apply_all(jsonb, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- The reason says more where the agent's key is there and cannot be used.
create or replace function purple_flea.key_reason(key_name text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce('agents_key_' || nullif(purple_flea.secret_trouble(key_name), 'missing'), 'agent_without_key')
$$;
comment on function purple_flea.key_reason(text) is 'Why an agent has no key: agents_key_unreadable, agents_key_malformed, or agent_without_key.';
revoke all on function purple_flea.key_reason(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Records one outcome of a locked job.
create or replace function purple_flea.apply(job purple_flea.jobs, new_state text, outcome jsonb, by_whom text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.apply_all(
    jsonb_build_array(jsonb_build_object('reference', job.reference, 'state', new_state, 'result', outcome)), by_whom);
end;
$$;
comment on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) is 'Brings one locked job into a state with its outcome.';
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
