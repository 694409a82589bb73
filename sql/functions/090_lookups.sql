-- Looking up: jobs of which nobody knows what became, for the function to look for in Purple Flea's history. What is
-- found is settled with the token of the last claim, as that claimant would have.

create or replace function public.claim_lookups("limit" integer default 50, protocol integer default 1) returns jsonb
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
      select u.reference from purple_flea.jobs u
      where u.state = 'unknown' and u.lookup_at <= statement_timestamp()
      order by u.lookup_at limit claim_lookups."limit" for update skip locked
    )
    returning j.*
  )
  select jsonb_agg(jsonb_build_object(
    -- Where it was bet: the agent may have another account by now. (Claims of release 0.1.0 did not freeze it.)
    'account',  case when taken.key_name is null then a.pf_agent_id else taken.account end,
    'key_name', coalesce(taken.key_name, a.api_key),
    'key',      case when taken.key_name is null then purple_flea.agent_key(nullif(a.api_key, ''), purple_flea.call_of(kind, policy ->> 'game'))
                     when taken.key_name <> '' then purple_flea.secret(taken.key_name) end,
    'reference', reference, 'kind', kind, 'token', token, 'bet_key', bet_key, 'agent_id', agent_id, 'policy', policy,
    'from_s',  floor(extract(epoch from claimed_at))::bigint,
    'until_s', ceil(extract(epoch from lease_until + (purple_flea.timing()).lookup_wait))::bigint
  )) into jobs from taken join public.agents a on a.id = taken.agent_id;
  return coalesce(jobs, '[]');
end;
$$;
comment on function public.claim_lookups(integer, integer) is 'Hands out unknown jobs whose bets are to be looked for, each to one caller at a time.';
revoke all on function public.claim_lookups(integer, integer) from public, anon, authenticated;
grant execute on function public.claim_lookups(integer, integer) to service_role, purple_flea_worker;
