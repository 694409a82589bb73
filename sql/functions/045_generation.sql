-- The database's generation. A restore, a copy or a failover can bring back jobs whose bets have been made since: such a
-- database hands out no stake until an operator says what was lost.

-- What this database is, by what a restore, a copy or a failover changes.
create or replace function purple_flea.database_identity(
  out system_identifier bigint, out database_oid oid, out timeline text, out jobs_oid oid)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  database_oid := (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
  jobs_oid     := to_regclass('purple_flea.jobs');
  timeline     := left(pg_walfile_name(pg_current_wal_lsn()), 8);
  begin
    system_identifier := (select c.system_identifier from pg_catalog.pg_control_system() c);
  exception when insufficient_privilege then
    -- A server that keeps it from us: the other three, and the row's own xmin, have to do.
    system_identifier := 0;
  end;
end;
$$;
comment on function purple_flea.database_identity() is 'What tells this database from a restored one, a copy, or one that another server has taken over.';
revoke all on function purple_flea.database_identity() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.current_generation() returns uuid
  language plpgsql  -- as timing()
  volatile          -- sees what a confirmation in the same transaction has written
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select g.id
    from purple_flea.generation g
    join purple_flea.database_identity() i
      on (i.system_identifier, i.database_oid, i.timeline, i.jobs_oid) = (g.system_identifier, g.database_oid, g.timeline, g.jobs_oid)
    where g.xmin = g.stamped_xid
  );
end;
$$;
comment on function purple_flea.current_generation() is 'The generation whose jobs may stake money; null while the database waits for confirm_restore().';
revoke all on function purple_flea.current_generation() from public, anon, authenticated, service_role, purple_flea_worker;

-- Writes the database's present identity down. The row is written twice: the second time with its own xmin, which is not the
-- transaction's where a subtransaction writes.
create or replace function purple_flea.stamp(generation uuid, because text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  written_by xid;
  now_here   record;
begin
  now_here := purple_flea.database_identity();
  update purple_flea.generation g
  set id = stamp.generation, system_identifier = now_here.system_identifier, database_oid = now_here.database_oid,
      timeline = now_here.timeline, jobs_oid = now_here.jobs_oid, stamped_at = clock_timestamp(), stamped_because = because
  where g.only_row
  returning g.xmin into written_by;
  update purple_flea.generation g set stamped_xid = written_by where g.only_row;
end;
$$;
comment on function purple_flea.stamp(uuid, text) is 'Makes a generation the one whose jobs may stake money in this database.';
revoke all on function purple_flea.stamp(uuid, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Whether a job waits for an operator's word on a restore. Kinds that Purple Flea performs at most once go on.
create or replace function purple_flea.awaits_confirmation(kind text, generation uuid, current_generation uuid) returns boolean
  language sql
  immutable
  security invoker
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
as $$
  select not purple_flea.is_repeatable(kind) and (current_generation is null or generation is distinct from current_generation)
$$;
comment on function purple_flea.awaits_confirmation(text, uuid, uuid) is 'Whether a job of a generation stakes money and may not be handed out before confirm_restore().';
revoke all on function purple_flea.awaits_confirmation(text, uuid, uuid) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.declare_restore(why text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- No row's xmin is 0.
  update purple_flea.generation g
  set stamped_xid = '0', stamped_at = clock_timestamp(), stamped_because = 'declared: ' || coalesce(why, '')
  where g.only_row;
end;
$$;
comment on function purple_flea.declare_restore(text) is 'Says that this database was restored in a way that it cannot see itself, such as a disk snapshot. It hands out no stake until confirm_restore().';
revoke all on function purple_flea.declare_restore(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What an operator says after a restore. Jobs from before it may have been bet on in the time that was lost: they become
-- unknown and are looked up. What is certain to wait still (for a time to come, or held back) waits on.
create or replace function purple_flea.confirm_restore(nothing_lost boolean default false, why text default null, paused_too boolean default false)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- As for a claim: frozen rows have their times in UTC.
  set timezone = 'UTC'
as $$
declare
  earlier  purple_flea.generation;
  present  uuid;
  unknown  integer := 0;
  kept     integer;
  at       timestamptz := clock_timestamp();
begin
  -- No claim is half-way while this counts.
  lock table purple_flea.jobs in share row exclusive mode;
  select * into earlier from purple_flea.generation g where g.only_row for update;
  present := purple_flea.current_generation();
  if present is not null and not exists (
    select from purple_flea.jobs j where j.state = 'pending' and purple_flea.awaits_confirmation(j.kind, j.generation, present)) then
    raise exception 'there is nothing to confirm: this database has been confirmed since %', earlier.stamped_at;
  end if;
  if not confirm_restore.nothing_lost then
    update purple_flea.jobs j
    set state = 'unknown', changed_by = 'restore', reason = 'restored', token = gen_random_uuid(),
        -- From its making on: nobody knows when it was claimed in the time that was lost.
        -- And a function that claimed it then may still be at it, for as long as a lease.
        claimed_at = j.created_at, lease_until = at + (purple_flea.timing()).lease,
        lookup_at  = at + (purple_flea.timing()).lease + (purple_flea.timing()).lookup_wait,
        request  = coalesce(case when j.kind = 'deposit' then purple_flea.deposit_row(w) else j.request end, '{}'),
        policy   = to_jsonb(p) - 'id' - 'agent_id' - 'limited',
        stake    = purple_flea.stake_of(j.kind, j.request, w, p),
        bet_day  = case when j.kind in ('deposit', 'trade', 'order') then (at at time zone 'UTC')::date end,
        key_name = coalesce(j.key_name, purple_flea.agent_secret(nullif(a.api_key, ''), purple_flea.call_of(j.kind, p.game)), ''),
        account  = coalesce(j.account, a.pf_agent_id)
    from purple_flea.jobs t
    left join public.wallet_changes w on w.id = t.wallet_change_id
    join public.agents a on a.id = t.agent_id
    join purple_flea.effective_policies e on e.agent_id = t.agent_id
    join purple_flea.trade_policies p on p.id = e.policy_id
    where j.reference = t.reference and t.state = 'pending' and not purple_flea.is_repeatable(t.kind)
      and t.generation is not null and (present is null or t.generation <> present)
      -- Only what waits for a time is certain to wait still. A key, a limit or an account that it waited for can have come.
      and (t.due_at <= at or not isfinite(t.due_at) or coalesce(t.reason, '') not in (
        'rate_limited', 'not_reached', 'purple_flea_refused_us', 'balance_not_known', 'out_of_time', 'abandoned'))
      and (confirm_restore.paused_too or not e.paused);
    get diagnostics unknown = row_count;
    -- What was under way or unknown in the copy can have been released and staked since. It is looked for up to now.
    update purple_flea.jobs j
    set lease_until = greatest(j.lease_until, at + (purple_flea.timing()).lease),
        lookup_at = case j.state when 'unknown' then at + (purple_flea.timing()).lease + (purple_flea.timing()).lookup_wait end
    where j.state in ('claimed', 'unknown') and not purple_flea.is_repeatable(j.kind) and j.changed_by <> 'restore'
      and j.generation is not null and (present is null or j.generation <> present);
  end if;
  -- The identity is a new one even if nothing was lost: a copy of this database may have been confirmed, too.
  if present is null then
    present := gen_random_uuid();
  end if;
  update purple_flea.jobs j
  set generation = present,
      -- What waited for this confirmation has not grown old by it.
      expires_at = case when j.expires_at > j.created_at then greatest(j.expires_at, at + (j.expires_at - j.created_at)) else j.expires_at end
  where j.state in ('pending', 'claimed', 'unknown') and j.generation is distinct from present;
  get diagnostics kept = row_count;
  perform purple_flea.stamp(present, case when confirm_restore.nothing_lost then 'nothing lost: ' else 'restored: ' end || coalesce(why, ''));
  perform purple_flea.try_ring();
  return jsonb_build_object('unknown', unknown, 'kept', kept - unknown, 'generation', present);
end;
$$;
comment on function purple_flea.confirm_restore(boolean, text, boolean) is 'Lets a restored, copied or failed-over database stake money again. Stakes that were due before become unknown and are looked up, unless nothing was lost.';
revoke all on function purple_flea.confirm_restore(boolean, text, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.release_restored(why text, reasons text[] default '{not_found}') returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  released integer := 0;
  asked    text;
begin
  for asked in
    select j.reference from purple_flea.jobs j
    where j.state = 'unknown' and j.changed_by = 'restore' and j.reason = any (release_restored.reasons)
      and clock_timestamp() > j.lease_until + (purple_flea.timing()).lookup_wait
    order by j.reference
  loop
    perform purple_flea.release_job(asked, release_restored.why);
    released := released + 1;
  end loop;
  return released;
end;
$$;
comment on function purple_flea.release_restored(text, text[]) is 'Releases the jobs that a restore made unknown and that no look-up found at Purple Flea; says how many. Only if their bets were certainly not made.';
revoke all on function purple_flea.release_restored(text, text[]) from public, anon, authenticated, service_role, purple_flea_worker;
