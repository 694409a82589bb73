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
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
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

-- How long bets were held back is written down, so that no job grows old meanwhile. A claim that computed it anew from the
-- present would forget a pause that ended while no sweeper came.
create or replace function purple_flea.record_pause() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  was boolean := tg_op <> 'INSERT' and old.paused;
  is_ boolean := tg_op <> 'DELETE' and new.paused;
begin
  if was and not is_ then
    update purple_flea.pauses p
    -- (The clock may have been set back since.)
    set held = tstzrange(lower(p.held), greatest(lower(p.held), clock_timestamp()))
    where p.agent_id is not distinct from old.agent_id and p.by = 'policy' and upper_inf(p.held);
  elsif is_ and not was then
    insert into purple_flea.pauses (agent_id, held, by) values (new.agent_id, tstzrange(clock_timestamp(), null), 'policy');
  end if;
  return null;
end;
$$;
comment on function purple_flea.record_pause() is 'Writes down when a policy''s pause begins and ends.';
revoke all on function purple_flea.record_pause() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger trade_policies_record_pause
  after insert or update or delete on purple_flea.trade_policies
  for each row execute function purple_flea.record_pause();

-- The function's own setting `paused` shows in its claims, which ask for no jobs. Each such claim holds bets back for the
-- next minute; a row is written twice a minute at most.
create or replace function purple_flea.record_hold() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  at   constant timestamptz := clock_timestamp();
  last purple_flea.pauses;
begin
  select * into last from purple_flea.pauses p where p.by = 'function' order by p.id desc limit 1 for update skip locked;
  if found and upper(last.held) > at then
    update purple_flea.pauses p
    set held = tstzrange(lower(p.held), at + interval '1 minute')
    where p.id = last.id and upper(p.held) < at + interval '30 seconds';
  elsif found or not exists (select from purple_flea.pauses p where p.by = 'function' and upper(p.held) > at) then
    insert into purple_flea.pauses (held, by) values (tstzrange(at, at + interval '1 minute'), 'function');
  end if;
end;
$$;
comment on function purple_flea.record_hold() is 'Writes down that the function holds bets back by its own setting.';
revoke all on function purple_flea.record_hold() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.held_for(agent text, since timestamptz) returns interval
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(sum(upper(part) - lower(part)), '0')
  from unnest((
    select range_agg(p.held * tstzrange(since, greatest(since, clock_timestamp())))
    from purple_flea.pauses p
    where (p.agent_id = agent or p.agent_id is null) and p.held && tstzrange(since, greatest(since, clock_timestamp()))
  )) as part
$$;
comment on function purple_flea.held_for(text, timestamptz) is 'For how long an agent''s bets have been held back since a time.';
revoke all on function purple_flea.held_for(text, timestamptz) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_held(agent text) returns boolean
  language sql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from purple_flea.pauses p
    where (p.agent_id = agent or p.agent_id is null) and (upper_inf(p.held) or upper(p.held) > clock_timestamp()))
$$;
comment on function purple_flea.is_held(text) is 'Whether an agent''s bets are held back now.';
revoke all on function purple_flea.is_held(text) from public, anon, authenticated, service_role, purple_flea_worker;
