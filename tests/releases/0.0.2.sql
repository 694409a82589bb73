-- Everything in sql/ as it was in the release that is now called 0.0.2 (revision f990981), one file after the other.

-- The roles and the function that the rest builds on. Supabase brings all of them; plain PostgreSQL gets what is
-- missing, so that the same files run on both.

do $$
declare
  role_name text;
begin
  foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      execute format('create role %I nologin', role_name);
      raise notice 'role % was missing and has been made', role_name;
    end if;
  end loop;
end;
$$;

-- What the function may be in the database if it is not to be service_role: it may claim, settle and look after jobs,
-- and nothing else. PostgREST switches to it for a token with the claim "role": "purple_flea_worker".
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'purple_flea_worker') then
    create role purple_flea_worker nologin;
  end if;
  -- Shorter than the function waits for an answer (5 s): what it does not hear of is not done either. PostgREST obeys.
  alter role purple_flea_worker set statement_timeout = '4s';
  if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
    grant purple_flea_worker to authenticator;
  end if;
end;
$$;

-- Signatures are made with pgcrypto's hmac().
create schema if not exists extensions;
create extension if not exists pgcrypto with schema extensions;

-- The doorbell is rung with pg_net. Where the server does not have it, deposits are recorded all the same, and a
-- warning says with each that nobody was called.
do $$
begin
  if to_regnamespace('net') is not null then
    return;
  end if;
  if exists (select from pg_catalog.pg_available_extensions where name = 'pg_net') then
    create extension pg_net;
  else
    raise notice 'this server has no pg_net: deposits will be recorded, but the function will not be called';
  end if;
exception when others then
  raise notice 'pg_net could not be enabled (%): deposits will be recorded, but the function will not be called', sqlerrm;
end;
$$;

-- Who is asking. On plain PostgreSQL the caller's claims are where PostgREST puts them.
do $$
begin
  if to_regprocedure('auth.uid()') is null then
    create schema if not exists auth;
    create function auth.uid() returns uuid
      language sql
      stable
      set search_path = pg_catalog, pg_temp
    as $body$
      select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
    $body$;
    comment on function auth.uid() is 'The user whose token the request carries, or null.';
    grant usage on schema auth to anon, authenticated, service_role;
  end if;
end;
$$;

-- What this project keeps to itself. The API exposes `public` only, and no role of the API may use this schema.
create schema if not exists purple_flea;
comment on schema purple_flea is 'Purple Flea Edge: what is not for the API.';
revoke all on schema purple_flea from public, anon, authenticated, service_role, purple_flea_worker;

-- The four tables of the specification: its names, types and defaults, and what correctness asks for on top. The
-- constraints are added one by one further down, so that tables that were there before get them too.

create table if not exists public.agents (
  id         text          primary key,
  api_key    text          not null default '',
  balance    numeric(12,4) default 0,
  status     text          default 'idle',
  created_at timestamptz   default now()
);
alter table public.agents
  add column if not exists owner_id uuid,
  alter column api_key    set default '',
  alter column balance    set not null,
  alter column status     set not null,
  alter column created_at set not null;

comment on table  public.agents          is 'One row for each AI agent that has a wallet.';
comment on column public.agents.id       is 'Purple Flea''s id of the agent.';
comment on column public.agents.api_key  is 'The name of the secret that holds the agent''s Purple Flea key, never the key itself; empty while there is none.';
comment on column public.agents.balance  is 'What the wallet held when it was last looked at, in US dollars.';
comment on column public.agents.status   is 'idle, trading or offline.';
comment on column public.agents.owner_id is 'Whose agent it is (auth.users.id): who may read its rows. Null: nobody but the service.';

create table if not exists public.wallet_changes (
  id            bigserial     primary key,
  agent_id      text          references public.agents on delete restrict,
  change_type   text          not null,
  change_amount numeric(12,4),
  new_balance   numeric(12,4),
  created_at    timestamptz   default now()
);
alter table public.wallet_changes
  alter column agent_id   set not null,
  alter column created_at set not null;

comment on table  public.wallet_changes               is 'What happened to the agents'' wallets. A row of type deposit rings the function''s doorbell.';
comment on column public.wallet_changes.change_type   is 'deposit, withdrawal or payout.';
comment on column public.wallet_changes.change_amount is 'By how much the wallet changed, in US dollars; a deposit''s is never negative.';
comment on column public.wallet_changes.new_balance   is 'What the wallet held afterwards, in US dollars. Without it nothing is bet.';

create table if not exists public.trade_results (
  id         bigserial     primary key,
  agent_id   text          references public.agents on delete restrict,
  game       text,
  wager      numeric(12,4),
  outcome    text,
  payout     numeric(12,4),
  created_at timestamptz   default now()
);
alter table public.trade_results
  add column if not exists reference text,
  add column if not exists bet_id    text,
  alter column agent_id   set not null,
  alter column created_at set not null;

comment on table  public.trade_results           is 'How bets ended: at most one row for each deposit.';
comment on column public.trade_results.game      is 'crash, coin-flip or hi-lo.';
comment on column public.trade_results.wager     is 'What was staked, in US dollars.';
comment on column public.trade_results.outcome   is 'win or loss.';
comment on column public.trade_results.payout    is 'What was paid, the stake included, in US dollars; 0 for a loss; null where a win does not say.';
comment on column public.trade_results.reference is 'Which job led to it: wallet-change-<id> for a deposit. Null for rows that are older than the ledger.';
comment on column public.trade_results.bet_id    is 'Purple Flea''s name for the bet.';

create table if not exists public.escrow_requests (
  id           bigserial     primary key,
  sender_id    text          references public.agents on delete restrict,
  receiver_id  text          references public.agents on delete restrict,
  amount       numeric(12,4),
  pf_escrow_id text,
  status       text          default 'pending',
  created_at   timestamptz   default now()
);
alter table public.escrow_requests
  alter column sender_id   set not null,
  alter column receiver_id set not null,
  alter column amount      set not null,
  alter column status      set not null,
  alter column created_at  set not null;

comment on table  public.escrow_requests              is 'Money that one agent holds ready for another.';
comment on column public.escrow_requests.amount       is 'How much, in US dollars.';
comment on column public.escrow_requests.pf_escrow_id is 'Purple Flea''s id of the escrow, once there is one.';
comment on column public.escrow_requests.status       is 'pending, released or cancelled.';

do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      ('agents',          'agents_id_check',                     $c$check (octet_length(id) between 1 and 128 and id !~ '[[:cntrl:]]')$c$),
      ('agents',          'agents_balance_check',                $c$check (balance >= 0 and balance <> 'NaN')$c$),
      ('agents',          'agents_status_check',                 $c$check (status in ('idle', 'trading', 'offline'))$c$),
      ('wallet_changes',  'wallet_changes_change_type_check',    $c$check (change_type in ('deposit', 'withdrawal', 'payout'))$c$),
      ('wallet_changes',  'wallet_changes_change_amount_check',  $c$check (change_amount <> 'NaN' and (change_amount >= 0 or change_type <> 'deposit'))$c$),
      ('wallet_changes',  'wallet_changes_new_balance_check',    $c$check (new_balance >= 0 and new_balance <> 'NaN')$c$),
      ('trade_results',   'trade_results_game_check',            $c$check (game in ('crash', 'coin-flip', 'hi-lo'))$c$),
      ('trade_results',   'trade_results_wager_check',           $c$check (wager > 0 and wager <> 'NaN')$c$),
      ('trade_results',   'trade_results_outcome_check',         $c$check (outcome in ('win', 'loss'))$c$),
      ('trade_results',   'trade_results_reference_key',         $c$unique (reference)$c$),
      ('trade_results',   'trade_results_payout_check',          $c$check (payout >= 0 and payout <> 'NaN')$c$),
      ('escrow_requests', 'escrow_requests_amount_check',        $c$check (amount > 0 and amount <> 'NaN')$c$),
      ('escrow_requests', 'escrow_requests_parties_check',       $c$check (sender_id <> receiver_id)$c$),
      ('escrow_requests', 'escrow_requests_status_check',        $c$check (status in ('pending', 'released', 'cancelled'))$c$)
    ) as c (table_name, constraint_name, definition)
  loop
    if not exists (
      select from pg_catalog.pg_constraint
      where conrelid = format('public.%I', wanted.table_name)::regclass and conname = wanted.constraint_name
    ) then
      execute format('alter table public.%I add constraint %I %s', wanted.table_name, wanted.constraint_name, wanted.definition);
    end if;
  end loop;
end;
$$;

-- For the foreign keys, and for the policies that ask which agents are whose.
create index if not exists agents_owner_id_idx             on public.agents          (owner_id);
create index if not exists wallet_changes_agent_id_idx     on public.wallet_changes  (agent_id);
create index if not exists trade_results_agent_id_idx      on public.trade_results   (agent_id);
create index if not exists escrow_requests_sender_id_idx   on public.escrow_requests (sender_id);
create index if not exists escrow_requests_receiver_id_idx on public.escrow_requests (receiver_id);

-- Who may do what. The service writes; a signed-in user reads what belongs to their own agents; anonymous callers
-- get nothing. Supabase's default privileges hand everything in `public` to all three, so each is taken away by
-- name before a part of it is given back.

alter table public.agents          enable row level security;
alter table public.wallet_changes  enable row level security;
alter table public.trade_results   enable row level security;
alter table public.escrow_requests enable row level security;

revoke all on public.agents, public.wallet_changes, public.trade_results, public.escrow_requests
  from public, anon, authenticated, service_role;
revoke all on sequence public.wallet_changes_id_seq, public.trade_results_id_seq, public.escrow_requests_id_seq
  from public, anon, authenticated, service_role;

grant select, insert, update, delete
  on public.agents, public.wallet_changes, public.trade_results, public.escrow_requests
  to service_role;
grant usage on sequence public.wallet_changes_id_seq, public.trade_results_id_seq, public.escrow_requests_id_seq
  to service_role;

-- By column: row-level security hides rows, not columns, and api_key names a secret.
grant select (id, balance, status, created_at, owner_id) on public.agents to authenticated;
grant select on public.wallet_changes, public.trade_results, public.escrow_requests to authenticated;

drop policy if exists agents_owner_reads on public.agents;
create policy agents_owner_reads on public.agents
  for select to authenticated
  using (owner_id = (select auth.uid()));

drop policy if exists agents_service_writes on public.agents;
create policy agents_service_writes on public.agents
  for all to service_role
  using (true) with check (true);

drop policy if exists wallet_changes_owner_reads on public.wallet_changes;
create policy wallet_changes_owner_reads on public.wallet_changes
  for select to authenticated
  using (agent_id in (select id from public.agents where owner_id = (select auth.uid())));

drop policy if exists wallet_changes_service_writes on public.wallet_changes;
create policy wallet_changes_service_writes on public.wallet_changes
  for all to service_role
  using (true) with check (true);

drop policy if exists trade_results_owner_reads on public.trade_results;
create policy trade_results_owner_reads on public.trade_results
  for select to authenticated
  using (agent_id in (select id from public.agents where owner_id = (select auth.uid())));

drop policy if exists trade_results_service_writes on public.trade_results;
create policy trade_results_service_writes on public.trade_results
  for all to service_role
  using (true) with check (true);

-- Either side of an escrow may see it.
drop policy if exists escrow_requests_owner_reads on public.escrow_requests;
create policy escrow_requests_owner_reads on public.escrow_requests
  for select to authenticated
  using (
    sender_id   in (select id from public.agents where owner_id = (select auth.uid()))
    or
    receiver_id in (select id from public.agents where owner_id = (select auth.uid()))
  );

drop policy if exists escrow_requests_service_writes on public.escrow_requests;
create policy escrow_requests_service_writes on public.escrow_requests
  for all to service_role
  using (true) with check (true);

-- Where secrets and settings lie: in Supabase's Vault or, where there is no Vault, in a table that only its owner
-- may read. Names in use:
--
--   purple_flea_function_url    where the trigger posts to: https://…/execute-trade
--   purple_flea_webhook_secret  what it signs with: whsec_<base64>, one of the function's webhook_secrets
--   <agents.api_key>            an agent's own Purple Flea key

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

create or replace function purple_flea.secret(secret_name text) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  secret text;
begin
  -- Which of the two exists is known only when it runs, so neither may stand in the text.
  if to_regclass('vault.decrypted_secrets') is not null then
    execute 'select decrypted_secret from vault.decrypted_secrets where name = $1' into secret using secret_name;
  else
    execute 'select secret from purple_flea.secrets where name = $1' into secret using secret_name;
  end if;
  return nullif(btrim(secret), '');
end;
$$;
comment on function purple_flea.secret(text) is 'A secret by name, or null. For the owner''s own functions only.';
revoke all on function purple_flea.secret(text) from public, anon, authenticated, service_role;

create or replace function purple_flea.set_secret(secret_name text, new_secret text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  known uuid;
begin
  if to_regclass('vault.decrypted_secrets') is not null then
    execute 'select id from vault.decrypted_secrets where name = $1' into known using secret_name;
    if known is null then
      execute 'select vault.create_secret($1, $2, $3)' using new_secret, secret_name, 'Purple Flea Edge';
    else
      execute 'select vault.update_secret($1, $2)' using known, new_secret;
    end if;
  else
    execute 'insert into purple_flea.secrets (name, secret) values ($1, $2)
             on conflict (name) do update set secret = excluded.secret' using secret_name, new_secret;
  end if;
end;
$$;
comment on function purple_flea.set_secret(text, text) is 'Sets a secret by name, in Vault where there is one. For the owner only.';
revoke all on function purple_flea.set_secret(text, text) from public, anon, authenticated, service_role;

-- The rules that deposits are judged by, in ledger mode. One row without an agent is everybody's; an agent with a row
-- of its own is judged by that one alone, except that a pause of everybody's row holds back its bets, too.

create table if not exists purple_flea.trade_policies (
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
  limited           boolean       not null generated always as (daily_wager_limit is not null or daily_loss_limit is not null) stored,
  constraint trade_policies_game_check              check (game in ('crash', 'coin-flip')),
  constraint trade_policies_cashout_at_check        check (cashout_at between 1.01 and 100 and cashout_at = trunc(cashout_at, 2)),
  constraint trade_policies_side_check              check (side in ('heads', 'tails')),
  constraint trade_policies_min_balance_check       check (min_balance >= 0 and min_balance <> 'NaN'),
  constraint trade_policies_min_change_check        check (min_change >= 0 and min_change <> 'NaN'),
  constraint trade_policies_wager_fraction_check    check (wager_fraction > 0 and wager_fraction <= 1),
  constraint trade_policies_max_wager_check         check (max_wager >= 0.01 and max_wager <> 'NaN'),
  constraint trade_policies_daily_wager_limit_check check (daily_wager_limit >= 0 and daily_wager_limit <> 'NaN'),
  constraint trade_policies_daily_loss_limit_check  check (daily_loss_limit >= 0 and daily_loss_limit <> 'NaN')
);

comment on table  purple_flea.trade_policies                   is 'The rules for bets: a row for everybody (agent_id null), and one for each agent with other rules.';
comment on column purple_flea.trade_policies.agent_id          is 'Whose rules; null: everybody''s.';
comment on column purple_flea.trade_policies.game              is 'crash or coin-flip.';
comment on column purple_flea.trade_policies.cashout_at        is 'The multiplier at which a crash bet cashes out: 1.01 to 100, at most 2 decimals.';
comment on column purple_flea.trade_policies.side              is 'heads or tails, for a coin-flip.';
comment on column purple_flea.trade_policies.min_balance       is 'The smallest balance, in US dollars, that is bet from.';
comment on column purple_flea.trade_policies.min_change        is 'The smallest deposit, in US dollars, that leads to a bet.';
comment on column purple_flea.trade_policies.wager_fraction    is 'The part of the balance that is bet: above 0, at most 1.';
comment on column purple_flea.trade_policies.max_wager         is 'The most, in US dollars, that one bet may be; null: no cap.';
comment on column purple_flea.trade_policies.daily_wager_limit is 'The most, in US dollars, that one agent may stake in a UTC day; null: no limit.';
comment on column purple_flea.trade_policies.daily_loss_limit  is 'The most, in US dollars, that one agent may lose in a UTC day, wins set off; null: no limit.';
comment on column purple_flea.trade_policies.paused            is 'Holds back bets: deposits wait, and do not grow old meanwhile.';
comment on column purple_flea.trade_policies.limited           is 'Whether there is a daily limit: then one bet is made after the other, so that each sees what the last one did.';

revoke all on purple_flea.trade_policies from public, anon, authenticated, service_role, purple_flea_worker;
alter table purple_flea.trade_policies enable row level security;

insert into purple_flea.trade_policies (agent_id) values (null) on conflict (agent_id) do nothing;

-- Which row judges an agent, and whether its bets are held back.
create or replace view purple_flea.effective_policies as
  select a.id as agent_id, coalesce(own.id, everybodys.id) as policy_id, coalesce(own.limited, everybodys.limited) as limited,
         everybodys.paused or coalesce(own.paused, false) as paused
  from public.agents a
  left join purple_flea.trade_policies own on own.agent_id = a.id
  join purple_flea.trade_policies everybodys on everybodys.agent_id is null;
comment on view purple_flea.effective_policies is 'Which policy each agent is judged by, and whether its bets are held back.';
revoke all on purple_flea.effective_policies from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.keep_everybodys_policy() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if old.agent_id is null and (tg_op = 'DELETE' or new.agent_id is not null) then
    raise exception 'everybody''s policy cannot be taken away; without it nothing would be claimed';
  end if;
  return coalesce(new, old);
end;
$$;
comment on function purple_flea.keep_everybodys_policy() is 'Refuses to take everybody''s policy away.';
revoke all on function purple_flea.keep_everybodys_policy() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists trade_policies_keep on purple_flea.trade_policies;
create trigger trade_policies_keep
  before update or delete on purple_flea.trade_policies
  for each row execute function purple_flea.keep_everybodys_policy();

-- The wager, by the same formula as the function's (src/policy.rs): what a claimed job may cost at most. Each side
-- checks the other: what is settled above it raises an alarm.
create or replace function purple_flea.stake(new_balance numeric, policy purple_flea.trade_policies) returns numeric
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- least() passes over a max_wager that is null.
  select case when new_balance is null then 0
    else greatest(0, least(round(new_balance * policy.wager_fraction, 2), trunc(new_balance, 2), trunc(policy.max_wager, 2)))
  end
$$;
comment on function purple_flea.stake(numeric, purple_flea.trade_policies) is 'The most that a deposit can stake under a policy, in US dollars; 0 without a balance.';
revoke all on function purple_flea.stake(numeric, purple_flea.trade_policies) from public, anon, authenticated, service_role, purple_flea_worker;

-- The ledger: one job for each deposit, made in the deposit's own transaction. What happens to it is a machine of
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

create table if not exists purple_flea.jobs (
  reference        text          primary key,
  bet_key          text          not null unique,
  wallet_change_id bigint        not null unique references public.wallet_changes on delete restrict,
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
  wallet_change    jsonb,
  policy           jsonb,
  stake            numeric(12,4),
  bet_day          date,
  limited          boolean       not null default false,
  wager            numeric(12,4),
  payout           numeric(12,4),
  result           jsonb,
  constraint jobs_reference_check  check (reference ~ '^[A-Za-z0-9._:-]{1,64}$' and bet_key ~ '^[A-Za-z0-9._:-]{1,64}$'),
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
                                                                and wallet_change is not null and policy is not null and bet_day is not null)),
  constraint jobs_unknown_check  check (state <> 'unknown'  or (token is not null and claimed_at is not null and lookup_at is not null
                                                                and reason is not null and bet_day is not null)),
  constraint jobs_executed_check check (state <> 'executed' or (result is not null and wager is not null and wager > 0 and bet_day is not null)),
  constraint jobs_settled_check  check (state not in ('skipped', 'rejected', 'dead') or reason is not null),
  constraint jobs_attempts_check check (attempts >= 0)
);

comment on table  purple_flea.jobs                  is 'One row for each thing to do once: a deposit''s bet.';
comment on column purple_flea.jobs.reference        is 'What people, logs and notifications call it: wallet-change-<id>.';
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
comment on column purple_flea.jobs.wallet_change    is 'The deposit''s row as it was claimed.';
comment on column purple_flea.jobs.policy           is 'The policy as it was claimed.';
comment on column purple_flea.jobs.stake            is 'The most that the bet can cost, in US dollars.';
comment on column purple_flea.jobs.bet_day          is 'The UTC day of the claim, whose limits the bet counts against.';
comment on column purple_flea.jobs.limited          is 'Whether the policy that it was claimed under has a daily limit.';
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
    raise exception 'a job cannot be deleted: its deposit would be bet on again';
  end if;
  if (new.reference, new.bet_key, new.wallet_change_id, new.agent_id) is distinct from
     (old.reference, old.bet_key, old.wallet_change_id, old.agent_id) then
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
    and exists (select from purple_flea.jobs j where j.wallet_change_id = old.id) then
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

-- Claiming: what the function calls before it may bet. It gets jobs for as many bets as it can send at once, each with
-- the row and the policy frozen, a lease and a token; and an answer for every deposit that it asked about.

-- What time alone decides. Called by whoever claims, and by the sweeper.
--
-- Wherever rows are looked for by their time it is statement_timestamp(), which an index can be asked for;
-- clock_timestamp() would be compared with every row.
create or replace function purple_flea.expire(holding boolean) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most   constant integer := 1000;  -- rows at a time, so that nobody waits long for a lock of ours
  timing record;
  soon   timestamptz;
begin
  timing := purple_flea.timing();
  -- Looked for first, because it is seldom there, and an update costs even then.
  if exists (select from purple_flea.jobs late where late.state = 'claimed' and late.lease_until < statement_timestamp()) then
    -- Nobody knows what became of a claim whose time ran out.
    update purple_flea.jobs j
    set state = 'unknown', changed_by = 'sweeper', reason = 'lease_ran_out', lookup_at = j.lease_until + timing.lookup_wait
    where j.reference in (
      select late.reference from purple_flea.jobs late
      where late.state = 'claimed' and late.lease_until < statement_timestamp()
      order by late.lease_until limit most for update skip locked
    );
  end if;
  soon := statement_timestamp() + timing.max_age / 24;
  if exists (select from purple_flea.jobs old where old.state = 'pending' and old.expires_at < soon) then
    -- A pause condemns nothing: what is held back does not grow old.
    update purple_flea.jobs j
    set expires_at = clock_timestamp() + timing.max_age
    where j.reference in (
      select held.reference from purple_flea.jobs held
      join purple_flea.effective_policies p on p.agent_id = held.agent_id
      where held.state = 'pending' and held.expires_at < soon and (expire.holding or p.paused)
      order by held.expires_at limit most for update of held skip locked
    );
    update purple_flea.jobs j
    set state = 'dead', changed_by = 'sweeper', reason = 'too_old'
    where j.reference in (
      select old.reference from purple_flea.jobs old
      join purple_flea.effective_policies p on p.agent_id = old.agent_id and not p.paused
      where old.state = 'pending' and old.expires_at < statement_timestamp() and not expire.holding
      order by old.expires_at limit most for update of old skip locked
    );
  end if;
end;
$$;
comment on function purple_flea.expire(boolean) is 'Ends leases and buries what has waited too long; while bets are held back nothing grows old.';
revoke all on function purple_flea.expire(boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- Which jobs could be claimed now, those that were asked for first. Of an agent with a daily limit: one, and none while
-- another is under way.
create or replace function purple_flea.pick_jobs(wanted text[], most integer) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  look_at     constant integer := 1000;  -- waiting jobs that are looked at for one of each agent
  everybodys  purple_flea.trade_policies;
  candidates  text[] := '{}';
  picked      text[] := '{}';
begin
  select * into everybodys from purple_flea.trade_policies p where p.agent_id is null;
  if everybodys.paused then
    return picked;
  end if;
  -- One for each agent with a limit: in the order they are due where that is everybody, otherwise agent by agent.
  if everybodys.limited then
    select array_agg(first.reference order by first.asked desc, first.due_at) into candidates
    from (
      select distinct on (due.agent_id) due.reference, due.asked, due.due_at
      from (
        select j.agent_id, j.reference, j.due_at, j.reference = any (wanted) as asked
        from purple_flea.jobs j
        join purple_flea.effective_policies p on p.agent_id = j.agent_id and p.limited and not p.paused
        where j.state = 'pending' and j.due_at <= statement_timestamp()
        order by j.due_at limit look_at
      ) as due
      order by due.agent_id, due.asked desc, due.due_at
    ) as first;
  elsif exists (select from purple_flea.trade_policies p where p.limited) then
    select array_agg(first.reference order by first.asked desc, first.due_at) into candidates
    from purple_flea.trade_policies p
    cross join lateral (
      select j.reference, j.due_at, j.reference = any (wanted) as asked
      from purple_flea.jobs j
      where j.agent_id = p.agent_id and j.state = 'pending' and j.due_at <= statement_timestamp()
      order by j.due_at limit 1
    ) as first
    where p.limited and not p.paused;
  end if;
  if cardinality(candidates) > 0 then
    -- Two claims at once must not both find an agent free: whoever comes second does without it. Only when it is locked
    -- is it looked at, in a statement of its own that sees what the other has done.
    select coalesce(array_agg(locked.reference), '{}') into candidates
    from (
      select j.reference, j.agent_id from unnest(candidates) with ordinality as c (reference, n)
      join purple_flea.jobs j using (reference)
      where not exists (select from purple_flea.jobs busy where busy.agent_id = j.agent_id and busy.state = 'claimed')
      order by c.n limit most
    ) as locked
    where pg_try_advisory_xact_lock(hashtextextended('purple_flea:' || locked.agent_id, 0));
    select coalesce(array_agg(still.reference), '{}') into picked
    from (
      select j.reference from purple_flea.jobs j
      where j.reference = any (candidates) and j.state = 'pending'
        and not exists (select from purple_flea.jobs busy where busy.agent_id = j.agent_id and busy.state = 'claimed')
      for update of j skip locked
    ) as still;
  end if;

  select picked || coalesce(array_agg(asked.reference), '{}') into picked
  from (
    select j.reference from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.limited and not p.paused
    where j.reference = any (wanted) and j.state = 'pending' and j.due_at <= statement_timestamp()
    limit most - cardinality(picked) for update of j skip locked
  ) as asked;

  select picked || coalesce(array_agg(due.reference), '{}') into picked
  from (
    select j.reference from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.limited and not p.paused
    where j.state = 'pending' and j.due_at <= statement_timestamp() and j.reference <> all (picked)
    order by j.due_at limit most - cardinality(picked) for update of j skip locked
  ) as due;
  return picked;
end;
$$;
comment on function purple_flea.pick_jobs(text[], integer) is 'Locks the jobs that are to be claimed next.';
revoke all on function purple_flea.pick_jobs(text[], integer) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_due() returns boolean
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (select p.paused from purple_flea.trade_policies p where p.agent_id is null) then
    return false;
  end if;
  return exists (
    select from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.paused
    where j.state = 'pending' and j.due_at <= statement_timestamp()
  );
end;
$$;
comment on function purple_flea.is_due() is 'Whether any job is due that is not held back.';
revoke all on function purple_flea.is_due() from public, anon, authenticated, service_role, purple_flea_worker;

-- What an agent has staked and lost on a day, and what it may yet have: the worst case of what is under way or unknown.
create or replace function purple_flea.spent(agent text, on_day date, but_for text) returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'wagered', coalesce(sum(wager) filter (where state = 'executed'), 0),
    'lost',    coalesce(sum(wager - coalesce(payout, wager)) filter (where state = 'executed'), 0),
    'open',    coalesce(sum(stake) filter (where state in ('claimed', 'unknown')), 0)
  )
  from purple_flea.jobs
  where agent_id = agent and bet_day = on_day and reference <> but_for
$$;
comment on function purple_flea.spent(text, date, text) is 'What an agent staked and lost on a UTC day, in US dollars, without one job.';
revoke all on function purple_flea.spent(text, date, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What there is to say about a deposit that somebody asks for.
create or replace function purple_flea.answer(asked text, claim uuid, holding boolean) returns jsonb
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
as $$
declare
  job    purple_flea.jobs;
  paused boolean;
  wait_s integer;
begin
  select * into job from purple_flea.jobs j where j.reference = asked;
  if not found then
    return jsonb_build_object('reference', asked, 'state', 'not_found');
  end if;
  select p.paused into paused from purple_flea.effective_policies p where p.agent_id = job.agent_id;
  wait_s := least(86400, greatest(1, ceil(extract(epoch from
    case job.state when 'claimed' then job.lease_until else job.due_at end - clock_timestamp()))));
  return jsonb_strip_nulls(jsonb_build_object(
    'reference', asked,
    'agent_id',  job.agent_id,
    'state', case
      when job.state = 'claimed' and job.token = claim then 'claimed'
      when job.state = 'claimed' then 'in_flight'
      when job.state = 'pending' then 'waiting'
      else job.state
    end,
    'reason', case when job.state = 'pending' and (paused or holding) then 'paused' else job.reason end,
    'retry_after_s', case when job.state in ('claimed', 'pending') then wait_s end,
    'result', case when job.state in ('executed', 'skipped', 'rejected') then job.result end
  ));
end;
$$;
comment on function purple_flea.answer(text, uuid, boolean) is 'What there is to say about one deposit.';
revoke all on function purple_flea.answer(text, uuid, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.claim_jobs("references" text[] default '{}', "limit" integer default 1, claim uuid default gen_random_uuid())
  returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
  -- Frozen rows have their times in UTC, whatever the session's zone.
  set timezone = 'UTC'
as $$
declare
  most        constant integer := 100;  -- bets of one claim, or deposits asked about: more than any host sends at once
  wanted      text[]      := coalesce(claim_jobs."references", '{}');
  slots       integer     := coalesce(claim_jobs."limit", 0);
  claim_token uuid        := coalesce(claim_jobs.claim, gen_random_uuid());
  picked      text[];
  claim_time  timestamptz;
  claimed     jsonb;
  lease_end   timestamptz;
begin
  if slots not between 0 and most or cardinality(wanted) > most then
    raise exception 'limit and references may be at most %', most using errcode = 'invalid_parameter_value';
  end if;
  -- A limit of 0 comes from a function that is paused.
  perform purple_flea.expire(slots = 0);
  -- Asked again with the same claim because the answer got lost: what it holds, and no more, even while the first one
  -- is still at it, or when all that it held is settled.
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || claim_token, 1));
  if slots > 0 and not exists (
    select from purple_flea.job_events e where e.token = claim_token and e.to_state = 'claimed' and e.kind = 'transition'
  ) then
    picked     := purple_flea.pick_jobs(wanted, slots);
    claim_time := clock_timestamp();
    update purple_flea.jobs j
    set state = 'claimed', changed_by = 'worker', reason = null, attempts = j.attempts + 1,
        token = claim_token, claimed_at = claim_time, lease_until = claim_time + (purple_flea.timing()).lease, lookup_at = null,
        wallet_change = jsonb_build_object('id', w.id, 'agent_id', w.agent_id, 'change_type', w.change_type,
          'change_amount', w.change_amount, 'new_balance', w.new_balance, 'created_at', w.created_at),
        policy = to_jsonb(p) - 'id' - 'agent_id' - 'limited', stake = purple_flea.stake(w.new_balance, p),
        bet_day = (claim_time at time zone 'UTC')::date, limited = p.limited, wager = null, payout = null, result = null
    from public.wallet_changes w, purple_flea.effective_policies e, purple_flea.trade_policies p
    where j.reference = any (picked)
      and w.id = j.wallet_change_id and e.agent_id = j.agent_id and p.id = e.policy_id;
  end if;
  select coalesce(jsonb_agg(jsonb_build_object(
      'reference', j.reference, 'bet_key', j.bet_key, 'attempt', j.attempts, 'stake', j.stake,
      'row', j.wallet_change, 'policy', j.policy,
      'spent', case when j.limited then purple_flea.spent(j.agent_id, j.bet_day, j.reference) end
    )), '[]'), min(j.lease_until) into claimed, lease_end
  from purple_flea.jobs j where j.token = claim_token and j.state = 'claimed';
  return jsonb_build_object(
    'token',    claim_token,
    'lease_ms', greatest(0, floor(extract(epoch from lease_end - clock_timestamp()) * 1000)::bigint),
    'jobs',     claimed,
    'answers',  coalesce((select jsonb_agg(purple_flea.answer(asked, claim_token, slots = 0)) from unnest(wanted) as asked), '[]'),
    'more',     slots > 0 and purple_flea.is_due(),
    'lookups',  exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp())
  );
end;
$$;
comment on function public.claim_jobs(text[], integer, uuid) is 'Claims due jobs, those asked for first, and answers for every reference: claimed, in_flight, executed, skipped, rejected, unknown, dead, waiting or not_found.';
revoke all on function public.claim_jobs(text[], integer, uuid) from public, anon, authenticated;
grant execute on function public.claim_jobs(text[], integer, uuid) to service_role, purple_flea_worker;

-- Settling: what the function calls with the outcome. Once or ten times makes no difference; the job, its event and the
-- row of trade_results are one transaction.

-- Records an outcome. Raises where it cannot be one.
create or replace function purple_flea.apply(job purple_flea.jobs, new_state text, outcome jsonb, by_whom text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  timing   record;
  at       timestamptz := clock_timestamp();
  wait     interval;
  staked   numeric(12,4) := (outcome ->> 'wager')::numeric;
  paid     numeric(12,4) := (outcome ->> 'payout')::numeric;
begin
  timing := purple_flea.timing();
  if new_state = 'executed' then
    insert into public.trade_results (agent_id, game, wager, outcome, payout, reference, bet_id)
    values (job.agent_id, outcome ->> 'game', staked, outcome ->> 'outcome', paid, job.reference, outcome ->> 'bet_id');
  end if;
  -- Half of the wait is chance, so that what failed together does not come back together.
  wait := greatest(
    make_interval(secs => case jsonb_typeof(outcome -> 'retry_after_s')
      when 'number' then least(3600, greatest(0, (outcome ->> 'retry_after_s')::numeric))::double precision
      else 0
    end),
    least(timing.backoff_max, timing.backoff * power(2, least(job.attempts, 20) - 1))
  ) * (1 + random() / 2);
  if outcome ->> 'reason' = 'out_of_time' then
    wait := interval '0';
  end if;
  update purple_flea.jobs j
  set state      = new_state,
      changed_by = by_whom,
      reason     = outcome ->> 'reason',
      result     = outcome,
      due_at     = case new_state when 'pending' then at + wait else j.due_at end,
      -- A released job that turns out to have been bet on counts on the day of its claim.
      bet_day    = case when new_state in ('executed', 'unknown') then coalesce(j.bet_day, (j.claimed_at at time zone 'UTC')::date) end,
      lookup_at  = case new_state when 'unknown' then j.lease_until + timing.lookup_wait end,
      wager      = case new_state when 'executed' then staked end,
      payout     = case new_state when 'executed' then paid end
  where j.reference = job.reference;
  if new_state = 'executed' and staked > job.stake then
    perform purple_flea.note(job, 'alarm', 'staked_more_than_the_policy_allows', outcome, by_whom);
  end if;
end;
$$;
comment on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) is 'Brings a job into a state with its outcome, and makes the row of trade_results.';
revoke all on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.note(job purple_flea.jobs, kind text, why text, detail jsonb, by_whom text, token uuid default null) returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into purple_flea.job_events (reference, kind, from_state, to_state, why, attempt, changed_by, token, detail)
  values (job.reference, kind, job.state, job.state, why, job.attempts, by_whom, coalesce(token, job.token), detail)
$$;
comment on function purple_flea.note(purple_flea.jobs, text, text, jsonb, text, uuid) is 'Notes what changed no state.';
revoke all on function purple_flea.note(purple_flea.jobs, text, text, jsonb, text, uuid) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.next_look_up(job purple_flea.jobs) returns timestamptz
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- As long again as it has been; and after a day no more.
  select case
    when clock_timestamp() > job.claimed_at + interval '1 day' then 'infinity'
    else clock_timestamp() + greatest(clock_timestamp() - job.claimed_at, interval '1 second')
  end
$$;
comment on function purple_flea.next_look_up(purple_flea.jobs) is 'When an unknown job that was looked for in vain is looked for again: later and later, for a day.';
revoke all on function purple_flea.next_look_up(purple_flea.jobs) from public, anon, authenticated, service_role, purple_flea_worker;

-- A report that comes from the last claimant, or from who looked its job up.
create or replace function purple_flea.settle_as_last(job purple_flea.jobs, new_state text, outcome jsonb) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  same_bet boolean := (job.result ->> 'bet_id') is not distinct from (outcome ->> 'bet_id');
begin
  -- (pending: an operator released it, and its bet had been made all the same. It must not be claimed again.)
  if job.state = 'claimed' or (job.state in ('unknown', 'pending') and new_state = 'executed') then
    perform purple_flea.apply(job, new_state, outcome, 'worker');
    return 'settled';
  elsif job.state = 'unknown' and new_state = 'unknown' and outcome ->> 'reason' in ('not_found', 'no_history', 'history_too_long', 'history_unreadable') then
    -- Looked for in vain, which proves nothing. Later, and less and less often, it is looked for again.
    update purple_flea.jobs j
    set reason    = outcome ->> 'reason',
        lookup_at = case outcome ->> 'reason' when 'no_history' then 'infinity' else purple_flea.next_look_up(j) end
    where j.reference = job.reference;
    perform purple_flea.note(job, 'look_up', outcome ->> 'reason', outcome, 'worker');
    return 'settled';
  elsif job.state = new_state and (new_state <> 'executed' or same_bet) then
    return 'settled_before';
  elsif new_state = 'executed' then
    perform purple_flea.note(job, 'conflict', 'another_outcome', outcome, 'worker');
    return 'conflict';
  else
    perform purple_flea.note(job, 'late_answer', new_state, outcome, 'worker');
    return 'too_late';
  end if;
end;
$$;
comment on function purple_flea.settle_as_last(purple_flea.jobs, text, jsonb) is 'What the last claimant''s report does to a job.';
revoke all on function purple_flea.settle_as_last(purple_flea.jobs, text, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.settle_job(reference text, token uuid, state text, result jsonb) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
<<settle_why>>
declare
  job purple_flea.jobs;
  did text;
  why text;
begin
  if settle_job.state is null or settle_job.state not in ('pending', 'executed', 'skipped', 'rejected', 'unknown')
    or jsonb_typeof(settle_job.result) is distinct from 'object' or settle_job.token is null then
    raise exception 'an outcome is pending, executed, skipped, rejected or unknown, with its token and a result'
      using errcode = 'invalid_parameter_value';
  end if;
  select * into job from purple_flea.jobs j where j.reference = settle_job.reference for update;
  if not found then
    return jsonb_build_object('reference', settle_job.reference, 'did', 'not_found');
  end if;
  if settle_job.token is distinct from job.token then
    if not exists (select from purple_flea.job_events e where e.reference = job.reference and e.token = settle_job.token) then
      return jsonb_build_object('reference', job.reference, 'did', 'unknown_token');
    end if;
    -- An earlier claimant. If it bet, two bets may have been made: somebody has to look. While nobody else is at it, its
    -- bet is at least the last one.
    if job.state = 'pending' and settle_job.state = 'executed' then
      perform purple_flea.note(job, 'conflict', 'not_the_last_claimant', settle_job.result, 'worker', settle_job.token);
      perform purple_flea.apply(job, 'executed', settle_job.result, 'worker');
      return jsonb_build_object('reference', job.reference, 'did', 'settled', 'state', 'executed');
    end if;
    did := case settle_job.state when 'executed' then 'conflict' else 'late_answer' end;
    perform purple_flea.note(job, did, 'not_the_last_claimant', settle_job.result, 'worker', settle_job.token);
    return jsonb_build_object('reference', job.reference, 'did', did, 'state', job.state);
  end if;
  begin
    did := purple_flea.settle_as_last(job, settle_job.state, settle_job.result);
  exception
    when deadlock_detected or serialization_failure or lock_not_available or insufficient_resources or operator_intervention then
      -- Another time it will do.
      raise;
    when others then
      -- Whatever is wrong with it, it is kept. The lease makes the job unknown, and somebody can read why.
      did := 'not_settled';
      why := left('not_settled: ' || sqlerrm, 200);
      if not exists (select from purple_flea.job_events e where e.reference = job.reference and e.kind = 'alarm' and e.why = settle_why.why) then
        perform purple_flea.note(job, 'alarm', why, settle_job.result, 'worker');
      end if;
      if job.state in ('claimed', 'unknown') then
        update purple_flea.jobs j
        set result    = settle_job.result,
            lookup_at = case j.state when 'unknown' then purple_flea.next_look_up(j) end
        where j.reference = job.reference;
      end if;
  end;
  return jsonb_build_object('reference', job.reference, 'did', did,
    'state', (select j.state from purple_flea.jobs j where j.reference = job.reference));
end;
$$;
comment on function public.settle_job(text, uuid, text, jsonb) is 'Reports a claimed job''s outcome: settled, settled_before, too_late, conflict, late_answer, not_settled, unknown_token or not_found.';
revoke all on function public.settle_job(text, uuid, text, jsonb) from public, anon, authenticated;
grant execute on function public.settle_job(text, uuid, text, jsonb) to service_role, purple_flea_worker;

create or replace function public.settle_jobs(outcomes jsonb) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most    constant integer := 100;  -- the outcomes of one claim
  outcome jsonb;
  done    jsonb := '[]';
begin
  if jsonb_typeof(outcomes) is distinct from 'array' or jsonb_array_length(outcomes) > most then
    raise exception 'outcomes are an array of at most %', most using errcode = 'invalid_parameter_value';
  end if;
  -- Always in the same order, so that two of these never wait for each other.
  for outcome in select o from jsonb_array_elements(outcomes) as o order by o ->> 'reference' loop
    begin
      done := done || public.settle_job(outcome ->> 'reference', (outcome ->> 'token')::uuid, outcome ->> 'state', outcome -> 'result');
    exception when data_exception then
      -- One that cannot be read keeps none of the others.
      done := done || jsonb_build_object('reference', outcome ->> 'reference', 'did', 'not_readable');
    end;
  end loop;
  return done;
end;
$$;
comment on function public.settle_jobs(jsonb) is 'settle_job for every outcome of an array of {reference, token, state, result}; one that fails does not touch the others.';
revoke all on function public.settle_jobs(jsonb) from public, anon, authenticated;
grant execute on function public.settle_jobs(jsonb) to service_role, purple_flea_worker;

-- Looking up: jobs of which nobody knows what became, for the function to look for in Purple Flea's history. What is
-- found is settled with the token of the last claim, as that claimant would have.

create or replace function public.claim_lookups("limit" integer default 50) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
as $$
declare
  most constant integer := 100;
  jobs jsonb;
begin
  if claim_lookups."limit" is null or claim_lookups."limit" not between 1 and most then
    raise exception 'limit must be 1 to %', most using errcode = 'invalid_parameter_value';
  end if;
  perform purple_flea.expire(false);
  with taken as (
    update purple_flea.jobs j
    set lookup_at = clock_timestamp() + (purple_flea.timing()).lookup_hold
    where j.reference in (
      select u.reference from purple_flea.jobs u
      where u.state = 'unknown' and u.lookup_at <= statement_timestamp()
      order by u.lookup_at limit claim_lookups."limit" for update skip locked
    )
    returning j.*
  )
  select jsonb_agg(jsonb_build_object(
    'reference', reference, 'token', token, 'bet_key', bet_key, 'agent_id', agent_id, 'policy', policy,
    'from_s',  floor(extract(epoch from claimed_at))::bigint,
    'until_s', ceil(extract(epoch from lease_until + (purple_flea.timing()).lookup_wait))::bigint
  )) into jobs from taken;
  return coalesce(jobs, '[]');
end;
$$;
comment on function public.claim_lookups(integer) is 'Hands out unknown jobs whose bets are to be looked for, each to one caller at a time.';
revoke all on function public.claim_lookups(integer) from public, anon, authenticated;
grant execute on function public.claim_lookups(integer) to service_role, purple_flea_worker;

-- The doorbell: a signed request to the function, through pg_net, which says that there is something to do. It is
-- awareness, not delivery: it may get lost, come late or come twice, and what is to be done stands in the jobs. And it
-- never stands in a deposit's way: whatever goes wrong with it, the row and its job are stored, and a warning says why
-- nobody was called.

create or replace function purple_flea.signature(webhook_id text, webhook_timestamp bigint, body jsonb, secret text) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  pgcrypto text;
  digest   bytea;
begin
  -- Checked here, because decode() would quote a character of it.
  if secret is null or secret !~ '^whsec_[A-Za-z0-9+/]{32,}={0,2}$' then
    raise exception 'purple_flea_webhook_secret is not of the form whsec_<base64>';
  end if;
  -- pgcrypto may have been installed in another schema before us.
  select n.nspname into strict pgcrypto
  from pg_catalog.pg_extension e
  join pg_catalog.pg_namespace n on n.oid = e.extnamespace
  where e.extname = 'pgcrypto';
  -- body::text is what pg_net sends, to the byte.
  execute format('select %I.hmac($1, $2, ''sha256'')', pgcrypto) into digest
    using
      convert_to(webhook_id || '.' || webhook_timestamp || '.' || body::text, 'UTF8'),
      decode(substr(secret, 7), 'base64');
  return 'v1,' || encode(digest, 'base64');
end;
$$;
comment on function purple_flea.signature(text, bigint, jsonb, text) is 'The Standard Webhooks signature of a body, over the bytes that pg_net sends.';
revoke all on function purple_flea.signature(text, bigint, jsonb, text) from public, anon, authenticated, service_role;

create or replace function purple_flea.post(webhook_id text, body jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A lock on pg_net's tables must not hold a deposit back for longer.
  set lock_timeout = '500ms'
as $$
declare
  url       text   := purple_flea.secret('purple_flea_function_url');
  secret    text   := purple_flea.secret('purple_flea_webhook_secret');
  signed_at bigint := floor(extract(epoch from clock_timestamp()));
begin
  if url is null or secret is null then
    raise exception '% is not set', case when url is null then 'purple_flea_function_url' else 'purple_flea_webhook_secret' end;
  end if;
  perform net.http_post(
    url     => url,
    body    => body,
    headers => jsonb_build_object(
      'Content-Type',      'application/json',
      'Prefer',            'respond-async',
      'webhook-id',        webhook_id,
      'webhook-timestamp', signed_at::text,
      'webhook-signature', purple_flea.signature(webhook_id, signed_at, body, secret)
    ),
    -- Longer than the function takes to answer a ring.
    timeout_milliseconds => 15000
  );
end;
$$;
comment on function purple_flea.post(text, jsonb) is 'Posts a body to the function, signed. Raises where it cannot.';
revoke all on function purple_flea.post(text, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring_doorbell() returns trigger
  language plpgsql
  volatile
  -- The depositor may read neither the secret nor, in general, the queue.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  first_id bigint;
begin
  -- One ring for a statement, whatever the number of its rows: each ring makes the function look for all that is due,
  -- and thousands would stall every other webhook of the database.
  select min(id) into first_id from inserted where change_type = 'deposit';
  if first_id is not null then
    perform purple_flea.post(
      'wallet-change-' || first_id,
      jsonb_build_object('ledger', true, 'reference', 'wallet-change-' || first_id)
    );
  end if;
  return null;
exception when others then
  raise warning 'purple_flea: deposit % is stored, but the function was not called: %', first_id, sqlerrm;
  return null;
end;
$$;
comment on function purple_flea.ring_doorbell() is 'Tells the function that a statement made deposits. Never fails.';
revoke all on function purple_flea.ring_doorbell() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists purple_flea_doorbell on public.wallet_changes;
create trigger purple_flea_doorbell
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.ring_doorbell();

-- The sweeper: what must happen even when every notification is lost. Somebody calls purple_flea.ring() again and again:
-- pg_cron where there is one, a timer of the machine's otherwise.

-- Makes the jobs of deposits that have none: their trigger was off, or a restore went past it.
create or replace function purple_flea.make_missing_jobs(from_id bigint default null) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most   constant bigint := 10000;  -- rows at a time
  behind constant bigint := 1000;   -- ids that are looked at again: a row can become visible after a later one
  ledger purple_flea.ledger;
  last   bigint;
  made   integer;
begin
  select * into ledger from purple_flea.ledger for update;
  -- With from_id: everything from there on, however long that takes.
  select max(id) into last
  from (select w.id from public.wallet_changes w where w.id > ledger.checked_until order by w.id limit most) as next;
  if from_id is not null or last is null then
    select coalesce(max(w.id), 0) into last from public.wallet_changes w;
  end if;
  with missing as (
    insert into purple_flea.jobs (reference, bet_key, wallet_change_id, agent_id, changed_by, reason, due_at, expires_at)
    select 'wallet-change-' || w.id, purple_flea.bet_key('wallet-change-' || w.id), w.id, w.agent_id, 'sweeper', 'was_missing', statement_timestamp(),
           clock_timestamp() + (purple_flea.timing()).max_age
    from public.wallet_changes w
    where w.change_type = 'deposit' and w.id > ledger.starts_after and w.id <= last
      and w.id > coalesce(from_id - 1, ledger.checked_until - behind)
      and not exists (select from purple_flea.jobs j where j.wallet_change_id = w.id)
    on conflict do nothing
    returning 1
  )
  select count(*) into made from missing;
  update purple_flea.ledger l set checked_until = greatest(l.checked_until, last);
  return made;
end;
$$;
comment on function purple_flea.make_missing_jobs(bigint) is 'Makes the jobs of deposits without one, newer than the ledger; with an id: from there on, without a limit.';
revoke all on function purple_flea.make_missing_jobs(bigint) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring() returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.make_missing_jobs();
  perform purple_flea.expire(false);
  update purple_flea.ledger set swept_at = clock_timestamp();
  if not purple_flea.is_due()
    and not exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp()) then
    return 'nothing is due';
  end if;
  begin
    perform purple_flea.post('ring-' || gen_random_uuid(), '{"ledger": true}');
  exception when others then
    -- What was swept stays swept.
    raise warning 'purple_flea: jobs are due, but the function was not called: %', sqlerrm;
    return 'not rung: ' || sqlerrm;
  end;
  return 'rung';
end;
$$;
comment on function purple_flea.ring() is 'Sweeps, and rings the function if anything is due: call it every 10 seconds. Says what it did.';
revoke all on function purple_flea.ring() from public, anon, authenticated, service_role, purple_flea_worker;

-- How the ledger is: for /health, and for people.
create or replace function public.ledger_health() returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'sweeper', case when (select swept_at from purple_flea.ledger) > clock_timestamp() - interval '3 minutes' then 'ok' else 'missing' end,
    'due', (select count(*) from (
      select from purple_flea.jobs where state = 'pending' and due_at <= statement_timestamp() limit 10000) as due),
    'oldest_due_s', (select floor(extract(epoch from clock_timestamp() - min(due_at)))::bigint
      from purple_flea.jobs where state = 'pending' and due_at <= statement_timestamp()),
    'unknown', (select count(*) from (select from purple_flea.jobs where state = 'unknown' limit 10000) as unknown),
    'alarms', (select count(*) from purple_flea.job_events
      where kind in ('conflict', 'alarm') and at > statement_timestamp() - interval '1 day'),
    -- Deposits wait for our key or URL, and no bet has come through of late: one agent's own trouble is not ours.
    'refused_by_purple_flea', exists (
      select from purple_flea.jobs where state = 'pending' and reason = 'purple_flea_refused_us'
    ) and not exists (
      select from (select to_state from purple_flea.job_events where kind = 'transition' order by id desc limit 200) as last
      where to_state = 'executed'
    )
  )
$$;
comment on function public.ledger_health() is 'Whether the sweeper comes, what waits and for how long, what is unknown (counted to 10,000), and the day''s alarms.';
revoke all on function public.ledger_health() from public, anon, authenticated;
grant execute on function public.ledger_health() to service_role, purple_flea_worker;

-- With pg_cron nobody has to set anything up. Before 1.5 it knows no seconds, and minutes have to do.
do $$
declare
  version text;
begin
  if not exists (select from pg_catalog.pg_extension where extname = 'pg_cron')
    and exists (select from pg_catalog.pg_available_extensions where name = 'pg_cron') then
    begin
      create extension pg_cron;
    exception when others then
      raise notice 'pg_cron could not be enabled (%)', sqlerrm;
    end;
  end if;
  select extversion into version from pg_catalog.pg_extension where extname = 'pg_cron';
  if version is null then
    raise notice 'without pg_cron somebody has to call purple_flea.ring() every 10 seconds: the README has a timer for it';
    return;
  end if;
  begin
  perform cron.schedule('purple-flea-ring',
    case when regexp_match(version, '^(\d+)\.(\d+)')::integer[] >= array[1, 5] then '10 seconds' else '* * * * *' end,
    'select purple_flea.ring()');
  -- It keeps a row for each run, for ever.
  perform cron.schedule('purple-flea-prune', '7 * * * *', $prune$
    delete from cron.job_run_details d using cron.job j
    where d.jobid = j.jobid and j.jobname like 'purple-flea-%' and d.end_time < now() - interval '1 hour'
  $prune$);
  exception when others then
    raise notice 'pg_cron is there, but takes no job from us (%): somebody has to call purple_flea.ring()', sqlerrm;
  end;
end;
$$;

-- For people: what an owner may see of a deposit's job, and what an operator may do about one. Operators are the role
-- that owns the schema; nobody else may call these.

create or replace view public.deposit_jobs with (security_barrier) as
  select j.reference, j.wallet_change_id, j.agent_id, j.state, j.reason, j.attempts, j.created_at, j.changed_at
  from purple_flea.jobs j
  join public.agents a on a.id = j.agent_id
  where a.owner_id = (select auth.uid());
comment on view public.deposit_jobs is 'What became of the deposits of one''s own agents, and why.';
revoke all on public.deposit_jobs from public, anon, authenticated, service_role, purple_flea_worker;
grant select on public.deposit_jobs to authenticated;

create or replace view purple_flea.stuck_jobs as
  -- Each part has its index: the settled ones are many.
  with stuck as (
    select reference from purple_flea.jobs where state = 'unknown'
    union
    select reference from purple_flea.jobs where state = 'pending' and due_at < statement_timestamp() - interval '5 minutes'
    union
    select reference from purple_flea.jobs where state = 'pending' and attempts > 5
    union
    select reference from purple_flea.job_events where kind in ('conflict', 'alarm') and at > statement_timestamp() - interval '7 days'
  )
  select reference, agent_id, state, reason, attempts, changed_at, due_at, stake, bet_key, result,
         exists (select from purple_flea.job_events e where e.reference = j.reference and e.kind in ('conflict', 'alarm')) as alarm
  from stuck join purple_flea.jobs j using (reference);
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
      due_at = clock_timestamp(), expires_at = clock_timestamp() + (purple_flea.timing()).max_age, bet_day = null, lookup_at = null
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
begin
  update purple_flea.jobs j set due_at = clock_timestamp() where j.reference = retry_job.reference and j.state = 'pending';
  if not found then
    raise exception 'job % is not pending', retry_job.reference;
  end if;
end;
$$;
comment on function purple_flea.retry_job(text) is 'Makes a pending job due now, instead of after its backoff.';
revoke all on function purple_flea.retry_job(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What Realtime's subscribers see, each through the policies of 030_access.sql. agents is not among it: its rows
-- name keys.

do $$
declare
  followed text;
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach followed in array array['wallet_changes', 'trade_results', 'escrow_requests'] loop
    if not exists (
      select from pg_catalog.pg_publication_tables
      where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = followed
    ) then
      execute format('alter publication supabase_realtime add table public.%I', followed);
    end if;
  end loop;
end;
$$;
