-- The sweeper: what must happen even if every notification is lost. pg_cron, or a timer of the
-- machine, calls purple_flea.sweep() every 10 seconds.

-- A deposit that is too old by now gets a job all the same. It ends as missed, so that an operator
-- sees it.
create or replace function purple_flea.make_jobs_between(
  above bigint,
  up_to bigint,
  since timestamptz default '-infinity'
) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  made_in uuid := purple_flea.current_generation();
  made    integer;
begin
  insert into purple_flea.jobs (
    reference, idempotency_key, wallet_change_id, agent_id, generation,
    changed_by, reason, due_at, expires_at
  )
  select
    'wallet-change-' || w.id,
    purple_flea.new_idempotency_key('wallet-change-' || w.id),
    w.id,
    w.agent_id,
    made_in,
    'sweeper',
    case
      when purple_flea.expiry(w.created_at) < clock_timestamp() then 'missed'
      else 'was_missing'
    end,
    statement_timestamp(),
    purple_flea.expiry(w.created_at)
  from public.wallet_changes w
  where w.change_type = 'deposit'
    and w.id > above
    and w.id <= up_to
    and w.created_at > since
    and w.id > (select l.starts_after from purple_flea.ledger l)
    and not exists (select from purple_flea.jobs j where j.wallet_change_id = w.id)
    and not exists (select from purple_flea.jobs_archive a where a.wallet_change_id = w.id)
  on conflict do nothing;
  get diagnostics made = row_count;
  return made;
end;
$$;
comment on function purple_flea.make_jobs_between(bigint, bigint, timestamptz) is
  'Makes the missing jobs of deposits above one id and up to another, made since a time; says how '
  'many.';

create or replace function purple_flea.last_id_within(above bigint, up_to bigint) returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant bigint := 10000;  -- rows of one look
begin
  return (
    select max(next.id)
    from (
      select w.id
      from public.wallet_changes w
      where w.id > above
        and w.id <= up_to
      order by w.id
      limit most
    ) as next
  );
end;
$$;
comment on function purple_flea.last_id_within(bigint, bigint) is
  'Gives the last id of the wallet changes that one look of a sweep covers; null if there is '
  'none.';

-- A deposit has no job if its trigger was off, or a load bypassed it. A sweep looks three times: at
-- new rows, at once; at all rows below a mark that moves only past rows that no open transaction
-- can still add; and every ten minutes at all recent deposits, whatever their ids are.
create or replace function purple_flea.make_missing_jobs(from_id bigint default null)
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  first       constant bigint   := -9223372036854775808;  -- ids need not begin at 1
  no_end      constant bigint   := 9223372036854775807;
  behind      constant bigint   := 1000;  -- ids that the first look repeats, as rows commit late
  search_each constant interval := '10 minutes';
  max_age     constant interval := (
    select k.max_age from purple_flea.job_kinds k where k.kind = 'deposit'
  );
  ledger      purple_flea.ledger;
  newest      bigint;
  last        bigint;
  made        integer := 0;
begin
  if from_id is not null then
    return purple_flea.make_jobs_between(from_id - 1, no_end);
  end if;
  -- One sweep at a time. Another one does not wait for it.
  select * into ledger from purple_flea.ledger l where l.only_row for update skip locked;
  if not found then
    return 0;
  end if;
  newest := (select max(w.id) from public.wallet_changes w);

  last := coalesce(purple_flea.last_id_within(ledger.seen_until, no_end), ledger.seen_until);
  made := purple_flea.make_jobs_between(
    greatest(least(ledger.seen_until, last), first + behind) - behind, last);
  ledger.seen_until := last;

  if ledger.next_until is not null
    and ledger.next_xid < pg_snapshot_xmin(pg_current_snapshot()) then
    last := coalesce(
      purple_flea.last_id_within(ledger.checked_until, ledger.next_until),
      ledger.next_until
    );
    made := made + purple_flea.make_jobs_between(ledger.checked_until, last);
    ledger.checked_until := last;
    if last >= ledger.next_until then
      ledger.next_until := null;
    end if;
  end if;
  if ledger.next_until is null and newest > ledger.checked_until then
    ledger.next_until := newest;
    -- Newer than every transaction that is open now.
    ledger.next_xid := pg_current_xact_id();
  end if;

  if ledger.searched_at is null or ledger.searched_at < clock_timestamp() - search_each then
    made := made + purple_flea.make_jobs_between(first, no_end, clock_timestamp() - max_age);
    ledger.searched_at := clock_timestamp();
  end if;

  update purple_flea.ledger l
  set seen_until    = ledger.seen_until,
      checked_until = ledger.checked_until,
      next_until    = ledger.next_until,
      next_xid      = ledger.next_xid,
      searched_at   = ledger.searched_at
  where l.only_row;
  return made;
end;
$$;
comment on function purple_flea.make_missing_jobs(bigint) is
  'Makes the jobs of deposits without one that are newer than the ledger; with an id: from there '
  'on, without a limit. Says how many.';

create or replace function purple_flea.prune() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A claim that is a day late takes nothing for other reasons.
  delete from purple_flea.abandoned_claims c
  where c.at < statement_timestamp() - interval '1 day';
  -- No job outlives a pause by so much.
  delete from purple_flea.pauses p
  where upper(p.held) < statement_timestamp() - interval '60 days';
  -- Nobody relies on a bell after 100 ms.
  delete from purple_flea.doorbell_bells b
  where b.rung_at_ms < (extract(epoch from statement_timestamp()) - 60) * 1000;
end;
$$;
comment on function purple_flea.prune() is
  'Deletes tokens of abandoned claims, pauses that ended long ago, and bells of a minute ago.';

create or replace function purple_flea.sweep_part(part text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A row that an application holds delays one part of one sweep.
  set lock_timeout = '100ms'
as $$
begin
  case part
    when 'missing jobs' then perform purple_flea.make_missing_jobs();
    when 'timely jobs'  then perform purple_flea.make_timely_jobs();
    when 'expiry'       then perform purple_flea.expire(false);
    when 'archive'      then perform purple_flea.archive_jobs();
    when 'events'       then perform purple_flea.delete_old_events();
    when 'prune'        then perform purple_flea.prune();
    when 'attempts'     then perform purple_flea.prune_attempts();
    when 'heartbeats'   then perform purple_flea.end_heartbeats();
    when 'payments'     then perform purple_flea.follow_payments();
    when 'signals'      then perform purple_flea.finish_signals();
  end case;
exception when others then
  raise warning 'purple_flea: the sweep went on without its part "%": % %', part, sqlstate, sqlerrm;
end;
$$;
comment on function purple_flea.sweep_part(text) is
  'Runs one part of a sweep. A failure is a warning, and stops no other part.';

create or replace function purple_flea.sweep() returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  last_sweep constant timestamptz := (select l.swept_at from purple_flea.ledger l);
  preference text;
  rang       boolean;
begin
  perform purple_flea.sweep_part('missing jobs');
  perform purple_flea.sweep_part('timely jobs');
  perform purple_flea.sweep_part('expiry');
  perform purple_flea.sweep_part('archive');
  perform purple_flea.sweep_part('events');
  perform purple_flea.sweep_part('prune');
  perform purple_flea.sweep_part('attempts');
  perform purple_flea.sweep_part('heartbeats');
  perform purple_flea.sweep_part('payments');
  perform purple_flea.sweep_part('signals');
  update purple_flea.ledger l
  set swept_at = clock_timestamp()
  where l.only_row;
  if not purple_flea.is_due() and not exists (
    select
    from purple_flea.jobs j
    where j.state = 'unknown'
      and j.lookup_at <= statement_timestamp()
  ) then
    return 'nothing is due';
  end if;
  -- A notification did not help with a job that was due at the last sweep. Some hosts cut off work
  -- that goes on after a reply. So the sweeper asks the function to work before it replies.
  if exists (
    select from purple_flea.jobs j where j.state = 'pending' and j.due_at < last_sweep
  ) then
    preference := 'wait=10';
  end if;
  -- A bell may have been lost. pg_net is there where no listener is.
  if (select l.notify_by from purple_flea.ledger l) = 'realtime' then
    rang := purple_flea.ring_doorbell() <> 'refused';
    if rang and purple_flea.secret('purple_flea_function_url') is null then
      return 'rang';
    end if;
  end if;
  begin
    perform purple_flea.post('notify-' || gen_random_uuid(), '{"ledger": true}', preference);
  exception when others then
    -- The parts of the sweep stay done.
    raise warning 'purple_flea: jobs are due, but the function was not called: %',
      purple_flea.why_not_called(sqlstate, sqlerrm);
    return 'not notified: ' || purple_flea.why_not_called(sqlstate, sqlerrm);
  end;
  return 'notified';
end;
$$;
comment on function purple_flea.sweep() is
  'Sweeps, and notifies the function if any job is due; says what it did. A timer calls it every '
  '10 seconds.';

create or replace function purple_flea.ring() returns text
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select purple_flea.sweep()
$$;
comment on function purple_flea.ring() is
  'Calls sweep(). Timers that were set up for release 0.1.0 call ring().';
