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

-- Functions and views of an earlier revision may have other arguments or columns than today's. What no trigger or policy
-- holds is dropped here, and sql/functions makes it anew in the same transaction.
do $$
declare
  earlier record;
begin
  drop view if exists public.referral_earnings, public.agent_jobs, purple_flea.stuck_jobs, purple_flea.all_jobs,
    purple_flea.all_job_events, purple_flea.effective_policies;
  for earlier in
    select p.oid::regprocedure as signature
    from pg_catalog.pg_proc p
    where (p.pronamespace = 'purple_flea'::regnamespace
        or (p.pronamespace = 'public'::regnamespace and p.proname in (
          'claim_jobs', 'claim_lookups', 'settle_job', 'settle_jobs', 'await_jobs', 'end_watch', 'ledger_health', 'request_job')))
      and not exists (select from pg_catalog.pg_depend d where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.deptype = 'n')
  loop
    execute format('drop function %s', earlier.signature);
  end loop;
end;
$$;

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
  add column if not exists owner_id        uuid,
  add column if not exists pf_agent_id     text,
  add column if not exists referral_code   text,
  add column if not exists orchestrator_id text references public.agents on delete restrict,
  alter column api_key    set default '',
  alter column balance    set not null,
  alter column status     set not null,
  alter column created_at set not null;

comment on table  public.agents          is 'One row for each AI agent that has a wallet.';
comment on column public.agents.id       is 'Purple Flea''s id of the agent.';
comment on column public.agents.api_key  is 'The name of the secret that holds the agent''s Purple Flea key, never the key itself; empty while there is none.';
comment on column public.agents.balance  is 'What the wallet held when it was last looked at, in US dollars.';
comment on column public.agents.status   is 'idle, trading or offline.';
comment on column public.agents.pf_agent_id     is 'What Purple Flea calls the agent, where that is not its id; registration finds out.';
comment on column public.agents.referral_code   is 'The agent''s own referral code at Purple Flea.';
comment on column public.agents.orchestrator_id is 'Who brought the agent in: who earns the referral.';
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
  add column if not exists reference   text,
  add column if not exists bet_id      text,
  add column if not exists market      text,
  add column if not exists direction   text,
  add column if not exists entry_price numeric,
  add column if not exists position_id text,
  add column if not exists order_id    text,
  add column if not exists proof       jsonb,
  alter column agent_id   set not null,
  alter column created_at set not null;

comment on table  public.trade_results           is 'How bets ended and what trades were opened: at most one row for each deposit.';
comment on column public.trade_results.game      is 'crash, coin-flip or hi-lo; null for a trade.';
comment on column public.trade_results.wager     is 'What was staked, in US dollars; of a trade, its size.';
comment on column public.trade_results.outcome   is 'win or loss.';
comment on column public.trade_results.payout    is 'What was paid, the stake included, in US dollars; 0 for a loss; null where a win does not say.';
comment on column public.trade_results.reference is 'Which job led to it: wallet-change-<id> for a deposit. Null for rows that are older than the ledger.';
comment on column public.trade_results.bet_id    is 'Purple Flea''s name for the bet.';
comment on column public.trade_results.market      is 'What was traded.';
comment on column public.trade_results.direction   is 'long or short, of a trade.';
comment on column public.trade_results.entry_price is 'What it was opened at, where Purple Flea says so.';
comment on column public.trade_results.position_id is 'Purple Flea''s name for the position.';
comment on column public.trade_results.order_id    is 'Purple Flea''s name for the order.';
comment on column public.trade_results.proof       is 'What the bet can be checked by once its server seed is revealed: server_seed_hash, client_seed, nonce, result_hash.';

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
      -- What is ours is no agent's: its key goes out with every call.
      ('agents',          'agents_api_key_check',                $c$check (api_key not in ('purple_flea_function_url', 'purple_flea_webhook_secret'))$c$),
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
create index if not exists agents_orchestrator_id_idx      on public.agents          (orchestrator_id);
create index if not exists wallet_changes_agent_id_idx     on public.wallet_changes  (agent_id);
create index if not exists trade_results_agent_id_idx      on public.trade_results   (agent_id);
create index if not exists escrow_requests_sender_id_idx   on public.escrow_requests (sender_id);
create index if not exists escrow_requests_receiver_id_idx on public.escrow_requests (receiver_id);

-- What is done for an agent beside its bets: its registration, its faucet claim, a look at its balance. A row of agents
-- asks for the first two, the clock or a caller for the third.

alter table public.agents add column if not exists balance_at timestamptz;
comment on column public.agents.balance_at is 'When Purple Flea last said what the wallet holds.';

-- Escrows: a row of escrow_requests asks for one, and its sender's owner for its release or cancellation by setting
-- requested_status. What became of it stands in the row; status changes only by what Purple Flea answers.

alter table public.escrow_requests
  add column if not exists requested_status text,
  add column if not exists description      text,
  add column if not exists timeout_hours    integer,
  add column if not exists fee              numeric(12,4),
  add column if not exists referral_earned  numeric(12,4),
  add column if not exists reason           text,
  add column if not exists asked_as         text;
comment on column public.escrow_requests.status           is 'pending, released, cancelled; refused (it was never made), disputed, refunded. Set by Purple Flea''s answers alone.';
comment on column public.escrow_requests.requested_status is 'What its sender''s owner wants it to become: released or cancelled.';
comment on column public.escrow_requests.description      is 'What it is for, at most 200 characters; the job''s bet key is put behind it, so that it can be found.';
comment on column public.escrow_requests.timeout_hours    is 'After how many hours it ends by itself: 1 to 720; null: Purple Flea''s own 24.';
comment on column public.escrow_requests.fee              is 'What Purple Flea keeps of it, in US dollars: 1 %.';
comment on column public.escrow_requests.referral_earned  is 'What the sender''s orchestrator earned by it, in US dollars: 15 % of the fee.';
comment on column public.escrow_requests.reason           is 'Why the last step did not lead to what was asked for, as a code; null when it did.';
comment on column public.escrow_requests.asked_as         is 'The webhook-id of the call that asked for it, if it was one: the same call asks once.';

do $$
declare
  wanted record;
begin
  alter table public.escrow_requests drop constraint if exists escrow_requests_status_check;
  alter table public.escrow_requests add constraint escrow_requests_status_check
    check (status in ('pending', 'released', 'cancelled', 'refused', 'disputed', 'refunded'));
  for wanted in
    select * from (values
      ('escrow_requests_requested_status_check', $c$check (requested_status in ('released', 'cancelled'))$c$),
      ('escrow_requests_description_check',      $c$check (char_length(description) between 3 and 200)$c$),
      ('escrow_requests_timeout_hours_check',    $c$check (timeout_hours between 1 and 720)$c$),
      ('escrow_requests_asked_as_key',           $c$unique (asked_as)$c$)
    ) as c (constraint_name, definition)
  loop
    if not exists (
      select from pg_catalog.pg_constraint
      where conrelid = 'public.escrow_requests'::regclass and conname = wanted.constraint_name
    ) then
      execute format('alter table public.escrow_requests add constraint %I %s', wanted.constraint_name, wanted.definition);
    end if;
  end loop;
end;
$$;

-- Row-level security is on from the start; sql/functions/030_access.sql says which rows each role may see.
alter table public.agents          enable row level security;
alter table public.wallet_changes  enable row level security;
alter table public.trade_results   enable row level security;
alter table public.escrow_requests enable row level security;
