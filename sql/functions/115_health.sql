-- How the ledger is: for /health, for the console of a database, and for alarms.

-- What is due and not executed, by its reason. Each part has an index, and none counts further than 1,000.
create or replace function purple_flea.not_executed() returns table (reason text, jobs bigint, oldest_s bigint)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- As in expire(): a backlog that is larger than the statistics say is not sorted for this.
  set enable_sort = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  most       constant integer  := 1000;
  patience   constant interval := '60 seconds';  -- six sweeps: by then a due job has been claimed, or nothing claims
  present    uuid    := purple_flea.current_generation();
  all_paused boolean := (select p.paused from purple_flea.trade_policies p where p.agent_id is null);
begin
  return query
    with due as (
      select j.agent_id, j.kind, j.generation, j.reason, j.attempts, j.due_at
      from purple_flea.jobs j where j.state = 'pending' and j.due_at <= statement_timestamp() order by j.due_at limit most
    ),
    waiting as (
      select j.reason, j.created_at
      from purple_flea.jobs j
      where j.state = 'pending' and j.due_at > statement_timestamp() and isfinite(j.due_at) and j.reason is not null
      order by j.due_at limit most
    ),
    named as (
      select case
               when purple_flea.awaits_confirmation(d.kind, d.generation, present) then 'restore_unconfirmed'
               when all_paused or p.paused then 'paused'
               else 'not_claimed'
             end as why, d.due_at as since
      from due d join purple_flea.effective_policies p on p.agent_id = d.agent_id
      union all
      select w.reason, w.created_at from waiting w
      union all
      select 'cannot_be_changed', t.since from purple_flea.job_troubles t
    )
    select n.why, count(*), floor(extract(epoch from clock_timestamp() - min(n.since)))::bigint
    from named n group by n.why
    having n.why <> 'not_claimed' or min(n.since) < clock_timestamp() - patience;
end;
$$;
comment on function purple_flea.not_executed() is 'What waits and why: restore_unconfirmed, paused, not_claimed (no function has claimed it for a minute), cannot_be_changed, or the reason of its last attempt.';
revoke all on function purple_flea.not_executed() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function public.ledger_health() returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- What passes by itself, and what an operator has chosen, is no trouble.
  calm    constant text[] := '{paused,rate_limited,daily_limit_open,out_of_time,released,escrow_not_made,balance_not_known,abandoned,was_missing,lease_ran_out}';
  sweeper text   := case when (select l.swept_at from purple_flea.ledger l) > clock_timestamp() - interval '3 minutes' then 'ok' else 'missing' end;
  waits   jsonb;
  why     text[];
  alarms  bigint;
begin
  select coalesce(jsonb_agg(jsonb_build_object('reason', n.reason, 'jobs', n.jobs, 'oldest_s', n.oldest_s) order by n.oldest_s desc), '[]'),
         coalesce(array_agg(n.reason order by n.oldest_s desc) filter (where n.reason <> all (calm)), '{}')
    into waits, why
  from purple_flea.not_executed() n;
  if purple_flea.current_generation() is null and 'restore_unconfirmed' <> all (why) then
    why := 'restore_unconfirmed'::text || why;
  end if;
  if sweeper = 'missing' then
    why := why || 'no_sweeper'::text;
  end if;
  if purple_flea.secret('purple_flea_function_url') is null or purple_flea.secret('purple_flea_webhook_secret') is null then
    why := why || 'notifications_not_set_up'::text;
  end if;
  alarms := (select count(*) from purple_flea.all_job_events e
             where e.kind in ('conflict', 'alarm') and e.at > statement_timestamp() - interval '1 day')
          + (select count(*) from (
              select from purple_flea.jobs j where j.state = 'dead' and j.reason = 'missed' and j.changed_at > statement_timestamp() - interval '1 day'
              limit 10000) as missed);
  return jsonb_build_object(
    'protocols',    (select jsonb_agg(n) from generate_series(1, 9) as n where purple_flea.speaks(n)),
    'status',       case when why = '{}' then 'ok' else 'degraded' end,
    'why',          to_jsonb(why),
    'not_executed', waits,
    'sweeper',      sweeper,
    'due', (select count(*) from (
      select from purple_flea.jobs j where j.state = 'pending' and j.due_at <= statement_timestamp() limit 10000) as due),
    'oldest_due_s', (select floor(extract(epoch from clock_timestamp() - min(j.due_at)))::bigint
      from purple_flea.jobs j where j.state = 'pending' and j.due_at <= statement_timestamp()),
    'unknown', (select count(*) from (select from purple_flea.jobs j where j.state = 'unknown' limit 10000) as unknown),
    'alarms',  alarms,
    -- Deposits wait for our key or URL, and no bet has come through of late: one agent's own trouble is not ours.
    'refused_by_purple_flea', exists (
      select from purple_flea.jobs j where j.state = 'pending' and j.reason = 'purple_flea_refused_us'
    ) and not exists (
      select from (select e.to_state from purple_flea.job_events e where e.kind = 'transition' order by e.id desc limit 200) as last
      where last.to_state = 'executed'
    )
  );
end;
$$;
comment on function public.ledger_health() is 'Whether jobs are executed and why not, whether the sweeper comes, what waits and for how long, what is unknown (counted to 10,000), and the day''s alarms.';
revoke all on function public.ledger_health() from public, anon, authenticated;
grant execute on function public.ledger_health() to service_role, purple_flea_worker;
