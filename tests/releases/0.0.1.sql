-- Everything in sql/ as it was in the release that is now called 0.0.1 (revision 88d9123), one file after the other.

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
      set search_path = ''
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
revoke all on schema purple_flea from public, anon, authenticated, service_role;

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
  alter column agent_id   set not null,
  alter column created_at set not null;

comment on table  public.trade_results         is 'How bets ended.';
comment on column public.trade_results.game    is 'crash, coin-flip or hi-lo.';
comment on column public.trade_results.wager   is 'What was staked, in US dollars.';
comment on column public.trade_results.outcome is 'win or loss.';
comment on column public.trade_results.payout  is 'What was paid, the stake included, in US dollars; 0 for a loss.';

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
  set search_path = ''
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
  set search_path = ''
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

-- The doorbell: a deposit's row goes to the function as a signed request, through pg_net. It is awareness, not
-- delivery: it may get lost, come late or come twice. And it never stands in a deposit's way: whatever goes wrong
-- with it, the row is stored, and a warning says why nobody was called.

create or replace function purple_flea.signature(webhook_id text, webhook_timestamp bigint, body jsonb, secret text) returns text
  language plpgsql
  stable
  security invoker
  set search_path = ''
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

create or replace function purple_flea.ring_doorbell() returns trigger
  language plpgsql
  volatile
  -- The depositor may read neither the secret nor, in general, the queue.
  security definer
  set search_path = ''
  -- The row's times are written in the session's zone otherwise.
  set timezone = 'UTC'
  -- A lock on pg_net's tables must not hold a deposit back for longer.
  set lock_timeout = '500ms'
as $$
declare
  url        text;
  secret     text;
  webhook_id text   := 'wallet-change-' || new.id;
  signed_at  bigint := floor(extract(epoch from clock_timestamp()));
  body       jsonb  := to_jsonb(new);
begin
  url    := purple_flea.secret('purple_flea_function_url');
  secret := purple_flea.secret('purple_flea_webhook_secret');
  if url is null or secret is null then
    raise warning 'purple_flea: deposit % is stored, but the function was not called: % is not set', new.id,
      case when url is null then 'purple_flea_function_url' else 'purple_flea_webhook_secret' end;
    return null;
  end if;
  perform net.http_post(
    url     => url,
    body    => body,
    headers => jsonb_build_object(
      'Content-Type',      'application/json',
      'webhook-id',        webhook_id,
      'webhook-timestamp', signed_at::text,
      'webhook-signature', purple_flea.signature(webhook_id, signed_at, body, secret)
    ),
    -- Longer than the function's own timeout, so that its answer is heard.
    timeout_milliseconds => 15000
  );
  return null;
exception when others then
  raise warning 'purple_flea: deposit % is stored, but the function was not called: %', new.id, sqlerrm;
  return null;
end;
$$;
comment on function purple_flea.ring_doorbell() is 'Posts a deposit to the function, signed. Never fails.';
revoke all on function purple_flea.ring_doorbell() from public, anon, authenticated, service_role;

drop trigger if exists purple_flea_doorbell on public.wallet_changes;
create trigger purple_flea_doorbell
  after insert on public.wallet_changes
  for each row
  when (new.change_type = 'deposit')
  execute function purple_flea.ring_doorbell();

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
