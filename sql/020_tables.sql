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
