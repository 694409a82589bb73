-- The ledger's health: for /health, for the console of a database, and for alarms.

-- Each part has an index, and none counts further than 1,000.
create or replace function purple_flea.not_executed()
  returns table (reason text, jobs bigint, oldest_s bigint)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- See expire(): Postgres must not sort a backlog that is larger than the statistics say.
  set enable_sort = off
  set jit = off
  set enable_bitmapscan = off
as $$
declare
  most       constant integer  := 1000;
  patience   constant interval := '60 seconds';  -- six sweeps: a worker has claimed it by then
  present    constant uuid     := purple_flea.current_generation();
  all_paused constant boolean  := (
    select p.paused from purple_flea.trade_policies p where p.agent_id is null
  );
begin
  return query
    with due as (
      select j.agent_id, j.kind, j.generation, j.due_at
      from purple_flea.jobs j
      where j.state = 'pending'
        and j.due_at <= statement_timestamp()
      order by j.due_at
      limit most
    ),
    waiting as (
      select j.reason, j.created_at
      from purple_flea.jobs j
      where j.state = 'pending'
        and j.due_at > statement_timestamp()
        and isfinite(j.due_at)
        and j.reason is not null
      order by j.due_at
      limit most
    ),
    named as (
      select
        case
          when purple_flea.awaits_confirmation(d.kind, d.generation, present)
            then 'restore_unconfirmed'
          when all_paused or p.paused then 'paused'
          else 'not_claimed'
        end as why,
        d.due_at as since
      from due d
      join purple_flea.effective_policies p on p.agent_id = d.agent_id
      union all
      select w.reason, w.created_at
      from waiting w
      union all
      select 'cannot_be_changed', t.since
      from purple_flea.job_troubles t
    )
    select
      n.why,
      count(*),
      floor(extract(epoch from clock_timestamp() - min(n.since)))::bigint
    from named n
    group by n.why
    having n.why <> 'not_claimed'
      or min(n.since) < clock_timestamp() - patience;
end;
$$;
comment on function purple_flea.not_executed() is
  'Counts the jobs that wait, by reason: restore_unconfirmed, paused, not_claimed (no worker has '
  'claimed it for a minute), cannot_be_changed, or the reason of the last attempt.';

create or replace function purple_flea.alarms_of_the_day() returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 10000;  -- missed deposits that are counted
begin
  return (
    select count(*)
    from purple_flea.all_job_events e
    where e.kind in ('conflict', 'alarm')
      and e.at > statement_timestamp() - interval '1 day'
  ) + (
    select count(*)
    from (
      select
      from purple_flea.jobs j
      where j.state = 'dead'
        and j.reason = 'missed'
        and j.changed_at > statement_timestamp() - interval '1 day'
      limit most
    ) as missed
  );
end;
$$;
comment on function purple_flea.alarms_of_the_day() is
  'Counts the conflicts, the alarms and the missed deposits of the last 24 hours.';

-- One agent's own trouble is no trouble of the operator's key or URL. So a bet that came through of
-- late means no.
create or replace function purple_flea.is_refused_by_purple_flea() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most constant integer := 200;  -- transitions
begin
  return exists (
    select
    from purple_flea.jobs j
    where j.state = 'pending'
      and j.reason = 'purple_flea_refused_us'
  ) and not exists (
    select
    from (
      select e.to_state
      from purple_flea.job_events e
      where e.kind = 'transition'
      order by e.id desc
      limit most
    ) as last
    where last.to_state = 'executed'
  );
end;
$$;
comment on function purple_flea.is_refused_by_purple_flea() is
  'Says whether deposits wait because Purple Flea refuses the operator''s key or URL.';

create or replace function purple_flea.health_reasons(waiting text[], sweeper text) returns text[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- These reasons pass by themselves, or an operator has chosen them.
  calm constant text[] := '{
    paused, rate_limited, daily_limit_open, out_of_time, released, escrow_not_made,
    balance_not_known, abandoned, was_missing, lease_ran_out
  }';
  why  text[] := array(
    select w.reason
    from unnest(waiting) with ordinality as w (reason, n)
    where w.reason <> all (calm)
    order by w.n
  );
begin
  if purple_flea.current_generation() is null and 'restore_unconfirmed' <> all (why) then
    why := 'restore_unconfirmed'::text || why;
  end if;
  if sweeper = 'missing' then
    why := why || 'no_sweeper'::text;
  end if;
  -- A listener on the doorbell has both in its environment.
  if (select l.notify_by from purple_flea.ledger l) = 'pg_net'
    and (
      purple_flea.secret('purple_flea_function_url') is null
      or purple_flea.secret('purple_flea_webhook_secret') is null
    )
  then
    why := why || 'notifications_not_set_up'::text;
  end if;
  -- Everybody with the anon key can make agents trade.
  if (select l.accept_public_signals from purple_flea.ledger l) then
    why := why || 'public_signals_accepted'::text;
  end if;
  return why;
end;
$$;
comment on function purple_flea.health_reasons(text[], text) is
  'Gives the reasons why the ledger''s state is degraded.';

create or replace function public.ledger_health() returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most     constant integer  := 10000;  -- jobs that are counted
  patience constant interval := '3 minutes';
  lag_most constant integer  := 60;     -- seconds; a transaction of a request ends earlier
  feed     constant jsonb    := purple_flea.feed_health();
  webhooks constant jsonb    := purple_flea.webhooks_health();
  sweeper  constant text     := case
    when (select l.swept_at from purple_flea.ledger l) > clock_timestamp() - patience then 'ok'
    else 'missing'
  end;
  waits    jsonb;
  waiting  text[];
  why      text[];
begin
  select
    coalesce(
      jsonb_agg(
        jsonb_build_object('reason', n.reason, 'jobs', n.jobs, 'oldest_s', n.oldest_s)
        order by n.oldest_s desc
      ),
      '[]'
    ),
    coalesce(array_agg(n.reason order by n.oldest_s desc), '{}')
    into waits, waiting
  from purple_flea.not_executed() n;
  why := purple_flea.health_reasons(waiting, sweeper);
  if (feed ->> 'lag_s')::bigint > lag_most then
    why := why || 'feed_held_back'::text;
  end if;
  if webhooks ->> 'listener' = 'missing' then
    why := why || 'no_listener'::text;
  end if;
  return jsonb_build_object(
    'protocols', (
      select jsonb_agg(n) from generate_series(1, 9) as n where purple_flea.speaks(n)
    ),
    'status', case when why = '{}' then 'ok' else 'degraded' end,
    'why', to_jsonb(why),
    'not_executed', waits,
    'sweeper', sweeper,
    'due', (
      select count(*)
      from (
        select
        from purple_flea.jobs j
        where j.state = 'pending'
          and j.due_at <= statement_timestamp()
        limit most
      ) as due
    ),
    'oldest_due_s', (
      select floor(extract(epoch from clock_timestamp() - min(j.due_at)))::bigint
      from purple_flea.jobs j
      where j.state = 'pending'
        and j.due_at <= statement_timestamp()
    ),
    'unknown', (
      select count(*)
      from (
        select from purple_flea.jobs j where j.state = 'unknown' limit most
      ) as unknown
    ),
    'alarms', purple_flea.alarms_of_the_day(),
    'refused_by_purple_flea', purple_flea.is_refused_by_purple_flea(),
    'feed', feed,
    'webhooks', webhooks
  );
end;
$$;
comment on function public.ledger_health() is
  'Says whether jobs are executed and why not, whether the sweeper runs, how many jobs wait and '
  'for how long, how many are unknown (counted to 10,000), the day''s alarms, how far the event '
  'feed is behind, and whether a listener delivers webhooks.';
