-- Everything in sql/ as it was in the release that is now called 0.1.0 (revision 1131e4e), one file after the other.

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
grant select (id, balance, status, created_at, owner_id, pf_agent_id, referral_code, orchestrator_id) on public.agents to authenticated;
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

-- An agent's own key, for a call: trading has keys of its own where there is a secret with ".trading" behind the name.
create or replace function purple_flea.agent_key(named text, call text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(case when call in ('trade', 'order') then purple_flea.secret(named || '.trading') end, purple_flea.secret(named))
$$;
comment on function purple_flea.agent_key(text, text) is 'The key that an agent''s own calls are made with, or null while there is none.';
revoke all on function purple_flea.agent_key(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Keeps a key that a registration brought, under the name that the agent's row gives, and nowhere else. One that is there
-- already stays: its account would be out of reach. Then the new one is kept beside it, and false is given.
create or replace function purple_flea.keep_key(agent text, key text) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  named text := (select coalesce(nullif(a.api_key, ''), 'purple_flea_agent_' || a.id) from public.agents a where a.id = agent for no key update);
begin
  if purple_flea.secret(named) is not null then
    perform purple_flea.set_secret(named || '.unused', key);
    return false;
  end if;
  -- First the key, then the row that names it: a row whose key is not there asks for a registration.
  perform purple_flea.set_secret(named, key);
  update public.agents a set api_key = named where a.id = agent and a.api_key <> named;
  return true;
end;
$$;
comment on function purple_flea.keep_key(text, text) is 'Keeps an agent''s own key as the secret that its row names, unless there is one.';
revoke all on function purple_flea.keep_key(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

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

revoke all on purple_flea.trade_policies from public, anon, authenticated, service_role, purple_flea_worker;
alter table purple_flea.trade_policies enable row level security;

insert into purple_flea.trade_policies (agent_id) values (null) on conflict (agent_id) do nothing;

-- Which row judges an agent, and whether its bets are held back.
create or replace view purple_flea.effective_policies as
  select a.id as agent_id, coalesce(own.id, everybodys.id) as policy_id, coalesce(own.limited, everybodys.limited) as limited,
         everybodys.paused or coalesce(own.paused, false) as paused, coalesce(own.game, everybodys.game) as game,
         a.api_key as account
  from public.agents a
  left join purple_flea.trade_policies own on own.agent_id = a.id
  join purple_flea.trade_policies everybodys on everybodys.agent_id is null;
comment on view purple_flea.effective_policies is 'Which policy each agent is judged by, whether its bets are held back, and whose key they are made with (empty: everybody''s).';
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
  select case
    when new_balance is null then 0
    when policy.game = 'trade' and policy.size is not null then least(policy.size, trunc(policy.max_wager, 2))
    else greatest(0, least(round(new_balance * policy.wager_fraction, 2), trunc(new_balance, 2), trunc(policy.max_wager, 2)))
  end
$$;
comment on function purple_flea.stake(numeric, purple_flea.trade_policies) is 'The most that a deposit can stake under a policy, in US dollars; 0 without a balance.';
revoke all on function purple_flea.stake(numeric, purple_flea.trade_policies) from public, anon, authenticated, service_role, purple_flea_worker;

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
revoke all on purple_flea.rate_limits, purple_flea.rate_slots, purple_flea.rate_stops
  from public, anon, authenticated, service_role, purple_flea_worker;

-- What a job calls: its kind, and of a deposit its game.
create or replace function purple_flea.call_of(kind text, game text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case kind when 'deposit' then game else kind end
$$;
comment on function purple_flea.call_of(text, text) is 'What a job of a kind calls, under a policy''s game.';
revoke all on function purple_flea.call_of(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Which calls have no slot left: {"crash *": …} for everybody's, {"crash <account>": …} for one account's, each with the
-- time from which it is worth asking again.
create or replace function purple_flea.exhausted(of_api text) returns jsonb
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  with held as (
    select call, account, held_until from purple_flea.rate_slots where held_until > clock_timestamp()
  ),
  used as (
    select limited.call, case l.per when 'account' then held.account else '*' end as account, l.most, l.calls, held.held_until
    from purple_flea.rate_limits l
    join held on held.call = any (l.calls)
    cross join unnest(l.calls) as limited (call)
    where l.api = of_api
  ),
  stopped as (
    select call, account, min(held_until) as until from used group by call, account, calls, most having count(*) >= most
    union all
    select call, account, until from purple_flea.rate_stops where until > clock_timestamp()
  )
  select coalesce(jsonb_object_agg(name, until), '{}')
  from (select call || ' ' || account as name, max(until) as until from stopped group by call, account) as named
$$;
comment on function purple_flea.exhausted(text) is 'Which calls no claim may make now, and until when.';
revoke all on function purple_flea.exhausted(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_stopped(kind text, game text, account text, exhausted jsonb) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select exhausted ?| array[call_of || ' *', call_of || ' ' || account] from purple_flea.call_of(kind, game)
$$;
comment on function purple_flea.is_stopped(text, text, text, jsonb) is 'Whether a job''s call has no slot left.';
revoke all on function purple_flea.is_stopped(text, text, text, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

-- Takes a slot for each job that needs one, in their order; gives those that may be claimed. Its caller holds the lock
-- that keeps two claims from counting the same slots.
create or replace function purple_flea.take_slots(picked text[], of_api text, exhausted jsonb, claim uuid, lease_until timestamptz) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  job  record;
  kept text[] := '{}';
begin
  delete from purple_flea.rate_slots s where s.held_until < clock_timestamp();
  for job in
    select j.reference, purple_flea.call_of(j.kind, e.game) as call, e.account, max(l.within) as within
    from unnest(picked) with ordinality as p (reference, n)
    join purple_flea.jobs j using (reference)
    join purple_flea.effective_policies e on e.agent_id = j.agent_id
    left join purple_flea.rate_limits l on l.api = of_api and purple_flea.call_of(j.kind, e.game) = any (l.calls)
    group by p.n, j.reference, e.game, e.account
    order by p.n
  loop
    continue when take_slots.exhausted ?| array[job.call || ' *', job.call || ' ' || job.account] or exists (
      select from purple_flea.rate_limits l
      where l.api = of_api and job.call = any (l.calls) and l.most <= (
        select count(*) from purple_flea.rate_slots s
        where s.call = any (l.calls) and (l.per = 'deployment' or s.account = job.account)
      )
    );
    if job.within is not null then
      insert into purple_flea.rate_slots (reference, token, call, account, held_until, within)
      values (job.reference, take_slots.claim, job.call, job.account, take_slots.lease_until + job.within, job.within);
    end if;
    kept := kept || job.reference;
  end loop;
  return kept;
end;
$$;
comment on function purple_flea.take_slots(text[], text, jsonb, uuid, timestamptz) is 'Which of these jobs Purple Flea''s limits leave room for; their slots are taken.';
revoke all on function purple_flea.take_slots(text[], text, jsonb, uuid, timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

-- A call that is over holds its slot for the limit's time from now on; one that was never made gives it back.
create or replace function purple_flea.end_call() returns trigger
  language plpgsql
  -- Whoever settles a job may not write here.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.state = 'skipped' or (new.state = 'pending' and new.reason in (
    'out_of_time', 'paused', 'daily_limit_open', 'not_reached', 'agent_without_key', 'balance_not_known', 'unreadable_job')) then
    delete from purple_flea.rate_slots s where s.reference = new.reference and s.token = new.token;
  else
    update purple_flea.rate_slots s set held_until = clock_timestamp() + s.within
    where s.reference = new.reference and s.token = new.token;
  end if;
  -- (The faucet's one a day from an address keeps one agent waiting. Another's claim may have been made with its registration.)
  if new.state = 'pending' and new.reason = 'rate_limited' and new.result ->> 'purple_flea_code' is distinct from 'ip_rate_limited' then
    delete from purple_flea.rate_stops s where s.until < clock_timestamp();
    insert into purple_flea.rate_stops as stop (call, account, until)
    select stopped.call,
           case new.result ->> 'purple_flea_code' when 'rate_limit_exceeded' then a.api_key else '*' end,
           clock_timestamp() + make_interval(secs => coalesce((new.result ->> 'retry_after_s')::double precision, 60))
    from public.agents a, unnest(case new.result ->> 'purple_flea_code'
      -- An account's limit is for all games together.
      when 'rate_limit_exceeded' then array['crash', 'coin-flip'] else array[purple_flea.call_of(new.kind, new.policy ->> 'game')] end) as stopped (call)
    where a.id = new.agent_id
    on conflict (call, account) do update set until = greatest(stop.until, excluded.until);
  end if;
  return null;
end;
$$;
comment on function purple_flea.end_call() is 'Lets a call''s slot go when its time is over, and stops calls that Purple Flea has had too many of.';
revoke all on function purple_flea.end_call() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_end_call on purple_flea.jobs;
create trigger jobs_end_call
  after update on purple_flea.jobs
  for each row when (old.state = 'claimed' and new.state <> 'claimed' and (old.holds_slot or new.reason = 'rate_limited'))
  execute function purple_flea.end_call();

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
  -- Whatever the statistics say of the backlog: its first one is found by walking along an index.
  set enable_sort = off
as $$
declare
  most   constant integer := 1000;  -- rows at a time, so that nobody waits long for a lock of ours
  timing record;
  soon   timestamptz;
begin
  timing := purple_flea.timing();
  -- Looked for first, because it is seldom there, and an update costs even then.
  if (select late.lease_until from purple_flea.jobs late where late.state = 'claimed' order by late.lease_until limit 1) < statement_timestamp() then
    -- Nobody knows what became of a claim whose time ran out; what may be asked again is.
    update purple_flea.jobs j
    set state = case when purple_flea.is_repeatable(j.kind) then 'pending' else 'unknown' end,
        changed_by = 'sweeper', reason = 'lease_ran_out', due_at = clock_timestamp(),
        lookup_at = case when not purple_flea.is_repeatable(j.kind) then j.lease_until + timing.lookup_wait end
    where j.reference in (
      select late.reference from purple_flea.jobs late
      where late.state = 'claimed' and late.lease_until < statement_timestamp()
      order by late.lease_until limit most for update skip locked
    );
  end if;
  soon := statement_timestamp() + timing.max_age / 24;
  if (select old.expires_at from purple_flea.jobs old where old.state = 'pending' order by old.expires_at limit 1) < soon then
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

-- Whether it is a job's time: it is due, or it was made by hand just now, and who asked for it has come for it. (Such a
-- job is due a second later. The same bound stands beside each call, for the index.)
create or replace function purple_flea.is_ready(job purple_flea.jobs, wanted text[]) returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select job.due_at <= statement_timestamp() or (job.attempts = 0 and job.reference = any (wanted))
$$;
comment on function purple_flea.is_ready(purple_flea.jobs, text[]) is 'Whether a pending job may be claimed now by somebody who asks for some by name.';
revoke all on function purple_flea.is_ready(purple_flea.jobs, text[]) from public, anon, authenticated, service_role, purple_flea_worker;

-- Which jobs could be claimed now, those that were asked for first. Of an agent with a daily limit: one, and none while
-- another is under way.
create or replace function purple_flea.pick_jobs(wanted text[], most integer, exhausted jsonb) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A backlog grows faster than the statistics on it: without them all of it would be sorted for each claim, where walking
  -- along the index of what is due finds the first ones at once.
  set enable_sort = off
  set enable_bitmapscan = off
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
        where j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second' and purple_flea.is_ready(j, wanted)
          and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
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
      where j.agent_id = p.agent_id and j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second' and purple_flea.is_ready(j, wanted)
        and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, (select a.api_key from public.agents a where a.id = p.agent_id), exhausted))
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

  if cardinality(wanted) > 0 then
    select picked || coalesce(array_agg(asked.reference), '{}') into picked
    from (
      select j.reference from purple_flea.jobs j
      join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.limited and not p.paused
      where j.reference = any (wanted) and j.state = 'pending' and j.due_at <= statement_timestamp() + interval '1 second' and purple_flea.is_ready(j, wanted)
        and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
      limit most - cardinality(picked) for update of j skip locked
    ) as asked;
  end if;

  select picked || coalesce(array_agg(due.reference), '{}') into picked
  from (
    select j.reference from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.limited and not p.paused
    where j.state = 'pending' and j.due_at <= statement_timestamp() and j.reference <> all (picked)
      and (exhausted = '{}' or not purple_flea.is_stopped(j.kind, p.game, p.account, exhausted))
    order by j.due_at limit most - cardinality(picked) for update of j skip locked
  ) as due;
  return picked;
end;
$$;
comment on function purple_flea.pick_jobs(text[], integer, jsonb) is 'Locks the jobs that are to be claimed next.';
revoke all on function purple_flea.pick_jobs(text[], integer, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

drop function if exists purple_flea.is_due();
create or replace function purple_flea.is_due(at timestamptz default statement_timestamp()) returns boolean
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
  set enable_sort = off  -- as in expire()
as $$
begin
  if (select p.paused from purple_flea.trade_policies p where p.agent_id is null) then
    return false;
  end if;
  return exists (
    select from purple_flea.jobs j
    join purple_flea.effective_policies p on p.agent_id = j.agent_id and not p.paused
    where j.state = 'pending' and j.due_at <= is_due.at
    order by j.due_at limit 1
  );
end;
$$;
comment on function purple_flea.is_due(timestamptz) is 'Whether any job is due that is not held back.';
revoke all on function purple_flea.is_due(timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

-- What an agent has staked and lost on a day, and what it may yet have: the worst case of what is under way or unknown.
create or replace function purple_flea.spent(agent text, on_day date, but_for text) returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'wagered', coalesce(sum(wager) filter (where state = 'executed'), 0),
    -- Of a trade nobody tells what it lost: all of it counts. (A win without a payout lost nothing.)
    'lost',    coalesce(sum(wager - case when result ? 'market' then 0 else coalesce(payout, wager) end) filter (where state = 'executed'), 0),
    'open',    coalesce(sum(stake) filter (where state in ('claimed', 'unknown')), 0)
  )
  from purple_flea.jobs
  where agent_id = agent and bet_day = on_day and reference <> but_for
$$;
comment on function purple_flea.spent(text, date, text) is 'What an agent staked and lost on a UTC day, in US dollars, without one job.';
revoke all on function purple_flea.spent(text, date, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What there is to say about a deposit that somebody asks for.
create or replace function purple_flea.answer(asked text, claim uuid, holding boolean, exhausted jsonb) returns jsonb
  language plpgsql
  volatile  -- sees what the claim has just done
  set search_path = pg_catalog, pg_temp
as $$
declare
  job     purple_flea.jobs;
  rules   purple_flea.effective_policies;
  stopped boolean;
  wait_s  integer;
begin
  select * into job from purple_flea.all_jobs j where j.reference = asked;
  if not found then
    return jsonb_build_object('reference', asked, 'state', 'not_found');
  end if;
  select * into rules from purple_flea.effective_policies p where p.agent_id = job.agent_id;
  stopped := job.state = 'pending' and purple_flea.is_stopped(job.kind, rules.game, rules.account, exhausted);
  wait_s := least(86400, greatest(1, ceil(extract(epoch from
    -- (What is held waits for something else than a time.)
    case when job.state = 'claimed' then job.lease_until when isfinite(job.due_at) then job.due_at else clock_timestamp() + interval '1 minute' end
    - clock_timestamp()))));
  if stopped then
    wait_s := greatest(wait_s, ceil(extract(epoch from (
      select max(e.value::timestamptz) from jsonb_each_text(exhausted) e
      where e.key like replace(purple_flea.call_of(job.kind, rules.game), '_', '\_') || ' %') - clock_timestamp()))::integer);
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'reference', asked,
    'agent_id',  job.agent_id,
    'state', case
      when job.state = 'claimed' and job.token = claim then 'claimed'
      when job.state = 'claimed' then 'in_flight'
      when job.state = 'pending' then 'waiting'
      else job.state
    end,
    'reason', case
      when job.state = 'pending' and (rules.paused or holding) then 'paused'
      when stopped then 'rate_limited'
      else job.reason
    end,
    'retry_after_s', case when job.state in ('claimed', 'pending') then wait_s end,
    'result', case when job.state in ('executed', 'skipped', 'rejected') then job.result end
  ));
end;
$$;
comment on function purple_flea.answer(text, uuid, boolean, jsonb) is 'What there is to say about one deposit.';
revoke all on function purple_flea.answer(text, uuid, boolean, jsonb) from public, anon, authenticated, service_role, purple_flea_worker;

drop function if exists public.claim_jobs(text[], integer, uuid, text);
create or replace function public.claim_jobs(
  "references" text[] default '{}', "limit" integer default 1, claim uuid default gen_random_uuid(), api text default 'gateway',
  watcher uuid default null, linger_ms integer default 0)
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
  linger_most constant integer := 3000; -- what await_jobs() waits at most
  wanted      text[]      := coalesce(claim_jobs."references", '{}');
  slots       integer     := coalesce(claim_jobs."limit", 0);
  claim_token uuid        := coalesce(claim_jobs.claim, gen_random_uuid());
  exhausted   jsonb       := '{}';
  limits      boolean;
  picked      text[];
  claim_time  timestamptz;
  claimed     jsonb;
  lease_end   timestamptz;
begin
  if slots not between 0 and most or cardinality(wanted) > most then
    raise exception 'limit and references may be at most %', most using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(claim_jobs.linger_ms, 0) not between 0 and linger_most then
    raise exception 'linger_ms may be at most %', linger_most using errcode = 'invalid_parameter_value';
  end if;
  -- A limit of 0 comes from a function that is paused.
  perform purple_flea.expire(slots = 0);
  -- Asked again with the same claim because the answer got lost: what it holds, and no more, even while the first one
  -- is still at it, or when all that it held is settled.
  perform pg_advisory_xact_lock(hashtextextended('purple_flea:' || claim_token, 1));
  limits := exists (select from purple_flea.rate_limits l where l.api = claim_jobs.api) or exists (select from purple_flea.rate_stops r where r.until > clock_timestamp());
  if limits then
    -- Two claims must not count the same free slot.
    perform pg_advisory_xact_lock(hashtextextended('purple_flea:rate_slots', 2));
    exhausted := purple_flea.exhausted(claim_jobs.api);
  end if;
  -- (Nobody asks again for what is archived.)
  if slots > 0 and not exists (
    select from purple_flea.job_events e where e.token = claim_token and e.to_state = 'claimed' and e.kind = 'transition'
  ) then
    picked     := purple_flea.pick_jobs(wanted, slots, exhausted);
    claim_time := clock_timestamp();
    lease_end  := claim_time + (purple_flea.timing()).lease;
    if limits then
      picked := purple_flea.take_slots(picked, claim_jobs.api, exhausted, claim_token, lease_end);
    end if;
    update purple_flea.jobs j
    set state = 'claimed', changed_by = 'worker', reason = null, attempts = j.attempts + 1,
        token = claim_token, claimed_at = claim_time, lease_until = lease_end, lookup_at = null,
        request = case j.kind
          when 'deposit' then jsonb_build_object('id', w.id, 'agent_id', w.agent_id, 'change_type', w.change_type,
            'change_amount', w.change_amount, 'new_balance', w.new_balance, 'created_at', w.created_at)
          else j.request
        end,
        policy = to_jsonb(p) - 'id' - 'agent_id' - 'limited',
        stake = case
          when j.kind = 'deposit' then purple_flea.stake(w.new_balance, p)
          when j.kind in ('trade', 'order') then (j.request ->> 'size')::numeric
        end,
        bet_day = case when j.kind in ('deposit', 'trade', 'order') then (claim_time at time zone 'UTC')::date end,
        limited = p.limited and j.kind in ('deposit', 'trade', 'order'),
        holds_slot = limits and exists (select from purple_flea.rate_slots s where s.reference = j.reference and s.token = claim_token),
        wager = null, payout = null, result = null
    from purple_flea.jobs t
    left join public.wallet_changes w on w.id = t.wallet_change_id
    join purple_flea.effective_policies e on e.agent_id = t.agent_id
    join purple_flea.trade_policies p on p.id = e.policy_id
    where t.reference = any (picked) and j.reference = t.reference
      -- (A restore can bring back what has been done and archived since.)
      and not exists (select from purple_flea.jobs_archive a where a.reference = t.reference);
  end if;
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
      'reference', j.reference, 'kind', j.kind, 'bet_key', j.bet_key, 'attempt', j.attempts, 'stake', j.stake,
      'spent', case when j.limited then purple_flea.spent(j.agent_id, j.bet_day, j.reference) end,
      'account', a.pf_agent_id,
      'fresh', case when j.kind = 'faucet' and not exists (select from public.wallet_changes c where c.agent_id = j.agent_id) and exists (
        select from purple_flea.jobs r where r.agent_id = j.agent_id and r.kind = 'registration' and r.state = 'executed') then true end,
      -- Of what is not frozen: who the other side is by now, who is to earn the referral, and what there is to release.
      'counterparty', case when j.kind = 'escrow' then (
        select coalesce(r.pf_agent_id, r.id) from public.agents r where r.id = j.request ->> 'receiver_id') end,
      'referral_code', case when j.kind in ('escrow', 'registration', 'faucet') then o.referral_code end,
      'escrow', case when j.kind in ('escrow_release', 'escrow_cancel') then (
        select jsonb_build_object('id', e.pf_escrow_id, 'status', e.status) from public.escrow_requests e where e.id = j.escrow_id) end,
      'own_key', case when a.api_key <> '' then true end,
      'key', case when a.api_key <> '' then purple_flea.agent_key(a.api_key, purple_flea.call_of(j.kind, j.policy ->> 'game')) end
    )) || jsonb_build_object('row', j.request, 'policy', j.policy)), '[]'), min(j.lease_until) into claimed, lease_end
  from purple_flea.jobs j
  join public.agents a on a.id = j.agent_id
  left join public.agents o on o.id = a.orchestrator_id
  where j.token = claim_token and j.state = 'claimed';
  return jsonb_build_object(
    'token',    claim_token,
    'lease_ms', greatest(0, floor(extract(epoch from lease_end - clock_timestamp()) * 1000)::bigint),
    'jobs',     claimed,
    'answers',  coalesce((select jsonb_agg(purple_flea.answer(asked, claim_token, slots = 0, exhausted)) from unnest(wanted) as asked), '[]'),
    'more',     slots > 0 and purple_flea.is_due(),
    'watching', claim_jobs.watcher is not null and claim_jobs.linger_ms > 0
      and purple_flea.keep_watch(claim_jobs.watcher, make_interval(secs => claim_jobs.linger_ms / 1000.0)),
    'lookups',  exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp())
  );
end;
$$;
comment on function public.claim_jobs(text[], integer, uuid, text, uuid, integer) is 'Claims due jobs, those asked for first, and answers for every reference: claimed, in_flight, executed, skipped, rejected, unknown, dead, waiting or not_found.';
revoke all on function public.claim_jobs(text[], integer, uuid, text, uuid, integer) from public, anon, authenticated;
grant execute on function public.claim_jobs(text[], integer, uuid, text, uuid, integer) to service_role, purple_flea_worker;

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
  if new_state = 'executed' and job.kind in ('deposit', 'trade', 'order') then
    insert into public.trade_results (agent_id, game, wager, outcome, payout, reference, bet_id,
                                      market, direction, entry_price, position_id, order_id, proof)
    values (job.agent_id, outcome ->> 'game', staked, outcome ->> 'outcome', paid, job.reference, outcome ->> 'bet_id',
            outcome ->> 'market', outcome ->> 'direction', (outcome ->> 'entry_price')::numeric, outcome ->> 'position_id',
            outcome ->> 'order_id', outcome -> 'proof');
  end if;
  -- Half of the wait is chance, so that what failed together does not come back together.
  wait := greatest(
    make_interval(secs => case jsonb_typeof(outcome -> 'retry_after_s')
      when 'number' then least(3600, greatest(0, (outcome ->> 'retry_after_s')::numeric))::double precision
      else 0
    end),
    least(timing.backoff_max, timing.backoff * power(2, least(job.attempts, 20) - 1))
  ) * (1 + random() / 2);
  if outcome ->> 'reason' = 'out_of_time' or (
    -- The key may have come meanwhile, and let go what waited for it before this one did.
    outcome ->> 'reason' = 'agent_without_key'
    and (select purple_flea.secret(a.api_key) from public.agents a where a.id = job.agent_id) is not null
  ) then
    wait := interval '0';
  end if;
  update purple_flea.jobs j
  set state      = new_state,
      changed_by = by_whom,
      reason     = outcome ->> 'reason',
      result     = outcome,
      due_at     = case new_state when 'pending' then at + wait else j.due_at end,
      -- A released job that turns out to have been bet on counts on the day of its claim.
      bet_day    = case when new_state in ('executed', 'unknown') and j.policy is not null and j.kind in ('deposit', 'trade', 'order')
                     then coalesce(j.bet_day, (j.claimed_at at time zone 'UTC')::date) end,
      lookup_at  = case new_state when 'unknown' then j.lease_until + timing.lookup_wait end,
      wager      = case new_state when 'executed' then staked end,
      payout     = case new_state when 'executed' then paid end
  where j.reference = job.reference;
  if outcome ? 'balance' then
    update public.agents a set balance = (outcome ->> 'balance')::numeric, balance_at = at where a.id = job.agent_id;
  end if;
  -- (A trade is filled for a little more or less than it was asked for.)
  if new_state = 'executed' and outcome ? 'game' and staked > job.stake then
    perform purple_flea.note(job, 'alarm', 'staked_more_than_the_policy_allows', outcome, by_whom);
  end if;
end;
$$;
comment on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) is 'Brings a job into a state with its outcome, and makes the row of trade_results.';
revoke all on function purple_flea.apply(purple_flea.jobs, text, jsonb, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.note(job purple_flea.jobs, kind text, why text, detail jsonb, by_whom text, token uuid default null) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into purple_flea.job_events (reference, kind, from_state, to_state, why, attempt, changed_by, token, detail)
  select job.reference, note.kind, job.state, job.state, note.why, job.attempts, by_whom, coalesce(note.token, job.token), note.detail
  -- (Its caller has it locked: it is archived or not.)
  where exists (select from purple_flea.jobs j where j.reference = job.reference);
  if not found then
    insert into purple_flea.job_events_archive (id, reference, at, kind, from_state, to_state, why, attempt, changed_by, token, detail)
    values (nextval(pg_get_serial_sequence('purple_flea.job_events', 'id')), job.reference, clock_timestamp(), note.kind, job.state, job.state,
            note.why, job.attempts, by_whom, coalesce(note.token, job.token), note.detail);
  end if;
end;
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

create or replace function public.settle_job(reference text, token uuid, state text, result jsonb, secret text default null) returns jsonb
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
    -- What is archived is settled for good; but nothing that is said of it gets lost.
    select * into job from purple_flea.jobs_archive a where a.reference = settle_job.reference;
    if not found then
      return jsonb_build_object('reference', settle_job.reference, 'did', 'not_found');
    end if;
  end if;
  -- Asked again for what does no harm twice, rather than never known.
  if settle_job.state = 'unknown' and purple_flea.is_repeatable(job.kind) then
    settle_job.state := 'pending';
  end if;
  if settle_job.secret is not null and job.kind <> 'registration' then
    raise exception 'only a registration brings a key' using errcode = 'invalid_parameter_value';
  end if;
  if settle_job.token is distinct from job.token then
    if not exists (select from purple_flea.all_job_events e where e.reference = job.reference and e.token = settle_job.token) then
      return jsonb_build_object('reference', job.reference, 'did', 'unknown_token');
    end if;
    -- An earlier claimant. If it bet, two bets may have been made: somebody has to look. While nobody else is at it, its
    -- bet is at least the last one.
    if job.state = 'pending' and settle_job.state = 'executed'
      and (settle_job.secret is null or purple_flea.keep_key(job.agent_id, settle_job.secret)) then
      perform purple_flea.note(job, case when purple_flea.is_repeatable(job.kind) then 'late_answer' else 'conflict' end,
                               'not_the_last_claimant', settle_job.result, 'worker', settle_job.token);
      perform purple_flea.apply(job, 'executed', settle_job.result, 'worker');
      return jsonb_build_object('reference', job.reference, 'did', 'settled', 'state', 'executed');
    end if;
    -- What may be done twice is no conflict.
    did := case when settle_job.state = 'executed' and not purple_flea.is_repeatable(job.kind) then 'conflict' else 'late_answer' end;
    perform purple_flea.note(job, did, 'not_the_last_claimant', settle_job.result, 'worker', settle_job.token);
    return jsonb_build_object('reference', job.reference, 'did', did, 'state', job.state);
  end if;
  begin
    if settle_job.secret is not null and settle_job.state = 'executed' and job.state in ('claimed', 'pending')
      and not purple_flea.keep_key(job.agent_id, settle_job.secret) then
      perform purple_flea.note(job, 'alarm', 'key_is_there', settle_job.result, 'worker');
      -- (From pending nothing is rejected. It is claimed again, and skipped.)
      settle_job.state  := case job.state when 'claimed' then 'rejected' else 'pending' end;
      settle_job.result := settle_job.result || '{"status": "rejected", "reason": "key_is_there"}';
    end if;
    did := purple_flea.settle_as_last(job, settle_job.state, settle_job.result);
  exception
    when deadlock_detected or serialization_failure or lock_not_available or insufficient_resources or operator_intervention then
      -- Another time it will do.
      raise;
    when others then
      -- Whatever is wrong with it, it is kept. The lease makes the job unknown, and somebody can read why.
      did := 'not_settled';
      why := left('not_settled: ' || sqlerrm, 200);
      if not exists (select from purple_flea.all_job_events e where e.reference = job.reference and e.kind = 'alarm' and e.why = settle_why.why) then
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
    'state', coalesce((select j.state from purple_flea.jobs j where j.reference = job.reference), job.state));
end;
$$;
comment on function public.settle_job(text, uuid, text, jsonb, text) is 'Reports a claimed job''s outcome, and a key that came with it: settled, settled_before, too_late, conflict, late_answer, not_settled, unknown_token or not_found.';
revoke all on function public.settle_job(text, uuid, text, jsonb, text) from public, anon, authenticated;
grant execute on function public.settle_job(text, uuid, text, jsonb, text) to service_role, purple_flea_worker;

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
      done := done || public.settle_job(outcome ->> 'reference', (outcome ->> 'token')::uuid, outcome ->> 'state', outcome -> 'result',
        outcome ->> 'secret');
    exception when data_exception then
      -- One that cannot be read keeps none of the others.
      done := done || jsonb_build_object('reference', outcome ->> 'reference', 'did', 'not_readable');
    end;
  end loop;
  return done;
end;
$$;
comment on function public.settle_jobs(jsonb) is 'settle_job for every outcome of an array of {reference, token, state, result, secret}; one that fails does not touch the others.';
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
    'account', a.pf_agent_id, 'key_name', a.api_key,
    'key', case when a.api_key <> '' then purple_flea.agent_key(a.api_key, purple_flea.call_of(kind, policy ->> 'game')) end,
    'reference', reference, 'kind', kind, 'token', token, 'bet_key', bet_key, 'agent_id', agent_id, 'policy', policy,
    'from_s',  floor(extract(epoch from claimed_at))::bigint,
    'until_s', ceil(extract(epoch from lease_until + (purple_flea.timing()).lookup_wait))::bigint
  )) into jobs from taken join public.agents a on a.id = taken.agent_id;
  return coalesce(jobs, '[]');
end;
$$;
comment on function public.claim_lookups(integer) is 'Hands out unknown jobs whose bets are to be looked for, each to one caller at a time.';
revoke all on function public.claim_lookups(integer) from public, anon, authenticated;
grant execute on function public.claim_lookups(integer) to service_role, purple_flea_worker;

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
revoke all on purple_flea.watch from public, anon, authenticated, service_role, purple_flea_worker;

-- The lock's key, by which both sides mean the same one.
create or replace function purple_flea.unrung() returns bigint
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended('purple_flea:unrung', 3)
$$;
comment on function purple_flea.unrung() is 'The key of the lock that jobs hold whose makers did not ring.';
revoke all on function purple_flea.unrung() from public, anon, authenticated, service_role, purple_flea_worker;

-- The two statements are apart because the second must see what was committed before the first got its lock.
create or replace function purple_flea.is_watched() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock_shared(purple_flea.unrung()) then
    return false;
  end if;
  return exists (select from purple_flea.watch w where w.until > clock_timestamp());
end;
$$;
comment on function purple_flea.is_watched() is 'Whether the jobs of this transaction will be seen without a ring.';
revoke all on function purple_flea.is_watched() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.keep_watch(watcher uuid, linger interval) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  grace constant interval := '1 second';  -- for the way from the end of a wait to the next claim
  standing purple_flea.watch;
begin
  -- Nobody waits for somebody else's: whoever has it now is about to take it, or to end it.
  select * into standing from purple_flea.watch for update skip locked;
  if not found or (standing.watcher is distinct from keep_watch.watcher and standing.until > clock_timestamp()) then
    return false;
  end if;
  -- Said again only when half of it is over: a row that each claim writes would be the busiest of all.
  if standing.watcher is distinct from keep_watch.watcher or standing.until < clock_timestamp() + grace + linger then
    update purple_flea.watch w set watcher = keep_watch.watcher, until = clock_timestamp() + grace + 2 * linger;
  end if;
  return true;
end;
$$;
comment on function purple_flea.keep_watch(uuid, interval) is 'Takes the watch, or goes on with it; says whether it is the caller''s.';
revoke all on function purple_flea.keep_watch(uuid, interval) from public, anon, authenticated, service_role, purple_flea_worker;

-- Ends a watch, unless something is due after all: says whether it is over. Without a job in sight, whoever waits for the
-- lock waits for a transaction that relies on this watch; not for long, and what it makes is then left to the sweeper.
create or replace function purple_flea.stop_watch(watcher uuid, whatever_is_due boolean) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '1s'
as $$
begin
  begin
    perform pg_advisory_xact_lock(purple_flea.unrung());
  exception when lock_not_available then
    null;
  end;
  if not whatever_is_due and purple_flea.is_due(clock_timestamp()) then
    return false;
  end if;
  update purple_flea.watch w set until = '-infinity' where w.watcher = stop_watch.watcher;
  return true;
end;
$$;
comment on function purple_flea.stop_watch(uuid, boolean) is 'Ends a watch under the lock of those who rely on it; unless a job is due, if that counts.';
revoke all on function purple_flea.stop_watch(uuid, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.await_jobs(watcher uuid, wait_ms integer) returns boolean
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most     constant integer  := 3000;             -- a wait holds a connection
  pause    constant interval := '4 milliseconds'; -- between looks, and never less than four times as long as one takes
  ends     timestamptz;
  looks_at timestamptz;
begin
  if await_jobs.wait_ms is null or await_jobs.wait_ms not between 0 and most then
    raise exception 'wait_ms is 0 to %', most using errcode = 'invalid_parameter_value';
  end if;
  select least(w.until, clock_timestamp() + make_interval(secs => await_jobs.wait_ms / 1000.0)) into ends
  from purple_flea.watch w
  where w.watcher = await_jobs.watcher and w.until > clock_timestamp();
  if not found then
    return false;
  end if;
  loop
    looks_at := clock_timestamp();
    if purple_flea.is_due(looks_at) then
      return true;
    end if;
    exit when looks_at > ends;
    perform pg_sleep(extract(epoch from greatest(pause, 4 * (clock_timestamp() - looks_at))));
  end loop;
  return not purple_flea.stop_watch(await_jobs.watcher, false);
end;
$$;
comment on function public.await_jobs(uuid, integer) is 'Waits for a job that is due, for at most so long: true if there is one, otherwise the watch is over.';
revoke all on function public.await_jobs(uuid, integer) from public, anon, authenticated;
grant execute on function public.await_jobs(uuid, integer) to service_role, purple_flea_worker;

create or replace function public.end_watch(watcher uuid, hand_over boolean default false) returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.stop_watch(end_watch.watcher, true);
  if end_watch.hand_over then
    perform purple_flea.try_ring();
  end if;
end;
$$;
comment on function public.end_watch(uuid, boolean) is 'Ends a watch, and rings for what is due if somebody else is to go on with it.';
revoke all on function public.end_watch(uuid, boolean) from public, anon, authenticated;
grant execute on function public.end_watch(uuid, boolean) to service_role, purple_flea_worker;

-- The doorbell: a signed request to the function, through pg_net, which says that there is something to do. It is
-- awareness, not delivery: it may get lost, come late or come twice, and what is to be done stands in the jobs. While
-- somebody waits for the next job anyway (095_watch.sql) nobody is called. And it
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

drop function if exists purple_flea.post(text, jsonb);
create or replace function purple_flea.post(webhook_id text, body jsonb, preference text default 'respond-async') returns void
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
      'Prefer',            preference,
      'webhook-id',        webhook_id,
      'webhook-timestamp', signed_at::text,
      'webhook-signature', purple_flea.signature(webhook_id, signed_at, body, secret)
    ),
    -- Longer than the function takes to answer a ring.
    timeout_milliseconds => 15000
  );
end;
$$;
comment on function purple_flea.post(text, jsonb, text) is 'Posts a body to the function, signed. Raises where it cannot.';
revoke all on function purple_flea.post(text, jsonb, text) from public, anon, authenticated, service_role, purple_flea_worker;

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
  if first_id is not null and not purple_flea.is_watched() then
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

-- The same for everything else that makes jobs or lets them go, and only if there is something to do.
create or replace function purple_flea.try_ring() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Once a transaction, however many rows and jobs it is about.
  if current_setting('purple_flea.rang_in', true) is distinct from pg_current_xact_id()::text and purple_flea.is_due()
    and not purple_flea.is_watched() then
    perform set_config('purple_flea.rang_in', pg_current_xact_id()::text, true);
    perform purple_flea.post('ring-' || gen_random_uuid(), '{"ledger": true}');
  end if;
exception when others then
  raise warning 'purple_flea: what was asked for is stored, but the function was not called: %', sqlerrm;
end;
$$;
comment on function purple_flea.try_ring() is 'Tells the function that something is due. Never fails.';
revoke all on function purple_flea.try_ring() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring_if_due() returns trigger
  language plpgsql
  volatile
  -- Who asks may read neither jobs nor secrets.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.try_ring();
  return null;
end;
$$;
comment on function purple_flea.ring_if_due() is 'Tells the function that a statement made jobs. Never fails.';
revoke all on function purple_flea.ring_if_due() from public, anon, authenticated, service_role, purple_flea_worker;

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
      and not exists (select from purple_flea.jobs_archive a where a.wallet_change_id = w.id)
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
declare
  last_sweep timestamptz := (select l.swept_at from purple_flea.ledger l);
  preference text        := 'respond-async';
begin
  perform purple_flea.make_missing_jobs();
  begin
    perform purple_flea.make_timely_jobs();
  exception when others then
    -- Whatever is wrong with one of these keeps nobody from being swept.
    raise warning 'purple_flea: looks and claims that are due could not be asked for: %', sqlerrm;
  end;
  perform purple_flea.expire(false);
  begin
    perform purple_flea.archive_jobs();
  exception when others then
    -- They stay where they are, which costs time and nothing else.
    raise warning 'purple_flea: settled jobs could not be archived: %', sqlerrm;
  end;
  update purple_flea.ledger set swept_at = clock_timestamp();
  if not purple_flea.is_due()
    and not exists (select from purple_flea.jobs j where j.state = 'unknown' and j.lookup_at <= statement_timestamp()) then
    return 'nothing is due';
  end if;
  -- What was due the last time already was not helped by a ring: there are hosts that cut off what goes on after a reply.
  if exists (select from purple_flea.jobs j where j.state = 'pending' and j.due_at < last_sweep) then
    preference := 'wait=10';
  end if;
  begin
    perform purple_flea.post('ring-' || gen_random_uuid(), '{"ledger": true}', preference);
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
    'alarms', (select count(*) from purple_flea.all_job_events
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

create or replace view public.agent_jobs with (security_barrier) as
  select j.reference, j.kind, j.wallet_change_id, j.escrow_id, j.agent_id, j.state, j.reason, j.attempts, j.created_at, j.changed_at
  from purple_flea.all_jobs j
  join public.agents a on a.id = j.agent_id
  where a.owner_id = (select auth.uid());
comment on view public.agent_jobs is 'What became of the deposits of one''s own agents, and of all else that was asked for them, and why.';
revoke all on public.agent_jobs from public, anon, authenticated, service_role, purple_flea_worker;
grant select on public.agent_jobs to authenticated;

create or replace view purple_flea.stuck_jobs as
  -- Each part has its index: the settled ones are many.
  with stuck as (
    select reference from purple_flea.jobs where state = 'unknown'
    union
    select reference from purple_flea.jobs where state = 'pending' and due_at < statement_timestamp() - interval '5 minutes'
    union
    select reference from purple_flea.jobs where state = 'pending' and attempts > 5
    union
    select reference from purple_flea.all_job_events where kind in ('conflict', 'alarm') and at > statement_timestamp() - interval '7 days'
  )
  select reference, agent_id, state, reason, attempts, changed_at, due_at, stake, bet_key, result,
         exists (select from purple_flea.all_job_events e where e.reference = j.reference and e.kind in ('conflict', 'alarm')) as alarm
  from stuck join purple_flea.all_jobs j using (reference);
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

-- What is done for an agent beside its bets: its registration, its faucet claim, a look at its balance. A row of agents
-- asks for the first two, the clock or a caller for the third.

alter table public.agents add column if not exists balance_at timestamptz;
comment on column public.agents.balance_at is 'When Purple Flea last said what the wallet holds.';
grant select (balance_at) on public.agents to authenticated;

-- An agent's id may be long or have odd characters; a reference may not.
create or replace function purple_flea.agent_reference(kind text, agent text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Room for a day or a number behind it, and for the bet key's random digits.
  select kind || case when agent ~ '^[A-Za-z0-9._:-]{1,24}$' then '-' || agent else ':' || left(encode(sha256(convert_to(agent, 'UTF8')), 'hex'), 24) end
$$;
comment on function purple_flea.agent_reference(text, text) is 'What an agent''s registration or faucet claim is called.';
revoke all on function purple_flea.agent_reference(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.agent_job_under_way(kind text, agent text) returns text
  language sql
  volatile  -- sees what another has just made
  set search_path = pg_catalog, pg_temp
as $$
  select j.reference from purple_flea.jobs j
  where j.agent_id = agent and j.kind = agent_job_under_way.kind
    and (j.state in ('pending', 'claimed') or (j.kind = 'faucet' and j.state = 'executed'))
  limit 1
$$;
comment on function purple_flea.agent_job_under_way(text, text) is 'An agent''s job of a kind that is under way, or done once for all.';
revoke all on function purple_flea.agent_job_under_way(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.make_agent_job(kind text, agent text, reference text, held boolean default false) returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  patience constant interval := '7 days';  -- nobody's money gets stale by it
  there   text;
  name    text := make_agent_job.reference;
  earlier integer;
begin
  -- One that is under way, or that was done once for all, will do.
  there := purple_flea.agent_job_under_way(kind, agent);
  if there is not null then
    return there;
  end if;
  -- One that came to nothing is followed by another: faucet-scout by faucet.2-scout, which no other agent's can be called.
  if exists (select from purple_flea.all_jobs j where j.reference = make_agent_job.reference) then
    select count(*) into earlier from purple_flea.all_jobs j where j.agent_id = agent and j.kind = make_agent_job.kind;
    name := kind || '.' || earlier + 1 || substr(purple_flea.agent_reference(kind, agent), length(kind) + 1);
  end if;
  insert into purple_flea.jobs (reference, bet_key, kind, agent_id, request, due_at, expires_at)
  values (name, purple_flea.bet_key(name), make_agent_job.kind, agent,
          jsonb_build_object('agent_id', agent),
          -- Due for whatever this statement does next: the doorbell, a claim.
          case when held then 'infinity' else statement_timestamp() end, clock_timestamp() + patience)
  on conflict do nothing
  returning jobs.reference into there;
  -- Somebody else may have made it at the same time.
  return coalesce(there, purple_flea.agent_job_under_way(kind, agent));
end;
$$;
comment on function purple_flea.make_agent_job(text, text, text, boolean) is 'Makes an agent''s job unless one is under way or done once for all; gives the reference of the one that counts.';
revoke all on function purple_flea.make_agent_job(text, text, text, boolean) from public, anon, authenticated, service_role, purple_flea_worker;

-- A row that names a key which is not there asks for a registration; a new row, by everybody's policy, for the faucet.
create or replace function purple_flea.greet_agent() returns trigger
  language plpgsql
  volatile
  -- Who writes agents may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  unregistered boolean := new.api_key <> '' and purple_flea.secret(new.api_key) is null;
begin
  if unregistered then
    perform purple_flea.make_agent_job('registration', new.id, purple_flea.agent_reference('registration', new.id));
  end if;
  if tg_op = 'INSERT' and (select p.claim_faucet from purple_flea.trade_policies p where p.agent_id is null) then
    -- Without an account there is nobody to claim for: registration lets it go.
    perform purple_flea.make_agent_job('faucet', new.id, purple_flea.agent_reference('faucet', new.id), unregistered);
  end if;
  return null;
end;
$$;
comment on function purple_flea.greet_agent() is 'Makes a new agent''s jobs.';
revoke all on function purple_flea.greet_agent() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists purple_flea_greet on public.agents;
create trigger purple_flea_greet
  after insert on public.agents
  for each row execute function purple_flea.greet_agent();
drop trigger if exists purple_flea_register on public.agents;
create trigger purple_flea_register
  after update of api_key on public.agents
  for each row when (new.api_key <> old.api_key and new.api_key <> '') execute function purple_flea.greet_agent();

drop trigger if exists purple_flea_ring on public.agents;
create trigger purple_flea_ring
  after insert or update of api_key on public.agents
  for each statement execute function purple_flea.ring_if_due();

-- What an ended job of an agent leads to, in the same transaction.
create or replace function purple_flea.tell_agent() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  credit  numeric := (new.result ->> 'credited')::numeric;
  holding numeric := (new.result ->> 'balance')::numeric;
begin
  if new.kind = 'registration' then
    if new.state = 'executed' then
      update public.agents a
      set pf_agent_id = coalesce(new.result ->> 'account', a.pf_agent_id), referral_code = coalesce(new.result ->> 'referral_code', a.referral_code)
      where a.id = new.agent_id;
      if (select p.claim_faucet from purple_flea.trade_policies p where p.agent_id is null) then
        perform purple_flea.make_agent_job('faucet', new.agent_id, purple_flea.agent_reference('faucet', new.agent_id));
      end if;
    end if;
    -- What waited for it goes on, with an account or without: then it learns so.
    update purple_flea.jobs j set due_at = statement_timestamp()
    where j.state = 'pending'
      and ((j.agent_id = new.agent_id and (j.due_at = 'infinity' or j.reason = 'agent_without_key') and j.kind not like 'escrow\_%')
        or (j.kind = 'escrow' and j.due_at = 'infinity' and j.request ->> 'receiver_id' = new.agent_id));
    perform purple_flea.try_ring();
  elsif new.state = 'executed' and credit > 0 then
    update public.agents a set balance = coalesce(holding, a.balance + credit), balance_at = clock_timestamp()
    where a.id = new.agent_id
    returning a.balance into holding;
    insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values (new.agent_id, 'deposit', credit, holding);
  end if;
  return null;
end;
$$;
comment on function purple_flea.tell_agent() is 'Writes back what a registration or a faucet claim led to.';
revoke all on function purple_flea.tell_agent() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_tell_agent on purple_flea.jobs;
create trigger jobs_tell_agent
  after update on purple_flea.jobs
  for each row when (new.state in ('executed', 'skipped', 'rejected', 'dead') and old.state <> new.state
                     and new.kind in ('registration', 'faucet', 'daily_claim'))
  execute function purple_flea.tell_agent();

-- What the clock asks for: looks at balances, and the faucet's claim of the day. The sweeper calls it.
create or replace function purple_flea.make_timely_jobs() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most  constant integer := 1000;  -- at a time
  today constant text    := to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD');
begin
  if exists (select from purple_flea.trade_policies p where p.balance_every is not null) then
    perform purple_flea.make_agent_job('balance', due.id, 'balance-' || gen_random_uuid())
    from (
      select a.id from public.agents a
      join purple_flea.effective_policies e on e.agent_id = a.id and not e.paused
      join purple_flea.trade_policies p on p.id = e.policy_id
      where p.balance_every is not null and coalesce(a.balance_at, a.created_at - p.balance_every) <= clock_timestamp() - p.balance_every
        and not exists (select from purple_flea.jobs j where j.agent_id = a.id and j.kind = 'balance' and j.state in ('pending', 'claimed'))
      limit most
    ) as due;
  end if;
  if exists (select from purple_flea.trade_policies p where p.claim_daily) then
    perform purple_flea.make_agent_job('daily_claim', due.id, due.reference)
    from (
      select a.id, purple_flea.agent_reference('daily_claim', a.id) || '-' || today as reference
      from public.agents a
      join purple_flea.effective_policies e on e.agent_id = a.id and not e.paused
      join purple_flea.trade_policies p on p.id = e.policy_id
      where p.claim_daily
        and not exists (select from purple_flea.jobs j where j.reference = purple_flea.agent_reference('daily_claim', a.id) || '-' || today)
        and not exists (select from purple_flea.jobs j where j.agent_id = a.id and j.kind = 'daily_claim' and j.state in ('pending', 'claimed'))
      limit most
    ) as due;
  end if;
end;
$$;
comment on function purple_flea.make_timely_jobs() is 'Makes the looks at balances and the daily claims that the policies ask for by now.';
revoke all on function purple_flea.make_timely_jobs() from public, anon, authenticated, service_role, purple_flea_worker;

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

-- A sender's owner asks, and changes nothing else; whoever else sees the row does not.
grant update (requested_status) on public.escrow_requests to authenticated;
drop policy if exists escrow_requests_sender_asks on public.escrow_requests;
create policy escrow_requests_sender_asks on public.escrow_requests
  for update to authenticated
  using      (sender_id in (select id from public.agents where owner_id = (select auth.uid())))
  with check (sender_id in (select id from public.agents where owner_id = (select auth.uid())));

-- What Purple Flea said is said by nobody else, service_role included. (It runs as whoever writes: only the ledger's own
-- functions, which run as the table's owner, pass.)
create or replace function purple_flea.guard_escrow() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  was record;
begin
  if pg_has_role((select c.relowner from pg_catalog.pg_class c where c.oid = tg_relid), 'usage') then
    return new;
  end if;
  if tg_op = 'INSERT' then
    select 'pending' as status, null as pf_escrow_id, null::numeric as fee, null::numeric as referral_earned, null as reason into was;
  else
    select old.status, old.pf_escrow_id, old.fee, old.referral_earned, old.reason into was;
  end if;
  if (new.status, new.pf_escrow_id, new.fee, new.referral_earned, new.reason) is distinct from
     (was.status, was.pf_escrow_id, was.fee, was.referral_earned, was.reason) then
    raise exception 'the state of an escrow is what Purple Flea answers' using errcode = 'check_violation';
  end if;
  return new;
end;
$$;
comment on function purple_flea.guard_escrow() is 'Keeps an escrow''s state from all but Purple Flea''s answers.';
revoke all on function purple_flea.guard_escrow() from public, anon, authenticated, service_role, purple_flea_worker;

-- What was agreed stays as it is, and of what is to become of it one thing at a time.
create or replace function purple_flea.keep_escrow() returns trigger
  language plpgsql
  -- Whoever asks may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    if new.requested_status is not null then
      raise exception 'what is not made yet cannot be released or cancelled' using errcode = 'check_violation';
    end if;
    return new;
  end if;
  if (new.id, new.sender_id, new.receiver_id, new.amount, new.description, new.timeout_hours, new.asked_as) is distinct from
     (old.id, old.sender_id, old.receiver_id, old.amount, old.description, old.timeout_hours, old.asked_as) then
    raise exception 'an escrow''s terms cannot change' using errcode = 'check_violation';
  end if;
  if new.requested_status is distinct from old.requested_status then
    if old.status <> 'pending' then
      raise exception 'escrow % is % for good', old.id, old.status using errcode = 'check_violation';
    elsif old.requested_status is not null and exists (
      select from purple_flea.jobs j
      where j.escrow_id = old.id and j.kind = purple_flea.escrow_kind(old.requested_status) and j.state not in ('skipped', 'rejected', 'dead')
    ) then
      raise exception 'escrow % is already to be %', old.id, old.requested_status using errcode = 'check_violation';
    end if;
  end if;
  return new;
end;
$$;
comment on function purple_flea.keep_escrow() is 'Keeps an escrow''s terms, and what was asked of it.';
revoke all on function purple_flea.keep_escrow() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.escrow_kind(requested_status text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case requested_status when 'released' then 'escrow_release' when 'cancelled' then 'escrow_cancel' end
$$;
comment on function purple_flea.escrow_kind(text) is 'The kind of job that brings an escrow into a status.';
revoke all on function purple_flea.escrow_kind(text) from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists purple_flea_guard on public.escrow_requests;
create trigger purple_flea_guard
  before insert or update on public.escrow_requests
  for each row execute function purple_flea.guard_escrow();
drop trigger if exists purple_flea_keep on public.escrow_requests;
create trigger purple_flea_keep
  before insert or update on public.escrow_requests
  for each row execute function purple_flea.keep_escrow();

create or replace function purple_flea.make_escrow_job() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  patience constant interval := '7 days';
  step      text := case tg_op when 'INSERT' then 'escrow' else purple_flea.escrow_kind(new.requested_status) end;
  reference text := 'escrow-' || new.id || coalesce('-' || case step when 'escrow_release' then 'release' when 'escrow_cancel' then 'cancel' end, '');
  earlier   integer;
begin
  -- A step that came to nothing may be asked for again, by the next name.
  select count(*) into earlier from purple_flea.jobs j where j.escrow_id = new.id and j.kind = step;
  if earlier > 0 then
    reference := reference || '-' || earlier + 1;
  end if;
  insert into purple_flea.jobs (reference, bet_key, kind, escrow_id, agent_id, request, due_at, expires_at)
  values (reference, purple_flea.bet_key(reference), step, new.id, new.sender_id,
          jsonb_strip_nulls(jsonb_build_object('id', new.id, 'sender_id', new.sender_id, 'receiver_id', new.receiver_id,
            'amount', new.amount, 'description', new.description, 'timeout_hours', new.timeout_hours)),
          -- What is not made yet can be neither released nor cancelled: its making lets this one go. And nobody is paid whose
          -- account is yet to be made.
          case when step <> 'escrow' and new.pf_escrow_id is null and new.status = 'pending' then 'infinity'
               when step = 'escrow' and exists (
                 select from purple_flea.jobs j where j.agent_id = new.receiver_id and j.kind = 'registration' and j.state in ('pending', 'claimed')
               ) then 'infinity'
               else statement_timestamp() end,
          -- A new escrow that comes too late helps nobody; a release always does.
          clock_timestamp() + case step when 'escrow' then (purple_flea.timing()).max_age else patience end);
  perform purple_flea.try_ring();
  return null;
end;
$$;
comment on function purple_flea.make_escrow_job() is 'Makes the job of an escrow''s next step.';
revoke all on function purple_flea.make_escrow_job() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists purple_flea_escrow on public.escrow_requests;
create trigger purple_flea_escrow
  after insert on public.escrow_requests
  for each row execute function purple_flea.make_escrow_job();
drop trigger if exists purple_flea_escrow_step on public.escrow_requests;
create trigger purple_flea_escrow_step
  after update on public.escrow_requests
  for each row when (new.requested_status is distinct from old.requested_status and new.requested_status is not null)
  execute function purple_flea.make_escrow_job();

-- What a step of an escrow led to, in the row that asked for it.
create or replace function purple_flea.tell_escrow() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  done boolean := new.state = 'executed';
begin
  update public.escrow_requests e
  set reason       = case when not done then new.reason end,
      pf_escrow_id = coalesce(e.pf_escrow_id, new.result ->> 'pf_escrow_id'),
      fee          = coalesce((new.result ->> 'fee')::numeric, e.fee),
      referral_earned = coalesce((new.result ->> 'referral_earned')::numeric, e.referral_earned),
      status       = case
        when new.kind = 'escrow' and new.state in ('skipped', 'rejected', 'dead') then 'refused'
        when done and new.kind = 'escrow_release' then 'released'
        when done and new.kind = 'escrow_cancel' then 'cancelled'
        -- A refused step can tell what became of it otherwise.
        when new.result ->> 'escrow_status' in ('released', 'cancelled', 'disputed', 'refunded') then new.result ->> 'escrow_status'
        else e.status
      end
  where e.id = new.escrow_id;
  if new.kind = 'escrow' and new.state in ('executed', 'skipped', 'rejected', 'dead') then
    update purple_flea.jobs j set due_at = statement_timestamp()
    where j.escrow_id = new.escrow_id and j.state = 'pending' and j.due_at = 'infinity';
    if found then
      perform purple_flea.try_ring();
    end if;
  end if;
  return null;
end;
$$;
comment on function purple_flea.tell_escrow() is 'Writes back what a step of an escrow led to.';
revoke all on function purple_flea.tell_escrow() from public, anon, authenticated, service_role, purple_flea_worker;

drop trigger if exists jobs_tell_escrow on purple_flea.jobs;
create trigger jobs_tell_escrow
  after update on purple_flea.jobs
  for each row when (new.escrow_id is not null and old.state <> new.state and new.state <> 'claimed')
  execute function purple_flea.tell_escrow();

-- What orchestrators earned by the escrows of those whom they brought in.
create or replace view public.referral_earnings with (security_barrier) as
  select o.id as orchestrator_id, count(*) as escrows, sum(e.amount) as amount, sum(e.fee) as fees, sum(e.referral_earned) as earned
  from public.escrow_requests e
  join public.agents s on s.id = e.sender_id
  join public.agents o on o.id = s.orchestrator_id
  where e.status = 'released' and (o.owner_id = (select auth.uid()) or pg_has_role(current_user, 'service_role', 'usage'))
  group by o.id;
comment on view public.referral_earnings is 'What each of one''s own orchestrators earned by the released escrows of the agents it brought in.';
revoke all on public.referral_earnings from public, anon, authenticated, service_role, purple_flea_worker;
grant select on public.referral_earnings to authenticated, service_role;

-- What a caller asks for by hand rather than by a row: the function's own paths end here. The same reference asks once.

create or replace function public.request_job(kind text, reference text, details jsonb) returns jsonb
  language plpgsql
  volatile
  -- The caller may not write jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  agent  text   := coalesce(details ->> 'agent_id', details ->> 'sender_id');
  escrow bigint := (details ->> 'escrow_id')::bigint;
  found  purple_flea.jobs;
  asked  text;
begin
  -- Room for the bet key's random digits; and no name that a row's own job could have.
  if request_job.reference is null or request_job.reference !~ '^[A-Za-z0-9._:-]{1,47}$'
    or (kind in ('trade', 'order', 'balance', 'daily_claim')
        and request_job.reference ~ '^(wallet-change|escrow|faucet|registration|daily_claim)[-:.]') then
    return jsonb_build_object('refused', 'invalid_reference');
  elsif kind not in ('escrow_release', 'escrow_cancel') and not exists (select from public.agents a where a.id = agent) then
    return jsonb_build_object('refused', 'unknown_agent');
  end if;
  case kind
    when 'registration' then
      select j.reference into asked from purple_flea.jobs j
      where j.agent_id = agent and j.kind = 'registration' and j.state in ('pending', 'claimed', 'executed') order by j.created_at desc limit 1;
      if asked is null and (select purple_flea.secret(a.api_key) from public.agents a where a.id = agent) is not null then
        return jsonb_build_object('refused', 'already_registered');
      end if;
      asked := coalesce(asked, purple_flea.make_agent_job(kind, agent, purple_flea.agent_reference(kind, agent)));
    when 'faucet' then
      asked := purple_flea.make_agent_job(kind, agent, purple_flea.agent_reference(kind, agent));
    when 'balance', 'daily_claim' then
      select j.reference into asked from purple_flea.all_jobs j where j.reference = request_job.reference and j.agent_id = agent and j.kind = request_job.kind;
      asked := coalesce(asked, purple_flea.make_agent_job(kind, agent, request_job.reference));
    when 'trade', 'order' then
      -- As the function has it; but a job that cannot be read would keep every claim from its end.
      if coalesce(details ->> 'size', '') !~ '^[0-9]{1,8}(\.[0-9]{1,4})?$' or coalesce(details ->> 'market', '') !~ '^[A-Za-z0-9._:/-]{1,20}$'
        or coalesce(details ->> 'direction', '') not in ('long', 'short') then
        return jsonb_build_object('refused', 'invalid_order');
      end if;
      insert into purple_flea.jobs (reference, bet_key, kind, agent_id, request, due_at, expires_at)
      select request_job.reference, purple_flea.bet_key(request_job.reference), request_job.kind, agent, details, statement_timestamp(),
             clock_timestamp() + (purple_flea.timing()).max_age
      -- (A conflict alone could wait for whoever archives it, and then find nothing.)
      where not exists (select from purple_flea.all_jobs j where j.reference = request_job.reference)
      on conflict do nothing;
      asked := request_job.reference;
      select * into found from purple_flea.all_jobs j where j.reference = asked;
      if (found.kind, found.request) is distinct from (request_job.kind, details) then
        return jsonb_build_object('refused', 'reference_taken');
      end if;
    when 'escrow' then
      if not exists (select from public.agents a where a.id = details ->> 'receiver_id') then
        return jsonb_build_object('refused', 'unknown_agent');
      end if;
      insert into public.escrow_requests (sender_id, receiver_id, amount, description, timeout_hours, asked_as)
      values (agent, details ->> 'receiver_id', (details ->> 'amount')::numeric, details ->> 'description',
              (details ->> 'timeout_hours')::integer, request_job.reference)
      on conflict (asked_as) do nothing;
      select 'escrow-' || e.id into asked from public.escrow_requests e
      where e.asked_as = request_job.reference and e.sender_id = agent and e.receiver_id = details ->> 'receiver_id'
        and e.amount = (details ->> 'amount')::numeric;
      if asked is null then
        return jsonb_build_object('refused', 'reference_taken');
      end if;
    when 'escrow_release', 'escrow_cancel' then
      select j.reference into asked from purple_flea.jobs j
      where j.escrow_id = escrow and j.kind = request_job.kind and j.state not in ('skipped', 'rejected', 'dead');
      if not exists (select from public.escrow_requests e where e.id = escrow) then
        return jsonb_build_object('refused', 'unknown_escrow');
      elsif asked is null then
        begin
          -- (Once more, if it came to nothing before.)
          update public.escrow_requests e set requested_status = null where e.id = escrow and e.requested_status is not null;
          update public.escrow_requests e set requested_status = case kind when 'escrow_release' then 'released' else 'cancelled' end
          where e.id = escrow;
        exception when check_violation then
          -- Somebody may have asked for the same at the same time.
          select j.reference into asked from purple_flea.jobs j
          where j.escrow_id = escrow and j.kind = request_job.kind and j.state not in ('skipped', 'rejected', 'dead');
          if asked is not null then
            return jsonb_build_object('reference', asked);
          end if;
          return jsonb_build_object('refused', 'escrow_not_open', 'status', (select e.status from public.escrow_requests e where e.id = escrow),
                                    'requested_status', (select e.requested_status from public.escrow_requests e where e.id = escrow));
        end;
        select j.reference into asked from purple_flea.jobs j
        where j.escrow_id = escrow and j.kind = request_job.kind and j.state = 'pending';
      end if;
    else
      return jsonb_build_object('refused', 'unknown_kind');
  end case;
  -- Whoever asks comes for it at once, and wants to hear how it ends: nobody else takes it in between.
  update purple_flea.jobs j set due_at = clock_timestamp() + interval '1 second'
  where j.reference = asked and j.state = 'pending' and j.attempts = 0 and j.due_at <= clock_timestamp();
  -- No name is left for it: another job has the caller's.
  return case when asked is null then jsonb_build_object('refused', 'reference_taken') else jsonb_build_object('reference', asked) end;
end;
$$;
comment on function public.request_job(text, text, jsonb) is 'Asks for a job of a kind by hand; gives the reference of the one that does it, or why there is none: invalid_reference, unknown_agent, unknown_escrow, already_registered, escrow_not_open, invalid_order, reference_taken, unknown_kind.';
revoke all on function public.request_job(text, text, jsonb) from public, anon, authenticated;
grant execute on function public.request_job(text, text, jsonb) to service_role, purple_flea_worker;

create or replace function purple_flea.record_trade(reference text, order_id text, filled numeric, entry_price numeric default null, position_id text default null) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job   purple_flea.jobs := purple_flea.unknown_job(record_trade.reference);
  -- Of an order by hand what was asked for; of a deposit its policy.
  asked jsonb := case when job.kind = 'deposit' then job.policy else job.request end;
begin
  if asked ->> 'market' is null then
    raise exception 'job % is no trade', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_strip_nulls(jsonb_build_object(
    'status', 'executed', 'reference', job.reference, 'agent_id', job.agent_id, 'market', asked ->> 'market',
    'direction', asked ->> 'direction', 'size', job.stake, 'wager', filled, 'entry_price', entry_price,
    'position_id', position_id, 'order_id', order_id
  )), 'operator');
end;
$$;
comment on function purple_flea.record_trade(text, text, numeric, numeric, text) is 'Records the position that an unknown job turned out to have opened, and makes its row of trade_results.';
revoke all on function purple_flea.record_trade(text, text, numeric, numeric, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.record_escrow(reference text, pf_escrow_id text, fee numeric default null) returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  job purple_flea.jobs := purple_flea.unknown_job(record_escrow.reference);
begin
  if job.kind <> 'escrow' then
    raise exception 'job % makes no escrow', job.reference;
  end if;
  perform purple_flea.apply(job, 'executed', jsonb_strip_nulls(jsonb_build_object(
    'status', 'executed', 'reference', job.reference, 'agent_id', job.agent_id, 'pf_escrow_id', pf_escrow_id, 'fee', fee
  )), 'operator');
end;
$$;
comment on function purple_flea.record_escrow(text, text, numeric) is 'Records the escrow that an unknown job turned out to have made: it stands at Purple Flea with the job''s bet key in its description.';
revoke all on function purple_flea.record_escrow(text, text, numeric) from public, anon, authenticated, service_role, purple_flea_worker;
