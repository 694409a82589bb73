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
