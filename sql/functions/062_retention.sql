-- Retention: final jobs move to an archive. The views read both tables in one statement, because
-- one snapshot sees each job in exactly one of the two.

create or replace view purple_flea.all_jobs as
  select * from purple_flea.jobs
  union all
  select * from purple_flea.jobs_archive;
comment on view purple_flea.all_jobs is 'Every job, archived or not.';

create or replace view purple_flea.all_job_events as
  select * from purple_flea.job_events
  union all
  select * from purple_flea.job_events_archive;
comment on view purple_flea.all_job_events is 'The events of every job, archived or not.';

create or replace function purple_flea.keep_archived() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'job % is archived as it was; without it its deposit could be bet on again',
    old.reference;
end;
$$;
comment on function purple_flea.keep_archived() is 'Keeps archived jobs as they are.';

create or replace trigger jobs_archive_keep
  before update or delete on purple_flea.jobs_archive
  for each row execute function purple_flea.keep_archived();
create or replace trigger jobs_archive_refuse_truncate
  before truncate on purple_flea.jobs_archive
  for each statement execute function purple_flea.refuse_truncate();

-- As a final check, this AFTER INSERT trigger rejects jobs that are already archived. No index can
-- span the two tables. By then the insert has waited for any concurrent archiving of the same job.
create or replace function purple_flea.refuse_archived() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  archived text;
begin
  -- Row by row: a session's first statement can insert a million rows, and Postgres keeps its plan
  -- for a later statement of one row.
  select a.reference into archived
  from made m
  cross join lateral (
    select a.reference
    from purple_flea.jobs_archive a
    where a.reference = m.reference
      or a.wallet_change_id = m.wallet_change_id
    limit 1
  ) as a
  limit 1;
  if found then
    raise exception 'job % has been done, and is archived', archived
      using errcode = 'unique_violation';
  end if;
  return null;
end;
$$;
comment on function purple_flea.refuse_archived() is 'Refuses to make a job a second time.';

create or replace trigger jobs_refuse_archived
  after insert on purple_flea.jobs
  referencing new table as made
  for each statement execute function purple_flea.refuse_archived();

-- The predicate is that of the index jobs_settled_idx: the walk passes no job that never goes.
create or replace function purple_flea.pick_archivable(most integer) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A late settlement or another sweep may hold a job's lock. Such a job is left for the next time.
  return array(
    select j.reference
    from purple_flea.jobs j
    where purple_flea.is_final(j.state)
      and purple_flea.is_archivable(j.kind)
      and j.changed_at < statement_timestamp() - (select l.archive_after from purple_flea.ledger l)
      -- A restore can bring back an archived job. One that is the same goes; one that differs stays
      -- and shows. The offset keeps this a look-up by key: the planner would rather read the whole
      -- archive.
      and not exists (
        select
        from purple_flea.jobs_archive a
        where a.reference = j.reference
          and a::text <> j::text
        offset 0
      )
    order by j.changed_at
    limit most
    for update of j skip locked
  );
end;
$$;
comment on function purple_flea.pick_archivable(integer) is
  'Locks the jobs that have been final for longest, and gives their references.';

create or replace function purple_flea.archive_jobs(most integer default 1000) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A transaction that deletes an agent or a deposit may hold a lock. The next sweep tries again.
  set lock_timeout = '500ms'
as $$
declare
  picked   text[];
  archived integer;
begin
  if most is null or most not between 1 and 10000 then
    raise exception 'most must be 1 to 10000' using errcode = 'invalid_parameter_value';
  end if;
  picked := purple_flea.pick_archivable(most);
  if picked = '{}' then
    return 0;
  end if;
  insert into purple_flea.jobs_archive
  select j.*
  from purple_flea.jobs j
  where j.reference = any (picked)
  on conflict do nothing;
  insert into purple_flea.job_events_archive
  select e.*
  from purple_flea.job_events e
  where e.reference = any (picked)
  on conflict do nothing;
  -- The rows go only now, because the guard of jobs lets no job go that is not archived.
  delete from purple_flea.rate_slots s where s.reference = any (picked);
  delete from purple_flea.job_events e where e.reference = any (picked);
  delete from purple_flea.jobs j where j.reference = any (picked);
  get diagnostics archived = row_count;
  return archived;
end;
$$;
comment on function purple_flea.archive_jobs(integer) is
  'Archives the jobs that have been final for longest, with their events; says how many. The '
  'sweeper calls it.';
