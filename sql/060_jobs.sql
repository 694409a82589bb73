-- The ledger: one job for each thing to do once, a deposit's bet first of all, made in the transaction that asks for it. What happens to it is a machine of
-- seven states, which the constraint jobs_transition_check holds; ARCHITECTURE.md draws it.

-- Every wait of the ledger, in one place.
create or replace function purple_flea.timing(
  out lease       interval,  -- how long a claim holds: twice the longest exchange with Purple Flea, and some
  out lookup_wait interval,  -- from the end of a lease to the first look-up: the longest exchange (13 s) and a minute
  out lookup_hold interval,  -- how long a look-up keeps others from the same; if nobody reports, the next one may try
  out max_age     interval,  -- how long a deposit may wait before nobody expects a bet on it any more
  out backoff     interval,  -- the first wait after an attempt that executed nothing; it doubles each time
  out backoff_max interval   -- and no longer than this
)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select interval '30 seconds', interval '73 seconds', interval '1 minute', interval '24 hours', interval '1 second', interval '5 minutes'
$$;
comment on function purple_flea.timing() is 'Every wait of the ledger.';
revoke all on function purple_flea.timing() from public, anon, authenticated, service_role, purple_flea_worker;

-- What Purple Flea does at most once, however often it is asked: of these nothing is ever unknown, they are asked again.
-- A second registration makes a second account, which costs nothing; the first one's key would be lost anyway.
create or replace function purple_flea.is_repeatable(kind text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('registration', 'faucet', 'daily_claim', 'balance', 'escrow_release', 'escrow_cancel')
$$;
comment on function purple_flea.is_repeatable(text) is 'Whether asking for it twice does no harm.';
revoke all on function purple_flea.is_repeatable(text) from public, anon, authenticated, service_role, purple_flea_worker;

create table if not exists purple_flea.jobs (
  reference        text          primary key,
  bet_key          text          not null unique,
  kind             text          not null default 'deposit',
  wallet_change_id bigint        unique references public.wallet_changes on delete restrict,
  escrow_id        bigint        references public.escrow_requests on delete restrict,
  agent_id         text          not null references public.agents on delete restrict,
  state            text          not null default 'pending',
  previous_state   text,
  changed_by       text          not null default 'depositor',
  changed_at       timestamptz   not null default clock_timestamp(),
  reason           text,
  attempts         integer       not null default 0,
  created_at       timestamptz   not null default clock_timestamp(),
  due_at           timestamptz   not null default clock_timestamp(),
  expires_at       timestamptz   not null,
  token            uuid,
  claimed_at       timestamptz,
  lease_until      timestamptz,
  lookup_at        timestamptz,
  request          jsonb,
  policy           jsonb,
  stake            numeric(12,4),
  bet_day          date,
  limited          boolean       not null default false,
  holds_slot       boolean       not null default false,
  wager            numeric(12,4),
  payout           numeric(12,4),
  result           jsonb,
  constraint jobs_reference_check  check (reference ~ '^[A-Za-z0-9._:-]{1,64}$' and bet_key ~ '^[A-Za-z0-9._:-]{1,64}$'),
  -- What can be asked of Purple Flea, and what row asks for it.
  constraint jobs_kind_check       check (kind in ('deposit', 'trade', 'order', 'registration', 'faucet', 'daily_claim', 'balance', 'escrow', 'escrow_release', 'escrow_cancel')),
  constraint jobs_subject_check    check ((kind = 'deposit') = (wallet_change_id is not null) and (kind like 'escrow%') = (escrow_id is not null)),
  constraint jobs_state_check      check (state in ('pending', 'claimed', 'executed', 'skipped', 'rejected', 'unknown', 'dead')),
  constraint jobs_changed_by_check check (changed_by in ('depositor', 'worker', 'sweeper', 'operator')),
  -- The machine: which state may follow which, and by whom.
  constraint jobs_transition_check check (
    case state
      when 'pending'  then previous_state is null
                        or previous_state = 'claimed'
                        or (previous_state = 'unknown' and changed_by = 'operator')
      when 'claimed'  then previous_state is not distinct from 'pending'
      when 'executed' then previous_state is not null and previous_state in ('claimed', 'unknown')
                        or (previous_state is not distinct from 'pending' and changed_by = 'worker')
      when 'skipped'  then previous_state is not distinct from 'claimed'
      when 'rejected' then previous_state is not distinct from 'claimed'
                        or (previous_state is not distinct from 'unknown' and changed_by = 'operator')
      when 'unknown'  then previous_state is not distinct from 'claimed'
      when 'dead'     then previous_state is not distinct from 'pending'
    end
  ),
  -- And what each state is known by.
  constraint jobs_claimed_check  check (state <> 'claimed'  or (token is not null and claimed_at is not null and lease_until is not null
                                                                and request is not null)),
  constraint jobs_unknown_check  check (state <> 'unknown'  or (token is not null and claimed_at is not null and lookup_at is not null
                                                                and reason is not null)),
  constraint jobs_executed_check check (state <> 'executed' or result is not null),
  -- What stakes money counts on its day.
  constraint jobs_stake_check    check (kind not in ('deposit', 'trade', 'order') or (
                                          (state <> 'claimed' or policy is not null)
                                          and (state not in ('claimed', 'unknown', 'executed') or bet_day is not null)
                                          and (state <> 'executed' or (wager is not null and wager > 0)))),
  constraint jobs_settled_check  check (state not in ('skipped', 'rejected', 'dead') or reason is not null),
  constraint jobs_attempts_check check (attempts >= 0)
);

comment on table  purple_flea.jobs                  is 'One row for each thing to do once: a deposit''s bet, an agent''s registration, a step of an escrow.';
comment on column purple_flea.jobs.reference        is 'What people, logs and notifications call it: wallet-change-<id> for a deposit.';
comment on column purple_flea.jobs.kind             is 'What is to be done: deposit (its bet), trade, order, registration, faucet, daily_claim, balance, escrow (its creation), escrow_release, escrow_cancel.';
comment on column purple_flea.jobs.wallet_change_id is 'The deposit that it is about.';
comment on column purple_flea.jobs.escrow_id        is 'The row of escrow_requests that it is about.';
comment on column purple_flea.jobs.bet_key          is 'What Purple Flea is given with the bet, the same on every attempt; random, because ids repeat after a restore and a seed must not be guessed.';
comment on column purple_flea.jobs.state            is 'pending, claimed, executed, skipped, rejected, unknown or dead.';
comment on column purple_flea.jobs.previous_state   is 'The state before; set by a trigger.';
comment on column purple_flea.jobs.changed_by       is 'Who brought it into its state: depositor, worker, sweeper or operator.';
comment on column purple_flea.jobs.reason           is 'Why it is in its state, as a code.';
comment on column purple_flea.jobs.attempts         is 'How many times it was claimed.';
comment on column purple_flea.jobs.due_at           is 'Not to be claimed before.';
comment on column purple_flea.jobs.expires_at       is 'Dead if it is still pending then.';
comment on column purple_flea.jobs.token            is 'The last claim''s.';
comment on column purple_flea.jobs.lease_until      is 'Until when the claimant alone may act; after it nobody knows what it did.';
comment on column purple_flea.jobs.lookup_at        is 'When an unknown one is to be looked up at Purple Flea.';
comment on column purple_flea.jobs.request          is 'What is asked for; of a deposit, its row as it was claimed.';
comment on column purple_flea.jobs.policy           is 'The policy as it was claimed.';
comment on column purple_flea.jobs.stake            is 'The most that the bet can cost, in US dollars.';
comment on column purple_flea.jobs.bet_day          is 'The UTC day of the claim, whose limits the bet counts against.';
comment on column purple_flea.jobs.limited          is 'Whether the policy that it was claimed under has a daily limit.';
comment on column purple_flea.jobs.holds_slot       is 'Whether its call counts against one of Purple Flea''s limits.';
comment on column purple_flea.jobs.result           is 'The last outcome that was reported, as it was reported.';

-- What waits, in the order it is due; what is under way; what is to be looked up. Each stays as small as its work.
create index if not exists jobs_due_idx       on purple_flea.jobs (due_at)             where state = 'pending';
create index if not exists jobs_expires_idx   on purple_flea.jobs (expires_at)         where state = 'pending';
create index if not exists jobs_lease_idx     on purple_flea.jobs (lease_until)        where state = 'claimed';
create index if not exists jobs_token_idx     on purple_flea.jobs (token)              where state = 'claimed';
create index if not exists jobs_agent_due_idx on purple_flea.jobs (agent_id, due_at)   where state = 'pending';
create index if not exists jobs_lookup_idx    on purple_flea.jobs (lookup_at)          where state = 'unknown';
create index if not exists jobs_agent_id_idx  on purple_flea.jobs (agent_id, bet_day);
-- The last word on "one at a time" for agents with a daily limit.
-- Each of these once, whatever asks for it how often.
create unique index if not exists jobs_escrow_idx       on purple_flea.jobs (escrow_id, kind) where escrow_id is not null and state not in ('skipped', 'rejected', 'dead');
create index if not exists jobs_escrow_id_idx           on purple_flea.jobs (escrow_id) where escrow_id is not null;
create unique index if not exists jobs_registration_idx on purple_flea.jobs (agent_id) where kind = 'registration' and state in ('pending', 'claimed');
create unique index if not exists jobs_faucet_idx       on purple_flea.jobs (agent_id) where kind = 'faucet' and state not in ('skipped', 'rejected', 'dead');
create unique index if not exists jobs_balance_idx      on purple_flea.jobs (agent_id) where kind = 'balance' and state in ('pending', 'claimed');
create unique index if not exists jobs_daily_claim_idx   on purple_flea.jobs (agent_id) where kind = 'daily_claim' and state in ('pending', 'claimed');
create unique index if not exists jobs_one_at_a_time_idx on purple_flea.jobs (agent_id) where state = 'claimed' and limited;

create table if not exists purple_flea.job_events (
  id         bigint      generated always as identity primary key,
  reference  text        not null references purple_flea.jobs on delete restrict,
  at         timestamptz not null default clock_timestamp(),
  kind       text        not null default 'transition',
  from_state text,
  to_state   text        not null,
  why        text,
  attempt    integer     not null,
  changed_by text        not null,
  token      uuid,
  detail     jsonb,
  constraint job_events_kind_check check (kind in ('transition', 'late_answer', 'look_up', 'conflict', 'alarm'))
);
comment on table  purple_flea.job_events      is 'What happened to each job: a row for every change of state, and for every report that changed none.';
comment on column purple_flea.job_events.kind is 'transition; or, without a change of state: late_answer, look_up, conflict (two bets may have been made), alarm (a result could not be recorded).';
create index if not exists job_events_claim_idx     on purple_flea.job_events (token) where to_state = 'claimed' and kind = 'transition';
create index if not exists job_events_reference_idx on purple_flea.job_events (reference, id);
create index if not exists job_events_alarm_idx     on purple_flea.job_events (at) where kind in ('conflict', 'alarm');

-- Where the ledger starts: deposits up to this one are older than it and get no jobs.
create table if not exists purple_flea.ledger (
  only_row      boolean     primary key default true check (only_row),
  starts_after  bigint      not null,
  checked_until bigint      not null,
  swept_at      timestamptz
);
comment on table  purple_flea.ledger               is 'The ledger itself, in one row.';
comment on column purple_flea.ledger.starts_after  is 'The last wallet_changes.id from before the ledger.';
comment on column purple_flea.ledger.checked_until is 'Up to which wallet_changes.id missing jobs have been looked for.';
comment on column purple_flea.ledger.swept_at      is 'When the sweeper was here last.';

alter table purple_flea.jobs       enable row level security;
alter table purple_flea.job_events enable row level security;
alter table purple_flea.ledger     enable row level security;
revoke all on purple_flea.jobs, purple_flea.job_events, purple_flea.ledger
  from public, anon, authenticated, service_role, purple_flea_worker;

-- Keeps what must stay, and notes the state before, which the machine's constraint asks for.
create or replace function purple_flea.guard_job() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'DELETE' then
    -- What is archived as it is here is not forgotten.
    if exists (select from purple_flea.jobs_archive a where a.reference = old.reference and a::text = old::text) then
      return old;
    end if;
    raise exception 'a job cannot be deleted: its deposit would be bet on again';
  end if;
  if (new.reference, new.bet_key, new.kind, new.wallet_change_id, new.escrow_id, new.agent_id) is distinct from
     (old.reference, old.bet_key, old.kind, old.wallet_change_id, old.escrow_id, old.agent_id) then
    raise exception 'a job''s names cannot change';
  end if;
  if old.state in ('executed', 'skipped', 'rejected', 'dead') and new is distinct from old then
    raise exception 'job % is % for good', old.reference, old.state using errcode = 'check_violation';
  end if;
  new.previous_state := case when new.state <> old.state then old.state else old.previous_state end;
  if new.state <> old.state then
    new.changed_at := clock_timestamp();
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_job() is 'Keeps a job''s names, its final states and its history as they are.';
revoke all on function purple_flea.guard_job() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_guard on purple_flea.jobs;
create trigger jobs_guard
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
revoke all on function purple_flea.refuse_truncate() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_refuse_truncate on purple_flea.jobs;
create trigger jobs_refuse_truncate
  before truncate on purple_flea.jobs
  for each statement execute function purple_flea.refuse_truncate();

create or replace function purple_flea.record_made() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, to_state, why, attempt, changed_by)
  select reference, state, reason, attempts, changed_by from made;
  return null;
end;
$$;
comment on function purple_flea.record_made() is 'Writes the making of jobs into job_events.';
revoke all on function purple_flea.record_made() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_record_made on purple_flea.jobs;
create trigger jobs_record_made
  after insert on purple_flea.jobs
  referencing new table as made
  for each statement execute function purple_flea.record_made();

create or replace function purple_flea.record_transition() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, from_state, to_state, why, attempt, changed_by, token, detail)
  values (new.reference, old.state, new.state, new.reason, new.attempts, new.changed_by, new.token,
          case when new.state not in ('claimed', 'dead') then new.result end);
  if old.state = 'unknown' then
    -- What waited for its place in a daily limit waits no longer.
    update purple_flea.jobs j
    set due_at = clock_timestamp()
    where j.agent_id = new.agent_id and j.state = 'pending' and j.reason = 'daily_limit_open';
  end if;
  return null;
end;
$$;
comment on function purple_flea.record_transition() is 'Writes a change of state into job_events.';
revoke all on function purple_flea.record_transition() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_record_transition on purple_flea.jobs;
create trigger jobs_record_transition
  after update on purple_flea.jobs
  for each row when (old.state <> new.state) execute function purple_flea.record_transition();

-- A deposit and its job are made together or not at all: this is not caught. It fails only if the database does.
create or replace function purple_flea.make_jobs() returns trigger
  language plpgsql
  volatile
  -- The depositor may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, expires_at)
  select 'wallet-change-' || id, purple_flea.bet_key('wallet-change-' || id), id, agent_id,
         clock_timestamp() + (purple_flea.timing()).max_age
  from inserted
  where change_type = 'deposit'
  order by id;
  return null;
end;
$$;
comment on function purple_flea.make_jobs() is 'Makes the jobs of the deposits that a statement inserted.';
revoke all on function purple_flea.make_jobs() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.bet_key(reference text) returns text
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- The parts of a version 4 UUID that are random.
  select reference || '-' || left(id, 4) || right(id, 12) from (select gen_random_uuid()::text as id) as made
$$;
comment on function purple_flea.bet_key(text) is 'A new bet key: the reference and 16 random hexadecimal digits.';
revoke all on function purple_flea.bet_key(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Whose deposit it is, and that it is one, was settled when its job was made.
create or replace function purple_flea.keep_deposit() returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (new.id, new.agent_id, new.change_type) is distinct from (old.id, old.agent_id, old.change_type)
    and exists (select from purple_flea.all_jobs j where j.wallet_change_id = old.id) then
    raise exception 'wallet_changes % has a job: its id, agent and type cannot change', old.id using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_deposit() is 'Keeps a deposit with a job as whose and what it was.';
revoke all on function purple_flea.keep_deposit() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists purple_flea_keep on public.wallet_changes;
create trigger purple_flea_keep
  before update on public.wallet_changes
  for each row execute function purple_flea.keep_deposit();

drop trigger if exists purple_flea_jobs on public.wallet_changes;
create trigger purple_flea_jobs
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.make_jobs();

-- After the trigger: its making waits for whoever writes, so that no deposit falls between the two.
insert into purple_flea.ledger (starts_after, checked_until)
select coalesce(max(id), 0), coalesce(max(id), 0) from public.wallet_changes
on conflict do nothing;
