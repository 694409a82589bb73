-- Referral earnings: what Purple Flea pays an orchestrator for the agents that it brought in.
--
-- The escrow service pays a share of the fee. The casino pays a share of each lost bet, up to three
-- orchestrators up (10 %, 5 % and 2.5 %), in whole cents, and tells nobody. So the ledger computes
-- what the casino pays. Only an agent whose registration carried an orchestrator's code earns for
-- that orchestrator. All of it stands in the view: it reads tables that its readers may not read.

create or replace view public.referral_earnings with (security_barrier) as
  with recursive escrows as (
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
  brought_in as (
    -- The last registration made the account that bets now.
    select distinct on (r.agent_id) o.id as orchestrator_id, r.agent_id
    from purple_flea.jobs r
    join public.agents o on o.referral_code = r.result ->> 'referred_by'
    where r.kind = 'registration'
      and r.state = 'executed'
    order by r.agent_id, r.changed_at desc, o.id
  ),
  chain as (
    select b.orchestrator_id, b.agent_id, 1 as level
    from brought_in b
    union all
    select b.orchestrator_id, c.agent_id, c.level + 1
    from chain c
    join brought_in b on b.agent_id = c.orchestrator_id
    where c.level < 3
  ),
  bets as (
    select
      c.orchestrator_id,
      count(*)     as bets,
      sum(t.wager) as lost,
      sum(round(
        t.wager * case c.level when 1 then 0.10 when 2 then 0.05 else 0.025 end,
        2
      ))           as earned
    from chain c
    join public.trade_results t on t.agent_id = c.agent_id
    where t.outcome = 'loss'
      -- The released servers alone prove a bet, and they alone pay this.
      and t.proof is not null
    group by c.orchestrator_id
  )
  select
    o.id                   as orchestrator_id,
    coalesce(e.escrows, 0) as escrows,
    e.amount               as amount,
    e.fees                 as fees,
    e.earned               as earned,
    coalesce(b.bets, 0)    as bets,
    b.lost                 as lost,
    b.earned               as bets_earned
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
