-- Restores and ages. A restored, cloned or failed-over database has to be recognised. Each job
-- carries the facts that its outcome is judged by: the generation in which it was made, and the key
-- and the account of its claim. Pauses are recorded, so that no job grows old by them.

-- A table of its own, because the row's xmin is a part of the identity: only a confirmation may
-- write here.
create table purple_flea.generation (
  only_row          boolean     primary key default true check (only_row),
  id                uuid        not null,
  system_identifier bigint      not null,
  database_oid      oid         not null,
  timeline          text        not null,
  jobs_oid          oid         not null,
  stamped_xid       xid         not null,
  stamped_at        timestamptz not null default clock_timestamp(),
  stamped_because   text        not null
);
comment on table purple_flea.generation is
  'The identity of the database that may stake money, as an operator last confirmed it. '
  'purple_flea.current_generation() compares it with the database''s own.';
comment on column purple_flea.generation.id is 'The generation''s name. Jobs carry it.';
comment on column purple_flea.generation.system_identifier is
  'The cluster''s identifier. It differs after a dump was restored into a new cluster.';
comment on column purple_flea.generation.database_oid is
  'The database''s oid. It differs in a copy beside the original.';
comment on column purple_flea.generation.timeline is
  'The timeline of the write-ahead log. It differs after a failover or a recovery to a point in '
  'time.';
comment on column purple_flea.generation.jobs_oid is
  'The oid of purple_flea.jobs. It differs after the table was restored in place.';
comment on column purple_flea.generation.stamped_xid is
  'The transaction that wrote this row. It is the row''s own xmin until a restore writes the row '
  'again.';
comment on column purple_flea.generation.stamped_because is
  'The reason for the stamp: installed, or the operator''s words.';

-- Existing jobs belong to the first generation. A constant default gives it to them without a
-- rewrite of the tables.
do $$
declare
  first_generation constant uuid := gen_random_uuid();
begin
  execute format(
    'alter table purple_flea.jobs add column generation uuid default %L',
    first_generation);
  execute format(
    'alter table purple_flea.jobs_archive add column generation uuid default %L',
    first_generation);
  insert into purple_flea.generation (
    id, system_identifier, database_oid, timeline, jobs_oid, stamped_xid, stamped_because
  )
  values (
    first_generation,
    (select c.system_identifier from pg_catalog.pg_control_system() c),
    (select d.oid from pg_catalog.pg_database d where d.datname = current_database()),
    left(pg_walfile_name(pg_current_wal_lsn()), 8),
    'purple_flea.jobs'::regclass,
    pg_current_xact_id()::xid,
    'installed'
  );
end;
$$;
alter table purple_flea.jobs
  alter column generation drop default,
  add column   key_name text,
  add column   account  text,
  add column   extended interval not null default '0';
alter table purple_flea.jobs_archive
  alter column generation drop default,
  add column   key_name text,
  add column   account  text,
  add column   extended interval not null default '0';
comment on column purple_flea.jobs.generation is
  'The generation in which it was made; null: the database waited for an operator''s confirmation '
  'then.';
comment on column purple_flea.jobs.key_name is
  'The secret whose key it was last claimed with; empty: the shared key. Null before the first '
  'claim.';
comment on column purple_flea.jobs.account is
  'Purple Flea''s name for the agent at the last claim; null: its own id.';
comment on column purple_flea.jobs.extended is
  'The time by which pauses have moved expires_at so far.';
comment on column purple_flea.jobs.changed_by is
  'The actor of the last transition: depositor, worker, sweeper, operator, or a restore.';

-- The state machine gains three arrows: a restore makes pending jobs unknown, and a claim skips a
-- deposit that is already traded or already archived.
alter table purple_flea.jobs
  drop constraint jobs_changed_by_check,
  drop constraint jobs_transition_check,
  add constraint jobs_changed_by_check check (
    changed_by in ('depositor', 'worker', 'sweeper', 'operator', 'restore')
  ) not valid,
  add constraint jobs_transition_check check (
    case state
      when 'pending'
        then previous_state is null
          or previous_state = 'claimed'
          or (previous_state = 'unknown' and changed_by = 'operator')
      when 'claimed'
        then previous_state is not distinct from 'pending'
      when 'executed'
        then previous_state is not null and previous_state in ('claimed', 'unknown')
          or (previous_state is not distinct from 'pending' and changed_by = 'worker')
      when 'skipped'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'pending' and changed_by = 'sweeper'
              and reason = 'already_traded')
      when 'rejected'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'unknown' and changed_by = 'operator')
      when 'unknown'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'pending' and changed_by = 'restore')
      when 'dead'
        then previous_state is not distinct from 'pending'
    end
  ) not valid;

alter table purple_flea.job_events
  drop constraint job_events_kind_check,
  add constraint job_events_kind_check check (
    kind in ('transition', 'late_answer', 'look_up', 'conflict', 'alarm', 'operated')
  ) not valid;
comment on column purple_flea.job_events.kind is
  'transition; or, without a change of state: late_answer, look_up, conflict (two bets may have '
  'been made), alarm (a result could not be recorded), operated (by an operator).';

-- The archives' columns mean the same as those of the hot tables.
do $$
declare
  described record;
begin
  for described in
    select
      hot.relname || '_archive' as archive,
      a.attname,
      col_description(hot.oid, a.attnum) as meaning
    from pg_catalog.pg_class hot
    join pg_catalog.pg_attribute a
      on a.attrelid = hot.oid
      and a.attnum > 0
      and not a.attisdropped
    where hot.relnamespace = 'purple_flea'::regnamespace
      and hot.relname in ('jobs', 'job_events')
  loop
    execute format(
      'comment on column purple_flea.%I.%I is %L',
      described.archive, described.attname, described.meaning);
  end loop;
end;
$$;

create table purple_flea.pauses (
  id       bigint      generated always as identity primary key,
  agent_id text        references public.agents on delete cascade,
  held     tstzrange   not null,
  by       text        not null,
  constraint pauses_by_check
    check (by in ('policy', 'function', 'restore'))
);
comment on table purple_flea.pauses is
  'The times in which bets were held back: a row for each pause, open at its end while it lasts.';
comment on column purple_flea.pauses.agent_id is
  'The agent whose bets were held back; null: all agents.';
comment on column purple_flea.pauses.by is
  'The cause: a policy''s paused, the function''s own setting, or a restore that waited for '
  'confirmation.';
create index pauses_agent_id_idx
  on purple_flea.pauses (agent_id);

-- Pauses that last already. Release 0.1.0 has kept jobs from growing old by them so far.
insert into purple_flea.pauses (agent_id, held, by)
select p.agent_id, tstzrange(statement_timestamp(), null), 'policy'
from purple_flea.trade_policies p
where p.paused;

create index trade_policies_paused_idx
  on purple_flea.trade_policies (agent_id)
  where paused;
create index trade_policies_limited_idx
  on purple_flea.trade_policies (agent_id)
  where limited;

create table purple_flea.abandoned_claims (
  token uuid        primary key,
  at    timestamptz not null default clock_timestamp()
);
comment on table purple_flea.abandoned_claims is
  'Tokens of claims that their callers gave up. A claim that arrives late finds its token here, '
  'and takes nothing.';
create index abandoned_claims_at_idx
  on purple_flea.abandoned_claims (at);

create table purple_flea.job_troubles (
  reference text        primary key references purple_flea.jobs on delete cascade,
  doing     text        not null,
  why       text        not null,
  times     integer     not null default 1,
  since     timestamptz not null default clock_timestamp(),
  retry_at  timestamptz not null
);
comment on table purple_flea.job_troubles is
  'Jobs whose state could not be changed, because a row that belongs to them is locked or a '
  'trigger refuses. Each waits alone; the others go on.';
comment on column purple_flea.job_troubles.doing is
  'The change that failed: end_lease, expire or give_back.';
comment on column purple_flea.job_troubles.why is 'Postgres'' error.';
comment on column purple_flea.job_troubles.retry_at is 'The time of the next try, later and later.';

-- Two marks instead of one: how far the last sweep has looked, and up to where no open transaction
-- can still add a row.
alter table purple_flea.ledger
  add column seen_until       bigint,
  add column next_until       bigint,
  add column next_xid         xid8,
  add column searched_at      timestamptz,
  add column answers_at_once  boolean not null default false,
  add column lane_cursor      text    not null default '';
comment on column purple_flea.ledger.checked_until is
  'Sweeps have seen every wallet_changes.id up to this one, and no open transaction can add one '
  'below it.';
comment on column purple_flea.ledger.seen_until is
  'The last wallet_changes.id that a sweep has looked at.';
comment on column purple_flea.ledger.next_until is
  'checked_until moves here once every transaction up to next_xid has ended.';
comment on column purple_flea.ledger.next_xid is
  'The newest transaction that was open when next_until was noted.';
comment on column purple_flea.ledger.searched_at is
  'The time at which a sweep last compared all recent deposits with the jobs.';
comment on column purple_flea.ledger.answers_at_once is
  'Whether the function answers notifications at once, as its claims say (after_reply).';
comment on column purple_flea.ledger.lane_cursor is
  'The agent after which the next claim begins to look, if there are more agents than one claim '
  'looks at.';
update purple_flea.ledger set seen_until = checked_until where only_row;
alter table purple_flea.ledger alter column seen_until set not null;

alter table purple_flea.generation       enable row level security;
alter table purple_flea.pauses           enable row level security;
alter table purple_flea.abandoned_claims enable row level security;
alter table purple_flea.job_troubles     enable row level security;

-- Functions of release 0.1.0 whose arguments have changed. scripts/migrate has dropped them, unless
-- an object of an operator's depends on one: then this stops the migration, because PostgREST could
-- not choose between two functions of one name.
drop function if exists public.claim_jobs(text[], integer, uuid, text, uuid, integer);
drop function if exists public.settle_jobs(jsonb);
drop function if exists public.claim_lookups(integer);
drop function if exists purple_flea.pick_jobs(text[], integer, jsonb);
drop function if exists purple_flea.answer(text, uuid, boolean, jsonb);
drop function if exists purple_flea.is_due(timestamptz);
drop function if exists purple_flea.make_missing_jobs(bigint);
drop function if exists purple_flea.apply(purple_flea.jobs, text, jsonb, text);
