-- The specification's own schema, as a project has it that was built from the text alone: its four tables, its trigger, and rows.

create table agents (
  id         text        primary key,
  api_key    text        not null,
  balance    numeric     default 0,
  status     text,
  created_at timestamptz default now()
);
create table wallet_changes (
  id            bigserial   primary key,
  agent_id      text        references agents (id),
  change_type   text,
  change_amount numeric,
  new_balance   numeric,
  created_at    timestamptz default now()
);
create table trade_results (
  id         bigserial   primary key,
  agent_id   text        references agents (id),
  game       text,
  wager      numeric,
  outcome    text,
  payout     numeric,
  created_at timestamptz default now()
);
create table escrow_requests (
  id           bigserial   primary key,
  sender_id    text        references agents (id),
  receiver_id  text        references agents (id),
  amount       numeric,
  pf_escrow_id text,
  status       text        default 'pending',
  created_at   timestamptz default now()
);

insert into agents (id, api_key, balance, status)
select 'agent-' || n, 'pf_live_raw_key_' || n, n * 1.5, case n % 2 when 0 then 'idle' else 'trading' end from generate_series(1, 1000) as n;
insert into wallet_changes (agent_id, change_type, change_amount, new_balance)
select 'agent-' || n % 1000 + 1, case n % 3 when 0 then 'withdrawal' else 'deposit' end, n % 100, n % 500 from generate_series(1, 4000) as n;
insert into trade_results (agent_id, game, wager, outcome, payout)
select 'agent-' || n % 1000 + 1, 'crash', 1 + n % 10, case n % 2 when 0 then 'win' else 'loss' end, n % 2 from generate_series(1, 3000) as n;
insert into escrow_requests (sender_id, receiver_id, amount)
select 'agent-' || n % 999 + 1, 'agent-' || n % 999 + 2, 1 + n % 7 from generate_series(1, 2000) as n;

create schema if not exists net;
create or replace function net.http_post(url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds integer default 5000)
  returns bigint language sql as $$ select 1::bigint $$;

create function notify_trade_agent() returns trigger
  language plpgsql
  security definer
as $$
begin
  perform net.http_post(
    url     := 'https://edge.example/execute-trade',
    body    := json_build_object('agent_id', new.agent_id, 'change_type', new.change_type, 'new_balance', new.new_balance)::jsonb,
    headers := '{"Content-Type": "application/json"}'
  );
  return new;
end;
$$;
create trigger on_wallet_deposit
  after insert on wallet_changes
  for each row when (new.change_type = 'deposit') execute function notify_trade_agent();
