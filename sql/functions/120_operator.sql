-- For people: what an owner may see of a job, and what an operator may do about one. An operator
-- has the role that owns the schema. No other role may call these functions.

create or replace view public.agent_jobs with (security_barrier) as
  select
    j.reference,
    j.kind,
    j.wallet_change_id,
    j.escrow_id,
    j.agent_id,
    j.state,
    j.reason,
    j.attempts,
    j.created_at,
    j.changed_at
  from purple_flea.all_jobs j
  join public.agents a on a.id = j.agent_id
  where a.owner_id = (select purple_flea.caller());
comment on view public.agent_jobs is
  'The jobs of one''s own agents: their states and the reasons for them.';

-- The view is dropped first, because its columns may differ from the last release's.
drop view if exists purple_flea.stuck_jobs;
create view purple_flea.stuck_jobs as
  -- Each part has an index, because final jobs are many.
  with stuck as (
    select j.reference
    from purple_flea.jobs j
    where j.state = 'unknown'
    union
    select j.reference
    from purple_flea.jobs j
    where j.state = 'pending'
      and j.due_at < statement_timestamp() - interval '5 minutes'
    union
    select j.reference
    from purple_flea.jobs j
    where j.state = 'pending'
      and j.attempts > 5
    union
    select j.reference
    from purple_flea.jobs j
    where j.state in ('skipped', 'dead')
      and j.kind = 'deposit'
      and j.reason in ('already_traded', 'missed', 'done_before')
      and j.changed_at > statement_timestamp() - interval '7 days'
    union
    select t.reference
    from purple_flea.job_troubles t
    union
    select e.reference
    from purple_flea.all_job_events e
    where e.kind in ('conflict', 'alarm')
      and e.at > statement_timestamp() - interval '7 days'
  )
  select
    j.reference,
    j.kind,
    j.agent_id,
    j.state,
    case
      when j.state = 'pending'
        and purple_flea.awaits_confirmation(j.kind, j.generation, purple_flea.current_generation())
        then 'restore_unconfirmed'
      when t.reference is not null then 'cannot_be_changed'
      else j.reason
    end as reason,
    t.why as trouble,
    j.attempts,
    j.changed_at,
    j.due_at,
    j.stake,
    j.idempotency_key,
    j.result,
    exists (
      select
      from purple_flea.all_job_events e
      where e.reference = j.reference
        and e.kind in ('conflict', 'alarm')
    ) as alarm
  from stuck
  join purple_flea.all_jobs j using (reference)
  left join purple_flea.job_troubles t using (reference);
comment on view purple_flea.stuck_jobs is 'The jobs that an operator should look at.';

create or replace function purple_flea.unknown_job(asked text) returns purple_flea.jobs
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job     purple_flea.jobs;
  is_over timestamptz;
begin
  select * into job from purple_flea.jobs j where j.reference = asked for update;
  if not found then
    select * into job from purple_flea.jobs_archive a where a.reference = asked;
  end if;
  if not found then
    raise exception 'there is no job %', asked;
  elsif job.state <> 'unknown' then
    raise exception 'job % is %, not unknown', asked, job.state;
  end if;
  is_over := job.lease_until + (purple_flea.timing()).lookup_wait;
  if clock_timestamp() < is_over then
    raise exception 'job % may still be under way; wait until %', asked, is_over;
  end if;
  return job;
end;
$$;
comment on function purple_flea.unknown_job(text) is
  'Locks an unknown job that no worker can be executing any more. Raises for any other.';

create or replace function purple_flea.release_job(reference text, why text) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.unknown_job(release_job.reference);
  update purple_flea.jobs j
  set state      = 'pending',
      changed_by = 'operator',
      reason     = 'released',
      result     = jsonb_build_object('reason', 'released', 'why', why),
      due_at     = clock_timestamp(),
      expires_at = case
                     -- Nobody trades on a signal after its end, so the next sweep skips the job.
                     when purple_flea.answers_signal(j.reference) then j.expires_at
                     else clock_timestamp() + (
                       select k.max_age from purple_flea.job_kinds k where k.kind = j.kind
                     )
                   end,
      bet_day    = null,
      lookup_at  = null,
      generation = purple_flea.current_generation()
  where j.reference = release_job.reference;
end;
$$;
comment on function purple_flea.release_job(text, text) is
  'Lets an unknown job be executed again. Call it only if Purple Flea shows no bet with the '
  'job''s idempotency key: otherwise there will be two.';

create or replace function purple_flea.close_job(reference text, why text) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.unknown_job(close_job.reference);
  update purple_flea.jobs j
  set state      = 'rejected',
      changed_by = 'operator',
      reason     = 'closed_by_operator',
      bet_day    = null,
      lookup_at  = null,
      result     = jsonb_build_object(
                     'status', 'rejected',
                     'reference', j.reference,
                     'agent_id', j.agent_id,
                     'reason', 'closed_by_operator',
                     'why', why
                   )
  where j.reference = close_job.reference;
end;
$$;
comment on function purple_flea.close_job(text, text) is
  'Ends an unknown job without a bet, for good.';

create or replace function purple_flea.retry_job(reference text) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job purple_flea.jobs;
begin
  update purple_flea.jobs j
  set due_at = clock_timestamp()
  where j.reference = retry_job.reference
    and j.state = 'pending'
  returning * into job;
  if not found then
    raise exception 'job % is not pending', retry_job.reference;
  end if;
  perform purple_flea.note(job, 'operated', 'retried', null, 'operator');
end;
$$;
comment on function purple_flea.retry_job(text) is
  'Makes a pending job due now, instead of after its wait.';
