revoke all on purple_flea.rate_limits, purple_flea.rate_slots, purple_flea.rate_stops
  from public, anon, authenticated, service_role, purple_flea_worker;

-- What a job calls: its kind, and of a deposit its game.
create or replace function purple_flea.call_of(kind text, game text) returns text
  language sql
  immutable
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
as $$
  select case kind when 'deposit' then game else kind end
$$;
comment on function purple_flea.call_of(text, text) is 'What a job of a kind calls, under a policy''s game.';
revoke all on function purple_flea.call_of(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Which calls have no slot left: {"crash *": …} for everybody's, {"crash <account>": …} for one account's, each with the
-- time from which it is worth asking again.
create or replace function purple_flea.exhausted(of_api text) returns jsonb
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  with held as (
    select call, account, held_until from purple_flea.rate_slots where held_until > clock_timestamp()
  ),
  used as (
    select limited.call, case l.per when 'account' then held.account else '*' end as account, l.most, l.calls, held.held_until
    from purple_flea.rate_limits l
    join held on held.call = any (l.calls)
    cross join unnest(l.calls) as limited (call)
    where l.api = of_api
  ),
  stopped as (
    select call, account, min(held_until) as until from used group by call, account, calls, most having count(*) >= most
    union all
    select call, account, until from purple_flea.rate_stops where until > clock_timestamp()
  )
  select coalesce(jsonb_object_agg(name, until), '{}')
  from (select call || ' ' || account as name, max(until) as until from stopped group by call, account) as named
$$;
comment on function purple_flea.exhausted(text) is 'Which calls no claim may make now, and until when.';
revoke all on function purple_flea.exhausted(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_stopped(kind text, game text, account text, exhausted jsonb) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select exhausted ?| array[call_of || ' *', call_of || ' ' || account] from purple_flea.call_of(kind, game)
$$;
comment on function purple_flea.is_stopped(text, text, text, jsonb) is 'Whether a job''s call has no slot left.';
revoke all on function purple_flea.is_stopped(text, text, text, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

-- Takes a slot for each job that needs one, in their order; gives those that may be claimed. Its caller holds the lock
-- that keeps two claims from counting the same slots.
create or replace function purple_flea.take_slots(picked text[], of_api text, exhausted jsonb, claim uuid, lease_until timestamptz) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  job  record;
  kept text[] := '{}';
begin
  -- (A slot that a settlement has locked goes another time: it may wait for the lock that this claim holds.)
  delete from purple_flea.rate_slots s
  where s.ctid = any (array(select o.ctid from purple_flea.rate_slots o where o.held_until < clock_timestamp() for update skip locked));
  for job in
    select j.reference, purple_flea.call_of(j.kind, e.game) as call, e.account, max(l.within) as within
    from unnest(picked) with ordinality as p (reference, n)
    join purple_flea.jobs j using (reference)
    join purple_flea.effective_policies e on e.agent_id = j.agent_id
    left join purple_flea.rate_limits l on l.api = of_api and purple_flea.call_of(j.kind, e.game) = any (l.calls)
    group by p.n, j.reference, e.game, e.account
    order by p.n
  loop
    continue when take_slots.exhausted ?| array[job.call || ' *', job.call || ' ' || job.account] or exists (
      select from purple_flea.rate_limits l
      where l.api = of_api and job.call = any (l.calls) and l.most <= (
        select count(*) from purple_flea.rate_slots s
        where s.call = any (l.calls) and (l.per = 'deployment' or s.account = job.account)
      )
    );
    if job.within is not null then
      insert into purple_flea.rate_slots (reference, token, call, account, held_until, within)
      values (job.reference, take_slots.claim, job.call, job.account, take_slots.lease_until + job.within, job.within);
    end if;
    kept := kept || job.reference;
  end loop;
  return kept;
end;
$$;
comment on function purple_flea.take_slots(text[], text, jsonb, uuid, timestamptz) is 'Which of these jobs Purple Flea''s limits leave room for; their slots are taken.';
revoke all on function purple_flea.take_slots(text[], text, jsonb, uuid, timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

-- A call that is over holds its slot for the limit's time from now on; one that was never made gives it back.
create or replace function purple_flea.end_call() returns trigger
  language plpgsql
  -- Whoever settles a job may not write here.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.state = 'skipped' or (new.state = 'pending' and new.reason in (
    'out_of_time', 'paused', 'daily_limit_open', 'not_reached', 'agent_without_key', 'balance_not_known', 'unreadable_job')) then
    delete from purple_flea.rate_slots s where s.reference = new.reference and s.token = new.token;
  else
    update purple_flea.rate_slots s set held_until = clock_timestamp() + s.within
    where s.reference = new.reference and s.token = new.token;
  end if;
  -- (The faucet's one a day from an address keeps one agent waiting. Another's claim may have been made with its registration.)
  if new.state = 'pending' and new.reason = 'rate_limited' and new.result ->> 'purple_flea_code' is distinct from 'ip_rate_limited' then
    delete from purple_flea.rate_stops s where s.until < clock_timestamp();
    insert into purple_flea.rate_stops as stop (call, account, until)
    select stopped.call,
           case new.result ->> 'purple_flea_code' when 'rate_limit_exceeded' then a.api_key else '*' end,
           clock_timestamp() + make_interval(secs => coalesce((new.result ->> 'retry_after_s')::double precision, 60))
    from public.agents a, unnest(case new.result ->> 'purple_flea_code'
      -- An account's limit is for all games together.
      when 'rate_limit_exceeded' then array['crash', 'coin-flip'] else array[purple_flea.call_of(new.kind, new.policy ->> 'game')] end) as stopped (call)
    where a.id = new.agent_id
    on conflict (call, account) do update set until = greatest(stop.until, excluded.until);
  end if;
  return null;
end;
$$;
comment on function purple_flea.end_call() is 'Lets a call''s slot go when its time is over, and stops calls that Purple Flea has had too many of.';
revoke all on function purple_flea.end_call() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_end_call
  after update on purple_flea.jobs
  for each row when (old.state = 'claimed' and new.state <> 'claimed' and (old.holds_slot or new.reason = 'rate_limited'))
  execute function purple_flea.end_call();
