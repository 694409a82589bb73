-- Policies: which row of trade_policies applies to an agent, and how much a deposit stakes under
-- it.

create or replace view purple_flea.effective_policies as
  select
    a.id                                         as agent_id,
    coalesce(own.id, shared.id)                  as policy_id,
    coalesce(own.limited, shared.limited)        as limited,
    shared.paused or coalesce(own.paused, false) as paused,
    coalesce(own.game, shared.game)              as game,
    a.api_key                                    as account
  from public.agents a
  left join purple_flea.trade_policies own on own.agent_id = a.id
  join purple_flea.trade_policies shared on shared.agent_id is null;
comment on view purple_flea.effective_policies is
  'Each agent''s policy, whether its bets are held back, and the name of the key for its calls '
  '(empty: the shared key).';

create or replace function purple_flea.keep_shared_policy() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if old.agent_id is null and (tg_op = 'DELETE' or new.agent_id is not null) then
    raise exception 'the shared policy cannot be taken away; without it nothing would be claimed';
  end if;
  return coalesce(new, old);
end;
$$;
comment on function purple_flea.keep_shared_policy() is 'Refuses to take the shared policy away.';

create or replace trigger trade_policies_keep
  before update or delete on purple_flea.trade_policies
  for each row execute function purple_flea.keep_shared_policy();

-- The same formula as the function's (policy.rs): tests/cases/stakes.json holds both to the same
-- cases. The function decides, and the ledger reserves: a bet above the stake raises an alarm.
-- Without a search path of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.stake(new_balance numeric, policy purple_flea.trade_policies)
  returns numeric
  language sql
  immutable
as $$
  -- least() passes over a max_wager that is null.
  select case
    when new_balance is null
      then 0
    when policy.game = 'trade' and policy.size is not null
      then trunc(least(policy.size, policy.max_wager), 2)
    else greatest(
      0,
      least(
        round(new_balance * policy.wager_fraction, 2),
        trunc(new_balance, 2),
        trunc(policy.max_wager, 2)
      )
    )
  end
$$;
comment on function purple_flea.stake(numeric, purple_flea.trade_policies) is
  'Gives the most that a deposit can stake under a policy, in US dollars; 0 without a balance.';

-- Without a search path of its own, because Postgres inlines no function that has one.
create or replace function purple_flea.stake_of(
  kind    text,
  request jsonb,
  w       public.wallet_changes,
  policy  purple_flea.trade_policies
) returns numeric
  language sql
  immutable
  security invoker
as $$
  select case
    when kind = 'deposit' then purple_flea.stake(w.new_balance, policy)
    when kind = 'bet' then (request ->> 'wager')::numeric
    when purple_flea.is_staking(kind) then (request ->> 'size')::numeric
  end
$$;
comment on function
  purple_flea.stake_of(text, jsonb, public.wallet_changes, purple_flea.trade_policies) is
  'Gives the most that a job can cost, in US dollars; null for a kind that stakes nothing.';
