-- Recording an outcome: the job, its event, its row of trade_results and its agent's balance.
-- Settling, look-ups and operators end here.

-- The second wait is never 0, because the reason would be the same a millisecond later.
create or replace function purple_flea.wait_before_retry(
  attempts integer,
  asked_s  numeric,
  at_once  boolean
) returns interval
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  timing record;
  wait   interval;
begin
  if at_once and attempts <= 1 then
    return '0';
  end if;
  timing := purple_flea.timing();
  wait := greatest(
    make_interval(secs => greatest(0, coalesce(asked_s, 0))::double precision),
    least(
      timing.backoff_max,
      timing.backoff * power(2, least(greatest(attempts, 1), 20) - 1)
    )
  );
  -- Up to a third of the wait is chance, so that jobs that failed together come back apart. A few
  -- minutes are enough for that.
  return wait + least(wait, timing.backoff_max) * (random() / 2);
end;
$$;
comment on function purple_flea.wait_before_retry(integer, numeric, boolean) is
  'Gives the wait of a job after so many attempts without effect: the seconds that Purple Flea '
  'asked for, or more each time.';

create or replace function purple_flea.key_reason(key_name text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    'agents_key_' || nullif(purple_flea.secret_trouble(key_name), 'missing'),
    'agent_without_key'
  )
$$;
comment on function purple_flea.key_reason(text) is
  'Says why an agent''s key cannot be used: agents_key_unreadable, agents_key_malformed, or '
  'agent_without_key.';

create or replace function purple_flea.next_due_at(
  outcome  jsonb,
  attempts integer,
  key_name text,
  at       timestamptz
) returns timestamptz
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  reason  constant text    := outcome ->> 'reason';
  -- A longer wait is a mistake. The faucet's limit of an address lasts a day.
  most_s  constant integer := case outcome ->> 'purple_flea_code'
    when 'ip_rate_limited' then 86400
    else 3600
  end;
  asked_s constant numeric := case jsonb_typeof(outcome -> 'retry_after_s')
    when 'number' then least(most_s, (outcome ->> 'retry_after_s')::numeric)
  end;
  -- A key that came meanwhile has released the waiting jobs before this one began to wait.
  at_once constant boolean := reason in ('out_of_time', 'abandoned')
    or (reason = 'agent_without_key' and purple_flea.secret(key_name) is not null);
begin
  return at + purple_flea.wait_before_retry(attempts, asked_s, at_once);
end;
$$;
comment on function purple_flea.next_due_at(jsonb, integer, text, timestamptz) is
  'Gives the time of a job''s next attempt after an outcome without effect.';

create or replace function purple_flea.make_results(outcomes jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.trade_results (
    agent_id, game, wager, outcome, payout, reference, bet_id,
    market, direction, leverage, entry_price, position_id, order_id, proof
  )
  select
    j.agent_id,
    o.result ->> 'game',
    (o.result ->> 'wager')::numeric,
    o.result ->> 'outcome',
    (o.result ->> 'payout')::numeric,
    j.reference,
    o.result ->> 'bet_id',
    o.result ->> 'market',
    o.result ->> 'direction',
    (o.result ->> 'leverage')::numeric,
    (o.result ->> 'entry_price')::numeric,
    o.result ->> 'position_id',
    o.result ->> 'order_id',
    o.result -> 'proof'
  from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
  join purple_flea.jobs j using (reference)
  where o.state = 'executed'
    and purple_flea.is_staking(j.kind)
  order by j.reference;
end;
$$;
comment on function purple_flea.make_results(jsonb) is
  'Makes the rows of trade_results of executed stakes.';

create or replace function purple_flea.change_states(
  outcomes jsonb,
  by_whom  text,
  at       timestamptz
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  lookup_wait constant interval := (purple_flea.timing()).lookup_wait;
begin
  update purple_flea.jobs j
  set state      = o.state,
      changed_by = by_whom,
      reason     = case o.result ->> 'reason'
                     when 'agent_without_key' then purple_flea.key_reason(t.key_name)
                     else o.result ->> 'reason'
                   end,
      result     = o.result,
      due_at     = case o.state
                     when 'pending'
                       then purple_flea.next_due_at(o.result, t.attempts, t.key_name, at)
                     else j.due_at
                   end,
      -- A released job whose bet turns up counts on the day of its claim.
      bet_day    = case
                     when o.state in ('executed', 'unknown')
                       and t.policy is not null
                       and purple_flea.is_staking(t.kind)
                       then coalesce(t.bet_day, (t.claimed_at at time zone 'UTC')::date)
                   end,
      lookup_at  = case o.state when 'unknown' then t.lease_until + lookup_wait end,
      wager      = case o.state when 'executed' then (o.result ->> 'wager')::numeric end,
      payout     = case o.state when 'executed' then (o.result ->> 'payout')::numeric end
  from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
  join purple_flea.jobs t using (reference)
  where j.reference = t.reference;
end;
$$;
comment on function purple_flea.change_states(jsonb, text, timestamptz) is
  'Brings locked jobs into the states of their outcomes.';

-- A balance is an agent's if the agent's own key named the account. The shared key's account is no
-- agent's, and a trading key opens another account.
create or replace function purple_flea.newest_balances(outcomes jsonb)
  returns table (agent_id text, balance numeric, as_of timestamptz)
  language plpgsql  -- see timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select distinct on (j.agent_id)
      j.agent_id,
      (o.result ->> 'balance')::numeric,
      j.claimed_at
    from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
    cross join lateral (
      select t.agent_id, t.claimed_at, t.key_name
      from purple_flea.jobs t
      where t.reference = o.reference
      offset 0
    ) as j
    where o.result ->> 'balance' is not null
      and j.key_name = purple_flea.key_name(j.agent_id)
    -- The bets of one claim are made side by side. Purple Flea counts them.
    order by j.agent_id, j.claimed_at desc, o.result #> '{proof,nonce}' desc nulls last;
end;
$$;
comment on function purple_flea.newest_balances(jsonb) is
  'Gives the balances of agents'' own accounts that outcomes name: of an agent''s outcomes the '
  'newest claim''s.';

-- Outcomes are worth more than balances. An application that holds an agent's row delays no
-- outcome for longer than the lock timeout; the agent's next outcome names a balance again.
create or replace function purple_flea.lock_agents(agents text[]) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '100ms'
as $$
begin
  begin
    -- Settlements lock agents in this order, so none of them waits for another in a circle.
    perform from public.agents a where a.id = any (agents) order by a.id for no key update;
    return agents;
  exception when lock_not_available or deadlock_detected then
    return array(
      select a.id
      from public.agents a
      where a.id = any (agents)
      order by a.id
      for no key update skip locked
    );
  end;
end;
$$;
comment on function purple_flea.lock_agents(text[]) is
  'Locks agents'' rows, and gives the agents whose rows are to be had in time.';

create or replace function purple_flea.record_balances(outcomes jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  agents text[] := array(select b.agent_id from purple_flea.newest_balances(outcomes) as b);
begin
  if agents = '{}' then
    return;
  end if;
  agents := purple_flea.lock_agents(agents);
  update public.agents a
  set balance    = newest.balance,
      balance_at = newest.as_of
  from purple_flea.newest_balances(outcomes) as newest
  where a.id = newest.agent_id
    and a.id = any (agents)
    -- An outcome may come later than that of a newer claim.
    and (a.balance_at is null or a.balance_at <= newest.as_of);
end;
$$;
comment on function purple_flea.record_balances(jsonb) is
  'Sets the balances of agents'' own accounts that outcomes name, as of their claims, unless a '
  'newer claim''s balance is there.';

-- A trade is filled for a little more or less than its size, so only bets are compared.
create or replace function purple_flea.alarm_if_above_stake(outcomes jsonb, by_whom text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  above record;
begin
  for above in
    select j as job, o.result
    from jsonb_to_recordset(outcomes) as o (reference text, state text, result jsonb)
    join purple_flea.jobs j using (reference)
    where o.state = 'executed'
      and o.result ? 'game'
      and j.wager > j.stake
  loop
    perform purple_flea.note(
      above.job, 'alarm', 'staked_more_than_the_policy_allows', above.result, by_whom);
  end loop;
end;
$$;
comment on function purple_flea.alarm_if_above_stake(jsonb, text) is
  'Raises an alarm for each bet that staked more than its policy allows.';

-- The caller has locked the jobs. Raises if one of the outcomes cannot be recorded.
create or replace function purple_flea.apply_all(outcomes jsonb, by_whom text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- See take().
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  at constant timestamptz := clock_timestamp();
begin
  perform purple_flea.make_results(outcomes);
  perform purple_flea.change_states(outcomes, by_whom, at);
  perform purple_flea.record_balances(outcomes);
  perform purple_flea.alarm_if_above_stake(outcomes, by_whom);
end;
$$;
comment on function purple_flea.apply_all(jsonb, text) is
  'Records the outcomes of locked jobs: an array of {reference, state, result}.';

create or replace function purple_flea.apply(
  job       purple_flea.jobs,
  new_state text,
  outcome   jsonb,
  by_whom   text
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.apply_all(
    jsonb_build_array(jsonb_build_object(
      'reference', job.reference,
      'state', new_state,
      'result', outcome
    )),
    by_whom
  );
end;
$$;
comment on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) is
  'Records the outcome of one locked job.';

create or replace function purple_flea.note(
  job     purple_flea.jobs,
  kind    text,
  why     text,
  detail  jsonb,
  by_whom text,
  token   uuid default null
) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events
    (reference, kind, from_state, to_state, why, attempt, changed_by, token, detail)
  select
    job.reference,
    note.kind,
    job.state,
    job.state,
    note.why,
    job.attempts,
    by_whom,
    coalesce(note.token, job.token),
    note.detail
  -- The caller has locked the job, so it is archived or not.
  where exists (select from purple_flea.jobs j where j.reference = job.reference);
  if not found then
    insert into purple_flea.job_events_archive
      (id, reference, at, kind, from_state, to_state, why, attempt, changed_by, token, detail)
    values (
      nextval(pg_get_serial_sequence('purple_flea.job_events', 'id')),
      job.reference,
      clock_timestamp(),
      note.kind,
      job.state,
      job.state,
      note.why,
      job.attempts,
      by_whom,
      coalesce(note.token, job.token),
      note.detail
    );
  end if;
end;
$$;
comment on function purple_flea.note(purple_flea.jobs, text, text, jsonb, text, uuid) is
  'Records an event that changed no state.';

create or replace function purple_flea.next_look_up(job purple_flea.jobs) returns timestamptz
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- Each wait is as long as the job is unknown already. After a day no look-up follows.
  select case
    when clock_timestamp() > job.claimed_at + interval '1 day' then 'infinity'
    else clock_timestamp() + greatest(clock_timestamp() - job.claimed_at, interval '1 second')
  end
$$;
comment on function purple_flea.next_look_up(purple_flea.jobs) is
  'Gives the time of the next look-up of an unknown job that the last one did not find.';
