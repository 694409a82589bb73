-- Look-ups. The function looks for unknown jobs in Purple Flea's history. It settles a job that it
-- finds with the token of the last claim, as that claimant would have.

-- Release 0.1.0 froze no account in its claims. Such a job is looked for with the agent's present
-- key.
create or replace function purple_flea.lookup_of(job purple_flea.jobs, protocol integer)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  agent public.agents;
begin
  select * into agent from public.agents a where a.id = job.agent_id;
  return jsonb_build_object(
    'reference', job.reference,
    'kind', job.kind,
    'token', job.token,
    'idempotency_key', job.idempotency_key,
    'bet_key', job.idempotency_key,  -- for functions up to release 0.1.0
    'agent_id', job.agent_id,
    'policy', purple_flea.policy_for(protocol, job.policy),
    -- An escrow is found by its amount and its idempotency key, a close by its position. The row of
    -- a bet names the game.
    'row', case when job.kind in ('escrow', 'close', 'bet') then job.request end,
    'referral_code', case job.kind when 'escrow' then (
      select o.referral_code from public.agents o where o.id = agent.orchestrator_id
    ) end,
    -- The account of the bet. The agent may have another one by now.
    'account', case when job.key_name is null then agent.pf_agent_id else job.account end,
    'key_name', coalesce(job.key_name, agent.api_key),
    'key', case
      when job.key_name is null then purple_flea.agent_key(
        nullif(agent.api_key, ''),
        purple_flea.call_of(job.kind, job.policy ->> 'game')
      )
      when job.key_name <> '' then purple_flea.secret(job.key_name)
    end,
    'from_s', floor(extract(epoch from job.claimed_at))::bigint,
    'until_s', ceil(extract(epoch from
      job.lease_until + (purple_flea.timing()).lookup_wait))::bigint
  );
end;
$$;
comment on function purple_flea.lookup_of(purple_flea.jobs, integer) is
  'Gives an unknown job as the function reads it for a look-up.';

create or replace function public.claim_lookups(
  "limit"  integer default 50,
  protocol integer default 1
) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
as $$
declare
  most constant integer := 100;
  jobs jsonb;
begin
  if claim_lookups."limit" is null or claim_lookups."limit" not between 1 and most then
    raise exception 'limit must be 1 to %', most using errcode = 'invalid_parameter_value';
  end if;
  if not purple_flea.speaks(claim_lookups.protocol) then
    return '[]';
  end if;
  perform purple_flea.expire(false);
  with taken as (
    update purple_flea.jobs j
    set lookup_at = clock_timestamp() + (purple_flea.timing()).lookup_hold
    where j.reference in (
      select u.reference
      from purple_flea.jobs u
      where u.state = 'unknown'
        and u.lookup_at <= statement_timestamp()
      order by u.lookup_at
      limit claim_lookups."limit"
      for update skip locked
    )
    returning j as job
  )
  select jsonb_agg(purple_flea.lookup_of(t.job, claim_lookups.protocol)) into jobs
  from taken t;
  return coalesce(jobs, '[]');
end;
$$;
comment on function public.claim_lookups(integer, integer) is
  'Hands out unknown jobs whose bets are to be looked for, each to one caller at a time.';
