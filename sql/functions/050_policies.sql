revoke all on purple_flea.trade_policies from public, anon, authenticated, service_role, purple_flea_worker;

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

create or replace trigger trade_policies_keep
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
