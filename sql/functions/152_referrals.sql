-- Referral earnings: what Purple Flea pays an orchestrator for the agents that it brought in.
--
-- The escrow service pays a share of the fee. The casino pays a share of each lost bet, up to three
-- orchestrators up, in whole cents, and tells nobody. So the ledger computes what the casino pays.

-- An agent whose registration carried an orchestrator's code earns for that orchestrator, and for
-- the orchestrators above it.
create or replace function purple_flea.referred_agents()
  returns table (orchestrator_id text, agent_id text, level integer)
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  with recursive brought_in as (
    select o.id as orchestrator_id, r.agent_id
    from purple_flea.jobs r
    join public.agents o on o.referral_code = r.result ->> 'referred_by'
    where r.kind = 'registration'
      and r.state = 'executed'
  ),
  chain as (
    select b.orchestrator_id, b.agent_id, 1 as level
    from brought_in b
    union all
    select b.orchestrator_id, c.agent_id, c.level + 1
    from chain c
    join brought_in b on b.agent_id = c.orchestrator_id
    where c.level < 3
  )
  select c.orchestrator_id, c.agent_id, c.level
  from chain c
$$;
comment on function purple_flea.referred_agents() is
  'Gives the agents that each orchestrator brought in: itself (level 1), or by the ones that it '
  'brought in (levels 2 and 3).';

create or replace function purple_flea.casino_referral(wager numeric, level integer)
  returns numeric
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select round(wager * case level when 1 then 0.10 when 2 then 0.05 when 3 then 0.025 end, 2)
$$;
comment on function purple_flea.casino_referral(numeric, integer) is
  'Gives the casino''s payment to an orchestrator for a lost bet: 10 %, 5 % or 2.5 % of it, in '
  'whole cents.';

create or replace view public.referral_earnings with (security_barrier) as
  with escrows as (
    select
      s.orchestrator_id,
      count(*)               as escrows,
      sum(e.amount)          as amount,
      sum(e.fee)             as fees,
      sum(e.referral_earned) as earned
    from public.escrow_requests e
    join public.agents s on s.id = e.sender_id
    where e.status in ('released', 'refunded')
      and s.orchestrator_id is not null
    group by s.orchestrator_id
  ),
  bets as (
    select
      r.orchestrator_id,
      count(*)                                            as bets,
      sum(t.wager)                                        as lost,
      sum(purple_flea.casino_referral(t.wager, r.level))  as earned
    from purple_flea.referred_agents() r
    join public.trade_results t on t.agent_id = r.agent_id
    where t.outcome = 'loss'
      -- The released servers alone prove a bet, and they alone pay this.
      and t.proof is not null
    group by r.orchestrator_id
  )
  select
    o.id                     as orchestrator_id,
    coalesce(e.escrows, 0)   as escrows,
    e.amount                 as amount,
    e.fees                   as fees,
    e.earned                 as earned,
    coalesce(b.bets, 0)      as bets,
    b.lost                   as lost,
    b.earned                 as bets_earned
  from public.agents o
  left join escrows e on e.orchestrator_id = o.id
  left join bets b on b.orchestrator_id = o.id
  where (e.orchestrator_id is not null or b.orchestrator_id is not null)
    and (
      o.owner_id = (select purple_flea.caller())
      or pg_has_role(current_user, 'service_role', 'usage')
    );
comment on view public.referral_earnings is
  'The earnings of one''s own orchestrators: by the released and refunded escrows of the agents '
  'that they brought in, and by those agents'' lost bets.';
