-- The four tables of the specification: its names, types and defaults, and the constraints that the
-- ledger needs. This file makes them in a schema of their own first. A table that is missing moves
-- from there. A table that was there before (the specification's own, or an earlier release's) is
-- brought to the same shape by pg_temp.purple_flea_adopt (scripts/lib/migrate/adopt.sql).

create schema purple_flea_wanted;

create table purple_flea_wanted.agents (
  id              text          primary key,
  api_key         text          not null default '',
  balance         numeric(12,4) not null default 0,
  status          text          not null default 'idle',
  created_at      timestamptz   not null default now(),
  owner_id        uuid,
  pf_agent_id     text,
  referral_code   text,
  orchestrator_id text,
  balance_at      timestamptz,
  constraint agents_id_check
    check (octet_length(id) between 1 and 128 and id !~ '[[:cntrl:]]'),
  constraint agents_balance_check
    check (balance >= 0 and balance <> 'NaN'),
  -- These two secrets are the ledger's own, and an agent's key goes out with every call.
  constraint agents_api_key_check check (
    api_key not in ('purple_flea_function_url', 'purple_flea_webhook_secret')
  ),
  constraint agents_status_check
    check (status in ('idle', 'trading', 'offline'))
);

create table purple_flea_wanted.wallet_changes (
  id            bigserial     primary key,
  agent_id      text          not null,
  change_type   text          not null,
  change_amount numeric(12,4),
  new_balance   numeric(12,4),
  created_at    timestamptz   not null default now(),
  constraint wallet_changes_change_type_check
    check (change_type in ('deposit', 'withdrawal', 'payout')),
  constraint wallet_changes_change_amount_check check (
    change_amount <> 'NaN'
    and (change_amount >= 0 or change_type <> 'deposit')
  ),
  constraint wallet_changes_new_balance_check
    check (new_balance >= 0 and new_balance <> 'NaN')
);

create table purple_flea_wanted.trade_results (
  id          bigserial     primary key,
  agent_id    text          not null,
  game        text,
  wager       numeric(12,4),
  outcome     text,
  payout      numeric(12,4),
  created_at  timestamptz   not null default now(),
  reference   text,
  bet_id      text,
  market      text,
  direction   text,
  entry_price numeric,
  position_id text,
  order_id    text,
  proof       jsonb,
  constraint trade_results_game_check
    check (game in ('crash', 'coin-flip', 'hi-lo')),
  constraint trade_results_wager_check
    check (wager > 0 and wager <> 'NaN'),
  constraint trade_results_outcome_check
    check (outcome in ('win', 'loss')),
  constraint trade_results_reference_key
    unique (reference),
  constraint trade_results_payout_check
    check (payout >= 0 and payout <> 'NaN')
);

create table purple_flea_wanted.escrow_requests (
  id               bigserial     primary key,
  sender_id        text          not null,
  receiver_id      text          not null,
  amount           numeric(12,4) not null,
  pf_escrow_id     text,
  status           text          not null default 'pending',
  created_at       timestamptz   not null default now(),
  requested_status text,
  description      text,
  timeout_hours    integer,
  fee              numeric(12,4),
  referral_earned  numeric(12,4),
  reason           text,
  asked_as         text,
  constraint escrow_requests_amount_check
    check (amount > 0 and amount <> 'NaN'),
  constraint escrow_requests_parties_check
    check (sender_id <> receiver_id),
  constraint escrow_requests_status_check check (
    status in ('pending', 'released', 'cancelled', 'refused', 'disputed', 'refunded')
  ),
  constraint escrow_requests_requested_status_check
    check (requested_status in ('released', 'cancelled')),
  constraint escrow_requests_description_check
    check (char_length(description) between 3 and 200),
  constraint escrow_requests_timeout_hours_check
    check (timeout_hours between 1 and 720),
  constraint escrow_requests_asked_as_key
    unique (asked_as)
);

-- For the foreign keys, and for the policies that compare an agent's owner.
create index agents_owner_id_idx
  on purple_flea_wanted.agents (owner_id);
create index agents_orchestrator_id_idx
  on purple_flea_wanted.agents (orchestrator_id);
create index wallet_changes_agent_id_idx
  on purple_flea_wanted.wallet_changes (agent_id);
create index trade_results_agent_id_idx
  on purple_flea_wanted.trade_results (agent_id);
create index escrow_requests_sender_id_idx
  on purple_flea_wanted.escrow_requests (sender_id);
create index escrow_requests_receiver_id_idx
  on purple_flea_wanted.escrow_requests (receiver_id);

-- One message names every odd row, and then nothing is changed. It names ids alone, because other
-- columns may hold keys.
do $$
declare
  table_names constant text[] := '{agents, wallet_changes, trade_results, escrow_requests}';
  -- Columns that refer to agents, as table.column.
  to_agents   constant text[] := '{
    agents.orchestrator_id, wallet_changes.agent_id, trade_results.agent_id,
    escrow_requests.sender_id, escrow_requests.receiver_id
  }';
  odd         text;
  adopted     text;
  referring   text;
begin
  select string_agg(line, E'\n' order by place) into odd
  from (
    select t.place, line
    from unnest(table_names) with ordinality as t (name, place)
    cross join lateral pg_temp.purple_flea_odd_rows(
      format('purple_flea_wanted.%I', t.name)::regclass,
      to_regclass('public.' || t.name)
    ) as line
    where to_regclass('public.' || t.name) is not null
    union all
    select
      cardinality(table_names) + 1,
      pg_temp.purple_flea_odd_references(split_part(r.name, '.', 1), split_part(r.name, '.', 2))
    from unnest(to_agents) as r (name)
  ) as lines
  where line is not null;
  if odd is not null then
    raise exception 'the tables hold rows that the ledger cannot work with'
      using detail  = odd,
            errcode = 'check_violation',
            hint    = 'Correct or delete these rows, then migrate again. '
                      'docs/upgrade.md has the statements.';
  end if;
  foreach adopted in array table_names loop
    perform pg_temp.purple_flea_adopt(adopted, 'public');
  end loop;
  foreach referring in array to_agents loop
    perform pg_temp.purple_flea_adopt_reference(
      format('public.%I', split_part(referring, '.', 1))::regclass,
      split_part(referring, '.', 2)
    );
  end loop;
end;
$$;

drop schema purple_flea_wanted;

comment on table public.agents is 'One row for each AI agent that has a wallet.';
comment on column public.agents.id is 'Purple Flea''s id of the agent.';
comment on column public.agents.api_key is
  'The name of the secret that holds the agent''s Purple Flea key, never the key itself; empty '
  'while there is none.';
comment on column public.agents.balance is 'The wallet''s balance at the last look, in US dollars.';
comment on column public.agents.status is 'idle, trading or offline.';
comment on column public.agents.pf_agent_id is
  'Purple Flea''s name for the agent, if it is not the id. Registration finds it out.';
comment on column public.agents.referral_code is 'The agent''s own referral code at Purple Flea.';
comment on column public.agents.orchestrator_id is
  'The agent that brought this one in, and earns the referral.';
comment on column public.agents.owner_id is
  'The user (auth.users.id) that may read the agent''s rows. Null: only the service may.';
comment on column public.agents.balance_at is
  'The time of Purple Flea''s last word on the balance.';

comment on table public.wallet_changes is
  'The changes of the agents'' wallets. A row of type deposit notifies the function.';
comment on column public.wallet_changes.change_type is 'deposit, withdrawal or payout.';
comment on column public.wallet_changes.change_amount is
  'The change in US dollars; a deposit''s is never negative.';
comment on column public.wallet_changes.new_balance is
  'The wallet''s balance afterwards, in US dollars. Without it nothing is bet.';

comment on table public.trade_results is
  'The outcomes of bets, and the trades that were opened: at most one row for each deposit.';
comment on column public.trade_results.game is 'crash, coin-flip or hi-lo; null for a trade.';
comment on column public.trade_results.wager is 'The stake in US dollars; of a trade, its size.';
comment on column public.trade_results.outcome is 'win or loss.';
comment on column public.trade_results.payout is
  'The payout in US dollars, the stake included; 0 for a loss; null if Purple Flea does not say '
  'it.';
comment on column public.trade_results.reference is
  'The job that led to it: wallet-change-<id> for a deposit. Null for rows that are older than '
  'the ledger.';
comment on column public.trade_results.bet_id is 'Purple Flea''s name for the bet.';
comment on column public.trade_results.market is 'The market that was traded.';
comment on column public.trade_results.direction is 'long or short, of a trade.';
comment on column public.trade_results.entry_price is
  'The price at which it was opened, if Purple Flea says it.';
comment on column public.trade_results.position_id is 'Purple Flea''s name for the position.';
comment on column public.trade_results.order_id is 'Purple Flea''s name for the order.';
comment on column public.trade_results.proof is
  'The values that prove the bet fair once its server seed is revealed: server_seed_hash, '
  'client_seed, nonce, result_hash.';

comment on table public.escrow_requests is 'Money that one agent holds ready for another.';
comment on column public.escrow_requests.amount is 'The amount in US dollars.';
comment on column public.escrow_requests.pf_escrow_id is
  'Purple Flea''s id of the escrow, once there is one.';
comment on column public.escrow_requests.status is
  'pending, released, cancelled; refused (it was never made), disputed, refunded. Only Purple '
  'Flea''s answers set it.';
comment on column public.escrow_requests.requested_status is
  'The status that the sender''s owner requests: released or cancelled.';
comment on column public.escrow_requests.description is
  'The purpose, at most 200 characters. At Purple Flea the job''s idempotency key follows it, so '
  'that the escrow can be found.';
comment on column public.escrow_requests.timeout_hours is
  'The hours after which it ends by itself: 1 to 720; null: Purple Flea''s own 24.';
comment on column public.escrow_requests.fee is 'Purple Flea''s fee in US dollars: 1 %.';
comment on column public.escrow_requests.referral_earned is
  'The earnings of the sender''s orchestrator in US dollars: 15 % of the fee.';
comment on column public.escrow_requests.reason is
  'Why the last step did not lead to the requested status, as a code; null if it did.';
comment on column public.escrow_requests.asked_as is
  'The webhook-id of the call that asked for it, if a call did: the same call asks once.';

-- Row-level security is on from the start. sql/functions has the policies.
alter table public.agents          enable row level security;
alter table public.wallet_changes  enable row level security;
alter table public.trade_results   enable row level security;
alter table public.escrow_requests enable row level security;
