-- Agents: their keys' names, their registration, and their faucet claims.

-- agents.api_key is empty (the agent uses the shared key) or the name of the agent's own secret. A
-- trigger checks it and no CHECK, because a CHECK that fails prints the row, and the row may hold a
-- key.
create or replace function purple_flea.guard_agent() returns trigger
  language plpgsql
  volatile
  -- Roles that write agents may neither use the schema purple_flea nor read secrets.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.api_key not in ('', purple_flea.key_name(new.id)) then
    raise exception 'agents.api_key holds the name of the agent''s own secret, never a key: '
      'set it to purple_flea_key:<id>, and store a key with purple_flea.set_agent_key'
      using errcode = 'check_violation',
            detail  = format('The agent is %s.', left(new.id, 128));
  end if;
  -- Secrets carry the id in their names and do not follow it. Another agent's secrets could be
  -- taken over.
  if tg_op = 'UPDATE' and new.id <> old.id and exists (
    select
    from unnest(array[old.id, new.id]) as i (agent)
    cross join unnest(array[null, 'trading', 'unused']) as p (purpose)
    where purple_flea.secret_trouble(purple_flea.key_name(i.agent, p.purpose))
      is distinct from 'missing'
  ) then
    raise exception 'an agent''s id cannot change while the agent, or the new id, has secrets'
      using errcode = 'check_violation',
            detail  = format('The agent is %s.', left(old.id, 128));
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_agent() is
  'Refuses an api_key that is not the agent''s own, and a new id for an agent with secrets.';

create or replace trigger purple_flea_guard_new
  before insert on public.agents
  for each row execute function purple_flea.guard_agent();
-- Every settlement updates a balance. Those updates pass without a call.
create or replace trigger purple_flea_guard
  before update on public.agents
  for each row when (new.api_key is distinct from old.api_key or new.id <> old.id)
  execute function purple_flea.guard_agent();

-- An agent's id may be long or have odd characters. A reference may not, and it needs room for a
-- day or a number, and for the random digits of the idempotency key.
create or replace function purple_flea.agent_reference(kind text, agent text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind || case
    when agent ~ '^[A-Za-z0-9._:-]{1,24}$' then '-' || agent
    else ':' || left(encode(sha256(convert_to(agent, 'UTF8')), 'hex'), 24)
  end
$$;
comment on function purple_flea.agent_reference(text, text) is
  'Gives the reference of an agent''s registration or faucet claim.';

create or replace function purple_flea.agent_job_under_way(kind text, agent text) returns text
  language sql
  volatile  -- sees a job that another transaction has just made
  set search_path = pg_catalog, pg_temp
as $$
  select j.reference
  from purple_flea.jobs j
  where j.agent_id = agent
    and j.kind = agent_job_under_way.kind
    and (
      purple_flea.is_under_way(j.state)
      -- The faucet gives once.
      or (j.kind = 'faucet' and j.state = 'executed')
    )
  limit 1
$$;
comment on function purple_flea.agent_job_under_way(text, text) is
  'Gives an agent''s job of a kind that is under way, or executed once for all.';

create or replace function purple_flea.make_agent_job(
  kind      text,
  agent     text,
  reference text,
  held      boolean default false
) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  made    text;
  name    text := make_agent_job.reference;
  earlier integer;
begin
  made := purple_flea.agent_job_under_way(kind, agent);
  if made is not null then
    return made;
  end if;
  -- A job that ended without effect is followed by another: faucet-scout by faucet.2-scout, which
  -- cannot be any other agent's reference.
  if exists (select from purple_flea.all_jobs j where j.reference = make_agent_job.reference) then
    select count(*) into earlier
    from purple_flea.all_jobs j
    where j.agent_id = agent
      and j.kind = make_agent_job.kind;
    name := kind || '.' || earlier + 1
      || substr(purple_flea.agent_reference(kind, agent), length(kind) + 1);
  end if;
  insert into purple_flea.jobs
    (reference, idempotency_key, kind, agent_id, request, due_at, expires_at)
  select
    name,
    purple_flea.new_idempotency_key(name),
    k.kind,
    agent,
    jsonb_build_object('agent_id', agent),
    -- A job that is not held is due for the rest of this statement: a notification, a claim.
    case when held then 'infinity' else statement_timestamp() end,
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = make_agent_job.kind
  on conflict do nothing
  returning jobs.reference into made;
  -- Another transaction may have made it at the same time.
  return coalesce(made, purple_flea.agent_job_under_way(kind, agent));
end;
$$;
comment on function purple_flea.make_agent_job(text, text, text, boolean) is
  'Makes an agent''s job, unless one is under way or executed once for all. Gives the reference '
  'of the one that counts.';

create or replace function purple_flea.greet_agent() returns trigger
  language plpgsql
  volatile
  -- A role that writes agents may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- A key that is there and cannot be read is no reason for a second account.
  unregistered boolean := new.api_key <> ''
    and purple_flea.secret_trouble(new.api_key) = 'missing';
begin
  if unregistered then
    perform purple_flea.make_agent_job(
      'registration', new.id, purple_flea.agent_reference('registration', new.id));
  end if;
  if tg_op = 'INSERT'
    and (select p.claim_faucet from purple_flea.trade_policies p where p.agent_id is null) then
    -- The faucet needs an account, so its claim is held until the registration releases it.
    perform purple_flea.make_agent_job(
      'faucet', new.id, purple_flea.agent_reference('faucet', new.id), unregistered);
  end if;
  return null;
end;
$$;
comment on function purple_flea.greet_agent() is
  'Makes a registration for a row whose own key is missing, and for a new row a claim of the '
  'faucet, if the shared policy says so.';

create or replace trigger purple_flea_greet
  after insert on public.agents
  for each row execute function purple_flea.greet_agent();
create or replace trigger purple_flea_register
  after update of api_key on public.agents
  for each row when (new.api_key <> old.api_key and new.api_key <> '')
  execute function purple_flea.greet_agent();

create or replace trigger purple_flea_notify
  after insert or update of api_key on public.agents
  for each statement execute function purple_flea.notify_after_statement();

-- Accepts the same texts as the constraints agents_pf_agent_id_check and
-- agents_referral_code_check. A reply with any other text must not fail its settlement: the key
-- that came with it would be lost.
create or replace function purple_flea.short_text(value text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select value
  where octet_length(value) between 1 and 128
    and value !~ '[[:cntrl:]]'
$$;
comment on function purple_flea.short_text(text) is
  'Gives a text of at most 128 bytes without control characters as it is, and null for any other.';

create or replace function purple_flea.finish_registration(job purple_flea.jobs) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if job.state = 'executed' then
    update public.agents a
    set pf_agent_id   = coalesce(
                          purple_flea.short_text(job.result ->> 'account'),
                          a.pf_agent_id
                        ),
        referral_code = coalesce(
                          purple_flea.short_text(job.result ->> 'referral_code'),
                          a.referral_code
                        )
    where a.id = job.agent_id;
    if (select p.claim_faucet from purple_flea.trade_policies p where p.agent_id is null) then
      perform purple_flea.make_agent_job(
        'faucet', job.agent_id, purple_flea.agent_reference('faucet', job.agent_id));
    end if;
  end if;
  -- Jobs that waited for it are due, with an account or without one: then they end for want of it.
  update purple_flea.jobs j
  set due_at = statement_timestamp()
  where j.state = 'pending'
    and (
      (
        j.agent_id = job.agent_id
        and case
          -- It waits for its receiver's registration, or for the escrow itself.
          when j.due_at = 'infinity' then j.kind not like 'escrow%'
          else j.reason = 'agent_without_key'
        end
      )
      or (
        j.kind = 'escrow'
        and j.due_at = 'infinity'
        and j.request ->> 'receiver_id' = job.agent_id
      )
    );
  perform purple_flea.notify_if_due();
end;
$$;
comment on function purple_flea.finish_registration(purple_flea.jobs) is
  'Writes a registration''s outcome into the agent''s row, and makes the jobs due that waited for '
  'it.';

-- Without a word on the balance the credit is added to the last one. See newest_balances().
create or replace function purple_flea.credit_agent(job purple_flea.jobs, credit numeric)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  holding numeric := case
    when job.key_name = purple_flea.key_name(job.agent_id)
      then (job.result ->> 'balance')::numeric
  end;
  balance numeric;
begin
  update public.agents a
  set balance    = case
                     when holding is null then a.balance + credit
                     when a.balance_at > job.claimed_at then a.balance
                     else holding
                   end,
      balance_at = case
                     when holding is null then a.balance_at
                     else greatest(a.balance_at, job.claimed_at)
                   end
  where a.id = job.agent_id
  returning a.balance into balance;
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
  values (job.agent_id, 'deposit', credit, balance);
end;
$$;
comment on function purple_flea.credit_agent(purple_flea.jobs, numeric) is
  'Records a credit of the faucet: the agent''s balance, and a deposit.';

create or replace function purple_flea.tell_agent() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  credit numeric := (new.result ->> 'credited')::numeric;
begin
  if new.kind = 'registration' then
    perform purple_flea.finish_registration(new);
  elsif new.state = 'executed' and credit > 0 then
    perform purple_flea.credit_agent(new, credit);
  end if;
  return null;
end;
$$;
comment on function purple_flea.tell_agent() is
  'Records the outcome of an agent''s registration or faucet claim in the public tables.';

create or replace trigger jobs_tell_agent
  after update on purple_flea.jobs
  for each row when (
    old.state <> new.state
    and purple_flea.is_final(new.state)
    and new.kind in ('registration', 'faucet', 'daily_claim')
  )
  execute function purple_flea.tell_agent();
