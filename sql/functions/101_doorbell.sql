-- The doorbell: notifications over Realtime, on the private topic `doorbell`, for a listener that
-- calls the function. A bell is awareness and no delivery, like a request of pg_net. A listener
-- calls the function for each bell, and looks after it for what a coalesced transaction has made.
--
-- At most one transaction in 100 ms rings. The others rely on its bell:
-- - They hold an advisory lock shared until their commit. None of them waits for it.
-- - They rely on a bell only if they see its row, because a rollback sends nothing, of a
--   subtransaction either.
-- - 150 ms after a bell the listener looks (look_after_bell()). It looks again until it has had the
--   lock exclusively, so that nobody is left who relied on the bell and has not committed.
-- - A bell whose transaction is still open is no reason to be silent. Then more bells follow, until
--   the rate of 10 a second is spent. Above it a transaction relies on a bell of the last 100 ms.
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

-- The caller has tried to get the lock before, so that whoever relies on a bell has the lock within
-- 100 ms of it, and the look comes later.
create or replace function purple_flea.recent_bell() returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  window_ms constant integer := 100;
  rung_at   constant bigint  := (select s.last_value from purple_flea.doorbell_rung_at s);
  now_ms    constant bigint  := floor(extract(epoch from clock_timestamp()) * 1000);
begin
  -- A bell in the future was rung before the clock was set back.
  return case when now_ms - rung_at between 0 and window_ms - 1 then rung_at end;
end;
$$;
comment on function purple_flea.recent_bell() is
  'Gives the time of the last bell, sent or not, if it is less than 100 ms ago.';

create or replace function purple_flea.was_sent(rung_at bigint) returns boolean
  language plpgsql
  volatile  -- sees what was committed meanwhile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from purple_flea.doorbell_bells b where b.rung_at_ms = rung_at);
end;
$$;
comment on function purple_flea.was_sent(bigint) is
  'Says whether the transaction that rang a bell has committed, and has not rolled the bell back.';

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
declare
  lock    constant bigint := purple_flea.doorbell_lock();
  locked  boolean;
  rung_at bigint;
begin
  if to_regnamespace('realtime') is null then
    perform purple_flea.warn_of_realtime('this database has no Realtime, and notify_by is realtime');
    return 'refused';
  -- broadcast() sends no more in this transaction.
  elsif current_setting('purple_flea.realtime_hangs', true) = 'on' then
    return 'refused';
  end if;
  -- Without the lock no look waits for this transaction, so it relies on no bell. A look has the
  -- lock for microseconds.
  locked := pg_try_advisory_xact_lock_shared(lock)
    or pg_try_advisory_xact_lock_shared(lock)
    or pg_try_advisory_xact_lock_shared(lock);
  if locked and purple_flea.was_sent(purple_flea.recent_bell()) then
    return 'coalesced';
  elsif not purple_flea.take_bell() then
    if locked and purple_flea.recent_bell() is not null then
      return 'coalesced';
    end if;
    -- A spent rate is no reason to be silent where no bell is on its way. The next ones pay for it.
    perform nextval('purple_flea.doorbell_spent');
  end if;
  if purple_flea.take_realtime_share(1, true) < 1 then
    perform purple_flea.warn_of_realtime('the rate of messages is spent, or 0');
    return 'refused';
  end if;
  rung_at := floor(extract(epoch from clock_timestamp()) * 1000);
  insert into purple_flea.doorbell_bells (rung_at_ms) values (rung_at);
  perform setval('purple_flea.doorbell_rung_at', rung_at);
  perform purple_flea.broadcast('doorbell', 'due', '{"ledger": true}');
  return 'rung';
exception when others then
  -- Nobody relies on it. The sequence keeps what is rolled back.
  perform setval(c.oid::regclass, 0)
  from pg_catalog.pg_class c
  where c.oid = to_regclass('purple_flea.doorbell_rung_at');
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

-- The lock is tried and not waited for, and given back at once: a transaction that waits for it, or
-- keeps it, would make deposits ring. The look sees what was committed before it got the lock.
-- Whoever relies on a bell after that is seen by a later look.
create or replace function public.look_after_bell() returns jsonb
  language plpgsql
  volatile
  -- The caller may not read jobs.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  lock  constant bigint := purple_flea.doorbell_lock();
  alone boolean;
begin
  alone := case when pg_try_advisory_lock(lock) then pg_advisory_unlock(lock) else false end;
  return jsonb_build_object(
    'due', purple_flea.is_due(clock_timestamp()),
    'open', not alone
  );
end;
$$;
comment on function public.look_after_bell() is
  'Says whether a job is due, and whether a transaction is open that relies on a bell: {due, '
  'open}. A listener calls it 150 ms after a bell, and again while one is open.';
