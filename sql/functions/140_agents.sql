grant select (balance_at) on public.agents to authenticated;

-- agents.api_key is empty (the agent uses the shared key) or the name of the agent's own secret. A trigger checks this
-- and no CHECK, because a CHECK that fails prints the row, and the row may hold a key.
create or replace function purple_flea.guard_agent() returns trigger
  language plpgsql
  volatile
  -- Roles that write agents may neither use the schema purple_flea nor read secrets.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.api_key not in ('', purple_flea.key_name(new.id)) then
    raise exception 'agents.api_key holds the name of the agent''s own secret, never a key: set it to purple_flea_key:<id>, and store a key with purple_flea.set_agent_key'
      using errcode = 'check_violation', detail = format('The agent is %s.', left(new.id, 128));
  end if;
  -- Secrets carry the id in their names, and do not follow it: another agent's secrets could be taken over.
  if tg_op = 'UPDATE' and new.id <> old.id and exists (
    select from unnest(array[old.id, new.id]) as i (agent), unnest(array[null, 'trading', 'unused']) as p (purpose)
    where purple_flea.secret_trouble(purple_flea.key_name(i.agent, p.purpose)) is distinct from 'missing'
  ) then
    raise exception 'an agent''s id cannot change while the agent, or the new id, has secrets'
      using errcode = 'check_violation', detail = format('The agent is %s.', left(old.id, 128));
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_agent() is 'Refuses an api_key that is not the agent''s own, and a new id for an agent with secrets.';
revoke all on function purple_flea.guard_agent() from public, anon, authenticated, service_role, purple_flea_worker;

-- The settlement of every bet updates balances; those updates pass without a call.
create or replace trigger purple_flea_guard_new
  before insert on public.agents
  for each row execute function purple_flea.guard_agent();
create or replace trigger purple_flea_guard
  before update on public.agents
  for each row when (new.api_key is distinct from old.api_key or new.id <> old.id) execute function purple_flea.guard_agent();

-- An agent's id may be long or have odd characters; a reference may not.
create or replace function purple_flea.agent_reference(kind text, agent text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Room for a day or a number behind it, and for the bet key's random digits.
  select kind || case when agent ~ '^[A-Za-z0-9._:-]{1,24}$' then '-' || agent else ':' || left(encode(sha256(convert_to(agent, 'UTF8')), 'hex'), 24) end
$$;
comment on function purple_flea.agent_reference(text, text) is 'What an agent''s registration or faucet claim is called.';
revoke all on function purple_flea.agent_reference(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.agent_job_under_way(kind text, agent text) returns text
  language sql
  volatile  -- sees what another has just made
  set search_path = pg_catalog, pg_temp
as $$
  select j.reference from purple_flea.jobs j
  where j.agent_id = agent and j.kind = agent_job_under_way.kind
    and (j.state in ('pending', 'claimed') or (j.kind = 'faucet' and j.state = 'executed'))
  limit 1
$$;
comment on function purple_flea.agent_job_under_way(text, text) is 'An agent''s job of a kind that is under way, or done once for all.';
revoke all on function purple_flea.agent_job_under_way(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.make_agent_job(kind text, agent text, reference text, held boolean default false) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  patience constant interval := '7 days';  -- nobody's money gets stale by it
  there   text;
  name    text := make_agent_job.reference;
  earlier integer;
begin
  -- One that is under way, or that was done once for all, will do.
  there := purple_flea.agent_job_under_way(kind, agent);
  if there is not null then
    return there;
  end if;
  -- One that came to nothing is followed by another: faucet-scout by faucet.2-scout, which no other agent's can be called.
  if exists (select from purple_flea.all_jobs j where j.reference = make_agent_job.reference) then
    select count(*) into earlier from purple_flea.all_jobs j where j.agent_id = agent and j.kind = make_agent_job.kind;
    name := kind || '.' || earlier + 1 || substr(purple_flea.agent_reference(kind, agent), length(kind) + 1);
  end if;
  insert into purple_flea.jobs (reference, bet_key, kind, agent_id, request, due_at, expires_at)
  values (name, purple_flea.bet_key(name), make_agent_job.kind, agent,
          jsonb_build_object('agent_id', agent),
          -- Due for whatever this statement does next: the doorbell, a claim.
          case when held then 'infinity' else statement_timestamp() end, clock_timestamp() + patience)
  on conflict do nothing
  returning jobs.reference into there;
  -- Somebody else may have made it at the same time.
  return coalesce(there, purple_flea.agent_job_under_way(kind, agent));
end;
$$;
comment on function purple_flea.make_agent_job(text, text, text, boolean) is 'Makes an agent''s job unless one is under way or done once for all; gives the reference of the one that counts.';
revoke all on function purple_flea.make_agent_job(text, text, text, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- A row whose own key is missing asks for a registration; a new row, where the shared policy says so, for the faucet.
create or replace function purple_flea.greet_agent() returns trigger
  language plpgsql
  volatile
  -- Who writes agents may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- A key that is there and cannot be read is no reason for a second account.
  unregistered boolean := new.api_key <> '' and purple_flea.secret_trouble(new.api_key) = 'missing';
begin
  if unregistered then
    perform purple_flea.make_agent_job('registration', new.id, purple_flea.agent_reference('registration', new.id));
  end if;
  if tg_op = 'INSERT' and (select p.claim_faucet from purple_flea.trade_policies p where p.agent_id is null) then
    -- Without an account there is nobody to claim for: registration lets it go.
    perform purple_flea.make_agent_job('faucet', new.id, purple_flea.agent_reference('faucet', new.id), unregistered);
  end if;
  return null;
end;
$$;
comment on function purple_flea.greet_agent() is 'Makes a new agent''s jobs.';
revoke all on function purple_flea.greet_agent() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger purple_flea_greet
  after insert on public.agents
  for each row execute function purple_flea.greet_agent();
create or replace trigger purple_flea_register
  after update of api_key on public.agents
  for each row when (new.api_key <> old.api_key and new.api_key <> '') execute function purple_flea.greet_agent();

create or replace trigger purple_flea_ring
  after insert or update of api_key on public.agents
  for each statement execute function purple_flea.ring_if_due();

-- Takes what the constraints agents_pf_agent_id_check and agents_referral_code_check take. A reply with anything else
-- must not fail its settlement: the key that came with it would be lost.
create or replace function purple_flea.short_text(value text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select value where octet_length(value) between 1 and 128 and value !~ '[[:cntrl:]]'
$$;
comment on function purple_flea.short_text(text) is 'Gives a text of at most 128 bytes without control characters as it is, and null for any other.';
revoke all on function purple_flea.short_text(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What an ended job of an agent leads to, in the same transaction.
create or replace function purple_flea.tell_agent() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  credit  numeric := (new.result ->> 'credited')::numeric;
  holding numeric := (new.result ->> 'balance')::numeric;
begin
  if new.kind = 'registration' then
    if new.state = 'executed' then
      update public.agents a
      set pf_agent_id   = coalesce(purple_flea.short_text(new.result ->> 'account'), a.pf_agent_id),
          referral_code = coalesce(purple_flea.short_text(new.result ->> 'referral_code'), a.referral_code)
      where a.id = new.agent_id;
      if (select p.claim_faucet from purple_flea.trade_policies p where p.agent_id is null) then
        perform purple_flea.make_agent_job('faucet', new.agent_id, purple_flea.agent_reference('faucet', new.agent_id));
      end if;
    end if;
    -- What waited for it goes on, with an account or without: then it learns so.
    update purple_flea.jobs j set due_at = statement_timestamp()
    where j.state = 'pending'
      and ((j.agent_id = new.agent_id and (j.due_at = 'infinity' or j.reason = 'agent_without_key') and j.kind not like 'escrow\_%')
        or (j.kind = 'escrow' and j.due_at = 'infinity' and j.request ->> 'receiver_id' = new.agent_id));
    perform purple_flea.try_ring();
  elsif new.state = 'executed' and credit > 0 then
    update public.agents a set balance = coalesce(holding, a.balance + credit), balance_at = clock_timestamp()
    where a.id = new.agent_id
    returning a.balance into holding;
    insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values (new.agent_id, 'deposit', credit, holding);
  end if;
  return null;
end;
$$;
comment on function purple_flea.tell_agent() is 'Writes back what a registration or a faucet claim led to.';
revoke all on function purple_flea.tell_agent() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_tell_agent
  after update on purple_flea.jobs
  for each row when (new.state in ('executed', 'skipped', 'rejected', 'dead') and old.state <> new.state
                     and new.kind in ('registration', 'faucet', 'daily_claim'))
  execute function purple_flea.tell_agent();

-- What the clock asks for: looks at balances, and the faucet's claim of the day. The sweeper calls it.
create or replace function purple_flea.make_timely_jobs() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most  constant integer := 1000;  -- at a time
  today constant text    := to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD');
begin
  if exists (select from purple_flea.trade_policies p where p.balance_every is not null) then
    perform purple_flea.make_agent_job('balance', due.id, 'balance-' || gen_random_uuid())
    from (
      select a.id from public.agents a
      join purple_flea.effective_policies e on e.agent_id = a.id and not e.paused
      join purple_flea.trade_policies p on p.id = e.policy_id
      where p.balance_every is not null and coalesce(a.balance_at, a.created_at - p.balance_every) <= clock_timestamp() - p.balance_every
        and not exists (select from purple_flea.jobs j where j.agent_id = a.id and j.kind = 'balance' and j.state in ('pending', 'claimed'))
      limit most
    ) as due;
  end if;
  if exists (select from purple_flea.trade_policies p where p.claim_daily) then
    perform purple_flea.make_agent_job('daily_claim', due.id, due.reference)
    from (
      select a.id, purple_flea.agent_reference('daily_claim', a.id) || '-' || today as reference
      from public.agents a
      join purple_flea.effective_policies e on e.agent_id = a.id and not e.paused
      join purple_flea.trade_policies p on p.id = e.policy_id
      where p.claim_daily
        and not exists (select from purple_flea.jobs j where j.reference = purple_flea.agent_reference('daily_claim', a.id) || '-' || today)
        and not exists (select from purple_flea.jobs j where j.agent_id = a.id and j.kind = 'daily_claim' and j.state in ('pending', 'claimed'))
      limit most
    ) as due;
  end if;
end;
$$;
comment on function purple_flea.make_timely_jobs() is 'Makes the looks at balances and the daily claims that the policies ask for by now.';
revoke all on function purple_flea.make_timely_jobs() from public, anon, authenticated, service_role, purple_flea_worker;
