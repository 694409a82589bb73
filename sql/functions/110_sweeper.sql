-- The sweeper: what must happen even when every notification is lost. Somebody calls purple_flea.ring() again and again:
-- pg_cron where there is one, a timer of the machine's otherwise.

-- Makes the jobs of deposits that have none: their trigger was off, or a restore went past it.
create or replace function purple_flea.make_missing_jobs(from_id bigint default null) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most   constant bigint := 10000;  -- rows at a time
  behind constant bigint := 1000;   -- ids that are looked at again: a row can become visible after a later one
  ledger purple_flea.ledger;
  last   bigint;
  made   integer;
begin
  select * into ledger from purple_flea.ledger for update;
  -- With from_id: everything from there on, however long that takes.
  select max(id) into last
  from (select w.id from public.wallet_changes w where w.id > ledger.checked_until order by w.id limit most) as next;
  if from_id is not null or last is null then
    select coalesce(max(w.id), 0) into last from public.wallet_changes w;
  end if;
  with missing as (
    insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, changed_by, reason, due_at, expires_at)
    select 'wallet-change-' || w.id, purple_flea.bet_key('wallet-change-' || w.id), w.id, w.agent_id, 'sweeper', 'was_missing', statement_timestamp(),
           clock_timestamp() + (purple_flea.timing()).max_age
    from public.wallet_changes w
    where w.change_type = 'deposit' and w.id > ledger.starts_after and w.id <= last
      and w.id > coalesce(from_id - 1, ledger.checked_until - behind)
      and not exists (select from purple_flea.jobs j where j.wallet_change_id = w.id)
      and not exists (select from purple_flea.jobs_archive a where a.wallet_change_id = w.id)
    on conflict do nothing
    returning 1
  )
  select count(*) into made from missing;
  update purple_flea.ledger l set checked_until = greatest(l.checked_until, last);
  return made;
end;
$$;
comment on function purple_flea.make_missing_jobs(bigint) is 'Makes the jobs of deposits without one, newer than the ledger; with an id: from there on, without a limit.';
revoke all on function purple_flea.make_missing_jobs(bigint) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring() returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  last_sweep timestamptz := (select l.swept_at from purple_flea.ledger l);
  preference text        := 'respond-async';
begin
  perform purple_flea.make_missing_jobs();
  begin
    perform purple_flea.make_timely_jobs();
  exception when others then
    -- Whatever is wrong with one of these keeps nobody from being swept.
    raise warning 'purple_flea: looks and claims that are due could not be asked for: %', sqlerrm;
  end;
  perform purple_flea.expire(false);
  begin
    perform purple_flea.archive_jobs();
  exception when others then
    -- They stay where they are, which costs time and nothing else.
    raise warning 'purple_flea: settled jobs could not be archived: %', sqlerrm;
  end;
  update purple_flea.ledger set swept_at = clock_timestamp();
  if not purple_flea.is_due()
    and not exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp()) then
    return 'nothing is due';
  end if;
  -- What was due the last time already was not helped by a ring: there are hosts that cut off what goes on after a reply.
  if exists (select from purple_flea.jobs j where j.state = 'pending' and j.due_at < last_sweep) then
    preference := 'wait=10';
  end if;
  begin
    perform purple_flea.post('ring-' || gen_random_uuid(), '{"ledger": true}', preference);
  exception when others then
    -- What was swept stays swept.
    raise warning 'purple_flea: jobs are due, but the function was not called: %', sqlerrm;
    return 'not rung: ' || sqlerrm;
  end;
  return 'rung';
end;
$$;
comment on function purple_flea.ring() is 'Sweeps, and rings the function if anything is due: call it every 10 seconds. Says what it did.';
revoke all on function purple_flea.ring() from public, anon, authenticated, service_role, purple_flea_worker;

-- How the ledger is: for /health, and for people.
create or replace function public.ledger_health() returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'sweeper', case when (select swept_at from purple_flea.ledger) > clock_timestamp() - interval '3 minutes' then 'ok' else 'missing' end,
    'due', (select count(*) from (
      select from purple_flea.jobs where state = 'pending' and due_at <= statement_timestamp() limit 10000) as due),
    'oldest_due_s', (select floor(extract(epoch from clock_timestamp() - min(due_at)))::bigint
      from purple_flea.jobs where state = 'pending' and due_at <= statement_timestamp()),
    'unknown', (select count(*) from (select from purple_flea.jobs where state = 'unknown' limit 10000) as unknown),
    'alarms', (select count(*) from purple_flea.all_job_events
      where kind in ('conflict', 'alarm') and at > statement_timestamp() - interval '1 day'),
    -- Deposits wait for our key or URL, and no bet has come through of late: one agent's own trouble is not ours.
    'refused_by_purple_flea', exists (
      select from purple_flea.jobs where state = 'pending' and reason = 'purple_flea_refused_us'
    ) and not exists (
      select from (select to_state from purple_flea.job_events where kind = 'transition' order by id desc limit 200) as last
      where to_state = 'executed'
    )
  )
$$;
comment on function public.ledger_health() is 'Whether the sweeper comes, what waits and for how long, what is unknown (counted to 10,000), and the day''s alarms.';
revoke all on function public.ledger_health() from public, anon, authenticated;
grant execute on function public.ledger_health() to service_role, purple_flea_worker;
