-- The ledger: one job for each thing to do once, a deposit's bet first of all, made in the transaction that asks for it. What happens to it is a machine of
-- seven states, which the constraint jobs_transition_check holds; ARCHITECTURE.md draws it.

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
declare
  made_in uuid;
begin
  if exists (select from inserted i where i.change_type = 'deposit') then
    made_in := purple_flea.current_generation();
    insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, generation, expires_at)
    select 'wallet-change-' || i.id, purple_flea.bet_key('wallet-change-' || i.id), i.id, i.agent_id, made_in,
           purple_flea.expiry(i.created_at)
    from inserted i
    where i.change_type = 'deposit'
    order by i.id;
  end if;
  return null;
end;
$$;
comment on function purple_flea.make_jobs() is 'Makes the jobs of the deposits that a statement inserted.';
revoke all on function purple_flea.make_jobs() from public, anon, authenticated, service_role, purple_flea_worker;

-- Said once, when the job is made. A claim never computes it again, and a pause moves it by as long as it lasted.
create or replace function purple_flea.expiry(created_at timestamptz) returns timestamptz
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select least(created_at, clock_timestamp()) + (purple_flea.timing()).max_age
$$;
comment on function purple_flea.expiry(timestamptz) is 'When a deposit of a time is too old to be bet on. A time to come counts as now.';
revoke all on function purple_flea.expiry(timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

-- A row that an application turns into a deposit later is a deposit from then on.
create or replace function purple_flea.make_job_of_changed() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, generation, expires_at)
  select 'wallet-change-' || new.id, purple_flea.bet_key('wallet-change-' || new.id), new.id, new.agent_id,
         purple_flea.current_generation(), purple_flea.expiry(new.created_at)
  where not exists (select from purple_flea.all_jobs j where j.wallet_change_id = new.id)
    and new.id > (select l.starts_after from purple_flea.ledger l);
  return null;
end;
$$;
comment on function purple_flea.make_job_of_changed() is 'Makes the job of a row that has become a deposit.';
revoke all on function purple_flea.make_job_of_changed() from public, anon, authenticated, service_role, purple_flea_worker;

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

create or replace trigger purple_flea_jobs_changed
  after update of change_type on public.wallet_changes
  for each row when (new.change_type = 'deposit' and old.change_type is distinct from 'deposit')
  execute function purple_flea.make_job_of_changed();

create or replace trigger purple_flea_jobs
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.make_jobs();
