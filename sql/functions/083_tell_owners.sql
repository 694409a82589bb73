-- The fast path of results: what a settlement has settled, on the private topics of the agents'
-- owners. A message is awareness and no delivery. The feed and the tables have the same results.

-- The messages of a database share one rate. It is spent like time: each message costs a second
-- divided by the rate. Two transactions that spend at the same moment may send a few messages too
-- many, and the next ones pay for them. No transaction waits for another one.
create or replace function purple_flea.take_realtime_share(wanted integer, is_result boolean)
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  burst_s constant integer := 10;  -- Realtime's own limit is an average over 60 s
  ahead_s constant integer := 60;  -- nobody spends this much: the clock or the rate has changed
  rate    constant integer := (select l.realtime_events_per_s from purple_flea.ledger l);
  burst   constant bigint  := burst_s * rate;
  at      constant bigint  := floor(extract(epoch from clock_timestamp()) * rate);
  spent   bigint           := (select s.last_value from purple_flea.realtime_spent s);
  granted integer;
begin
  if rate = 0 then
    return 0;
  end if;
  if spent not between at - burst and at + ahead_s * rate then
    spent := setval('purple_flea.realtime_spent', at - burst);
  end if;
  -- A settlement's events come before its results. They leave half of a burst to results.
  granted := greatest(
    0, least(wanted, at - spent - case when is_result then 0 else burst / 2 end));
  perform nextval('purple_flea.realtime_spent') from generate_series(1, granted);
  perform nextval('purple_flea.realtime_dropped') from generate_series(granted + 1, wanted);
  return granted;
end;
$$;
comment on function purple_flea.take_realtime_share(integer, boolean) is
  'Says how many of the wanted messages may be sent over Realtime now. It counts the others as '
  'dropped, unless the rate is 0. Never waits.';

create or replace function purple_flea.warn_of_realtime(trouble text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  each_s constant integer := 60;  -- a warning a minute
  now_s  constant bigint  := extract(epoch from clock_timestamp());
begin
  if (select w.last_value from purple_flea.realtime_warned w) <= now_s - each_s then
    perform setval('purple_flea.realtime_warned', now_s);
    raise warning 'purple_flea: messages over Realtime are not sent: %', trouble
      using hint = 'Subscribers read the feed and the tables. Settlements go on.';
  end if;
end;
$$;
comment on function purple_flea.warn_of_realtime(text) is
  'Warns at most once a minute that messages are not sent over Realtime.';

-- A job that waits for another attempt has no result yet. A look-up in vain changes no state.
create or replace function purple_flea.results_by_owner(settled text[])
  returns table (owner_id uuid, results jsonb)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- See take().
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
declare
  -- Realtime takes no message above 3,000 KB. With these a message of 100 results has 200 KB.
  most constant integer := 256;  -- characters of a text that Purple Flea may choose
begin
  return query
    select
      a.owner_id,
      jsonb_agg(
        jsonb_strip_nulls(jsonb_build_object(
          'reference', j.reference,
          'agent_id', j.agent_id,
          'kind', j.kind,
          'state', j.state,
          'reason', left(j.reason, most),
          'game', t.game,
          'market', left(t.market, most),
          'wager', t.wager,
          'payout', t.payout,
          'outcome', t.outcome,
          'position_id', left(t.position_id, most),
          'trade_result_id', t.id
        ))
        order by j.changed_at, j.reference
      )
    from unnest(settled) as s (reference)
    join purple_flea.jobs j using (reference)
    join public.agents a on a.id = j.agent_id
    left join public.trade_results t on t.reference = j.reference
    where a.owner_id is not null
      and j.state <> 'pending'
      and j.changed_at >= transaction_timestamp()
    group by a.owner_id;
end;
$$;
comment on function purple_flea.results_by_owner(text[]) is
  'Gives the results of the jobs that this transaction has settled, an array for each owner of '
  'their agents.';

create or replace function purple_flea.tell_owners(settled text[]) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  told    record;
  granted integer;
begin
  if to_regnamespace('realtime') is null then
    return;
  end if;
  for told in
    -- Above the rate, chance decides which owners are left out.
    select
      r.owner_id,
      r.results,
      row_number() over (order by random()) as n,
      count(*) over ()                      as owners
    from purple_flea.results_by_owner(settled) r
    order by n
  loop
    if told.n = 1 then
      granted := purple_flea.take_realtime_share(told.owners::integer, true);
    end if;
    exit when told.n > granted;
    perform purple_flea.broadcast(
      'owner:' || told.owner_id, 'trade_result', jsonb_build_object('results', told.results));
  end loop;
exception when others then
  perform purple_flea.warn_of_realtime(sqlerrm);
end;
$$;
comment on function purple_flea.tell_owners(text[]) is
  'Sends each owner one message, trade_result, with the results of the owner''s agents among these '
  'jobs. Agents without an owner have none. Never fails.';
