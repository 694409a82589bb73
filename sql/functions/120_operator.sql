-- For people: what an owner may see of a deposit's job, and what an operator may do about one. Operators are the role
-- that owns the schema; nobody else may call these.

create or replace view public.agent_jobs with (security_barrier) as
  select j.reference, j.kind, j.wallet_change_id, j.escrow_id, j.agent_id, j.state, j.reason, j.attempts, j.created_at, j.changed_at
  from purple_flea.all_jobs j
  join public.agents a on a.id = j.agent_id
  where a.owner_id = (select purple_flea.caller());
comment on view public.agent_jobs is 'What became of the deposits of one''s own agents, and of all else that was asked for them, and why.';
revoke all on public.agent_jobs from public, anon, authenticated, service_role, purple_flea_worker;
grant select on public.agent_jobs to authenticated;

-- (Dropped first: its columns may be others than the last release's.)
drop view if exists purple_flea.stuck_jobs;
create view purple_flea.stuck_jobs as
  -- Each part has its index: the settled ones are many.
  with stuck as (
    select j.reference from purple_flea.jobs j where j.state = 'unknown'
    union
    select j.reference from purple_flea.jobs j where j.state = 'pending' and j.due_at < statement_timestamp() - interval '5 minutes'
    union
    select j.reference from purple_flea.jobs j where j.state = 'pending' and j.attempts > 5
    union
    select j.reference from purple_flea.jobs j
    where j.state in ('skipped', 'dead') and j.kind = 'deposit' and j.reason in ('already_traded', 'missed', 'done_before')
      and j.changed_at > statement_timestamp() - interval '7 days'
    union
    select t.reference from purple_flea.job_troubles t
    union
    select e.reference from purple_flea.all_job_events e where e.kind in ('conflict', 'alarm') and e.at > statement_timestamp() - interval '7 days'
  )
  select j.reference, j.kind, j.agent_id, j.state,
         case
           when j.state = 'pending' and purple_flea.awaits_confirmation(j.kind, j.generation, purple_flea.current_generation()) then 'restore_unconfirmed'
           when t.reference is not null then 'cannot_be_changed'
           else j.reason
         end as reason,
         t.why as trouble, j.attempts, j.changed_at, j.due_at, j.stake, j.bet_key, j.result,
         exists (select from purple_flea.all_job_events e where e.reference = j.reference and e.kind in ('conflict', 'alarm')) as alarm
  from stuck
  join purple_flea.all_jobs j using (reference)
  left join purple_flea.job_troubles t using (reference);
comment on view purple_flea.stuck_jobs is 'What somebody should look at.';
revoke all on purple_flea.stuck_jobs from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.unknown_job(asked text) returns purple_flea.jobs
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job purple_flea.jobs;
begin
  select * into job from purple_flea.jobs j where j.reference = asked for update;
  if not found then
    select * into job from purple_flea.jobs_archive a where a.reference = asked;
  end if;
  if not found then
    raise exception 'there is no job %', asked;
  elsif job.state <> 'unknown' then
    raise exception 'job % is %, not unknown', asked, job.state;
  elsif clock_timestamp() < job.lease_until + (purple_flea.timing()).lookup_wait then
    raise exception 'job % may still be under way; wait until %', asked, job.lease_until + (purple_flea.timing()).lookup_wait;
  end if;
  return job;
end;
$$;
comment on function purple_flea.unknown_job(text) is 'Locks an unknown job whose claimant cannot be at work any more. Raises for any other.';
revoke all on function purple_flea.unknown_job(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.release_job(reference text, why text) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.unknown_job(release_job.reference);
  update purple_flea.jobs j
  set state = 'pending', changed_by = 'operator', reason = 'released', result = jsonb_build_object('reason', 'released', 'why', why),
      due_at = clock_timestamp(), expires_at = clock_timestamp() + (purple_flea.timing()).max_age, bet_day = null, lookup_at = null,
      generation = purple_flea.current_generation()
  where j.reference = release_job.reference;
end;
$$;
comment on function purple_flea.release_job(text, text) is 'Lets an unknown job be bet on again. Only if Purple Flea shows that no bet with its bet_key was made: otherwise there will be two.';
revoke all on function purple_flea.release_job(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.close_job(reference text, why text) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.unknown_job(close_job.reference);
  update purple_flea.jobs j
  set state = 'rejected', changed_by = 'operator', reason = 'closed_by_operator', bet_day = null, lookup_at = null,
      result = jsonb_build_object('status', 'rejected', 'reference', j.reference, 'agent_id', j.agent_id, 'reason', 'closed_by_operator', 'why', why)
  where j.reference = close_job.reference;
end;
$$;
comment on function purple_flea.close_job(text, text) is 'Ends an unknown job without a bet, for good.';
revoke all on function purple_flea.close_job(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.record_bet(reference text, bet_id text, wager numeric, won boolean, payout numeric) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job purple_flea.jobs := purple_flea.unknown_job(record_bet.reference);
begin
  if job.kind <> 'deposit' or job.policy ->> 'game' = 'trade' then
    raise exception 'job % is no bet', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_build_object(
    'status', 'executed', 'reference', job.reference, 'agent_id', job.agent_id, 'game', job.policy ->> 'game', 'wager', wager,
    'outcome', case when won then 'win' else 'loss' end, 'payout', payout, 'bet_id', bet_id
  ), 'operator');
end;
$$;
comment on function purple_flea.record_bet(text, text, numeric, boolean, numeric) is 'Records the bet that an unknown job turned out to have made, and makes its row of trade_results.';
revoke all on function purple_flea.record_bet(text, text, numeric, boolean, numeric) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.retry_job(reference text) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job purple_flea.jobs;
begin
  update purple_flea.jobs j set due_at = clock_timestamp() where j.reference = retry_job.reference and j.state = 'pending' returning * into job;
  if not found then
    raise exception 'job % is not pending', retry_job.reference;
  end if;
  perform purple_flea.note(job, 'operated', 'retried', null, 'operator');
end;
$$;
comment on function purple_flea.retry_job(text) is 'Makes a pending job due now, instead of after its backoff.';
revoke all on function purple_flea.retry_job(text) from public, anon, authenticated, service_role, purple_flea_worker;
