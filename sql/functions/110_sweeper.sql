-- The sweeper: what must happen even when every notification is lost. Somebody calls purple_flea.ring() again and again:
-- pg_cron where there is one, a timer of the machine's otherwise.

-- Makes the jobs of a range of deposits that have none. A deposit that is too old by now gets a job all the same, which ends
-- as `missed`, so that an operator sees it.
create or replace function purple_flea.make_jobs_between(above bigint, up_to bigint, since timestamptz default '-infinity') returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  made_in uuid := purple_flea.current_generation();
  made    integer;
begin
  with missing as (
    insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, generation, changed_by, reason, due_at, expires_at)
    select 'wallet-change-' || w.id, purple_flea.bet_key('wallet-change-' || w.id), w.id, w.agent_id, made_in, 'sweeper',
           case when purple_flea.expiry(w.created_at) < clock_timestamp() then 'missed' else 'was_missing' end,
           statement_timestamp(), purple_flea.expiry(w.created_at)
    from public.wallet_changes w
    where w.change_type = 'deposit' and w.id > above and w.id <= up_to and w.created_at > since
      and w.id > (select l.starts_after from purple_flea.ledger l)
      and not exists (select from purple_flea.jobs j where j.wallet_change_id = w.id)
      and not exists (select from purple_flea.jobs_archive a where a.wallet_change_id = w.id)
    on conflict do nothing
    returning 1
  )
  select count(*) into made from missing;
  return made;
end;
$$;
comment on function purple_flea.make_jobs_between(bigint, bigint, timestamptz) is 'Makes the missing jobs of deposits above one id and up to another, made since a time; says how many.';
revoke all on function purple_flea.make_jobs_between(bigint, bigint, timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

-- Makes the jobs of deposits that have none: their trigger was off, or a load went past it. Three looks: at what is new, at
-- once; at everything below a mark that moves only past what no open transaction can still add to; and, every ten minutes, at
-- all recent deposits, whatever their ids are.
create or replace function purple_flea.make_missing_jobs(from_id bigint default null) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most        constant bigint   := 10000;         -- rows of one look
  behind      constant bigint   := 1000;          -- ids that the first look repeats: a row can become visible after a later one
  search_each constant interval := '10 minutes';  -- between two comparisons of all recent deposits
  ledger      purple_flea.ledger;
  newest      bigint;
  last        bigint;
  made        integer := 0;
begin
  if from_id is not null then
    -- From there on, however long that takes.
    return purple_flea.make_jobs_between(from_id - 1, 9223372036854775807);
  end if;
  -- One sweep at a time; another does not wait for it.
  select * into ledger from purple_flea.ledger l where l.only_row for update skip locked;
  if not found then
    return 0;
  end if;
  newest := coalesce((select max(w.id) from public.wallet_changes w), 0);

  last := coalesce((select max(next.id) from (
    select w.id from public.wallet_changes w where w.id > ledger.seen_until order by w.id limit most) as next), ledger.seen_until);
  made := purple_flea.make_jobs_between(least(ledger.seen_until, last) - behind, last);
  ledger.seen_until := last;

  if ledger.next_until is not null and ledger.next_xid < pg_snapshot_xmin(pg_current_snapshot()) then
    last := coalesce((select max(next.id) from (
      select w.id from public.wallet_changes w where w.id > ledger.checked_until and w.id <= ledger.next_until order by w.id limit most
    ) as next), ledger.next_until);
    made := made + purple_flea.make_jobs_between(ledger.checked_until, last);
    ledger.checked_until := last;
    if last >= ledger.next_until then
      ledger.next_until := null;
    end if;
  end if;
  if ledger.next_until is null and newest > ledger.checked_until then
    ledger.next_until := newest;
    -- Newer than every transaction that is open now.
    ledger.next_xid   := pg_current_xact_id();
  end if;

  if ledger.searched_at is null or ledger.searched_at < clock_timestamp() - search_each then
    made := made + purple_flea.make_jobs_between(0, 9223372036854775807, clock_timestamp() - (purple_flea.timing()).max_age);
    ledger.searched_at := clock_timestamp();
  end if;
  update purple_flea.ledger l
  set seen_until = ledger.seen_until, checked_until = ledger.checked_until, next_until = ledger.next_until,
      next_xid = ledger.next_xid, searched_at = ledger.searched_at
  where l.only_row;
  return made;
end;
$$;
comment on function purple_flea.make_missing_jobs(bigint) is 'Makes the jobs of deposits without one, newer than the ledger; with an id: from there on, without a limit. Says how many.';
revoke all on function purple_flea.make_missing_jobs(bigint) from public, anon, authenticated, service_role, purple_flea_worker;

-- Forgets what no one asks for any more.
create or replace function purple_flea.prune() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A claim that is a day late is dead for other reasons.
  delete from purple_flea.abandoned_claims c where c.at < statement_timestamp() - interval '1 day';
  -- No job outlives a pause by so much.
  delete from purple_flea.pauses p where upper(p.held) < statement_timestamp() - interval '60 days';
end;
$$;
comment on function purple_flea.prune() is 'Deletes tokens of abandoned claims and pauses that ended long ago.';
revoke all on function purple_flea.prune() from public, anon, authenticated, service_role, purple_flea_worker;

-- One part of a sweep: whatever is wrong with it keeps the others from nothing.
create or replace function purple_flea.sweep_part(part text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  case part
    when 'missing jobs' then perform purple_flea.make_missing_jobs();
    when 'timely jobs'  then perform purple_flea.make_timely_jobs();
    when 'expiry'       then perform purple_flea.expire(false);
    when 'archive'      then perform purple_flea.archive_jobs();
    when 'prune'        then perform purple_flea.prune();
  end case;
exception when others then
  raise warning 'purple_flea: the sweep went on without its part "%": % %', part, sqlstate, sqlerrm;
end;
$$;
comment on function purple_flea.sweep_part(text) is 'One part of a sweep. Warns where it fails.';
revoke all on function purple_flea.sweep_part(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring() returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  last_sweep timestamptz := (select l.swept_at from purple_flea.ledger l);
  preference text;
begin
  perform purple_flea.sweep_part('missing jobs');
  perform purple_flea.sweep_part('timely jobs');
  perform purple_flea.sweep_part('expiry');
  perform purple_flea.sweep_part('archive');
  perform purple_flea.sweep_part('prune');
  update purple_flea.ledger l set swept_at = clock_timestamp() where l.only_row;
  if not purple_flea.is_due()
    and not exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp()) then
    return 'nothing is due';
  end if;
  -- What was due the last time already was not helped by a notification: there are hosts that cut off what goes on after a
  -- reply. So the function is asked to work before it answers.
  if exists (select from purple_flea.jobs j where j.state = 'pending' and j.due_at < last_sweep) then
    preference := 'wait=10';
  end if;
  begin
    perform purple_flea.post('ring-' || gen_random_uuid(), '{"ledger": true}', preference);
  exception when others then
    -- What was swept stays swept.
    raise warning 'purple_flea: jobs are due, but the function was not called: %', purple_flea.why_not_called(sqlstate, sqlerrm);
    return 'not rung: ' || purple_flea.why_not_called(sqlstate, sqlerrm);
  end;
  return 'rung';
end;
$$;
comment on function purple_flea.ring() is 'Sweeps, and rings the function if anything is due: call it every 10 seconds. Says what it did.';
revoke all on function purple_flea.ring() from public, anon, authenticated, service_role, purple_flea_worker;
