-- Health tells of webhooks: how many wait, and whether a listener delivers them.
begin;
\ir setup/receivers.psql

create function pg_temp.health() returns jsonb language sql as $$
  select public.ledger_health() -> 'webhooks'
$$;
select is(
  pg_temp.health(),
  '{"active": 0, "disabled": 0, "failing": 0, "held_back": 0, "pending": 0, "oldest_due_s": null,
    "listener": "not_needed"}',
  'without subscriptions no listener is needed'
);
select pg_temp.subscribe('one'), pg_temp.subscribe('two');
select is(pg_temp.health() ->> 'listener', 'not_needed', 'a listener may be started after them');
update public.event_subscriptions set created_at = created_at - interval '3 minutes' where true;
select is(pg_temp.health() ->> 'listener', 'missing', 'but soon it is missing');
select ok(public.ledger_health() -> 'why' ? 'no_listener', 'which degrades the health');
select pg_temp.event('trade:1');
select pg_temp.claim();
select ok(not public.ledger_health() -> 'why' ? 'no_listener', 'a claim ends that');
select pg_temp.report('one trade:1#1', 'failed', 500);
select pg_temp.report('two trade:1#1', 'failed', 410);
select pg_temp.later('70 s');
select is(
  pg_temp.health() - 'oldest_due_s',
  '{"active": 1, "disabled": 1, "failing": 1, "held_back": 0, "pending": 2, "listener": "ok"}',
  'it counts what waits, and what fails'
);
select ok((pg_temp.health() ->> 'oldest_due_s')::integer between 60 and 70, 'and for how long');
update purple_flea.listeners set claimed_at = claimed_at - interval '121 seconds' where only_row;
select is(pg_temp.health() ->> 'listener', 'missing', 'a listener that claims no more is missing');

select * from finish();
rollback;
