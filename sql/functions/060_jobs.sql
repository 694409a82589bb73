-- The ledger: one job for each thing to do once, a deposit's bet first of all, made in the transaction that asks for it. What happens to it is a machine of
-- seven states, which the constraint jobs_transition_check holds; ARCHITECTURE.md draws it.

-- Every wait of the ledger, in one place.
create or replace function purple_flea.timing(
  out lease       interval,  -- how long a claim holds: twice the longest exchange with Purple Flea, and some
  out lookup_wait interval,  -- from the end of a lease to the first look-up: the longest exchange (13 s) and a minute
  out lookup_hold interval,  -- how long a look-up keeps others from the same; if nobody reports, the next one may try
  out max_age     interval,  -- how long a deposit may wait before nobody expects a bet on it any more
  out backoff     interval,  -- the first wait after an attempt that executed nothing; it doubles each time
  out backoff_max interval   -- and no longer than this
)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select interval '30 seconds', interval '73 seconds', interval '1 minute', interval '24 hours', interval '1 second', interval '5 minutes'
$$;
comment on function purple_flea.timing() is 'Every wait of the ledger.';
revoke all on function purple_flea.timing() from public, anon, authenticated, service_role, purple_flea_worker;

-- What Purple Flea does at most once, however often it is asked: of these nothing is ever unknown, they are asked again.
-- A second registration makes a second account, which costs nothing; the first one's key would be lost anyway.
create or replace function purple_flea.is_repeatable(kind text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('registration', 'faucet', 'daily_claim', 'balance', 'escrow_release', 'escrow_cancel')
$$;
comment on function purple_flea.is_repeatable(text) is 'Whether asking for it twice does no harm.';
revoke all on function purple_flea.is_repeatable(text) from public, anon, authenticated, service_role, purple_flea_worker;
revoke all on purple_flea.jobs, purple_flea.job_events, purple_flea.ledger
  from public, anon, authenticated, service_role, purple_flea_worker;

-- Keeps what must stay, and notes the state before, which the machine's constraint asks for.
create or replace function purple_flea.guard_job() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'DELETE' then
    -- What is archived as it is here is not forgotten.
    if exists (select from purple_flea.jobs_archive a where a.reference = old.reference and a::text = old::text) then
      return old;
    end if;
    raise exception 'a job cannot be deleted: its deposit would be bet on again';
  end if;
  if (new.reference, new.bet_key, new.kind, new.wallet_change_id, new.escrow_id, new.agent_id) is distinct from
     (old.reference, old.bet_key, old.kind, old.wallet_change_id, old.escrow_id, old.agent_id) then
    raise exception 'a job''s names cannot change';
  end if;
  if old.state in ('executed', 'skipped', 'rejected', 'dead') and new is distinct from old then
    raise exception 'job % is % for good', old.reference, old.state using errcode = 'check_violation';
  end if;
  new.previous_state := case when new.state <> old.state then old.state else old.previous_state end;
  if new.state <> old.state then
    new.changed_at := clock_timestamp();
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_job() is 'Keeps a job''s names, its final states and its history as they are.';
revoke all on function purple_flea.guard_job() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_guard
  before update or delete on purple_flea.jobs
  for each row execute function purple_flea.guard_job();

create or replace function purple_flea.refuse_truncate() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'jobs cannot be emptied: their deposits would be bet on again';
end;
$$;
comment on function purple_flea.refuse_truncate() is 'Refuses to forget jobs.';
revoke all on function purple_flea.refuse_truncate() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_refuse_truncate
  before truncate on purple_flea.jobs
  for each statement execute function purple_flea.refuse_truncate();

create or replace function purple_flea.record_made() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, to_state, why, attempt, changed_by)
  select reference, state, reason, attempts, changed_by from made;
  return null;
end;
$$;
comment on function purple_flea.record_made() is 'Writes the making of jobs into job_events.';
revoke all on function purple_flea.record_made() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_record_made
  after insert on purple_flea.jobs
  referencing new table as made
  for each statement execute function purple_flea.record_made();

create or replace function purple_flea.record_transition() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, from_state, to_state, why, attempt, changed_by, token, detail)
  values (new.reference, old.state, new.state, new.reason, new.attempts, new.changed_by, new.token,
          case when new.state not in ('claimed', 'dead') then new.result end);
  if old.state = 'unknown' then
    -- What waited for its place in a daily limit waits no longer.
    update purple_flea.jobs j
    set due_at = clock_timestamp()
    where j.agent_id = new.agent_id and j.state = 'pending' and j.reason = 'daily_limit_open';
  end if;
  return null;
end;
$$;
comment on function purple_flea.record_transition() is 'Writes a change of state into job_events.';
revoke all on function purple_flea.record_transition() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_record_transition
  after update on purple_flea.jobs
  for each row when (old.state <> new.state) execute function purple_flea.record_transition();

-- A deposit and its job are made together or not at all: this is not caught. It fails only if the database does.
create or replace function purple_flea.make_jobs() returns trigger
  language plpgsql
  volatile
  -- The depositor may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, expires_at)
  select 'wallet-change-' || id, purple_flea.bet_key('wallet-change-' || id), id, agent_id,
         clock_timestamp() + (purple_flea.timing()).max_age
  from inserted
  where change_type = 'deposit'
  order by id;
  return null;
end;
$$;
comment on function purple_flea.make_jobs() is 'Makes the jobs of the deposits that a statement inserted.';
revoke all on function purple_flea.make_jobs() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.bet_key(reference text) returns text
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- The parts of a version 4 UUID that are random.
  select reference || '-' || left(id, 4) || right(id, 12) from (select gen_random_uuid()::text as id) as made
$$;
comment on function purple_flea.bet_key(text) is 'A new bet key: the reference and 16 random hexadecimal digits.';
revoke all on function purple_flea.bet_key(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Whose deposit it is, and that it is one, was settled when its job was made.
create or replace function purple_flea.keep_deposit() returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (new.id, new.agent_id, new.change_type) is distinct from (old.id, old.agent_id, old.change_type)
    and exists (select from purple_flea.all_jobs j where j.wallet_change_id = old.id) then
    raise exception 'wallet_changes % has a job: its id, agent and type cannot change', old.id using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_deposit() is 'Keeps a deposit with a job as whose and what it was.';
revoke all on function purple_flea.keep_deposit() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger purple_flea_keep
  before update on public.wallet_changes
  for each row execute function purple_flea.keep_deposit();

create or replace trigger purple_flea_jobs
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.make_jobs();
