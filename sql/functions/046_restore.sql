-- The operator confirms a restored, copied or failed-over database here.

create or replace function purple_flea.declare_restore(why text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  update purple_flea.generation g
  set stamped_xid     = '0',  -- no row's xmin
      stamped_at      = clock_timestamp(),
      stamped_because = 'declared: ' || coalesce(why, '')
  where g.only_row;
end;
$$;
comment on function purple_flea.declare_restore(text) is
  'Says that this database was restored in a way that it cannot detect, such as a disk snapshot. '
  'It hands out no stake until confirm_restore().';

-- Jobs from before the restore may have been bet on in the time that was lost. They become unknown,
-- and the function looks them up. A job that is certain to wait still, for a time to come or for a
-- pause, goes on waiting.
create or replace function purple_flea.doubt_pending(
  present    uuid,
  paused_too boolean,
  at         timestamptz
) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  doubted integer;
begin
  update purple_flea.jobs j
  set state       = 'unknown',
      changed_by  = 'restore',
      reason      = 'restored',
      token       = gen_random_uuid(),
      -- The ledger does not know when it was claimed in the lost time, so it counts from its
      -- making. A function that claimed it then may still execute it, for as long as a lease.
      claimed_at  = j.created_at,
      lease_until = at + (purple_flea.timing()).lease,
      lookup_at   = at + (purple_flea.timing()).lease + (purple_flea.timing()).lookup_wait,
      request     = coalesce(
                      case j.kind when 'deposit' then purple_flea.deposit_row(w) else j.request end,
                      '{}'
                    ),
      policy      = to_jsonb(p) - 'id' - 'agent_id' - 'limited',
      stake       = purple_flea.stake_of(j.kind, j.request, w, p),
      bet_day     = case when purple_flea.is_staking(j.kind) then (at at time zone 'UTC')::date end,
      key_name    = coalesce(
                      j.key_name,
                      purple_flea.agent_secret(
                        nullif(a.api_key, ''),
                        purple_flea.call_of(j.kind, p.game)
                      ),
                      ''
                    ),
      account     = coalesce(j.account, a.pf_agent_id)
  from purple_flea.jobs t
  left join public.wallet_changes w on w.id = t.wallet_change_id
  join public.agents a on a.id = t.agent_id
  join purple_flea.effective_policies e on e.agent_id = t.agent_id
  join purple_flea.trade_policies p on p.id = e.policy_id
  where j.reference = t.reference
    and t.state = 'pending'
    and not purple_flea.is_retryable(t.kind)
    and t.generation is not null
    and (present is null or t.generation <> present)
    -- Only a job that waits for a time is certain to wait still. The key, the limit or the account
    -- that it waited for can have come.
    and (
      t.due_at <= at
      or not isfinite(t.due_at)
      or coalesce(t.reason, '') not in (
        'rate_limited', 'not_reached', 'purple_flea_refused_us', 'balance_not_known', 'out_of_time',
        'abandoned'
      )
    )
    and (paused_too or not e.paused);
  get diagnostics doubted = row_count;
  return doubted;
end;
$$;
comment on function purple_flea.doubt_pending(uuid, boolean, timestamptz) is
  'Makes jobs of an earlier generation unknown if they may have been executed since; says how '
  'many.';

-- A job that was claimed or unknown in the copy can have been released and staked since. The
-- function looks for its bet up to now.
create or replace function purple_flea.doubt_started(present uuid, at timestamptz) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  leased_until constant timestamptz := at + (purple_flea.timing()).lease;
  looked_at    constant timestamptz := leased_until + (purple_flea.timing()).lookup_wait;
begin
  update purple_flea.jobs j
  set lease_until = greatest(j.lease_until, leased_until),
      lookup_at   = case j.state when 'unknown' then looked_at end
  where j.state in ('claimed', 'unknown')
    and not purple_flea.is_retryable(j.kind)
    and j.changed_by <> 'restore'
    and j.generation is not null
    and (present is null or j.generation <> present);
end;
$$;
comment on function purple_flea.doubt_started(uuid, timestamptz) is
  'Lets the function look for the bets of claimed and unknown jobs of an earlier generation up to '
  'now.';

-- A transaction that has fired an event and then makes a deposit has these locks in the other
-- order. So this one gives both back after a short wait, before Postgres looks for a deadlock and
-- takes the deposit for its victim (deadlock_timeout, 1 s).
create or replace function purple_flea.lock_ledger_and_feed() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  short    constant text        := '200ms';
  patience constant interval    := '10 seconds';
  began    constant timestamptz := clock_timestamp();
  before   constant text        := current_setting('lock_timeout');
begin
  loop
    begin
      -- No claim is half-way while this counts.
      lock table purple_flea.jobs in share row exclusive mode;
      perform set_config('lock_timeout', short, true);
      -- Every transaction that has written events of the last epoch has ended.
      lock table public.frame_events in share row exclusive mode;
      perform set_config('lock_timeout', before, true);
      return;
    exception when lock_not_available then
      if clock_timestamp() > began + patience then
        raise exception 'transactions that have fired events do not end'
          using errcode = 'lock_not_available',
                hint    = 'purple_flea.feed_health() names the oldest one. End it, or try again.';
      end if;
    end;
  end loop;
end;
$$;
comment on function purple_flea.lock_ledger_and_feed() is
  'Waits until no claim and no event is half-way, and lets none begin before this transaction '
  'ends.';

create or replace function purple_flea.confirm_restore(
  nothing_lost boolean default false,
  why          text    default null,
  paused_too   boolean default false
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Frozen rows have their times in UTC, as in a claim.
  set timezone = 'UTC'
as $$
declare
  earlier purple_flea.generation;
  present uuid;
  unknown integer := 0;
  kept    integer;
  at      timestamptz := clock_timestamp();
begin
  perform purple_flea.lock_ledger_and_feed();
  select * into earlier from purple_flea.generation g where g.only_row for update;
  present := purple_flea.current_generation();
  if present is not null and not exists (
    select
    from purple_flea.jobs j
    where j.state = 'pending'
      and purple_flea.awaits_confirmation(j.kind, j.generation, present)
  ) then
    raise exception 'there is nothing to confirm: this database has been confirmed since %',
      earlier.stamped_at;
  end if;
  if not confirm_restore.nothing_lost then
    unknown := purple_flea.doubt_pending(present, confirm_restore.paused_too, at);
    perform purple_flea.doubt_started(present, at);
    perform purple_flea.doubt_answers();
  end if;
  -- The identity is a new one even if nothing was lost: an operator may have confirmed a copy, too.
  if present is null then
    present := gen_random_uuid();
  end if;
  update purple_flea.jobs j
  set generation = present,
      -- A job does not grow older while it waits for this confirmation.
      expires_at = case
                     when j.expires_at > j.created_at
                       and not purple_flea.answers_signal(j.reference)
                       then greatest(j.expires_at, at + (j.expires_at - j.created_at))
                     else j.expires_at
                   end
  where j.state in ('pending', 'claimed', 'unknown')
    and j.generation is distinct from present;
  get diagnostics kept = row_count;
  perform purple_flea.stamp(
    present,
    case when confirm_restore.nothing_lost then 'nothing lost: ' else 'restored: ' end
      || coalesce(why, '')
  );
  perform purple_flea.notify_if_due();
  return jsonb_build_object('unknown', unknown, 'kept', kept - unknown, 'generation', present);
end;
$$;
comment on function purple_flea.confirm_restore(boolean, text, boolean) is
  'Lets a restored, copied or failed-over database stake money again. Stakes that were due before '
  'become unknown and are looked up, unless nothing was lost.';

create or replace function purple_flea.release_restored(
  why     text,
  reasons text[] default '{not_found}'
) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  released integer := 0;
  name     text;
begin
  for name in
    select j.reference
    from purple_flea.jobs j
    where j.state = 'unknown'
      and j.changed_by = 'restore'
      and j.reason = any (release_restored.reasons)
      and clock_timestamp() > j.lease_until + (purple_flea.timing()).lookup_wait
    order by j.reference
  loop
    perform purple_flea.release_job(name, release_restored.why);
    released := released + 1;
  end loop;
  return released;
end;
$$;
comment on function purple_flea.release_restored(text, text[]) is
  'Releases the jobs that a restore made unknown and that no look-up found at Purple Flea; says '
  'how many. Call it only if their bets were certainly not made.';
