-- The doorbell: which transaction rings, which relies on another one's bell, and that nothing of it
-- fails a deposit. tests/listener_realtime.rs has the cases of several transactions.
begin;
\ir setup/ages.psql

create schema if not exists net;
create temporary table posts (body jsonb);
create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds integer)
  returns bigint
  language sql
as $$
  insert into posts (body) values (body) returning 1::bigint
$$;
grant usage on schema net to public;
grant all on posts to public;
create function pg_temp.posts() returns bigint language plpgsql as $$
declare
  made bigint;
begin
  delete from posts where true;
  get diagnostics made = row_count;
  return made;
end;
$$;
select
  purple_flea.set_secret('purple_flea_function_url', 'http://127.0.0.1:9/execute-trade'),
  purple_flea.set_secret(
    'purple_flea_webhook_secret', 'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=');

-- Each deposit as if it were of a transaction of its own, a second after the last bell.
create function pg_temp.long_after() returns void language sql as $$
  select
    set_config('purple_flea.notified_in', '', true),
    setval('purple_flea.doorbell_spent', 0),
    setval('purple_flea.doorbell_rung_at', 0)
$$;
create function pg_temp.new_transaction() returns void language sql as $$
  select set_config('purple_flea.notified_in', '', true)
$$;
-- The last bell, some milliseconds ago, of a transaction that has committed, or not.
create function pg_temp.rung(ms_ago integer, sent boolean default true) returns void
  language sql
as $$
  select
    set_config('purple_flea.notified_in', '', true),
    setval('purple_flea.doorbell_spent', 0),
    setval(
      'purple_flea.doorbell_rung_at',
      floor(extract(epoch from clock_timestamp()) * 1000)::bigint - ms_ago);
  delete from purple_flea.doorbell_bells where true;
  insert into purple_flea.doorbell_bells (rung_at_ms)
  select s.last_value from purple_flea.doorbell_rung_at s where sent
$$;

select is(l.notify_by, 'pg_net', 'pg_net notifies, unless an operator chooses otherwise')
from purple_flea.ledger l;
select throws_ok(
  $$update purple_flea.ledger set notify_by = 'carrier pigeon' where only_row$$,
  '23514',
  null,
  'there are two ways to notify'
);

-- A database without Realtime.
update purple_flea.ledger set notify_by = 'realtime' where only_row;
select pg_temp.long_after();
select lives_ok($$select pg_temp.deposit('a')$$, 'without Realtime a deposit is stored');
select is(pg_temp.posts(), 1::bigint, 'and pg_net notifies');

\ir ../stack/src/realtime.sql
create function pg_temp.bells() returns bigint language plpgsql as $$
declare
  rung bigint;
begin
  delete from realtime.messages m where m.topic = 'doorbell';
  get diagnostics rung = row_count;
  return rung;
end;
$$;
update purple_flea.ledger set notify_by = 'pg_net' where only_row;
select pg_temp.long_after(), pg_temp.deposit('a');
select is(pg_temp.posts(), 1::bigint, 'pg_net notifies where Realtime is, too');
select is(pg_temp.bells(), 0::bigint, 'and no bell rings');

update purple_flea.ledger set notify_by = 'realtime' where only_row;
select pg_temp.long_after(), pg_temp.deposit('a');
select results_eq(
  $$
    select event, extension, private, payload - 'id' from realtime.messages
    where topic = 'doorbell'
  $$,
  $$values ('due', 'broadcast', true, '{"ledger": true}'::jsonb)$$,
  'a deposit rings the doorbell, and says no more than that'
);
select is(pg_temp.posts(), 0::bigint, 'and pg_net is silent');
select is(pg_temp.bells(), 1::bigint, 'once');
select pg_temp.deposit('a') from generate_series(1, 30);
select is(pg_temp.bells(), 0::bigint, 'and once a transaction');
select pg_temp.long_after();
savepoint before;
select pg_temp.deposit('a');
rollback to savepoint before;
select is(pg_temp.bells(), 0::bigint, 'a deposit that is rolled back does not ring');

-- Coalescing.
select pg_temp.rung(30), pg_temp.deposit('a');
select is(pg_temp.bells(), 0::bigint, 'a deposit 30 ms after a bell that was sent does not ring');
select is(pg_temp.posts(), 0::bigint, 'and asks nothing of pg_net');
select is(
  (
    select count(*) from pg_locks l
    where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.mode = 'ShareLock'
      and (l.classid::bigint << 32 | l.objid::bigint) = purple_flea.doorbell_lock()
  ),
  1::bigint,
  'and holds the lock by which the listener sees that it is open'
);
select pg_temp.rung(150), pg_temp.deposit('a');
select is(pg_temp.bells(), 1::bigint, 'one 150 ms after it does');
select pg_temp.rung(-5000), pg_temp.deposit('a');
select is(pg_temp.bells(), 1::bigint, 'a clock that was set back silences nobody');
select pg_temp.rung(30, false), pg_temp.deposit('a');
select is(pg_temp.bells(), 1::bigint, 'nobody relies on a bell whose transaction is open');
select pg_temp.long_after();
do $$
begin
  perform pg_temp.deposit('a');
  raise exception 'of the application''s';
exception when raise_exception then
  null;
end;
$$;
select pg_temp.deposit('a');
select is(pg_temp.bells(), 1::bigint,
  'or on one that a subtransaction has rolled back, although its transaction commits');

-- The rate.
select pg_temp.long_after();
do $$
begin
  for n in 1..50 loop
    perform pg_temp.new_transaction(), pg_temp.deposit('a');
    delete from purple_flea.doorbell_bells where true;
  end loop;
end;
$$;
select ok(
  rung between 3 and 10,
  format('fifty transactions at once, of which none has committed, ring few times: %s', rung)
)
from pg_temp.bells() as rung;
select is(pg_temp.posts(), 0::bigint, 'and pg_net is silent for the others');
select setval('purple_flea.doorbell_spent', 99999999999999), pg_temp.new_transaction();
select setval('purple_flea.doorbell_rung_at', 0), pg_temp.deposit('a');
select is(pg_temp.bells(), 1::bigint, 'a clock that ran ahead spends no bell of today');
-- Transactions that take bells at the same moment take more than there are.
select pg_temp.rung(150), setval(
  'purple_flea.doorbell_spent', floor(extract(epoch from clock_timestamp()) * 10)::bigint + 2);
select pg_temp.deposit('a');
select is(pg_temp.bells(), 1::bigint,
  'a spent rate silences nobody whom no bell of the last 100 ms covers');

update purple_flea.ledger set realtime_events_per_s = 0 where only_row;
select pg_temp.long_after(), pg_temp.deposit('a');
select is(pg_temp.bells(), 0::bigint, 'a rate of 0 sends no bell');
select is(pg_temp.posts(), 1::bigint, 'and pg_net notifies');
update purple_flea.ledger set realtime_events_per_s = 50 where only_row;

-- The look.
select is(
  public.look_after_bell(),
  '{"due": true, "open": false}',
  'the listener''s look says that a job is due'
);
select public.claim_jobs('{}', 100) from generate_series(1, 5);
select is(
  public.look_after_bell(),
  '{"due": false, "open": false}',
  'and that none is, once all are claimed'
);
select is_empty(
  $$
    select from pg_locks l
    where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.mode = 'ExclusiveLock'
      and (l.classid::bigint << 32 | l.objid::bigint) = purple_flea.doorbell_lock()
  $$,
  'a look keeps no lock that would make deposits ring'
);

-- The sweeper is behind both.
select pg_temp.deposit('a');
select pg_temp.posts(), pg_temp.bells(), pg_temp.long_after();
select is(purple_flea.sweep(), 'notified', 'the sweeper notifies of a due job');
select is(pg_temp.bells(), 1::bigint, 'by the doorbell');
select is(pg_temp.posts(), 1::bigint, 'and by pg_net');
delete from purple_flea.secrets where name = 'purple_flea_function_url';
select pg_temp.long_after();
select is(purple_flea.sweep(), 'rang', 'without a URL by the doorbell alone');
select ok(
  not public.ledger_health() -> 'why' ? 'notifications_not_set_up',
  'and the health misses no URL'
);
select pg_temp.long_after(), pg_temp.deposit('a');
select is(pg_temp.bells(), 2::bigint, 'and so does a deposit');

-- Nothing of it fails a deposit.
create function pg_temp.goes_on(what text) returns setof text language plpgsql as $$
begin
  perform pg_temp.new_transaction();
  return next lives_ok($q$select pg_temp.deposit('a')$q$, what || ' fails no deposit');
end;
$$;
savepoint whole;
select purple_flea.set_secret('purple_flea_function_url', 'http://127.0.0.1:9/execute-trade');
select pg_temp.posts(), pg_temp.bells(), pg_temp.long_after();
set local purple_flea.realtime_hangs = 'on';
select pg_temp.goes_on('a Realtime that hangs');
select is(pg_temp.posts(), 1::bigint, 'and pg_net notifies');
select is_empty(
  $$
    select from purple_flea.doorbell_bells b
    join purple_flea.doorbell_rung_at r on r.last_value = b.rung_at_ms
  $$,
  'and nobody relies on a bell that was not sent'
);
rollback to savepoint whole;
drop schema realtime cascade;
select pg_temp.goes_on('a Realtime that is gone, without pg_net,');
rollback to savepoint whole;
alter table realtime.messages add constraint never check (topic <> 'doorbell') not valid;
select pg_temp.long_after();
select pg_temp.goes_on('a message that cannot be stored');
rollback to savepoint whole;
drop function realtime.send(jsonb, text, text, boolean);
select pg_temp.goes_on('a function of Realtime''s that is gone');
rollback to savepoint whole;
drop sequence purple_flea.doorbell_rung_at cascade;
select pg_temp.goes_on('a count that is gone');
rollback to savepoint whole;

select is(
  array_agg(r order by r),
  '{purple_flea_worker,service_role}',
  'workers look, and nobody else'
)
from unnest(array['anon', 'authenticated', 'service_role', 'purple_flea_worker',
  'purple_flea_operator']) as r
where has_function_privilege(r, 'public.look_after_bell()', 'execute');

select * from finish();
rollback;
