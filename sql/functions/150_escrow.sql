-- Escrows: the rules for rows of escrow_requests, the jobs of an escrow's steps, and their
-- outcomes.

-- It runs as the role that writes the row. Only the ledger's own functions run as the table's
-- owner, and only they pass.
create or replace function purple_flea.guard_escrow() returns trigger
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
      null          as pf_escrow_id,
      null::numeric as fee,
      null::numeric as referral_earned,
      null          as reason
      into was;
  else
    select old.status, old.pf_escrow_id, old.fee, old.referral_earned, old.reason into was;
  end if;
  if (new.status, new.pf_escrow_id, new.fee, new.referral_earned, new.reason) is distinct from
     (was.status, was.pf_escrow_id, was.fee, was.referral_earned, was.reason) then
    raise exception 'the state of an escrow is what Purple Flea answers'
      using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_escrow() is
  'Keeps an escrow''s state from all but Purple Flea''s answers.';

create or replace function purple_flea.escrow_kind(requested_status text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case requested_status
    when 'released' then 'escrow_release'
    when 'cancelled' then 'escrow_cancel'
  end
$$;
comment on function purple_flea.escrow_kind(text) is
  'Gives the kind of job that brings an escrow into a status.';

-- An escrow's terms stay. Of the two ends, one at a time may be requested.
create or replace function purple_flea.keep_escrow() returns trigger
  language plpgsql
  -- The writer of the row may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    if new.requested_status is not null then
      raise exception 'what is not made yet cannot be released or cancelled'
        using errcode = 'check_violation';
    end if;
    return new;
  end if;
  if (new.id, new.sender_id, new.receiver_id, new.amount, new.description, new.timeout_hours,
      new.asked_as) is distinct from
     (old.id, old.sender_id, old.receiver_id, old.amount, old.description, old.timeout_hours,
      old.asked_as) then
    raise exception 'an escrow''s terms cannot change' using errcode = 'check_violation';
  end if;
  if new.requested_status is distinct from old.requested_status then
    if old.status <> 'pending' then
      raise exception 'escrow % is % for good', old.id, old.status
        using errcode = 'check_violation';
    elsif old.requested_status is not null and exists (
      select
      from purple_flea.jobs j
      where j.escrow_id = old.id
        and j.kind = purple_flea.escrow_kind(old.requested_status)
        and not purple_flea.ended_without_effect(j.state)
    ) then
      raise exception 'escrow % is already to be %', old.id, old.requested_status
        using errcode = 'check_violation';
    end if;
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_escrow() is
  'Keeps an escrow''s terms, and the status that was requested.';

create or replace trigger purple_flea_guard
  before insert or update on public.escrow_requests
  for each row execute function purple_flea.guard_escrow();
create or replace trigger purple_flea_keep
  before insert or update on public.escrow_requests
  for each row execute function purple_flea.keep_escrow();

create or replace function purple_flea.escrow_due_at(step text, escrow public.escrow_requests)
  returns timestamptz
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- An escrow that is not made yet can be neither released nor cancelled. Its making makes this job
  -- due.
  if step <> 'escrow' and escrow.pf_escrow_id is null and escrow.status = 'pending' then
    return 'infinity';
  end if;
  -- A receiver that is being registered has no account yet. Its registration makes this job due.
  if step = 'escrow' and exists (
    select
    from purple_flea.jobs j
    where j.agent_id = escrow.receiver_id
      and j.kind = 'registration'
      and purple_flea.is_under_way(j.state)
  ) then
    return 'infinity';
  end if;
  return statement_timestamp();
end;
$$;
comment on function purple_flea.escrow_due_at(text, public.escrow_requests) is
  'Gives the time from which a step of an escrow may be executed; infinity while it waits for '
  'another job.';

create or replace function purple_flea.make_escrow_job() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  step      text := case tg_op
    when 'INSERT' then 'escrow'
    else purple_flea.escrow_kind(new.requested_status)
  end;
  reference text := 'escrow-' || new.id || case step
    when 'escrow_release' then '-release'
    when 'escrow_cancel' then '-cancel'
    else ''
  end;
  earlier   integer;
begin
  -- A step that ended without effect may be requested again. The next job has the next number.
  select count(*) into earlier
  from purple_flea.jobs j
  where j.escrow_id = new.id
    and j.kind = step;
  if earlier > 0 then
    reference := reference || '-' || earlier + 1;
  end if;
  insert into purple_flea.jobs (
    reference, idempotency_key, kind, escrow_id, agent_id, generation, request, due_at, expires_at
  )
  select
    reference,
    purple_flea.new_idempotency_key(reference),
    k.kind,
    new.id,
    new.sender_id,
    purple_flea.current_generation(),
    jsonb_strip_nulls(jsonb_build_object(
      'id', new.id,
      'sender_id', new.sender_id,
      'receiver_id', new.receiver_id,
      'amount', new.amount,
      'description', new.description,
      'timeout_hours', new.timeout_hours
    )),
    purple_flea.escrow_due_at(step, new),
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = step;
  perform purple_flea.notify_if_due();
  return null;
end;
$$;
comment on function purple_flea.make_escrow_job() is 'Makes the job of an escrow''s next step.';

create or replace trigger purple_flea_escrow
  after insert on public.escrow_requests
  for each row execute function purple_flea.make_escrow_job();
create or replace trigger purple_flea_escrow_step
  after update on public.escrow_requests
  for each row when (
    new.requested_status is distinct from old.requested_status
    and new.requested_status is not null
  )
  execute function purple_flea.make_escrow_job();

create or replace function purple_flea.tell_escrow() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  executed boolean := new.state = 'executed';
begin
  update public.escrow_requests e
  set reason          = case when not executed then new.reason end,
      pf_escrow_id    = coalesce(e.pf_escrow_id, new.result ->> 'pf_escrow_id'),
      fee             = coalesce((new.result ->> 'fee')::numeric, e.fee),
      referral_earned = coalesce((new.result ->> 'referral_earned')::numeric, e.referral_earned),
      status          = case
                          when new.kind = 'escrow' and purple_flea.ended_without_effect(new.state)
                            then 'refused'
                          when executed and new.kind = 'escrow_release' then 'released'
                          when executed and new.kind = 'escrow_cancel' then 'cancelled'
                          -- The refusal of a step can say that the escrow has ended otherwise.
                          when new.result ->> 'escrow_status'
                            in ('released', 'cancelled', 'disputed', 'refunded')
                            then new.result ->> 'escrow_status'
                          else e.status
                        end
  where e.id = new.escrow_id;
  if new.kind = 'escrow' and purple_flea.is_final(new.state) then
    update purple_flea.jobs j
    set due_at = statement_timestamp()
    where j.escrow_id = new.escrow_id
      and j.state = 'pending'
      and j.due_at = 'infinity';
    if found then
      perform purple_flea.notify_if_due();
    end if;
  end if;
  return null;
end;
$$;
comment on function purple_flea.tell_escrow() is
  'Records the outcome of an escrow''s step in its row.';

create or replace trigger jobs_tell_escrow
  after update on purple_flea.jobs
  for each row when (
    new.escrow_id is not null
    and old.state <> new.state
    and new.state <> 'claimed'
  )
  execute function purple_flea.tell_escrow();

create or replace view public.referral_earnings with (security_barrier) as
  select
    o.id                   as orchestrator_id,
    count(*)               as escrows,
    sum(e.amount)          as amount,
    sum(e.fee)             as fees,
    sum(e.referral_earned) as earned
  from public.escrow_requests e
  join public.agents s on s.id = e.sender_id
  join public.agents o on o.id = s.orchestrator_id
  where e.status = 'released'
    and (
      o.owner_id = (select purple_flea.caller())
      or pg_has_role(current_user, 'service_role', 'usage')
    )
  group by o.id;
comment on view public.referral_earnings is
  'The earnings of one''s own orchestrators by the released escrows of the agents that they '
  'brought in.';
