-- The two tables of the specification, which its agent follows and writes. Nothing makes a result
-- unique for its deposit. The bench finds the deposit of a result by `reference`.

create table public.wallet_changes (
  id            bigserial     primary key,
  agent_id      text          not null,
  change_type   text          not null,
  change_amount numeric(12,4),
  new_balance   numeric(12,4),
  created_at    timestamptz   not null default now()
);
create table public.trade_results (
  id         bigserial     primary key,
  agent_id   text          not null,
  game       text,
  wager      numeric(12,4),
  outcome    text,
  payout     numeric(12,4),
  created_at timestamptz   not null default now(),
  bet_id     text,
  reference  text          not null
);
create index on public.trade_results (reference);

alter publication supabase_realtime add table public.wallet_changes;
