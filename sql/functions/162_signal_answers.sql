-- The answers to a signal: what each follower does about it. All followers' jobs are made in one
-- statement. A follower that cannot be asked now stops no other.

create or replace function purple_flea.followers(sender text, most integer) returns text[]
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  boss constant text := (select a.orchestrator_id from public.agents a where a.id = sender);
begin
  return array(
    select f.id
    from (
      select a.id
      from public.agents a
      where a.orchestrator_id = sender
        or a.orchestrator_id = boss
      union
      select w.agent_id
      from public.signal_follows w
      where w.sender_id = sender
    ) as f
    left join public.signal_policies p on p.agent_id = f.id
    where f.id <> sender
    -- Those that answer no signal take nobody's place.
    order by p.agent_id is null, f.id
    limit most
  );
end;
$$;
comment on function purple_flea.followers(text, integer) is
  'Gives the agents that follow a sender: those of its orchestrator, its own if it is one, and '
  'those whose owners follow it. Never the sender. Those with a signal policy come first.';

create or replace function purple_flea.answers_signal(reference text) returns boolean
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return reference ~ '^signal-[0-9a-f]{12}-[0-9a-f]{27}$';
end;
$$;
comment on function purple_flea.answers_signal(text) is
  'Says whether a job answers a signal: it ends with the signal, and no pause moves that end.';

-- Raises if one of the jobs cannot be made. Each answer is inserted before its job, so a follower
-- that has answered gets no other job. The rules stand in the statement: a function for each of a
-- thousand followers would take longer than the rest.
create or replace function purple_flea.answer_at_once(signal public.trade_signals, agents text[])
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set jit = off  -- see expire()
as $$
declare
  -- Read once and not for each follower.
  present constant uuid    := purple_flea.current_generation();
  by_name constant text    := left(signal.id, 12);
  market  constant text    := upper(signal.market);
  towards constant text    := case signal.action when 'BUY' then 'long' else 'short' end;
  cent    constant numeric := 0.01;
  -- A sender publishes as often as it likes. Others' deposits do not wait behind more than these.
  most    constant integer := 20;  -- pending trades and bets of a follower
  made    integer;
begin
  with judged as materialized (
    select
      e.agent_id,
      case
        when p.agent_id is null then 'no_signal_policy'
        when e.paused then 'paused'
        when signal.confidence <= p.confidence_above then 'confidence_too_low'
        when market <> all (p.markets) then 'other_market'
        when signal.action <> all (p.actions) then 'other_action'
        when p.answers = 'trade' and least(signal.size, p.max_size) < cent then 'size_too_small'
        when (
          select count(*)
          from (
            select
            from purple_flea.jobs w
            where w.agent_id = e.agent_id
              and w.kind in ('trade', 'bet')
              and w.state = 'pending'
            limit most
          ) as waiting
        ) = most then 'too_many_pending'
      end as why,
      case p.answers when 'coin-flip' then 'bet' else 'trade' end as kind,
      case p.answers
        when 'coin-flip' then jsonb_build_object(
          'agent_id', e.agent_id,
          'game', 'coin-flip',
          'side', coalesce(p.side, 'heads'),
          'wager', p.wager
        )
        else jsonb_build_object(
          'agent_id', e.agent_id,
          'market', signal.market,
          'direction', towards,
          'size', trunc(least(signal.size, p.max_size), 2)
        )
      end as request
    from purple_flea.effective_policies e
    left join public.signal_policies p on p.agent_id = e.agent_id
    where e.agent_id = any (agents)
  ),
  answered as (
    insert into public.signal_answers (signal_id, agent_id, state, reason, reference)
    select
      signal.id,
      j.agent_id,
      case when j.why is null then 'asked' else 'declined' end,
      j.why,
      -- 47 characters, as is_free_reference() demands of a caller's. No caller's begins like this.
      case when j.why is null then
        'signal-' || by_name || '-'
          || left(encode(sha256(convert_to(signal.id || ' ' || j.agent_id, 'UTF8')), 'hex'), 27)
      end
    from judged j
    on conflict on constraint signal_answers_pkey do nothing
    returning agent_id, reference
  )
  insert into purple_flea.jobs (
    reference, idempotency_key, kind, agent_id, generation, request, due_at, expires_at
  )
  select
    n.reference,
    purple_flea.new_idempotency_key(n.reference),
    j.kind,
    n.agent_id,
    present,
    j.request,
    statement_timestamp(),
    signal.expires_at
  from answered n
  join judged j on j.agent_id = n.agent_id
  where n.reference is not null;
  get diagnostics made = row_count;
  return made;
end;
$$;
comment on function purple_flea.answer_at_once(public.trade_signals, text[]) is
  'Records the answers of locked followers to a signal, and makes their jobs; says how many.';

create or replace function purple_flea.answer_later(signal text, agents text[], why text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.signal_answers (signal_id, agent_id, state, reason)
  select signal, f.id, 'waiting', why
  from unnest(agents) as f (id)
  on conflict on constraint signal_answers_pkey do nothing;
end;
$$;
comment on function purple_flea.answer_later(text, text[], text) is
  'Notes that followers could not be asked now, and why. The next sweep asks them.';

create or replace function purple_flea.answer(signal public.trade_signals, agents text[])
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A row that an application holds must not delay the publisher.
  set lock_timeout = '100ms'
as $$
declare
  -- The next sweep asks the followers that are not reached by then.
  ends   constant timestamptz := clock_timestamp() + interval '1 second';
  free   text[];
  agent  text;
  nth    integer;
  made   integer := 0;
begin
  free := array(
    select a.id
    from public.agents a
    where a.id = any (agents)
    order by a.id
    -- A job refers to its agent, for which Postgres takes this very lock.
    for key share skip locked
  );
  begin
    made := purple_flea.answer_at_once(signal, free);
  exception when others then
    -- One of them cannot be asked. The loop finds out which.
    for agent, nth in select f.id, f.n from unnest(free) with ordinality as f (id, n) loop
      if clock_timestamp() > ends then
        perform purple_flea.answer_later(signal.id, free[nth:], 'not_reached');
        exit;
      end if;
      begin
        made := made + purple_flea.answer_at_once(signal, array[agent]);
      exception when others then
        perform purple_flea.answer_later(signal.id, array[agent], 'failed: ' || sqlstate);
      end;
    end loop;
  end;
  perform purple_flea.answer_later(
    signal.id,
    array(select f.id from unnest(agents) as f (id) where f.id <> all (free)),
    'agent_locked'
  );
  return made;
end;
$$;
comment on function purple_flea.answer(public.trade_signals, text[]) is
  'Asks followers for their answers to a signal; says how many jobs that made. A follower that '
  'cannot be asked waits alone.';

create or replace function purple_flea.spread_signal(signal public.trade_signals) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most   constant integer := 10000;  -- followers of one signal
  agents constant text[]  := purple_flea.followers(signal.sender_id, most);
  made   integer          := 0;
begin
  if signal.kind = 'trade_signal' then
    made := purple_flea.answer(signal, agents);
  else
    insert into public.signal_answers (signal_id, agent_id, state)
    select signal.id, f.id, 'told'
    from unnest(agents) as f (id);
  end if;
  perform purple_flea.emit(
    'signal.published',
    purple_flea.tenant_of(signal.sender_id),
    'signal:' || signal.id,
    jsonb_build_object(
      'signal_id', signal.id,
      'agent_id', signal.sender_id,
      'status', signal.kind
    )
  );
  perform purple_flea.tell_followers(signal, agents);
  if made > 0 then
    perform purple_flea.notify_if_due();
  end if;
  return jsonb_build_object('followers', cardinality(agents), 'jobs', made);
end;
$$;
comment on function purple_flea.spread_signal(public.trade_signals) is
  'Makes the jobs of a new signal''s followers, tells their owners, and notifies the function '
  'once: {followers, jobs}.';

-- A message is awareness and no delivery. It has all that an owner's agent needs to know.
create or replace function purple_flea.tell_followers(signal public.trade_signals, agents text[])
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most    constant integer := 100;  -- agents that one message names
  told    record;
  granted integer;
begin
  if to_regnamespace('realtime') is null then
    return;
  end if;
  for told in
    -- Above the rate, chance decides which owners are left out.
    select
      o.owner_id,
      o.ids,
      row_number() over (order by random()) as n,
      count(*) over ()                      as owners
    from (
      select a.owner_id, (array_agg(a.id order by a.id))[1:most] as ids
      from public.agents a
      where a.id = any (agents)
        and a.owner_id is not null
      group by a.owner_id
    ) as o
    order by n
  loop
    if told.n = 1 then
      -- Results come first.
      granted := purple_flea.take_realtime_share(told.owners::integer, false);
    end if;
    exit when told.n > granted;
    perform purple_flea.broadcast('owner:' || told.owner_id, 'signal', jsonb_strip_nulls(
      jsonb_build_object(
        'signal_id', signal.id,
        'kind', signal.kind,
        'sender_id', signal.sender_id,
        'market', signal.market,
        'action', signal.action,
        'confidence', signal.confidence,
        'size', signal.size,
        'expires_at', signal.expires_at,
        'agent_ids', to_jsonb(told.ids)
      )
    ));
  end loop;
exception when others then
  perform purple_flea.warn_of_realtime(sqlerrm);
end;
$$;
comment on function purple_flea.tell_followers(public.trade_signals, text[]) is
  'Sends each owner of followers one message, signal, on the owner''s private topic. Never fails.';

comment on column public.signal_answers.reason is
  'Why there is no job: no_signal_policy, paused, confidence_too_low, other_market, other_action, '
  'size_too_small, too_many_pending, signal_expired, restored, agent_locked, or a code of '
  'Postgres.';

create or replace function purple_flea.doubt_answers() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  update public.signal_answers w
  set state  = 'declined',
      reason = 'restored'
  where w.state = 'waiting';
end;
$$;
comment on function purple_flea.doubt_answers() is
  'Declines for the followers that still waited to be asked when the database was copied: they may '
  'have been asked since.';

-- A sweep's part.
create or replace function purple_flea.finish_signals() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most     constant integer     := 1000;  -- answers of one sweep
  old_most constant integer     := 10;  -- signals; each has up to 10,000 answers
  keep     constant interval    := '30 days';
  at       constant timestamptz := clock_timestamp();
  -- A sweep holds the ledger's row. The next one goes on.
  ends     constant timestamptz := at + interval '1 second';
  made     integer              := 0;
  signal   public.trade_signals;
  agents   text[];
begin
  for signal in
    select s.*
    from public.trade_signals s
    where s.id in (
      select w.signal_id
      from public.signal_answers w
      where w.state = 'waiting'
      limit most
    )
    -- Those that fail take no other's turn for long.
    order by random()
    for update skip locked
  loop
    exit when clock_timestamp() > ends;
    if signal.expires_at <= at then
      update public.signal_answers w
      set state  = 'declined',
          reason = 'signal_expired'
      where w.signal_id = signal.id
        and w.state = 'waiting';
    -- A signal of before a restore may have been answered in the time that was lost.
    elsif purple_flea.current_generation() is not null then
      with again as (
        delete from public.signal_answers w
        where w.signal_id = signal.id
          and w.state = 'waiting'
        returning w.agent_id
      )
      select array_agg(again.agent_id) into agents from again;
      made := made + purple_flea.answer(signal, agents);
    end if;
  end loop;
  with old as (
    delete from public.trade_signals s
    where s.id in (
      select o.id
      from public.trade_signals o
      where o.created_at < at - keep
      order by o.created_at
      limit old_most
      for update skip locked
    )
    returning s.id
  )
  delete from public.signal_answers w
  where w.signal_id in (select old.id from old);
end;
$$;
comment on function purple_flea.finish_signals() is
  'Asks the followers that could not be asked before, and declines for those whose signal has '
  'expired. Deletes signals that are 30 days old.';
