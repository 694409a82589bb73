revoke all on purple_flea.jobs_archive, purple_flea.job_events_archive
  from public, anon, authenticated, service_role, purple_flea_worker;

-- A snapshot sees each job in one of the two, and never in neither: who asks for one asks here, in one statement.
create or replace view purple_flea.all_jobs as
  select * from purple_flea.jobs union all select * from purple_flea.jobs_archive;
comment on view purple_flea.all_jobs is 'Every job, archived or not.';
create or replace view purple_flea.all_job_events as
  select * from purple_flea.job_events union all select * from purple_flea.job_events_archive;
comment on view purple_flea.all_job_events is 'What happened to every job, archived or not.';
revoke all on purple_flea.all_jobs, purple_flea.all_job_events from public, anon, authenticated, service_role, purple_flea_worker;

-- The archive's part of the guards of 060_jobs.sql.
create or replace function purple_flea.keep_archived() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'job % is archived as it was; without it its deposit could be bet on again', old.reference;
end;
$$;
comment on function purple_flea.keep_archived() is 'Keeps archived jobs as they are.';
revoke all on function purple_flea.keep_archived() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_archive_keep
  before update or delete on purple_flea.jobs_archive
  for each row execute function purple_flea.keep_archived();
create or replace trigger jobs_archive_refuse_truncate
  before truncate on purple_flea.jobs_archive
  for each statement execute function purple_flea.refuse_truncate();

-- The last word on "one job for each reference", which no index can have over two tables. It is asked after the row is in:
-- whoever is archiving the same one has been waited for by then.
create or replace function purple_flea.refuse_archived() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  there text;
begin
  -- (Row by row: a session's first statement can be of a million rows, and its plan is kept for the next one of one row.)
  select a.reference into there
  from made m
  cross join lateral (
    select a.reference from purple_flea.jobs_archive a where a.reference = m.reference or a.wallet_change_id = m.wallet_change_id limit 1
  ) as a
  limit 1;
  if found then
    raise exception 'job % has been done, and is archived', there using errcode = 'unique_violation';
  end if;
  return null;
end;
$$;
comment on function purple_flea.refuse_archived() is 'Refuses to make a job a second time.';
revoke all on function purple_flea.refuse_archived() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger jobs_refuse_archived
  after insert on purple_flea.jobs
  referencing new table as made
  for each statement execute function purple_flea.refuse_archived();

create or replace function purple_flea.archive_jobs(most integer default 1000) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- Somebody may be deleting an agent or a deposit. There is always a next time.
  set lock_timeout = '500ms'
as $$
declare
  picked   text[];
  archived integer;
begin
  if most is null or most not between 1 and 10000 then
    raise exception 'most must be 1 to 10000' using errcode = 'invalid_parameter_value';
  end if;
  -- What is locked is being settled late, or archived by another.
  select array_agg(oldest.reference) into picked
  from (
    select j.reference from purple_flea.jobs j
    where j.state in ('executed', 'skipped', 'rejected', 'dead') and j.kind in ('deposit', 'trade', 'order', 'balance', 'daily_claim')
      and j.changed_at < statement_timestamp() - (select l.archive_after from purple_flea.ledger l)
      -- (Archived before, and brought back by a restore: it goes if it is the same, and stays to be seen if it is not. The
      -- offset makes this one look at a time: the planner would rather walk along the whole archive.)
      and not exists (select from purple_flea.jobs_archive a where a.reference = j.reference and a::text <> j::text offset 0)
    order by j.changed_at limit most for update of j skip locked
  ) as oldest;
  if picked is null then
    return 0;
  end if;
  insert into purple_flea.jobs_archive       select j.* from purple_flea.jobs j       where j.reference = any (picked) on conflict do nothing;
  insert into purple_flea.job_events_archive select e.* from purple_flea.job_events e where e.reference = any (picked) on conflict do nothing;
  -- Only then: the guard of jobs lets nothing go that is not here.
  delete from purple_flea.rate_slots s where s.reference = any (picked);
  delete from purple_flea.job_events e where e.reference = any (picked);
  delete from purple_flea.jobs j       where j.reference = any (picked);
  get diagnostics archived = row_count;
  return archived;
end;
$$;
comment on function purple_flea.archive_jobs(integer) is 'Archives the jobs that were settled longest ago, with their events; says how many. The sweeper calls it.';
revoke all on function purple_flea.archive_jobs(integer) from public, anon, authenticated, service_role, purple_flea_worker;
