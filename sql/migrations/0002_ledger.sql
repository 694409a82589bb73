-- Where secrets and settings lie: in Supabase's Vault or, where there is no Vault, in a table that only its owner
-- may read. Names in use:
--
--   purple_flea_function_url    where the trigger posts to: https://…/execute-trade
--   purple_flea_webhook_secret  what it signs with: whsec_<base64>, one of the function's webhook_secrets
--   <agents.api_key>            an agent's own Purple Flea key
--   <agents.api_key>.trading    its key for trading, where that is another

do $$
begin
  if to_regclass('vault.decrypted_secrets') is null then
    create table if not exists purple_flea.secrets (
      name   text primary key,
      secret text not null
    );
    comment on table purple_flea.secrets is 'Secrets by name, on a server without Vault. For its owner only.';
    revoke all on purple_flea.secrets from public, anon, authenticated, service_role;
  end if;
end;
$$;

-- Tables of the ledger that were there before, by an earlier revision, are brought to the shape of release 0.1.0: see 0001.
create schema purple_flea_wanted;

-- The rules that deposits are judged by, in ledger mode. One row without an agent is everybody's; an agent with a row
-- of its own is judged by that one alone, except that a pause of everybody's row holds back its bets, too.

create table purple_flea_wanted.trade_policies (
  id                bigint        generated always as identity primary key,
  agent_id          text          unique nulls not distinct references public.agents on delete cascade,
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
  limited           boolean       not null generated always as (daily_wager_limit is not null or daily_loss_limit is not null) stored,
  constraint trade_policies_game_check              check (game in ('crash', 'coin-flip') or (game = 'trade' and market is not null)),
  constraint trade_policies_cashout_at_check        check (cashout_at between 1.01 and 100 and cashout_at = trunc(cashout_at, 2)),
  constraint trade_policies_side_check              check (side in ('heads', 'tails')),
  constraint trade_policies_min_balance_check       check (min_balance >= 0 and min_balance <> 'NaN'),
  constraint trade_policies_min_change_check        check (min_change >= 0 and min_change <> 'NaN'),
  constraint trade_policies_wager_fraction_check    check (wager_fraction > 0 and wager_fraction <= 1),
  constraint trade_policies_max_wager_check         check (max_wager >= 0.01 and max_wager <> 'NaN'),
  constraint trade_policies_market_check            check (market ~ '^[A-Za-z0-9._:/-]{1,20}$'),
  constraint trade_policies_direction_check         check (direction in ('long', 'short')),
  constraint trade_policies_size_check              check (size >= 0.01 and size <> 'NaN'),
  constraint trade_policies_balance_every_check     check (balance_every >= interval '1 minute'),
  constraint trade_policies_daily_wager_limit_check check (daily_wager_limit >= 0 and daily_wager_limit <> 'NaN'),
  constraint trade_policies_daily_loss_limit_check  check (daily_loss_limit >= 0 and daily_loss_limit <> 'NaN')
);
select pg_temp.purple_flea_adopt('trade_policies', 'purple_flea');

comment on table  purple_flea.trade_policies                   is 'The rules for bets: a row for everybody (agent_id null), and one for each agent with other rules.';
comment on column purple_flea.trade_policies.agent_id          is 'Whose rules; null: everybody''s.';
comment on column purple_flea.trade_policies.game              is 'What deposits are bet on: crash, coin-flip or trade.';
comment on column purple_flea.trade_policies.cashout_at        is 'The multiplier at which a crash bet cashes out: 1.01 to 100, at most 2 decimals.';
comment on column purple_flea.trade_policies.side              is 'heads or tails, for a coin-flip.';
comment on column purple_flea.trade_policies.min_balance       is 'The smallest balance, in US dollars, that is bet from.';
comment on column purple_flea.trade_policies.min_change        is 'The smallest deposit, in US dollars, that leads to a bet.';
comment on column purple_flea.trade_policies.wager_fraction    is 'The part of the balance that is bet: above 0, at most 1.';
comment on column purple_flea.trade_policies.max_wager         is 'The most, in US dollars, that one bet may be; null: no cap.';
comment on column purple_flea.trade_policies.daily_wager_limit is 'The most, in US dollars, that one agent may stake in a UTC day; null: no limit.';
comment on column purple_flea.trade_policies.daily_loss_limit  is 'The most, in US dollars, that one agent may lose in a UTC day, wins set off; null: no limit.';
comment on column purple_flea.trade_policies.paused            is 'Holds back bets: deposits wait, and do not grow old meanwhile.';
comment on column purple_flea.trade_policies.market            is 'What is traded, for a trade: BTC, ETH-USD, TSLA.';
comment on column purple_flea.trade_policies.direction         is 'long or short, for a trade.';
comment on column purple_flea.trade_policies.size              is 'How much, in US dollars, a trade opens; null: as much as a wager would be.';
comment on column purple_flea.trade_policies.check_balance     is 'Whether Purple Flea is asked for the balance before a bet, so that none is sent that it would refuse.';
comment on column purple_flea.trade_policies.balance_every     is 'How often the agent''s balance is looked at by itself; null: never.';
comment on column purple_flea.trade_policies.claim_faucet      is 'Whether a new agent claims the faucet. Everybody''s row counts, as a new agent has none of its own.';
comment on column purple_flea.trade_policies.claim_daily       is 'Whether an agent makes the faucet''s claim of the day, which the gateway has and the live dialect has not.';
comment on column purple_flea.trade_policies.limited           is 'Whether there is a daily limit: then one bet is made after the other, so that each sees what the last one did.';
alter table purple_flea.trade_policies enable row level security;

insert into purple_flea.trade_policies (agent_id) values (null) on conflict (agent_id) do nothing;

create table purple_flea_wanted.jobs (
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

-- What waits, in the order it is due; what is under way; what is to be looked up. Each stays as small as its work.
create index jobs_due_idx       on purple_flea_wanted.jobs (due_at)             where state = 'pending';
create index jobs_expires_idx   on purple_flea_wanted.jobs (expires_at)         where state = 'pending';
create index jobs_lease_idx     on purple_flea_wanted.jobs (lease_until)        where state = 'claimed';
create index jobs_token_idx     on purple_flea_wanted.jobs (token)              where state = 'claimed';
create index jobs_agent_due_idx on purple_flea_wanted.jobs (agent_id, due_at)   where state = 'pending';
create index jobs_lookup_idx    on purple_flea_wanted.jobs (lookup_at)          where state = 'unknown';
create index jobs_agent_id_idx  on purple_flea_wanted.jobs (agent_id, bet_day);
-- Each of these exists at most once, however often it is asked for.
create unique index jobs_escrow_idx       on purple_flea_wanted.jobs (escrow_id, kind) where escrow_id is not null and state not in ('skipped', 'rejected', 'dead');
create index jobs_escrow_id_idx           on purple_flea_wanted.jobs (escrow_id) where escrow_id is not null;
create unique index jobs_registration_idx on purple_flea_wanted.jobs (agent_id) where kind = 'registration' and state in ('pending', 'claimed');
create unique index jobs_faucet_idx       on purple_flea_wanted.jobs (agent_id) where kind = 'faucet' and state not in ('skipped', 'rejected', 'dead');
create unique index jobs_balance_idx      on purple_flea_wanted.jobs (agent_id) where kind = 'balance' and state in ('pending', 'claimed');
create unique index jobs_daily_claim_idx   on purple_flea_wanted.jobs (agent_id) where kind = 'daily_claim' and state in ('pending', 'claimed');
-- The database's own guard of "one at a time" for agents with a daily limit.
create unique index jobs_one_at_a_time_idx on purple_flea_wanted.jobs (agent_id) where state = 'claimed' and limited;
-- The oldest of what may go. The predicate is archive_jobs' own: what never goes is never walked over.
create index jobs_settled_idx on purple_flea_wanted.jobs (changed_at)
  where state in ('executed', 'skipped', 'rejected', 'dead') and kind in ('deposit', 'trade', 'order', 'balance', 'daily_claim');

-- The first ledgers knew deposits alone, and called their request so.
do $$
begin
  if exists (select from pg_catalog.pg_attribute a where a.attrelid = to_regclass('purple_flea.jobs') and a.attname = 'wallet_change') then
    alter table purple_flea.jobs rename column wallet_change to request;
  end if;
end;
$$;
select pg_temp.purple_flea_adopt('jobs', 'purple_flea');

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
  constraint job_events_kind_check check (kind in ('transition', 'late_answer', 'look_up', 'conflict', 'alarm'))
);
create index job_events_claim_idx     on purple_flea_wanted.job_events (token) where to_state = 'claimed' and kind = 'transition';
create index job_events_reference_idx on purple_flea_wanted.job_events (reference, id);
create index job_events_alarm_idx     on purple_flea_wanted.job_events (at) where kind in ('conflict', 'alarm');
select pg_temp.purple_flea_adopt('job_events', 'purple_flea');

comment on table  purple_flea.job_events      is 'What happened to each job: a row for every change of state, and for every report that changed none.';
comment on column purple_flea.job_events.kind is 'transition; or, without a change of state: late_answer, look_up, conflict (two bets may have been made), alarm (a result could not be recorded).';

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

-- The migration holds the lock of wallet_changes until the triggers are made: no deposit falls between the two.
insert into purple_flea.ledger (starts_after, checked_until)
select coalesce(max(id), 0), coalesce(max(id), 0) from public.wallet_changes
on conflict do nothing;

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

-- What Purple Flea takes in a time, kept ahead of it: a job that would be one too many waits for its turn, and nothing
-- is refused that did not have to be asked. A call's slot is held from its claim until as long after its end as the limit
-- says, so that no window of Purple Flea's, wherever it begins, can hold more.

create table if not exists purple_flea.rate_limits (
  api    text     not null,
  calls  text[]   not null,
  per    text     not null,
  most   integer  not null,
  within interval not null,
  primary key (api, calls, per),
  constraint rate_limits_api_check    check (api in ('gateway', 'live')),
  constraint rate_limits_per_check    check (per in ('deployment', 'account')),
  constraint rate_limits_most_check   check (most > 0),
  constraint rate_limits_within_check check (within between interval '1 second' and interval '1 day')
);
comment on table  purple_flea.rate_limits        is 'How many calls Purple Flea takes in a time. The gateway documents none that its servers keep.';
comment on column purple_flea.rate_limits.calls  is 'What is counted together: crash, coin-flip, trade, or a kind of job.';
comment on column purple_flea.rate_limits.per    is 'deployment: all of ours together, as the released servers count by address; account: by the key that is used.';

-- The released servers': by address and path, and by account for all games together.
insert into purple_flea.rate_limits (api, calls, per, most, within) values
  ('live', '{crash}',              'deployment', 60, '60 seconds'),
  ('live', '{coin-flip}',          'deployment', 60, '60 seconds'),
  ('live', '{crash,coin-flip}',    'account',    60, '60 seconds'),
  ('live', '{registration}',       'deployment', 10, '60 seconds'),
  ('live', '{faucet}',             'deployment',  5, '60 seconds'),
  ('live', '{trade,order}',        'deployment', 30, '60 seconds'),
  ('live', '{escrow}',             'deployment', 20, '60 seconds')
on conflict do nothing;

-- A slot for each call that counts against a limit.
create table if not exists purple_flea.rate_slots (
  reference  text        not null references purple_flea.jobs on delete restrict,
  token      uuid        not null,
  call       text        not null,
  account    text        not null,
  held_until timestamptz not null,
  within     interval    not null
);
-- The first slots did not say which claim they belong to: the job's last one.
do $$
begin
  if not exists (select from pg_catalog.pg_attribute a where a.attrelid = 'purple_flea.rate_slots'::regclass and a.attname = 'token') then
    alter table purple_flea.rate_slots add column token uuid;
    update purple_flea.rate_slots s set token = coalesce(j.token, gen_random_uuid()) from purple_flea.jobs j where j.reference = s.reference;
    alter table purple_flea.rate_slots alter column token set not null;
  end if;
end;
$$;
comment on table  purple_flea.rate_slots            is 'Calls that count against a limit, each until its slot is free again.';
comment on column purple_flea.rate_slots.token      is 'Whose call: the claim''s.';
comment on column purple_flea.rate_slots.account    is 'The name of the key that it is made with; empty for everybody''s.';
comment on column purple_flea.rate_slots.held_until is 'When another call may take its place.';
comment on column purple_flea.rate_slots.within     is 'How long after its end it still counts.';
create index if not exists rate_slots_call_idx       on purple_flea.rate_slots (call, held_until);
create index if not exists rate_slots_reference_idx  on purple_flea.rate_slots (reference);
create index if not exists rate_slots_held_until_idx on purple_flea.rate_slots (held_until);

-- What Purple Flea has said "too many" to, in spite of all: others may call from the same address.
create table if not exists purple_flea.rate_stops (
  call    text        not null,
  account text        not null,
  until   timestamptz not null,
  primary key (call, account)
);
comment on table  purple_flea.rate_stops         is 'Calls that are not made before a time, because Purple Flea said so.';
comment on column purple_flea.rate_stops.account is 'Whose calls; *: everybody''s.';

alter table purple_flea.rate_limits enable row level security;
alter table purple_flea.rate_slots  enable row level security;
alter table purple_flea.rate_stops  enable row level security;

-- The watch: while the function waits in the database for the next job, nobody has to ring it. pg_net sleeps for a second
-- after each batch, so that in a steady stream a ring would come half a second late; and it sends 200 a second at most.
--
-- One function at a time keeps the watch: it says so with its claims, and between them waits in await_jobs(). Whoever
-- makes a job meanwhile does not ring. That nobody is forgotten at the end of a watch is the business of one lock: who
-- relies on the watch holds it, shared, until the end of the transaction, and a watch ends under it, exclusively, after
-- a last look. If the watcher is gone without an end, its watch runs out in seconds, and the sweeper rings.

create table if not exists purple_flea.watch (
  only_row boolean     primary key default true check (only_row),
  watcher  uuid,
  until    timestamptz not null default '-infinity'
);
comment on table  purple_flea.watch         is 'Who waits for the next job, in one row.';
comment on column purple_flea.watch.watcher is 'The function''s call that does.';
comment on column purple_flea.watch.until   is 'Until when it may be relied on, unless it says so again.';

insert into purple_flea.watch default values on conflict do nothing;

alter table purple_flea.watch enable row level security;

drop schema purple_flea_wanted;
