-- Taking: picked jobs become claimed, with all that their outcomes are judged by later.

-- The caller has the time zone at UTC. Without a search path of its own, because Postgres inlines
-- no function that has one.
create or replace function purple_flea.deposit_row(w public.wallet_changes) returns jsonb
  language sql
  stable
  security invoker
as $$
  select jsonb_build_object(
    'id', w.id,
    'agent_id', w.agent_id,
    'change_type', w.change_type,
    'change_amount', w.change_amount,
    'new_balance', w.new_balance,
    'created_at', w.created_at
  )
$$;
comment on function purple_flea.deposit_row(public.wallet_changes) is
  'Gives a deposit''s row as its job keeps it.';

create or replace function purple_flea.take(
  picked      text[],
  claim_token uuid,
  at          timestamptz,
  with_slots  boolean
) returns void
  language plpgsql  -- see timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A few jobs by their names. Any other plan reads all jobs that their agents have ever had.
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off  -- see expire()
as $$
begin
  update purple_flea.jobs j
  set state       = 'claimed',
      changed_by  = 'worker',
      reason      = null,
      attempts    = j.attempts + 1,
      token       = claim_token,
      claimed_at  = at,
      lease_until = at + (purple_flea.timing()).lease,
      lookup_at   = null,
      request     = case j.kind
                      when 'deposit' then purple_flea.deposit_row(taken.w)
                      else j.request
                    end,
      policy      = to_jsonb(taken.p) - 'id' - 'agent_id' - 'limited',
      stake       = purple_flea.stake_of(j.kind, j.request, taken.w, taken.p),
      bet_day     = case when purple_flea.is_staking(j.kind) then (at at time zone 'UTC')::date end,
      limited     = (taken.p).limited and purple_flea.is_staking(j.kind),
      key_name    = case
                      when taken.api_key = '' then ''
                      else purple_flea.agent_secret(
                        taken.api_key,
                        purple_flea.call_of(j.kind, (taken.p).game)
                      )
                    end,
      account     = taken.pf_agent_id,
      holds_slot  = with_slots and exists (
                      select
                      from purple_flea.rate_slots s
                      where s.reference = j.reference
                        and s.token = claim_token
                    ),
      wager       = null,
      payout      = null,
      result      = null
  from (
    select t.reference, w, frozen.p, a.api_key, a.pf_agent_id
    from unnest(picked) as named (reference)
    join purple_flea.jobs t on t.reference = named.reference
    join public.agents a on a.id = t.agent_id
    left join public.wallet_changes w on w.id = t.wallet_change_id
    cross join lateral (
      select e.policy_id
      from purple_flea.effective_policies e
      where e.agent_id = t.agent_id
      offset 0
    ) as effective
    cross join lateral (
      select p
      from purple_flea.trade_policies p
      where p.id = effective.policy_id
      offset 0
    ) as frozen
    offset 0
  ) as taken
  where j.reference = taken.reference;
end;
$$;
comment on function purple_flea.take(text[], uuid, timestamptz, boolean) is
  'Claims locked jobs for a token, and freezes row, policy, key name and account in them.';

-- Jobs that are claimed or unknown count with their worst case.
create or replace function purple_flea.spent(agent text, on_day date, but_for text) returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'wagered', coalesce(sum(j.wager) filter (where j.state = 'executed'), 0),
    -- Purple Flea does not say what a trade lost, so all of it counts. A win without a payout lost
    -- nothing.
    'lost', coalesce(
      sum(
        j.wager - case when j.result ? 'market' then 0 else coalesce(j.payout, j.wager) end
      ) filter (where j.state = 'executed'),
      0
    ),
    'open', coalesce(sum(j.stake) filter (where j.state in ('claimed', 'unknown')), 0)
  )
  from purple_flea.jobs j
  where j.agent_id = agent
    and j.bet_day = on_day
    and j.reference <> but_for
$$;
comment on function purple_flea.spent(text, date, text) is
  'Gives an agent''s stakes, losses and open stakes of a UTC day, in US dollars, without one job.';

create or replace function purple_flea.policy_for(protocol integer, policy jsonb) returns jsonb
  language plpgsql  -- see timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Release 0.1.0 reads no policy without a direction.
  return case
    when protocol < 2 and policy ->> 'direction' is null then policy || '{"direction": "long"}'
    else policy
  end;
end;
$$;
comment on function purple_flea.policy_for(integer, jsonb) is
  'Gives a frozen policy as the function of a protocol''s version reads it.';

-- `bet_key` is the idempotency key for functions up to release 0.1.0.
create or replace function purple_flea.held_jobs(claim_token uuid, protocol integer) returns jsonb
  language plpgsql  -- see timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_agg(
      jsonb_strip_nulls(jsonb_build_object(
        'reference', j.reference,
        'kind', j.kind,
        'idempotency_key', j.idempotency_key,
        'bet_key', j.idempotency_key,
        'attempt', j.attempts,
        'stake', j.stake,
        'spent', case
          when j.limited then purple_flea.spent(j.agent_id, j.bet_day, j.reference)
        end,
        'account', j.account,
        'fresh', case
          when j.kind in ('faucet', 'daily_claim') and purple_flea.is_fresh(j) then true
        end,
        'good_for_ms', case when purple_flea.answers_signal(j.reference) then greatest(
          0, floor(extract(epoch from j.expires_at - clock_timestamp()) * 1000)
        )::bigint end,
        'faucet_wait_s', case when j.kind = 'faucet' then purple_flea.faucet_wait_s() end,
        -- These are not frozen: the agent's present wallet, the receiver's present name, the code
        -- that earns the referral, and the escrow that the job is about.
        -- A workflow may name another wallet.
        'wallet_address', coalesce(
          case
            when purple_flea.is_of_workflow(j.reference) then j.request ->> 'wallet_address'
          end,
          a.wallet_address
        ),
        'counterparty', case when j.kind = 'escrow' then (
          select coalesce(r.pf_agent_id, r.id)
          from public.agents r
          where r.id = j.request ->> 'receiver_id'
        ) end,
        'counterparty_address', case when j.kind = 'escrow' then (
          select r.wallet_address
          from public.agents r
          where r.id = j.request ->> 'receiver_id'
        ) end,
        'referral_code', (
          select o.referral_code
          from purple_flea.job_kinds k
          where k.kind = j.kind
            and k.earns_referral
        ),
        'escrow', case when j.kind like 'escrow\_%' then (
          select jsonb_build_object('id', e.pf_escrow_id, 'status', e.status)
          from public.escrow_requests e
          where e.id = j.escrow_id
        ) end,
        'own_key', case when j.key_name <> '' then true end,
        'key', case when j.key_name <> '' then purple_flea.secret(j.key_name) end
      )) || jsonb_build_object(
        'row', j.request,
        'policy', purple_flea.policy_for(protocol, j.policy)
      )
    ), '[]')
    from purple_flea.jobs j
    join public.agents a on a.id = j.agent_id
    left join public.agents o on o.id = a.orchestrator_id
    where j.token = claim_token
      and j.state = 'claimed'
  );
end;
$$;
comment on function purple_flea.held_jobs(uuid, integer) is
  'Gives the jobs that a claim holds, with the keys for their calls.';

-- The registration itself may have claimed the faucet, and an agent has one executed claim of the
-- faucet at most. The answer to a daily claim may be lost, and Purple Flea gives one in 24 hours.
create or replace function purple_flea.is_fresh(job purple_flea.jobs) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case job.kind
    when 'faucet' then exists (
      select
      from purple_flea.jobs r
      where r.agent_id = job.agent_id
        and r.kind = 'registration'
        and r.state = 'executed'
    )
    when 'daily_claim' then job.attempts > 1 and not exists (
      select
      from purple_flea.jobs d
      where d.agent_id = job.agent_id
        and d.kind = 'daily_claim'
        and d.state = 'executed'
        and d.changed_at > clock_timestamp() - interval '24 hours'
    )
    else false
  end;
end;
$$;
comment on function purple_flea.is_fresh(purple_flea.jobs) is
  'Says whether the account may have a credit of the job''s kind that the ledger has not '
  'recorded.';
