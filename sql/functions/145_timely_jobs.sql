-- Jobs that the clock asks for: looks at balances and at escrows, and the faucet's claim of the day.
-- The sweeper makes them.

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
  ) as due;
end;
$$;
comment on function purple_flea.make_balance_jobs(integer) is
  'Makes the looks at balances that the policies ask for by now.';

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
      and not exists (select from purple_flea.jobs j where j.reference = named.reference)
      and not exists (
        select
        from purple_flea.jobs j
        where j.agent_id = a.id
          and j.kind = 'daily_claim'
          and purple_flea.is_under_way(j.state)
      )
    limit most
  ) as due;
end;
$$;
comment on function purple_flea.make_daily_claims(integer) is
  'Makes the faucet''s claims of the UTC day that the policies ask for.';

create or replace function purple_flea.make_timely_jobs() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 1000;  -- jobs of a sweep
begin
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
  'Makes the looks at balances and the daily claims that the policies ask for by now, and the looks '
  'at escrows.';
