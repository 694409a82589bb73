-- Limits of Purple Flea's rate. A claim takes a slot for each call that counts against a limit. A
-- job without a slot waits, instead of being sent and refused.

-- Without a search path of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.call_of(kind text, game text) returns text
  language sql
  immutable
as $$
  select case kind when 'deposit' then game else kind end
$$;
comment on function purple_flea.call_of(text, text) is
  'Names the call of a job: its kind, or for a deposit the policy''s game.';

-- Gives {"crash *": time, "crash <account>": time}. The star stands for all accounts together, and
-- the time is the one from which the call is worth another try.
create or replace function purple_flea.exhausted(of_api text) returns jsonb
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  with held as (
    select s.call, s.account, s.held_until
    from purple_flea.rate_slots s
    where s.held_until > clock_timestamp()
  ),
  used as (
    select
      limited.call,
      case l.per when 'account' then held.account else '*' end as account,
      l.most,
      l.calls,
      held.held_until
    from purple_flea.rate_limits l
    join held on held.call = any (l.calls)
    cross join unnest(l.calls) as limited (call)
    where l.api = of_api
  ),
  stopped as (
    select u.call, u.account, min(u.held_until) as until
    from used u
    group by u.call, u.account, u.calls, u.most
    having count(*) >= u.most
    union all
    select r.call, r.account, r.until
    from purple_flea.rate_stops r
    where r.until > clock_timestamp()
  ),
  named as (
    select s.call || ' ' || s.account as name, max(s.until) as until
    from stopped s
    group by s.call, s.account
  )
  select coalesce(jsonb_object_agg(n.name, n.until), '{}')
  from named n
$$;
comment on function purple_flea.exhausted(text) is
  'Gives the calls that no claim may make now, and until when.';

create or replace function purple_flea.is_stopped(
  kind      text,
  game      text,
  account   text,
  exhausted jsonb
) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select exhausted ?| array[call_of || ' *', call_of || ' ' || account]
  from purple_flea.call_of(kind, game)
$$;
comment on function purple_flea.is_stopped(text, text, text, jsonb) is
  'Says whether a job''s call has no slot left.';

create or replace function purple_flea.has_slot(of_api text, called text, for_account text)
  returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return not exists (
    select
    from purple_flea.rate_limits l
    where l.api = of_api
      and called = any (l.calls)
      and l.most <= (
        select count(*)
        from purple_flea.rate_slots s
        where s.call = any (l.calls)
          and (l.per = 'deployment' or s.account = for_account)
      )
  );
end;
$$;
comment on function purple_flea.has_slot(text, text, text) is
  'Says whether every limit of a call leaves room for one more.';

-- The caller holds the lock that keeps two claims from counting the same slots.
create or replace function purple_flea.take_slots(
  picked      text[],
  of_api      text,
  exhausted   jsonb,
  claim       uuid,
  lease_until timestamptz
) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  job  record;
  kept text[] := '{}';
begin
  -- A slot that a settlement has locked goes another time. The settlement may wait for this claim's
  -- lock.
  delete from purple_flea.rate_slots s
  where s.ctid = any (array(
    select o.ctid
    from purple_flea.rate_slots o
    where o.held_until < clock_timestamp()
    for update skip locked
  ));
  for job in
    select
      j.reference,
      purple_flea.call_of(j.kind, e.game) as call,
      e.account,
      max(l.within) as within
    from unnest(picked) with ordinality as p (reference, n)
    join purple_flea.jobs j using (reference)
    join purple_flea.effective_policies e on e.agent_id = j.agent_id
    left join purple_flea.rate_limits l
      on l.api = of_api
      and purple_flea.call_of(j.kind, e.game) = any (l.calls)
    group by p.n, j.reference, e.game, e.account
    order by p.n
  loop
    continue when take_slots.exhausted ?| array[job.call || ' *', job.call || ' ' || job.account]
      or not purple_flea.has_slot(of_api, job.call, job.account);
    if job.within is not null then
      insert into purple_flea.rate_slots (reference, token, call, account, held_until, within)
      values (
        job.reference,
        take_slots.claim,
        job.call,
        job.account,
        take_slots.lease_until + job.within,
        job.within
      );
    end if;
    kept := kept || job.reference;
  end loop;
  return kept;
end;
$$;
comment on function purple_flea.take_slots(text[], text, jsonb, uuid, timestamptz) is
  'Takes a slot for each job that needs one, in their order. Gives the jobs that may be claimed.';

-- The faucet takes one claim a day from an address. While this stop lasts, claims of the faucet are
-- still handed out, because an agent's own account may show a credit that its registration brought.
-- But no worker sends one.
create or replace function purple_flea.stop_faucet(retry_after_s numeric) returns void
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  insert into purple_flea.rate_stops as stop (call, account, until)
  values (
    'faucet address',
    '*',
    clock_timestamp() + make_interval(
      secs => least(86400, greatest(1, coalesce(retry_after_s, 86400)))::double precision
    )
  )
  on conflict (call, account) do update
  set until = excluded.until
  -- A claim that was not sent reports the rest of the same wait.
  where stop.until < clock_timestamp()
$$;
comment on function purple_flea.stop_faucet(numeric) is
  'Stops the calls of the faucet from this address, for a day at most.';

create or replace function purple_flea.faucet_wait_s() returns integer
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select ceil(extract(epoch from s.until - clock_timestamp()))::integer
  from purple_flea.rate_stops s
  where s.call = 'faucet address'
    and s.until > clock_timestamp()
$$;
comment on function purple_flea.faucet_wait_s() is
  'Gives the seconds until the faucet accepts a claim from this address; null if it does now.';

-- Purple Flea answered "too many" although the ledger kept the limits. Other clients may call from
-- the same address.
create or replace function purple_flea.stop_calls(job purple_flea.jobs) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  code       constant text   := job.result ->> 'purple_flea_code';
  by_account constant boolean := code is not distinct from 'rate_limit_exceeded';
begin
  delete from purple_flea.rate_stops s where s.until < clock_timestamp();
  insert into purple_flea.rate_stops as stop (call, account, until)
  select
    stopped.call,
    case when by_account then a.api_key else '*' end,
    clock_timestamp() + make_interval(
      secs => coalesce((job.result ->> 'retry_after_s')::double precision, 60)
    )
  from public.agents a
  cross join unnest(
    case
      -- An account's limit counts all games together.
      when by_account then array['crash', 'coin-flip', 'hi-lo', 'bet']
      else array[purple_flea.call_of(job.kind, job.policy ->> 'game')]
    end
  ) as stopped (call)
  where a.id = job.agent_id
  on conflict (call, account) do update
  set until = greatest(stop.until, excluded.until);
end;
$$;
comment on function purple_flea.stop_calls(purple_flea.jobs) is
  'Stops the calls that Purple Flea refused for their rate, until the time that its answer names.';

create or replace function purple_flea.end_call() returns trigger
  language plpgsql
  -- A worker that settles a job may not write these tables.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- These outcomes say that the call was never made.
  if new.state = 'skipped'
    or (new.state = 'pending' and new.reason in (
      'out_of_time', 'paused', 'daily_limit_open', 'not_reached', 'agent_without_key',
      'balance_not_known', 'unreadable_job'
    )) then
    delete from purple_flea.rate_slots s
    where s.reference = new.reference
      and s.token = new.token;
  else
    update purple_flea.rate_slots s
    set held_until = clock_timestamp() + s.within
    where s.reference = new.reference
      and s.token = new.token;
  end if;
  if new.state = 'pending' and new.reason = 'rate_limited' then
    if new.result ->> 'purple_flea_code' = 'ip_rate_limited' then
      perform purple_flea.stop_faucet((new.result ->> 'retry_after_s')::numeric);
    else
      perform purple_flea.stop_calls(new);
    end if;
  end if;
  return null;
end;
$$;
comment on function purple_flea.end_call() is
  'Holds a call''s slot for the limit''s time, or frees it if the call was never made. Stops '
  'calls that Purple Flea refused for their rate.';

create or replace trigger jobs_end_call
  after update on purple_flea.jobs
  for each row when (
    old.state = 'claimed'
    and new.state <> 'claimed'
    and (old.holds_slot or new.reason = 'rate_limited')
  )
  execute function purple_flea.end_call();
