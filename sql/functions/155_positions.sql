-- Positions: the rules for rows of close_requests, their jobs, and their outcomes.

-- It runs as the role that writes the row. Only the ledger's own functions run as the table's
-- owner, and only they pass.
create or replace function purple_flea.guard_close() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  was record;
begin
  if pg_has_role(
    (select c.relowner from pg_catalog.pg_class c where c.oid = tg_relid),
    'usage'
  ) then
    return new;
  end if;
  if tg_op = 'INSERT' then
    select
      'pending'     as status,
      null::numeric as exit_price,
      null::numeric as pnl,
      null::numeric as fee,
      null          as reason
      into was;
  else
    select old.status, old.exit_price, old.pnl, old.fee, old.reason into was;
  end if;
  if (new.status, new.exit_price, new.pnl, new.fee, new.reason) is distinct from
     (was.status, was.exit_price, was.pnl, was.fee, was.reason) then
    raise exception 'the state of a position is what Purple Flea answers'
      using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_close() is
  'Keeps the state of a request to close a position from all but Purple Flea''s answers.';

-- A second request for a position is a row like any other, and is refused at once. Two that are
-- made at the same moment meet in close_requests_position_idx.
create or replace function purple_flea.keep_close() returns trigger
  language plpgsql
  -- The writer of the row may read neither jobs nor, in general, the other rows.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    if new.status = 'pending' and exists (
      select
      from public.close_requests c
      where c.agent_id = new.agent_id
        and c.position_id = new.position_id
        and c.status in ('pending', 'closed')
    ) then
      new.status := 'refused';
      new.reason := 'already_requested';
    end if;
    return new;
  end if;
  if tg_op = 'DELETE' then
    if exists (select from purple_flea.all_jobs j where j.reference = 'close-' || old.id) then
      raise exception 'close_requests % has a job: it cannot be deleted', old.id
        using errcode = 'check_violation';
    end if;
    return old;
  end if;
  if (new.id, new.agent_id, new.position_id) is distinct from
     (old.id, old.agent_id, old.position_id) then
    raise exception 'a request to close a position cannot change' using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_close() is
  'Keeps a request to close a position, and refuses a second one for the same position.';

create or replace trigger purple_flea_guard
  before insert or update on public.close_requests
  for each row execute function purple_flea.guard_close();
create or replace trigger purple_flea_keep
  before insert or update or delete on public.close_requests
  for each row execute function purple_flea.keep_close();

create or replace function purple_flea.make_close_job() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  reference constant text := 'close-' || new.id;
begin
  insert into purple_flea.jobs
    (reference, idempotency_key, kind, agent_id, generation, request, due_at, expires_at)
  select
    reference,
    purple_flea.new_idempotency_key(reference),
    k.kind,
    new.agent_id,
    purple_flea.current_generation(),
    jsonb_build_object('id', new.id, 'agent_id', new.agent_id, 'position_id', new.position_id),
    statement_timestamp(),
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = 'close';
  return null;
end;
$$;
comment on function purple_flea.make_close_job() is
  'Makes the job of a request to close a position.';

create or replace trigger purple_flea_close
  after insert on public.close_requests
  for each row when (new.status = 'pending')
  execute function purple_flea.make_close_job();
create or replace trigger purple_flea_notify
  after insert on public.close_requests
  for each statement execute function purple_flea.notify_after_statement();

create or replace function purple_flea.tell_close() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  executed boolean := new.state = 'executed';
begin
  update public.close_requests c
  set status     = case
                     when executed then 'closed'
                     when purple_flea.ended_without_effect(new.state) then 'refused'
                     else c.status
                   end,
      exit_price = (new.result ->> 'exit_price')::numeric,
      pnl        = (new.result ->> 'pnl')::numeric,
      fee        = (new.result ->> 'fee')::numeric,
      reason     = case when not executed then new.reason end
  where c.id = (new.request ->> 'id')::bigint;
  return null;
end;
$$;
comment on function purple_flea.tell_close() is
  'Records the outcome of a position''s close in its row.';

create or replace trigger jobs_tell_close
  after update on purple_flea.jobs
  for each row when (
    new.kind = 'close'
    and old.state <> new.state
    and new.state <> 'claimed'
  )
  execute function purple_flea.tell_close();
