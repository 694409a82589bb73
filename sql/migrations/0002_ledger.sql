-- The ledger: policies, jobs with their events and their archive, Purple Flea's rate limits, and
-- the watch.

-- Supabase's Vault holds secrets. A server without Vault has this table, and only its owner may
-- read it. docs/secrets.md lists the names.
do $$
begin
  if to_regclass('vault.decrypted_secrets') is null then
    create table if not exists purple_flea.secrets (
      name   text primary key,
      secret text not null
    );
    comment on table purple_flea.secrets is
  'Secrets by name, on a server without Vault. For its owner only.';
  end if;
end;
$$;

-- Tables of an earlier release are brought to the shape of release 0.1.0, as in 0001.
create schema purple_flea_wanted;

-- The rules for deposits. The one row without an agent is the shared policy. A row of an agent's
-- own replaces it, except that a pause of the shared policy holds back this agent's bets, too.

create table purple_flea_wanted.trade_policies (
  id                bigint        generated always as identity primary key,
  agent_id          text          unique nulls not distinct
                                  references public.agents on delete cascade,
  game              text          not null default 'crash',
  cashout_at        numeric(12,4) not null default 1.5,
  side              text          not null default 'heads',
  min_balance       numeric(12,4) not null default 5,
  min_change        numeric(12,4) not null default 0,
  wager_fraction    numeric(7,6)  not null default 0.10,
  max_wager         numeric(12,4),
  daily_wager_limit numeric(12,4),
  daily_loss_limit  numeric(12,4),
  paused            boolean       not null default false,
  market            text,
  direction         text          not null default 'long',
  size              numeric(12,4),
  check_balance     boolean       not null default false,
  balance_every     interval,
  claim_faucet      boolean       not null default true,
  claim_daily       boolean       not null default false,
  limited           boolean       not null generated always as (
    daily_wager_limit is not null or daily_loss_limit is not null
  ) stored,
  constraint trade_policies_game_check
    check (game in ('crash', 'coin-flip') or (game = 'trade' and market is not null)),
  constraint trade_policies_cashout_at_check
    check (cashout_at between 1.01 and 100 and cashout_at = trunc(cashout_at, 2)),
  constraint trade_policies_side_check
    check (side in ('heads', 'tails')),
  constraint trade_policies_min_balance_check
    check (min_balance >= 0 and min_balance <> 'NaN'),
  constraint trade_policies_min_change_check
    check (min_change >= 0 and min_change <> 'NaN'),
  constraint trade_policies_wager_fraction_check
    check (wager_fraction > 0 and wager_fraction <= 1),
  constraint trade_policies_max_wager_check
    check (max_wager >= 0.01 and max_wager <> 'NaN'),
  constraint trade_policies_market_check
    check (market ~ '^[A-Za-z0-9._:/-]{1,20}$'),
  constraint trade_policies_direction_check
    check (direction in ('long', 'short')),
  constraint trade_policies_size_check
    check (size >= 0.01 and size <> 'NaN'),
  constraint trade_policies_balance_every_check
    check (balance_every >= interval '1 minute'),
  constraint trade_policies_daily_wager_limit_check
    check (daily_wager_limit >= 0 and daily_wager_limit <> 'NaN'),
  constraint trade_policies_daily_loss_limit_check
    check (daily_loss_limit >= 0 and daily_loss_limit <> 'NaN')
);
select pg_temp.purple_flea_adopt('trade_policies', 'purple_flea');

comment on table purple_flea.trade_policies is
  'The rules for bets: the shared policy (agent_id null), and a row for each agent with other '
  'rules.';
comment on column purple_flea.trade_policies.agent_id is
  'The agent with these rules; null: the shared policy.';
comment on column purple_flea.trade_policies.game is
  'The game for deposits: crash, coin-flip or trade.';
comment on column purple_flea.trade_policies.cashout_at is
  'The multiplier at which a crash bet cashes out: 1.01 to 100, at most 2 decimals.';
comment on column purple_flea.trade_policies.side is 'heads or tails, for a coin-flip.';
comment on column purple_flea.trade_policies.min_balance is
  'The smallest balance, in US dollars, that leads to a bet.';
comment on column purple_flea.trade_policies.min_change is
  'The smallest deposit, in US dollars, that leads to a bet.';
comment on column purple_flea.trade_policies.wager_fraction is
  'The part of the balance that is bet: above 0, at most 1.';
comment on column purple_flea.trade_policies.max_wager is
  'The largest bet in US dollars; null: no cap.';
comment on column purple_flea.trade_policies.daily_wager_limit is
  'The most, in US dollars, that one agent may stake in a UTC day; null: no limit.';
comment on column purple_flea.trade_policies.daily_loss_limit is
  'The most, in US dollars, that one agent may lose in a UTC day, wins set off; null: no limit.';
comment on column purple_flea.trade_policies.paused is
  'Holds back bets: deposits wait, and do not grow old meanwhile.';
comment on column purple_flea.trade_policies.market is 'The market of a trade: BTC, ETH-USD, TSLA.';
comment on column purple_flea.trade_policies.direction is 'long or short, for a trade.';
comment on column purple_flea.trade_policies.size is
  'The size of a trade in US dollars; null: as much as a wager would be.';
comment on column purple_flea.trade_policies.check_balance is
  'Whether the worker asks Purple Flea for the balance before a bet, so that it sends none that '
  'Purple Flea would refuse.';
comment on column purple_flea.trade_policies.balance_every is
  'The time between two looks at the agent''s balance by the sweeper; null: it never looks.';
comment on column purple_flea.trade_policies.claim_faucet is
  'Whether a new agent claims the faucet. The shared policy decides, because a new agent has no '
  'policy of its own.';
comment on column purple_flea.trade_policies.claim_daily is
  'Whether an agent makes the faucet''s claim of the day, which the gateway has and the live '
  'dialect has not.';
comment on column purple_flea.trade_policies.limited is
  'Whether there is a daily limit. Then the agent''s bets are made one after the other, so that '
  'each counts the last one''s outcome.';
alter table purple_flea.trade_policies enable row level security;

insert into purple_flea.trade_policies (agent_id) values (null) on conflict (agent_id) do nothing;

-- sql/functions/038_job_kinds.sql has the rows.
create table purple_flea.job_kinds (
  kind            text     primary key,
  retryable       boolean  not null,
  stakes          boolean  not null,
  archived        boolean  not null,
  named_by_caller boolean  not null,
  earns_referral  boolean  not null,
  max_age         interval not null
);
comment on table purple_flea.job_kinds is
  'The kinds of jobs, and the rules that depend on the kind.';
comment on column purple_flea.job_kinds.retryable is
  'Purple Flea executes it at most once, however often it is asked. Such a job never becomes '
  'unknown: without an answer the worker retries it.';
comment on column purple_flea.job_kinds.stakes is
  'It stakes money that counts in the daily limits, and makes a row of trade_results.';
comment on column purple_flea.job_kinds.archived is
  'Final jobs are archived. Kinds that are few and happen once stay in jobs, whose unique indexes '
  'have to see all of them.';
comment on column purple_flea.job_kinds.named_by_caller is
  'A caller''s reference becomes the job''s own.';
comment on column purple_flea.job_kinds.earns_referral is
  'The claim carries the referral code of the agent''s orchestrator.';
comment on column purple_flea.job_kinds.max_age is
  'The time that a job may wait before it expires.';
alter table purple_flea.job_kinds enable row level security;

create table purple_flea_wanted.jobs (
  reference        text          primary key,
  idempotency_key  text          not null unique,
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
  constraint jobs_reference_check check (
    reference ~ '^[A-Za-z0-9._:-]{1,64}$'
    and idempotency_key ~ '^[A-Za-z0-9._:-]{1,64}$'
  ),
  -- sql/functions/038_job_kinds.sql adds jobs_kind_check and jobs_stake_check. The row that the job
  -- is about.
  constraint jobs_subject_check check (
    (kind = 'deposit') = (wallet_change_id is not null)
    and (kind like 'escrow%') = (escrow_id is not null)
  ),
  constraint jobs_state_check check (
    state in ('pending', 'claimed', 'executed', 'skipped', 'rejected', 'unknown', 'dead')
  ),
  constraint jobs_changed_by_check
    check (changed_by in ('depositor', 'worker', 'sweeper', 'operator')),
  -- The state machine: which state may follow which, and whose transition it may be.
  constraint jobs_transition_check check (
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
      when 'rejected'
        then previous_state is not distinct from 'claimed'
          or (previous_state is not distinct from 'unknown' and changed_by = 'operator')
      when 'unknown'
        then previous_state is not distinct from 'claimed'
      when 'dead'
        then previous_state is not distinct from 'pending'
    end
  ),
  -- The columns that each state needs.
  constraint jobs_claimed_check check (
    state <> 'claimed'
    or (token is not null and claimed_at is not null and lease_until is not null
        and request is not null)
  ),
  constraint jobs_unknown_check check (
    state <> 'unknown'
    or (token is not null and claimed_at is not null and lookup_at is not null
        and reason is not null)
  ),
  constraint jobs_executed_check
    check (state <> 'executed' or result is not null),
  constraint jobs_settled_check
    check (state not in ('skipped', 'rejected', 'dead') or reason is not null),
  constraint jobs_attempts_check
    check (attempts >= 0)
);

-- Pending jobs in the order in which they are due; jobs under way; jobs to be looked up. Each index
-- stays as small as its work.
create index jobs_due_idx
  on purple_flea_wanted.jobs (due_at)
  where state = 'pending';
create index jobs_expires_idx
  on purple_flea_wanted.jobs (expires_at)
  where state = 'pending';
create index jobs_lease_idx
  on purple_flea_wanted.jobs (lease_until)
  where state = 'claimed';
create index jobs_token_idx
  on purple_flea_wanted.jobs (token)
  where state = 'claimed';
create index jobs_agent_due_idx
  on purple_flea_wanted.jobs (agent_id, due_at)
  where state = 'pending';
create index jobs_lookup_idx
  on purple_flea_wanted.jobs (lookup_at)
  where state = 'unknown';
create index jobs_agent_id_idx
  on purple_flea_wanted.jobs (agent_id, bet_day);
create index jobs_escrow_id_idx
  on purple_flea_wanted.jobs (escrow_id)
  where escrow_id is not null;

-- Each of these jobs exists at most once, however often it is asked for. The predicates are those
-- of purple_flea.ended_without_effect() and purple_flea.is_under_way().
create unique index jobs_escrow_idx
  on purple_flea_wanted.jobs (escrow_id, kind)
  where escrow_id is not null and state not in ('skipped', 'rejected', 'dead');
create unique index jobs_registration_idx
  on purple_flea_wanted.jobs (agent_id)
  where kind = 'registration' and state in ('pending', 'claimed');
create unique index jobs_faucet_idx
  on purple_flea_wanted.jobs (agent_id)
  where kind = 'faucet' and state not in ('skipped', 'rejected', 'dead');
create unique index jobs_balance_idx
  on purple_flea_wanted.jobs (agent_id)
  where kind = 'balance' and state in ('pending', 'claimed');
create unique index jobs_daily_claim_idx
  on purple_flea_wanted.jobs (agent_id)
  where kind = 'daily_claim' and state in ('pending', 'claimed');

-- The database's own guard of "one at a time" for agents with a daily limit.
create unique index jobs_one_at_a_time_idx
  on purple_flea_wanted.jobs (agent_id)
  where state = 'claimed' and limited;

-- The oldest jobs that may be archived. The predicate is that of purple_flea.is_final() and
-- purple_flea.is_archivable(), so that the walk passes no job that never goes.
create index jobs_settled_idx
  on purple_flea_wanted.jobs (changed_at)
  where state in ('executed', 'skipped', 'rejected', 'dead')
    and kind in ('deposit', 'trade', 'order', 'balance', 'daily_claim');

-- Columns had other names in earlier releases. A view that an operator's own view reads is still
-- there.
do $$
declare
  renamed record;
begin
  for renamed in
    select c.oid::regclass as relation, n.was, n.name
    from (values
      ('jobs',         'wallet_change', 'request'),
      ('jobs',         'bet_key',       'idempotency_key'),
      ('jobs_archive', 'bet_key',       'idempotency_key'),
      ('all_jobs',     'bet_key',       'idempotency_key')
    ) as n (relation, was, name)
    join pg_catalog.pg_class c
      on c.relname = n.relation
      and c.relnamespace = 'purple_flea'::regnamespace
    join pg_catalog.pg_attribute a
      on a.attrelid = c.oid
      and a.attname = n.was
      and not a.attisdropped
  loop
    -- It renames a view's column as well.
    execute format(
      'alter table %s rename column %I to %I',
      renamed.relation, renamed.was, renamed.name);
  end loop;
end;
$$;
select pg_temp.purple_flea_adopt('jobs', 'purple_flea');

comment on table purple_flea.jobs is
  'One row for each operation that is executed once: a deposit''s bet, an agent''s registration, '
  'a step of an escrow.';
comment on column purple_flea.jobs.reference is
  'The name for people, logs and notifications: wallet-change-<id> for a deposit.';
comment on column purple_flea.jobs.kind is
  'The operation, a kind of job_kinds: deposit is the deposit''s bet, escrow the creation of an '
  'escrow.';
comment on column purple_flea.jobs.wallet_change_id is 'The deposit that the job is about.';
comment on column purple_flea.jobs.escrow_id is 'The row of escrow_requests that the job is about.';
comment on column purple_flea.jobs.idempotency_key is
  'The name that Purple Flea gets with the request, the same on every attempt. It is random, '
  'because ids repeat after a restore, and a seed must not be guessed.';
comment on column purple_flea.jobs.state is
  'pending, claimed, executed, skipped, rejected, unknown, or dead (it expired before it was '
  'claimed).';
comment on column purple_flea.jobs.previous_state is 'The state before. A trigger sets it.';
comment on column purple_flea.jobs.reason is 'The reason for its state, as a code.';
comment on column purple_flea.jobs.attempts is 'The number of its claims.';
comment on column purple_flea.jobs.due_at is 'The time before which no worker claims it.';
comment on column purple_flea.jobs.expires_at is 'The time from which a pending job is dead.';
comment on column purple_flea.jobs.token is 'The last claim''s token.';
comment on column purple_flea.jobs.lease_until is
  'Until then the claimant alone may act. After it the ledger does not know what the claimant '
  'did.';
comment on column purple_flea.jobs.lookup_at is
  'The time from which an unknown job is to be looked up at Purple Flea.';
comment on column purple_flea.jobs.request is
  'The details of the operation; of a deposit, its row as it was claimed.';
comment on column purple_flea.jobs.policy is 'The policy as it was claimed.';
comment on column purple_flea.jobs.stake is 'The most that the bet can cost, in US dollars.';
comment on column purple_flea.jobs.bet_day is
  'The UTC day of the claim, whose limits the bet counts in.';
comment on column purple_flea.jobs.limited is
  'Whether the policy that it was claimed under has a daily limit.';
comment on column purple_flea.jobs.holds_slot is
  'Whether its call counts against one of Purple Flea''s limits.';
comment on column purple_flea.jobs.result is 'The last outcome, as the function reported it.';

create table purple_flea_wanted.job_events (
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
  constraint job_events_kind_check
    check (kind in ('transition', 'late_answer', 'look_up', 'conflict', 'alarm'))
);
create index job_events_claim_idx
  on purple_flea_wanted.job_events (token)
  where to_state = 'claimed' and kind = 'transition';
create index job_events_reference_idx
  on purple_flea_wanted.job_events (reference, id);
create index job_events_alarm_idx
  on purple_flea_wanted.job_events (at)
  where kind in ('conflict', 'alarm');
select pg_temp.purple_flea_adopt('job_events', 'purple_flea');

comment on table purple_flea.job_events is
  'The history of each job: a row for every change of state, and for every report that changed '
  'none.';

create table if not exists purple_flea.ledger (
  only_row      boolean     primary key default true check (only_row),
  starts_after  bigint      not null,
  checked_until bigint      not null,
  swept_at      timestamptz
);
comment on table purple_flea.ledger is 'The ledger itself, in one row.';
comment on column purple_flea.ledger.starts_after is
  'The last wallet_changes.id from before the ledger. Deposits up to it get no jobs.';
comment on column purple_flea.ledger.swept_at is 'The time of the last sweep.';

alter table purple_flea.jobs       enable row level security;
alter table purple_flea.job_events enable row level security;
alter table purple_flea.ledger     enable row level security;

-- The migration holds the lock of wallet_changes until the triggers are made, so no deposit falls
-- between the two.
insert into purple_flea.ledger (starts_after, checked_until)
select coalesce(max(id), 0), coalesce(max(id), 0)
from public.wallet_changes
on conflict do nothing;

-- Retention: final jobs move from the hot tables to an archive, so that claims, settlements and
-- sweeps cost the same after tens of millions of deposits. Whether a job exists does not depend on
-- its table: an archived job is as final as before, and its deposit is not bet on again.

alter table purple_flea.ledger
  add column if not exists archive_after interval not null default '7 days';
comment on column purple_flea.ledger.archive_after is
  'The time that a final job stays in jobs: at least 2 days, for late reports.';

do $$
begin
  if not exists (
    select
    from pg_catalog.pg_constraint c
    where c.conrelid = 'purple_flea.ledger'::regclass
      and c.conname = 'ledger_archive_after_check'
  ) then
    -- Daily limits look back a UTC day, look-ups a day, slots at most a day from a job's end.
    alter table purple_flea.ledger
      add constraint ledger_archive_after_check
      check (archive_after between interval '2 days' and interval '100 years');
  end if;
end;
$$;

-- Archived jobs have passed the checks of jobs. A copy of those checks would only grow old.
create table if not exists purple_flea.jobs_archive (
  like purple_flea.jobs including comments,
  primary key (reference),
  -- The references keep their deposits and agents from deletion. The index of this one also finds
  -- missing jobs.
  unique (wallet_change_id),
  foreign key (wallet_change_id) references public.wallet_changes on delete restrict,
  foreign key (agent_id) references public.agents on delete restrict,
  constraint jobs_archive_state_check
    check (state in ('executed', 'skipped', 'rejected', 'dead'))
);
comment on table purple_flea.jobs_archive is 'Final jobs that have left jobs, as they were.';
create index if not exists jobs_archive_agent_id_idx
  on purple_flea.jobs_archive (agent_id, kind);

create table if not exists purple_flea.job_events_archive (
  like purple_flea.job_events including comments,
  primary key (reference, id),
  foreign key (reference) references purple_flea.jobs_archive on delete restrict
);
comment on table purple_flea.job_events_archive is
  'The history of archived jobs, and the reports on them since.';
create index if not exists job_events_archive_alarm_idx
  on purple_flea.job_events_archive (at)
  where kind in ('conflict', 'alarm');

-- An archive from before lacks the columns that the hot tables have got since. Rows are archived
-- whole, by position.
do $$
declare
  late record;
begin
  for late in
    select hot.relname, a.attname, format_type(a.atttypid, a.atttypmod) as type_name
    from pg_catalog.pg_class hot
    join pg_catalog.pg_attribute a
      on a.attrelid = hot.oid
      and a.attnum > 0
      and not a.attisdropped
    where hot.relnamespace = 'purple_flea'::regnamespace
      and hot.relname in ('jobs', 'job_events')
      and not exists (
        select
        from pg_catalog.pg_attribute there
        where there.attrelid = format('purple_flea.%I', hot.relname || '_archive')::regclass
          and there.attname = a.attname
          and not there.attisdropped
      )
    order by hot.relname, a.attnum
  loop
    execute format(
      'alter table purple_flea.%I add column %I %s',
      late.relname || '_archive', late.attname, late.type_name);
  end loop;
end;
$$;

alter table purple_flea.jobs_archive       enable row level security;
alter table purple_flea.job_events_archive enable row level security;

-- Purple Flea's rate limits, kept by the ledger. A claim holds a call's slot until as long after
-- the call's end as the limit says. So no window of Purple Flea's, wherever it begins, can hold
-- more calls.

create table if not exists purple_flea.rate_limits (
  api    text     not null,
  calls  text[]   not null,
  per    text     not null,
  most   integer  not null,
  within interval not null,
  primary key (api, calls, per),
  constraint rate_limits_api_check
    check (api in ('gateway', 'live')),
  constraint rate_limits_per_check
    check (per in ('deployment', 'account')),
  constraint rate_limits_most_check
    check (most > 0),
  constraint rate_limits_within_check
    check (within between interval '1 second' and interval '1 day')
);
comment on table purple_flea.rate_limits is
  'The number of calls that Purple Flea takes in a time. The gateway documents no limit that its '
  'servers keep.';
comment on column purple_flea.rate_limits.calls is
  'The calls that count together: crash, coin-flip, trade, or a kind of job.';
comment on column purple_flea.rate_limits.per is
  'deployment: all calls of this ledger together, because the released servers count by address; '
  'account: the calls with one key.';

-- The released servers count by address and path, and by account for all games together.
insert into purple_flea.rate_limits (api, calls, per, most, within)
values
  ('live', '{crash}',           'deployment', 60, '60 seconds'),
  ('live', '{coin-flip}',       'deployment', 60, '60 seconds'),
  ('live', '{crash,coin-flip}', 'account',    60, '60 seconds'),
  ('live', '{registration}',    'deployment', 10, '60 seconds'),
  ('live', '{faucet}',          'deployment',  5, '60 seconds'),
  ('live', '{trade,order}',     'deployment', 30, '60 seconds'),
  ('live', '{escrow}',          'deployment', 20, '60 seconds')
on conflict do nothing;

create table if not exists purple_flea.rate_slots (
  reference  text        not null references purple_flea.jobs on delete restrict,
  token      uuid        not null,
  call       text        not null,
  account    text        not null,
  held_until timestamptz not null,
  within     interval    not null
);
-- The first slots did not name their claim: it was the job's last one.
do $$
begin
  if not exists (
    select
    from pg_catalog.pg_attribute a
    where a.attrelid = 'purple_flea.rate_slots'::regclass
      and a.attname = 'token'
  ) then
    alter table purple_flea.rate_slots add column token uuid;
    update purple_flea.rate_slots s
    set token = coalesce(j.token, gen_random_uuid())
    from purple_flea.jobs j
    where j.reference = s.reference;
    alter table purple_flea.rate_slots alter column token set not null;
  end if;
end;
$$;
comment on table purple_flea.rate_slots is 'A slot for each call that counts against a limit.';
comment on column purple_flea.rate_slots.token is 'The token of the claim that makes the call.';
comment on column purple_flea.rate_slots.account is
  'The name of the key for the call; empty: the shared key.';
comment on column purple_flea.rate_slots.held_until is
  'The time from which another call may take the slot.';
comment on column purple_flea.rate_slots.within is
  'The time for which the call counts after its end.';
create index if not exists rate_slots_call_idx
  on purple_flea.rate_slots (call, held_until);
create index if not exists rate_slots_reference_idx
  on purple_flea.rate_slots (reference);
create index if not exists rate_slots_held_until_idx
  on purple_flea.rate_slots (held_until);

create table if not exists purple_flea.rate_stops (
  call    text        not null,
  account text        not null,
  until   timestamptz not null,
  primary key (call, account)
);
comment on table purple_flea.rate_stops is
  'Calls that no worker makes before a time, because Purple Flea refused them for their rate.';
comment on column purple_flea.rate_stops.account is
  'The account whose calls stop; *: all accounts.';

alter table purple_flea.rate_limits enable row level security;
alter table purple_flea.rate_slots  enable row level security;
alter table purple_flea.rate_stops  enable row level security;

-- The watch (sql/functions/095_watch.sql). pg_net sleeps for a second after each batch, so in a
-- steady stream a notification would come half a second late; and pg_net sends at most 200 a
-- second.

create table if not exists purple_flea.watch (
  only_row boolean     primary key default true check (only_row),
  watcher  uuid,
  until    timestamptz not null default '-infinity'
);
comment on table purple_flea.watch is 'The worker that waits for the next job, in one row.';
comment on column purple_flea.watch.watcher is 'The worker''s name for itself.';
comment on column purple_flea.watch.until is
  'The time until which transactions may rely on it. The worker renews it.';

insert into purple_flea.watch default values on conflict do nothing;

alter table purple_flea.watch enable row level security;

drop schema purple_flea_wanted;
