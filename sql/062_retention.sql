-- Retention: settled jobs leave the hot tables for an archive, so that claiming, settling and sweeping cost the same when
-- tens of millions of deposits have been settled. For "is there a job?" it makes no difference where one is: a job that is
-- archived is as done as before, and its deposit is not bet on again.
--
-- Only kinds that grow with traffic go. Registrations, faucet claims and the steps of escrows are few, and "once for each
-- agent" and "once for each escrow" are unique indexes of jobs, which must go on seeing all of them.

alter table purple_flea.ledger
  add column if not exists archive_after interval not null default '7 days';
comment on column purple_flea.ledger.archive_after is 'How long a settled job stays in jobs: at least 2 days, for what may yet be said of it.';

do $$
begin
  if not exists (select from pg_catalog.pg_constraint where conrelid = 'purple_flea.ledger'::regclass and conname = 'ledger_archive_after_check') then
    -- Daily limits look back a UTC day, look-ups a day, slots of Purple Flea's limits at most a day after a job's end.
    alter table purple_flea.ledger add constraint ledger_archive_after_check
      check (archive_after between interval '2 days' and interval '100 years');
  end if;
end;
$$;

-- What is here has passed the checks of jobs; a copy of them would only grow old.
create table if not exists purple_flea.jobs_archive (
  like purple_flea.jobs including comments,
  primary key (reference),
  -- A deposit or an agent that could not be deleted before cannot be now. The index that this asks for is also what finds
  -- missing jobs.
  unique (wallet_change_id),
  foreign key (wallet_change_id) references public.wallet_changes on delete restrict,
  foreign key (agent_id)         references public.agents         on delete restrict,
  constraint jobs_archive_state_check check (state in ('executed', 'skipped', 'rejected', 'dead')),
  constraint jobs_archive_kind_check  check (kind in ('deposit', 'trade', 'order', 'balance', 'daily_claim'))
);
comment on table purple_flea.jobs_archive is 'Settled jobs that have left jobs, as they were.';
create index if not exists jobs_archive_agent_id_idx on purple_flea.jobs_archive (agent_id, kind);

create table if not exists purple_flea.job_events_archive (
  like purple_flea.job_events including comments,
  primary key (reference, id),
  foreign key (reference) references purple_flea.jobs_archive on delete restrict
);
comment on table purple_flea.job_events_archive is 'What happened to archived jobs, and what has been reported of them since.';
create index if not exists job_events_archive_alarm_idx on purple_flea.job_events_archive (at) where kind in ('conflict', 'alarm');

-- A column that the hot tables got later: rows are archived whole, by position.
do $$
declare
  late record;
begin
  for late in
    select hot.relname, a.attname, format_type(a.atttypid, a.atttypmod) as type_name
    from pg_catalog.pg_class hot
    join pg_catalog.pg_attribute a on a.attrelid = hot.oid and a.attnum > 0 and not a.attisdropped
    where hot.relnamespace = 'purple_flea'::regnamespace and hot.relname in ('jobs', 'job_events') and not exists (
      select from pg_catalog.pg_attribute there
      where there.attrelid = format('purple_flea.%I', hot.relname || '_archive')::regclass and there.attname = a.attname and not there.attisdropped
    )
    order by hot.relname, a.attnum
  loop
    execute format('alter table purple_flea.%I add column %I %s', late.relname || '_archive', late.attname, late.type_name);
  end loop;
end;
$$;

alter table purple_flea.jobs_archive       enable row level security;
alter table purple_flea.job_events_archive enable row level security;
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

-- The oldest of what may go. The predicate is archive_jobs' own: what never goes is never walked over.
create index if not exists jobs_settled_idx on purple_flea.jobs (changed_at)
  where state in ('executed', 'skipped', 'rejected', 'dead') and kind in ('deposit', 'trade', 'order', 'balance', 'daily_claim');

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

drop trigger if exists jobs_archive_keep on purple_flea.jobs_archive;
create trigger jobs_archive_keep
  before update or delete on purple_flea.jobs_archive
  for each row execute function purple_flea.keep_archived();
drop trigger if exists jobs_archive_refuse_truncate on purple_flea.jobs_archive;
create trigger jobs_archive_refuse_truncate
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

drop trigger if exists jobs_refuse_archived on purple_flea.jobs;
create trigger jobs_refuse_archived
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
