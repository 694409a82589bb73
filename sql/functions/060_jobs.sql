-- The ledger: one job for each operation that is to be executed once. The transaction that makes a
-- deposit makes its job, too. A job is in one of seven states. The constraint jobs_transition_check
-- says which state may follow which, and ARCHITECTURE.md draws it.

-- Notes the previous state, which jobs_transition_check reads.
create or replace function purple_flea.guard_job() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'DELETE' then
    -- Only a job that is archived unchanged may go.
    if exists (
      select
      from purple_flea.jobs_archive a
      where a.reference = old.reference
        and a::text = old::text
    ) then
      return old;
    end if;
    raise exception 'a job cannot be deleted: its deposit would be bet on again';
  end if;
  if (new.reference, new.idempotency_key, new.kind, new.agent_id, new.wallet_change_id,
      new.escrow_id) is distinct from
     (old.reference, old.idempotency_key, old.kind, old.agent_id, old.wallet_change_id,
      old.escrow_id) then
    raise exception 'a job''s names cannot change';
  end if;
  if purple_flea.is_final(old.state) and new is distinct from old then
    raise exception 'job % is % for good', old.reference, old.state
      using errcode = 'check_violation';
  end if;
  if new.state <> old.state then
    new.previous_state := old.state;
    new.changed_at     := clock_timestamp();
  else
    new.previous_state := old.previous_state;
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_job() is
  'Keeps a job''s names, its final state and its history as they are.';

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

create or replace trigger jobs_refuse_truncate
  before truncate on purple_flea.jobs
  for each statement execute function purple_flea.refuse_truncate();

create or replace function purple_flea.record_made() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, to_state, why, attempt, changed_by)
  select
    m.reference,
    m.state,
    m.reason,
    m.attempts,
    m.changed_by
  from made m;
  return null;
end;
$$;
comment on function purple_flea.record_made() is 'Records new jobs in job_events.';

create or replace trigger jobs_record_made
  after insert on purple_flea.jobs
  referencing new table as made
  for each statement execute function purple_flea.record_made();

create or replace function purple_flea.record_transitions() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
  -- A statement changes up to a thousand jobs. Whatever its caller says, they are joined by a hash.
  set enable_hashjoin = on
as $$
begin
  insert into purple_flea.job_events
    (reference, from_state, to_state, why, attempt, changed_by, token, detail)
  select
    a.reference,
    b.state,
    a.state,
    a.reason,
    a.attempts,
    a.changed_by,
    a.token,
    case when a.state not in ('claimed', 'dead') then a.result end
  from after a
  join before b using (reference)
  where a.state <> b.state;
  if exists (select from before b where b.state = 'unknown') then
    -- Jobs that waited for these ones' places in a daily limit are due.
    update purple_flea.jobs j
    set due_at = clock_timestamp()
    where j.state = 'pending'
      and j.reason = 'daily_limit_open'
      and j.agent_id in (
        select a.agent_id
        from after a
        join before b using (reference)
        where b.state = 'unknown'
          and a.state <> 'unknown'
      );
  end if;
  return null;
end;
$$;
comment on function purple_flea.record_transitions() is
  'Records the changes of state that a statement made in job_events.';

create or replace trigger jobs_record_transition
  after update on purple_flea.jobs
  referencing old table as before new table as after
  for each statement execute function purple_flea.record_transitions();

create or replace function purple_flea.new_idempotency_key(reference text) returns text
  language plpgsql  -- see timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  made constant text := gen_random_uuid()::text;
begin
  -- The random parts of a version 4 UUID.
  return reference || '-' || left(made, 4) || right(made, 12);
end;
$$;
comment on function purple_flea.new_idempotency_key(text) is
  'Makes an idempotency key: the reference and 16 random hexadecimal digits.';

-- The time is fixed when the job is made. A claim never computes it again. A pause moves it by as
-- long as the pause lasted.
create or replace function purple_flea.expiry(created_at timestamptz) returns timestamptz
  language plpgsql  -- see timing()
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return least(created_at, clock_timestamp())
    + (select k.max_age from purple_flea.job_kinds k where k.kind = 'deposit');
end;
$$;
comment on function purple_flea.expiry(timestamptz) is
  'Gives the time from which a deposit of a time is too old for a bet. A future time counts as '
  'now.';

-- The ledger makes a deposit and its job together or not at all, so this trigger catches no error.
-- It fails only if the database fails.
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
    insert into purple_flea.jobs
      (reference, idempotency_key, wallet_change_id, agent_id, generation, expires_at)
    select
      'wallet-change-' || i.id,
      purple_flea.new_idempotency_key('wallet-change-' || i.id),
      i.id,
      i.agent_id,
      made_in,
      purple_flea.expiry(i.created_at)
    from inserted i
    where i.change_type = 'deposit'
    order by i.id;
  end if;
  return null;
end;
$$;
comment on function purple_flea.make_jobs() is
  'Makes the jobs of the deposits that a statement inserted.';

create or replace trigger purple_flea_jobs
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.make_jobs();

-- An application may turn a row into a deposit later. From then on the row is a deposit.
create or replace function purple_flea.make_job_of_changed() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.jobs
    (reference, idempotency_key, wallet_change_id, agent_id, generation, expires_at)
  select
    'wallet-change-' || new.id,
    purple_flea.new_idempotency_key('wallet-change-' || new.id),
    new.id,
    new.agent_id,
    purple_flea.current_generation(),
    purple_flea.expiry(new.created_at)
  where not exists (select from purple_flea.all_jobs j where j.wallet_change_id = new.id)
    and new.id > (select l.starts_after from purple_flea.ledger l);
  return null;
end;
$$;
comment on function purple_flea.make_job_of_changed() is
  'Makes the job of a row that has become a deposit.';

create or replace trigger purple_flea_jobs_changed
  after update of change_type on public.wallet_changes
  for each row when (new.change_type = 'deposit' and old.change_type is distinct from 'deposit')
  execute function purple_flea.make_job_of_changed();

create or replace function purple_flea.keep_deposit() returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (new.id, new.agent_id, new.change_type) is distinct from
     (old.id, old.agent_id, old.change_type)
    and exists (select from purple_flea.all_jobs j where j.wallet_change_id = old.id) then
    raise exception 'wallet_changes % has a job: its id, agent and type cannot change', old.id
      using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_deposit() is
  'Keeps the id, the agent and the type of a deposit that has a job.';

create or replace trigger purple_flea_keep
  before update on public.wallet_changes
  for each row execute function purple_flea.keep_deposit();
