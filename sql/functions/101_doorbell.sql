-- The doorbell: notifications over Realtime, on the private topic `doorbell`, for a listener that
-- calls the function. A bell is awareness and no delivery, like a request of pg_net. A listener
-- calls the function for each bell, and looks after it for what a coalesced transaction has made.
--
-- At most one transaction in 100 ms rings. The others rely on its bell:
-- - They hold an advisory lock shared until their commit. None of them waits for it.
-- - They rely on a bell only if its transaction has committed, because a rollback sends nothing.
-- - 150 ms after a bell the listener looks (look_after_bell()). It looks again until it has had the
--   lock exclusively, so that nobody is left who relied on the bell and has not committed.
-- - A bell whose transaction is still open is no reason to be silent. Then more bells follow, until
--   the rate of 10 a second is spent. Above it a transaction relies on bells that are on their way.
-- What is left to the sweeper: all of these roll back, or Realtime loses the message.

create or replace function purple_flea.doorbell_lock() returns bigint
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select hashtextextended('purple_flea:doorbell', 7)
$$;
comment on function purple_flea.doorbell_lock() is
  'Gives the key of the lock between the listener''s look and transactions that rely on a bell.';

-- The lock comes before the clock is read. So whoever relies on a bell has the lock within 100 ms of
-- it, and the look comes later.
create or replace function purple_flea.relies_on_bell() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  window_ms constant integer := 100;
  rung_at   bigint;
  rung_by   bigint;
  now_ms    bigint;
begin
  if not pg_try_advisory_xact_lock_shared(purple_flea.doorbell_lock()) then
    return false;
  end if;
  -- A bell writes its transaction before its time.
  rung_at := (select s.last_value from purple_flea.doorbell_rung_at s);
  now_ms := floor(extract(epoch from clock_timestamp()) * 1000);
  -- A bell in the future was rung before the clock was set back.
  if now_ms - rung_at not between 0 and window_ms - 1 then
    return false;
  end if;
  rung_by := (select s.last_value from purple_flea.doorbell_rung_by s);
  return coalesce(pg_xact_status(rung_by::text::xid8) = 'committed', false);
end;
$$;
comment on function purple_flea.relies_on_bell() is
  'Says whether a listener looks for this transaction''s jobs, because a bell was sent less than '
  '100 ms ago.';

-- The rate is spent like time (see take_realtime_share()): two transactions at the same moment may
-- ring a few times too often.
create or replace function purple_flea.take_bell() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  burst constant integer := 3;
  at    constant bigint  := floor(extract(epoch from clock_timestamp()) * 10);
  spent bigint           := (select s.last_value from purple_flea.doorbell_spent s);
begin
  -- Nobody spends more than a burst ahead. It is the clock that was set back.
  if spent not between at - burst and at + burst then
    spent := setval('purple_flea.doorbell_spent', at - burst);
  end if;
  if spent >= at then
    return false;
  end if;
  perform nextval('purple_flea.doorbell_spent');
  return true;
end;
$$;
comment on function purple_flea.take_bell() is
  'Takes one of ten bells a second, and at most three at once; says whether there was one.';

create or replace function purple_flea.ring_doorbell() returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regnamespace('realtime') is null then
    perform purple_flea.warn_of_realtime('this database has no Realtime, and notify_by is realtime');
    return 'refused';
  end if;
  if purple_flea.relies_on_bell() or not purple_flea.take_bell() then
    return 'coalesced';
  end if;
  if purple_flea.take_realtime_share(1, true) < 1 then
    perform purple_flea.warn_of_realtime('the rate of messages is spent, or 0');
    return 'refused';
  end if;
  perform setval('purple_flea.doorbell_rung_by', pg_current_xact_id()::text::bigint);
  perform setval(
    'purple_flea.doorbell_rung_at', floor(extract(epoch from clock_timestamp()) * 1000)::bigint);
  perform purple_flea.broadcast('doorbell', 'due', '{"ledger": true}');
  return 'rung';
exception when others then
  perform purple_flea.warn_of_realtime(sqlerrm);
  return 'refused';
end;
$$;
comment on function purple_flea.ring_doorbell() is
  'Tells listeners that a job is due: rung, coalesced (a listener looks anyway), or refused. Never '
  'fails, and never waits for another transaction.';

-- A database whose function is reached by its listener alone has no URL for pg_net.
create or replace function purple_flea.notify(webhook_id text, body jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if (select l.notify_by from purple_flea.ledger l) = 'realtime'
    and (
      purple_flea.ring_doorbell() <> 'refused'
      or purple_flea.secret('purple_flea_function_url') is null
    )
  then
    return;
  end if;
  perform purple_flea.post(webhook_id, body);
end;
$$;
comment on function purple_flea.notify(text, jsonb) is
  'Notifies the function as notify_by says. Where the doorbell is refused, it uses pg_net if that '
  'is set up. Raises if pg_net cannot.';

-- The lock is tried and not waited for: a transaction that waits for it would make deposits ring.
-- The look sees what was committed before it got the lock.
create or replace function public.look_after_bell() returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  alone boolean;
begin
  alone := pg_try_advisory_xact_lock(purple_flea.doorbell_lock());
  return jsonb_build_object(
    'due', purple_flea.is_due(clock_timestamp()),
    'open', not alone
  );
end;
$$;
comment on function public.look_after_bell() is
  'Says whether a job is due, and whether a transaction is open that relies on a bell: {due, '
  'open}. A listener calls it 150 ms after a bell, and again while one is open.';
