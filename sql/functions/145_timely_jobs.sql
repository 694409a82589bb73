-- Jobs that the clock asks for: looks at balances and at escrows, and daily claims. The sweeper
-- makes them, and gives each refused claim of the faucet its turn.

create or replace function purple_flea.make_balance_jobs(most integer) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.make_agent_job('balance', due.id, 'balance-' || gen_random_uuid())
  from (
    select a.id
    from public.agents a
    join purple_flea.effective_policies e
      on e.agent_id = a.id
      and not e.paused
    join purple_flea.trade_policies p on p.id = e.policy_id
    where p.balance_every is not null
      -- The shared key would read the balance of an account that is no agent's.
      and a.api_key <> ''
      and coalesce(a.balance_at, a.created_at - p.balance_every)
        <= clock_timestamp() - p.balance_every
      and not exists (
        select
        from purple_flea.jobs j
        where j.agent_id = a.id
          and j.kind = 'balance'
          and purple_flea.is_under_way(j.state)
      )
    limit most
    -- A job refers to its agent. An agent that an application holds waits alone.
    for key share of a skip locked
  ) as due;
end;
$$;
comment on function purple_flea.make_balance_jobs(integer) is
  'Makes the looks at balances that the policies ask for by now.';

create or replace function purple_flea.readable_time(value text) returns timestamptz
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return value::timestamptz;
exception when data_exception then
  return null;
end;
$$;
comment on function purple_flea.readable_time(text) is
  'Gives a text as a time, or null if it is none.';

create or replace function purple_flea.next_daily_claim(job purple_flea.jobs) returns timestamptz
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  usual   constant interval := '24 hours';
  -- A claim that is not due yet, and was due in the past, is a mistake and no reason to ask in each
  -- sweep.
  soonest constant interval := case job.state when 'skipped' then interval '1 hour' else '0' end;
  -- As long as a settled job surely stays in jobs.
  most    constant interval := '2 days';
begin
  return job.changed_at + greatest(soonest, least(most, coalesce(
    purple_flea.readable_time(job.result ->> 'next_eligible_at') - job.changed_at,
    usual
  )));
end;
$$;
comment on function purple_flea.next_daily_claim(purple_flea.jobs) is
  'Gives the time from which an agent may claim again, by its last claim: the time that Purple '
  'Flea named, or 24 hours later.';

create or replace function purple_flea.make_daily_claims(most integer) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  today constant text := to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD');
begin
  perform purple_flea.make_agent_job('daily_claim', due.id, due.reference)
  from (
    select a.id, named.reference
    from public.agents a
    join purple_flea.effective_policies e
      on e.agent_id = a.id
      and not e.paused
    join purple_flea.trade_policies p on p.id = e.policy_id
    cross join lateral (
      select purple_flea.agent_reference('daily_claim', a.id) || '-' || today as reference
    ) as named
    where p.claim_daily
      and not exists (
        select
        from purple_flea.jobs j
        where j.agent_id = a.id
          and j.kind = 'daily_claim'
          and (
            purple_flea.is_under_way(j.state)
            or purple_flea.next_daily_claim(j) > clock_timestamp()
          )
      )
    limit most
    for key share of a skip locked
  ) as due;
end;
$$;
comment on function purple_flea.make_daily_claims(integer) is
  'Makes the daily claims that the policies ask for and that Purple Flea accepts by now.';

-- The faucet takes one claim a day from an address. The agent that has waited longest is the first
-- to claim after the stop. The next one learns from the faucet that the day's claim is made.
create or replace function purple_flea.line_up_faucet_claims() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Longer than an exchange with Purple Flea, so that each claim meets the outcome of the one
  -- before.
  apart constant interval := '15 seconds';
begin
  update purple_flea.jobs j
  set due_at = turn.at
  from (
    select
      w.reference,
      s.until + apart * (row_number() over (order by a.created_at, w.created_at, a.id) - 1) as at
    from purple_flea.rate_stops s
    join purple_flea.jobs w
      on w.kind = 'faucet'
      and w.state = 'pending'
      and w.attempts > 0
      and isfinite(w.due_at)
    join public.agents a on a.id = w.agent_id
    where s.call = 'faucet address'
      and s.until > clock_timestamp()
  ) as turn
  where j.reference = turn.reference
    and j.state = 'pending'
    and j.due_at <> turn.at;
end;
$$;
comment on function purple_flea.line_up_faucet_claims() is
  'Gives each refused claim of the faucet its turn after the stop: the oldest agent first.';

create or replace function purple_flea.make_timely_jobs() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 1000;  -- jobs of a sweep
begin
  if purple_flea.faucet_wait_s() is not null then
    perform purple_flea.line_up_faucet_claims();
  end if;
  if exists (select from purple_flea.trade_policies p where p.balance_every is not null) then
    perform purple_flea.make_balance_jobs(most);
  end if;
  if exists (select from purple_flea.trade_policies p where p.claim_daily) then
    perform purple_flea.make_daily_claims(most);
  end if;
  perform purple_flea.make_escrow_looks(most);
end;
$$;
comment on function purple_flea.make_timely_jobs() is
  'Makes the looks at balances, the daily claims and the looks at escrows that are due by now, and '
  'lines up the claims of the faucet.';
