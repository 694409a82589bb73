-- Reading the record that an event is about. A kind of records has a function
-- purple_flea.record_<kind>(tenant, id), which gives null for another tenant's records.

create or replace function purple_flea.record_trade(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object(
      'reference', j.reference,
      'kind', j.kind,
      'agent_id', j.agent_id,
      'status', j.state,
      'reason', j.reason,
      'attempts', j.attempts,
      'created_at', j.created_at,
      'changed_at', j.changed_at,
      'result', (
        select to_jsonb(t) - 'id' - 'agent_id' - 'reference'
        from public.trade_results t
        where t.reference = j.reference
      )
    )
    from purple_flea.all_jobs j
    join purple_flea.agent_tenants a on a.agent_id = j.agent_id
    where j.reference = record_id
      and (purple_flea.is_staking(j.kind) or j.kind = 'close')
      and a.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_trade(uuid, text) is
  'Gives a tenant''s deposit, trade, order or close by its reference, with its result.';

create or replace function purple_flea.record_escrow(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if record_id !~ '^[0-9]{1,18}$' then
    return null;
  end if;
  return (
    select to_jsonb(e) - 'asked_as'
    from public.escrow_requests e
    where e.id = record_id::bigint
      and exists (
        select
        from purple_flea.agent_tenants a
        where a.agent_id in (e.sender_id, e.receiver_id)
          and a.tenant_id = of_tenant
      )
  );
end;
$$;
comment on function purple_flea.record_escrow(uuid, text) is
  'Gives an escrow by its id to the tenants of both its parties.';

-- The columns that an owner reads, too (036_access.sql). Others may be a user's own, or name a
-- secret.
create or replace function purple_flea.record_agent(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object(
      'id', a.id,
      'balance', a.balance,
      'balance_at', a.balance_at,
      'status', a.status,
      'created_at', a.created_at,
      'owner_id', a.owner_id,
      'pf_agent_id', a.pf_agent_id,
      'referral_code', a.referral_code,
      'orchestrator_id', a.orchestrator_id,
      'wallet_address', a.wallet_address,
      'tenant_id', t.tenant_id
    )
    from public.agents a
    join purple_flea.agent_tenants t on t.agent_id = a.id
    where a.id = record_id
      and t.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_agent(uuid, text) is
  'Gives a tenant''s agent by its id: the columns of the ledger, without the name of its secret.';

create or replace function purple_flea.record_api_key(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if record_id !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return null;
  end if;
  return (
    select to_jsonb(k) - 'hash' - 'use_told_at'
    from public.api_keys k
    where k.id = record_id::uuid
      and k.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_api_key(uuid, text) is
  'Gives a tenant''s key by its id, without its hash.';

create or replace function public.read_record(key_hash text, kind text, id text) returns jsonb
  language plpgsql
  volatile
  -- The caller may read neither keys nor jobs.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Times in a record have their zone.
  set timezone = 'UTC'
as $$
declare
  key    public.api_keys := purple_flea.key_of(key_hash);
  reader regprocedure;
  answer jsonb;
begin
  if key.id is null then
    return '{"state": "unauthorized"}';
  elsif not 'records:read' = any (key.scopes) then
    return '{"state": "forbidden"}';
  end if;
  perform purple_flea.note_use(key);
  if read_record.kind ~ '^[a-z_]{1,30}$' then
    reader := to_regprocedure(format('purple_flea.record_%s(uuid, text)', read_record.kind));
  end if;
  if reader is null then
    return '{"state": "unknown_kind"}';
  end if;
  execute format('select purple_flea.%I($1, $2)', 'record_' || read_record.kind)
    into answer
    using key.tenant_id, read_record.id;
  if answer is null then
    return '{"state": "not_found"}';
  end if;
  return jsonb_build_object('state', 'ok', 'record', answer);
end;
$$;
comment on function public.read_record(text, text, text) is
  'Gives a record of a key''s tenant: {state: ok, record}. The other states: unauthorized, '
  'forbidden, unknown_kind, not_found.';
