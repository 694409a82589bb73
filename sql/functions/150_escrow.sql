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
      null::numeric as referral_due,
      null::numeric as referral_earned,
      null::timestamptz as auto_release_at,
      null::timestamptz as completed_at,
      null          as tx_hash,
      null          as reason
      into was;
  else
    was := old;
  end if;
  if (new.status, new.pf_escrow_id, new.fee, new.referral_due, new.referral_earned,
      new.auto_release_at, new.completed_at, new.tx_hash, new.reason) is distinct from
     (was.status, was.pf_escrow_id, was.fee, was.referral_due, was.referral_earned,
      was.auto_release_at, was.completed_at, was.tx_hash, was.reason) then
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
    when 'completed' then 'escrow_complete'
    when 'disputed'  then 'escrow_dispute'
  end
$$;
comment on function purple_flea.escrow_kind(text) is
  'Gives the kind of job that brings an escrow into a status.';

create or replace function purple_flea.escrow_step_stands(kind text, escrow bigint) returns boolean
  language sql
  volatile  -- sees a job that another transaction has just made
  set search_path = pg_catalog, pg_temp
as $$
  -- A release and a cancellation exclude each other. The other party's step never stands in the
  -- way: its key may be missing for days. Purple Flea decides which one came first.
  select exists (
    select
    from purple_flea.jobs j
    where j.escrow_id = escrow
      and not purple_flea.ended_without_effect(j.state)
      and (
        j.kind = escrow_step_stands.kind
        or (
          j.kind in ('escrow_release', 'escrow_cancel')
          and escrow_step_stands.kind in ('escrow_release', 'escrow_cancel')
        )
      )
  )
$$;
comment on function purple_flea.escrow_step_stands(text, bigint) is
  'Says whether a step of an escrow was requested already, or one that excludes it.';

-- An escrow's terms stay. Each step is requested once, unless it ended without effect.
create or replace function purple_flea.keep_escrow() returns trigger
  language plpgsql
  -- The writer of the row may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  step constant text := purple_flea.escrow_kind(
    coalesce(new.requested_status, old.requested_status));
begin
  if tg_op = 'INSERT' then
    if new.requested_status is not null then
      raise exception 'what is not made yet has no next step' using errcode = 'check_violation';
    end if;
    return new;
  end if;
  if (new.id, new.sender_id, new.receiver_id, new.amount, new.description, new.timeout_hours,
      new.asked_as) is distinct from
     (old.id, old.sender_id, old.receiver_id, old.amount, old.description, old.timeout_hours,
      old.asked_as) then
    raise exception 'an escrow''s terms cannot change' using errcode = 'check_violation';
  end if;
  if new.requested_status is distinct from 'disputed' then
    new.dispute_reason := null;
  elsif old.requested_status = 'disputed' then
    -- One party's words do not go out under the other's name.
    new.dispute_reason := old.dispute_reason;
  end if;
  if new.requested_status is distinct from old.requested_status then
    if old.status <> 'pending' then
      raise exception 'escrow % is % for good', old.id, old.status
        using errcode = 'check_violation';
    elsif purple_flea.escrow_step_stands(step, old.id) then
      raise exception 'escrow % is already to be %',
        old.id, coalesce(old.requested_status, new.requested_status)
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

create or replace function purple_flea.make_escrow_step(
  escrow public.escrow_requests,
  step   text,
  agent  text
) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- request_workflow_escrow() and request_workflow_escrow_step() set it for one statement. Any
  -- session can set it, so it names no job but a workflow's: never a deposit's, for example.
  named constant text := substring(
    current_setting('purple_flea.step_name', true) from '^wf-[0-9a-f]{32}$');
  reference text := 'escrow-' || escrow.id || replace(substr(step, length('escrow') + 1), '_', '-');
  earlier   integer;
begin
  -- A step that ended without effect may be requested again. The next job has the next number.
  select count(*) into earlier
  from purple_flea.jobs j
  where j.escrow_id = escrow.id
    and j.kind = step;
  if named is not null then
    reference := named;
  elsif earlier > 0 then
    reference := reference || '-' || earlier + 1;
  end if;
  insert into purple_flea.jobs (
    reference, idempotency_key, kind, escrow_id, agent_id, generation, request, due_at, expires_at
  )
  select
    reference,
    purple_flea.new_idempotency_key(reference),
    k.kind,
    escrow.id,
    agent,
    purple_flea.current_generation(),
    jsonb_strip_nulls(jsonb_build_object(
      'id', escrow.id,
      'agent_id', agent,
      'sender_id', escrow.sender_id,
      'receiver_id', escrow.receiver_id,
      'amount', escrow.amount,
      'description', escrow.description,
      'timeout_hours', escrow.timeout_hours,
      'reason', case step when 'escrow_dispute' then escrow.dispute_reason end
    )),
    purple_flea.escrow_due_at(step, escrow),
    clock_timestamp() + k.max_age
  from purple_flea.job_kinds k
  where k.kind = step;
  return reference;
end;
$$;
comment on function purple_flea.make_escrow_step(public.escrow_requests, text, text) is
  'Makes the job of an escrow''s step for an agent, and gives its reference.';

-- A receiver completes, a sender releases and cancels. Either may dispute: by row the party whose
-- owner writes the row, by a call the party that the call names, and otherwise the sender.
create or replace function purple_flea.acting_party(step text, escrow public.escrow_requests)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- request_escrow_step() sets it for one statement.
  named constant text := nullif(current_setting('purple_flea.acting_party', true), '');
begin
  if step = 'escrow_complete' then
    return escrow.receiver_id;
  elsif step <> 'escrow_dispute' then
    return escrow.sender_id;
  -- Any session can set the name, so a user's own does not count.
  elsif named is not null and purple_flea.caller() is null then
    return named;
  elsif purple_flea.caller() is not null and not exists (
    select
    from public.agents a
    where a.id = escrow.sender_id
      and a.owner_id = purple_flea.caller()
  ) then
    return escrow.receiver_id;
  end if;
  return escrow.sender_id;
end;
$$;
comment on function purple_flea.acting_party(text, public.escrow_requests) is
  'Gives the agent that takes a step of an escrow.';

create or replace function purple_flea.make_escrow_job() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  step constant text := case tg_op
    when 'INSERT' then 'escrow'
    else purple_flea.escrow_kind(new.requested_status)
  end;
begin
  perform purple_flea.make_escrow_step(new, step, purple_flea.acting_party(step, new));
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

create or replace function purple_flea.escrow_status_after(job purple_flea.jobs, status text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when job.kind = 'escrow' and purple_flea.ended_without_effect(job.state) then 'refused'
    when job.state = 'executed' and job.kind = 'escrow_release' then 'released'
    when job.state = 'executed' and job.kind = 'escrow_cancel' then 'cancelled'
    when job.state = 'executed' and job.kind = 'escrow_dispute' then 'disputed'
    -- A look, or the refusal of a step, can say that the escrow has ended otherwise.
    when job.result ->> 'escrow_status' in ('released', 'cancelled', 'disputed', 'refunded')
      then job.result ->> 'escrow_status'
    when job.result ->> 'escrow_status' = 'canceled' then 'cancelled'
    else escrow_status_after.status
  end
$$;
comment on function purple_flea.escrow_status_after(purple_flea.jobs, text) is
  'Gives an escrow''s status after the outcome of one of its jobs.';

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
  set status          = became.status,
      reason          = case
                          when new.kind = 'escrow_status' then e.reason
                          when not executed then new.reason
                        end,
      pf_escrow_id    = coalesce(e.pf_escrow_id, new.result ->> 'pf_escrow_id'),
      fee             = coalesce((new.result ->> 'fee')::numeric, e.fee),
      referral_due    = coalesce(e.referral_due, (new.result ->> 'referral_due')::numeric),
      referral_earned = coalesce(
                          (new.result ->> 'referral_earned')::numeric,
                          e.referral_earned,
                          case
                            when became.status in ('released', 'refunded') then e.referral_due
                          end
                        ),
      auto_release_at = case
                          when executed and new.kind = 'escrow' then coalesce(
                            (new.result ->> 'auto_release_at')::timestamptz,
                            e.created_at + make_interval(hours => coalesce(e.timeout_hours, 24))
                          )
                          -- No further look would tell more.
                          when new.kind = 'escrow_status' and new.state in ('skipped', 'rejected')
                            then null
                          else e.auto_release_at
                        end,
      completed_at    = case
                          when new.reason = 'escrow_completed'
                            or new.result ->> 'escrow_status' = 'completed'
                            then coalesce(e.completed_at, clock_timestamp())
                          else e.completed_at
                        end,
      tx_hash         = coalesce(new.result ->> 'tx_hash', e.tx_hash)
  from (
    select purple_flea.escrow_status_after(new, t.status) as status
    from public.escrow_requests t
    where t.id = new.escrow_id
  ) as became
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

-- Purple Flea tells nobody that an escrow timed out or was disputed. So a worker reads each open
-- escrow from its timeout on, every hour, until it is over.
create or replace function purple_flea.make_escrow_looks(most integer) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Purple Flea ends what has timed out every five minutes.
  after_timeout constant interval := '6 minutes';
begin
  perform purple_flea.make_escrow_step(due.escrow, 'escrow_status', (due.escrow).sender_id)
  from (
    select e as escrow
    from public.escrow_requests e
    join public.agents s on s.id = e.sender_id
    where e.status = 'pending'
      and e.pf_escrow_id is not null
      and e.auto_release_at < clock_timestamp() - after_timeout
      and not exists (
        select
        from purple_flea.jobs j
        where j.escrow_id = e.id
          and j.kind = 'escrow_status'
          -- One that became too old is followed by another. Any other end is final.
          and j.state <> 'dead'
      )
    order by e.auto_release_at
    limit most
    -- A row that an application holds waits alone, and so does one that a caller asks about now.
    for no key update of e skip locked
    for key share of s skip locked
  ) as due;
end;
$$;
comment on function purple_flea.make_escrow_looks(integer) is
  'Makes the looks at escrows whose timeout has passed.';
