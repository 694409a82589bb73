-- Signals: which are refused, who answers one and how, how often, and when no longer.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, owner_id) values
  ('boss', '11111111-1111-1111-1111-111111111111'),
  ('rival', '22222222-2222-2222-2222-222222222222');
insert into public.agents (id, owner_id, orchestrator_id) values
  ('sender', '11111111-1111-1111-1111-111111111111', 'boss'),
  ('trader', '11111111-1111-1111-1111-111111111111', 'boss'),
  ('player', '22222222-2222-2222-2222-222222222222', 'boss'),
  ('lazy', '11111111-1111-1111-1111-111111111111', 'boss'),
  ('fan', '33333333-3333-3333-3333-333333333333', null);
create function pg_temp.as_user(digit text) returns void language sql as $$
  select set_config('role', 'authenticated', true), set_config(
    'request.jwt.claims',
    json_build_object('sub', translate('xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx', 'x', digit))::text,
    true
  )
$$;
create function pg_temp.as_role(name text) returns void language sql as $$
  select set_config('role', name, true), set_config('request.jwt.claims', '', true)
$$;
select public.set_signal_policy('trader', '{"max_size": 10.005}');
select public.set_signal_policy(
  'player', '{"max_size": 5, "answers": "coin-flip", "side": "tails", "wager": 2}');
select public.set_signal_policy('fan', '{"max_size": 7, "actions": ["BUY", "SELL"]}');
select public.follow_signals('fan', 'sender');
-- The sender itself has a policy, and answers none of its own.
select public.set_signal_policy('sender', '{"max_size": 7}');

create function pg_temp.signal(more jsonb default '{}') returns jsonb language sql as $$
  select '{"agent_id": "sender", "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 25}'
    || more
$$;
create function pg_temp.publishes(more jsonb default '{}') returns jsonb language sql as $$
  select public.publish_signal(pg_temp.signal(more))
$$;
create function pg_temp.answer_of(answer jsonb, agent text) returns text language sql as $$
  select concat_ws(' ', w.state, w.reason)
  from public.signal_answers w
  where w.signal_id = answer ->> 'signal_id'
    and w.agent_id = agent
$$;
create function pg_temp.job_of(answer jsonb, agent text) returns purple_flea.jobs language sql as $$
  select j
  from public.signal_answers w
  join purple_flea.jobs j using (reference)
  where w.signal_id = answer ->> 'signal_id'
    and w.agent_id = agent
$$;
create function pg_temp.jobs() returns bigint language sql as $$
  select count(*) from purple_flea.jobs where reference like 'signal-%'
$$;

-- What is no signal.
select is(
  pg_temp.publishes(more) ->> 'reason',
  reason,
  'it is refused: ' || left(more::text, 60)
)
from (values
  ('{"confidence": 1.01}'::jsonb, 'invalid_confidence'),
  ('{"confidence": -0.01}', 'invalid_confidence'),
  ('{"confidence": "NaN"}', 'invalid_confidence'),
  ('{"confidence": null}', 'invalid_confidence'),
  ('{"confidence": "0.9"}', 'invalid_confidence'),
  ('{"confidence": [0.9]}', 'invalid_confidence'),
  ('{"confidence": 1e400}', 'invalid_confidence'),
  ('{"size": 0}', 'invalid_size'),
  ('{"size": -1}', 'invalid_size'),
  ('{"size": 0.009}', 'invalid_size'),
  ('{"size": 100000000}', 'invalid_size'),
  ('{"size": "25"}', 'invalid_size'),
  ('{"size": null}', 'invalid_size'),
  ('{"action": "HOLD"}', 'invalid_action'),
  ('{"action": "buy"}', 'invalid_action'),
  ('{"action": null}', 'invalid_action'),
  ('{"market": ""}', 'invalid_market'),
  ('{"market": "BTC USD"}', 'invalid_market'),
  ('{"market": 7}', 'invalid_market'),
  ('{"kind": "gossip"}', 'invalid_kind'),
  ('{"kind": null}', 'invalid_kind'),
  ('{"kind": "risk", "confidence": 2}', 'invalid_confidence'),
  ('{"expires_at": "yesterday"}', 'signal_expired'),
  ('{"expires_at": "2020-01-01T00:00:00Z"}', 'signal_expired'),
  ('{"expires_at": "2999-01-01T00:00:00Z"}', 'expires_too_late'),
  ('{"expires_at": "infinity"}', 'invalid_expires_at'),
  ('{"expires_at": "soon"}', 'invalid_expires_at'),
  ('{"expires_at": 1800000000}', 'invalid_expires_at'),
  ('{"expires_at": null}', 'invalid_expires_at'),
  ('{"id": "a b"}', 'invalid_id'),
  (jsonb_build_object('more', repeat('x', 262144)), 'too_large'),
  (jsonb_build_object('kind', 'risk', 'more', repeat('x', 8192)), 'details_too_large')
) as wrong (more, reason);
select is(public.publish_signal(wrong) ->> 'reason', 'not_an_object', 'no object: ' || wrong::text)
from unnest(array['[1]', '[]', '"x"', '7', 'null']::jsonb[]) as wrong;
select is(
  pg_temp.publishes(jsonb_build_object('more', array_fill(1e131071, array[101]))) ->> 'reason',
  'too_large',
  'numbers whose text would fill the memory are refused'
);
select is(public.publish_signal(null) ->> 'reason', 'not_an_object', 'nothing is no signal');
select is(pg_temp.jobs(), 0::bigint, 'a refused signal makes nobody trade');
select is((select count(*) from public.trade_signals), 0::bigint, 'and is not recorded');

-- Who answers, and how.
select pg_temp.calls();
create temporary table s as select pg_temp.publishes('{"id": "first"}') as a;
select is(a - 'signal_id', '{"state": "published", "followers": 4, "jobs": 3}',
  'a signal makes the jobs of its followers') from s;
select is(pg_temp.calls(), 1::bigint, 'and the function is notified once');
select is(pg_temp.answer_of(a, 'sender'), null, 'the sender does not answer itself') from s;
select is(pg_temp.answer_of(a, 'rival'), null, 'nor does an agent of another fleet') from s;
select is(pg_temp.answer_of(a, 'boss'), null, 'nor the orchestrator, unless it follows') from s;
select is(pg_temp.answer_of(a, 'lazy'), 'declined no_signal_policy',
  'an agent without a policy does not trade, and one sees why') from s;
select is(
  (pg_temp.job_of(a, 'trader')).request,
  '{"agent_id": "trader", "market": "BTC", "direction": "long", "size": 10.00}',
  'a follower trades at most its maximum, in whole cents'
) from s;
select is(
  (pg_temp.job_of(a, 'player')).request,
  '{"agent_id": "player", "game": "coin-flip", "side": "tails", "wager": 2}',
  'another answers with a coin-flip'
) from s;
select is((pg_temp.job_of(a, 'player')).kind, 'bet', 'which is a bet') from s;
select is((pg_temp.job_of(a, 'fan')).request ->> 'size', '7.00',
  'an agent outside of the fleet answers the sender that it follows') from s;
select matches((pg_temp.job_of(a, 'fan')).reference, '^signal-[0-9a-f]{12}-[0-9a-f]{27}$',
  'the job is called after the signal') from s;

-- Once.
select is(pg_temp.publishes('{"id": "first"}') - 'signal_id', '{"state": "repeated"}',
  'the same signal again makes no jobs');
select is(pg_temp.publishes('{"id": "first", "size": 26}') ->> 'reason', 'reference_taken',
  'another one of its name is refused');
select is(pg_temp.jobs(), 3::bigint, 'each follower has one job');
select is(
  public.publish_signal(
    '{"agent_id": "trader", "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 25,
      "id": "first"}'
  ) ->> 'state',
  'published',
  'names of different senders do not meet'
);

-- The policy decides.
create temporary table cases as
select n, more, expected, pg_temp.publishes(more || '{"agent_id": "boss"}') as a
from (values
  (1, '{"confidence": 0.75}'::jsonb, 'declined confidence_too_low'),
  (2, '{"confidence": 0.7501}', 'asked'),
  (3, '{"action": "SELL"}', 'declined other_action'),
  (4, '{"kind": "price"}', 'told'),
  (5, '{"kind": "risk", "market": "ETH", "level": "high"}', 'told')
) as c (n, more, expected);
select is(pg_temp.answer_of(a, 'trader'), expected, 'the answer to ' || more::text) from cases;
select is(
  (select details from public.trade_signals where id = a ->> 'signal_id'),
  '{"level": "high"}',
  'a risk keeps what else it says'
) from cases where n = 5;
select public.set_signal_policy('trader', '{"max_size": 10, "markets": ["eth-usd"]}');
select is(pg_temp.answer_of(pg_temp.publishes(), 'trader'), 'declined other_market',
  'a policy names markets');
select is(pg_temp.answer_of(pg_temp.publishes('{"market": "ETH-USD"}'), 'trader'), 'asked',
  'in any case');
select is((pg_temp.job_of(pg_temp.publishes('{"action": "SELL"}'), 'fan')).request ->> 'direction',
  'short', 'SELL opens a short position');
select public.set_signal_policy('trader', '{"max_size": 10}');
insert into purple_flea.trade_policies (agent_id, paused) values ('trader', true);
select is(pg_temp.answer_of(pg_temp.publishes(), 'trader'), 'declined paused',
  'a paused agent does not trade');
update purple_flea.trade_policies set paused = false, daily_wager_limit = 5
where agent_id = 'trader';

-- An expired one.
create temporary table e as select pg_temp.publishes('{"size": 4}') as a;
update purple_flea.jobs j
set expires_at = clock_timestamp() - interval '1 second',
    created_at = created_at - interval '1 hour'
where j.reference = (select (pg_temp.job_of(a, 'trader')).reference from e);
select is(
  public.claim_jobs(array[(pg_temp.job_of(a, 'trader')).reference], 1) -> 'answers' -> 0
    ->> 'reason',
  'signal_expired',
  'a job that is claimed after the end of its signal is not handed out'
) from e;
select is(
  row((pg_temp.job_of(a, 'trader')).state, (pg_temp.job_of(a, 'trader')).reason),
  row('skipped'::text, 'signal_expired'::text),
  'it is skipped, and says why'
) from e;
update purple_flea.trade_policies set paused = true where agent_id = 'trader';
create temporary table p as
select reference from purple_flea.jobs where agent_id = 'trader' and state = 'pending' limit 1;
update purple_flea.jobs j
set expires_at = clock_timestamp() - interval '1 second'
where j.reference in (select reference from p);
select purple_flea.sweep();
select is((select state from purple_flea.jobs j join p using (reference)), 'skipped',
  'a pause does not move the end of a signal');
update purple_flea.trade_policies set paused = false where agent_id = 'trader';
create temporary table r as select (pg_temp.job_of(pg_temp.publishes(), 'fan')).reference;
select public.claim_jobs(array[reference], 1) from r;
update purple_flea.jobs j
set state       = 'unknown',
    changed_by  = 'sweeper',
    reason      = 'lease_ran_out',
    lookup_at   = now(),
    lease_until = now() - interval '1 hour',
    expires_at  = now() - interval '1 second'
where j.reference = (select reference from r);
select purple_flea.release_job(reference, 'there is no such trade') from r;
select is(
  public.claim_jobs(array[reference], 1) #>> '{answers,0,reason}',
  'signal_expired',
  'nor does an operator who releases its job'
) from r;

-- Broadcasts of clients.
create function pg_temp.hears(payload jsonb, private boolean default true) returns jsonb
  language sql
as $$
  select public.take_broadcast_signal('sender', payload, private)
$$;
create function pg_temp.broadcast(more jsonb default '{}') returns jsonb language sql as $$
  select pg_temp.signal(more) - 'agent_id' || '{"ts": 1}' || more
$$;
select is(pg_temp.hears(pg_temp.broadcast()) ->> 'state', 'published', 'a broadcast counts');
select is(pg_temp.hears(pg_temp.broadcast()) ->> 'state', 'repeated', 'once');
select is(pg_temp.hears(pg_temp.broadcast('{"ts": 2}')) ->> 'state', 'published',
  'another time makes it another signal');
select is(pg_temp.hears(wrong) ->> 'reason', reason, 'refused: ' || left(wrong::text, 60))
from (values
  (pg_temp.broadcast() - 'ts', 'no_ts'),
  (pg_temp.broadcast(('{"deep": ' || repeat('[', 12000) || repeat(']', 12000) || '}')::jsonb),
   'too_large'),
  (pg_temp.broadcast('{"ts": null}'), 'no_ts'),
  (pg_temp.broadcast('{"ts": [1]}'), 'no_ts'),
  (pg_temp.broadcast('{"agent_id": "boss"}'), 'other_sender'),
  (pg_temp.broadcast('{"confidence": 1.01}'), 'invalid_confidence'),
  ('[]', 'not_an_object'),
  ('null', 'not_an_object')
) as w (wrong, reason);
select is(public.take_broadcast_signal('nobody', pg_temp.broadcast()) ->> 'reason',
  'unknown_sender', 'an agent that does not exist sends nothing');
select is(public.take_broadcast_signal(null, pg_temp.broadcast()) ->> 'reason',
  'unknown_sender', 'nor does none');
select is(pg_temp.hears(pg_temp.broadcast('{"ts": 3}'), false) ->> 'reason',
  'public_not_accepted', 'the public topic makes nobody trade');
select is(pg_temp.hears(pg_temp.broadcast('{"ts": 3}'), null) ->> 'reason',
  'public_not_accepted', 'nor does a topic of an unknown kind');
select ok(not public.ledger_health() -> 'why' ? 'public_signals_accepted', 'all is private');
update purple_flea.ledger set accept_public_signals = true;
select is(pg_temp.hears(pg_temp.broadcast('{"ts": 3}'), false) ->> 'state', 'published',
  'unless an operator accepts it');
select ok(public.ledger_health() -> 'why' ? 'public_signals_accepted', 'which the health names');

-- The senders that a listener hears.
select is(
  public.signal_senders(),
  '{"senders": ["boss", "lazy", "player", "sender", "trader"], "more": false}',
  'the agents that somebody with a policy follows'
);
select is(public.signal_senders('boss', 2), '{"senders": ["lazy", "player"], "more": true}',
  'page by page');
select throws_ok($$select public.signal_senders(null, 0)$$, '22023', null, 'of at least one');
select throws_ok($$select public.signal_senders(null, 1001)$$, '22023', null, 'and at most 1000');

-- A sender has a limit.
insert into public.trade_signals (id, sender_id, kind, came_by, content_hash, created_at, expires_at)
select
  encode(sha256(convert_to(n::text, 'UTF8')), 'hex'), 'rival', 'risk', 'published', 'x',
  clock_timestamp(), clock_timestamp() + interval '1 minute'
from generate_series(1, 60) as n;
select is(
  pg_temp.publishes('{"agent_id": "rival", "id": "one-more"}') ->> 'reason',
  'too_many_signals',
  'a sender has 60 signals a minute'
);
select is(pg_temp.publishes('{"id": "first"}') ->> 'state', 'repeated', 'a repeated one is none');
update public.trade_signals s
set created_at = s.created_at - interval '1 minute'
where s.sender_id = 'rival';
select is(
  pg_temp.publishes('{"agent_id": "rival", "id": "one-more"}') ->> 'state',
  'published',
  'a minute later it sends again, under the same name'
);

-- Roles.
create temporary table before as select pg_temp.jobs() as n;
grant select on before to public;
select pg_temp.as_user('2');
select throws_ok($$select pg_temp.publishes()$$, '42501', 'only the owner of the agent may do this',
  'no user publishes for another user''s agent');
select throws_ok($$select pg_temp.publishes('{"agent_id": "nobody"}')$$, '42501', null,
  'or learns that there is none');
select throws_ok($$select pg_temp.publishes('{"agent_id": null}')$$, '42501', null, 'or for none');
select throws_ok($$select public.take_broadcast_signal('player', '{}')$$, '42501', null,
  'or reports a broadcast');
select throws_ok($$select public.signal_senders()$$, '42501', null, 'or lists the senders');
select is(
  public.publish_signal(
    '{"agent_id": "player", "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 25}'
  ) ->> 'state',
  'published',
  'but for an agent of its own'
);
select pg_temp.as_role('anon');
select throws_ok($$select pg_temp.publishes()$$, '42501', null,
  'anonymous callers publish nothing');
select pg_temp.as_role('purple_flea_operator');
select throws_ok($$select pg_temp.publishes()$$, '42501', null, 'nor do operators');
select pg_temp.as_role('purple_flea_worker');
select is(pg_temp.publishes() ->> 'state', 'published', 'the worker publishes for every agent');
select is(pg_temp.publishes('{"agent_id": "nobody"}') ->> 'reason', 'unknown_sender',
  'that there is');
select is(pg_temp.hears(pg_temp.broadcast('{"ts": 9}')) ->> 'state', 'published',
  'and takes broadcasts');
select is(jsonb_array_length(public.signal_senders() -> 'senders'), 5, 'and lists the senders');
select throws_ok($$select * from public.trade_signals$$, '42501', null, 'but reads no signals');
reset role;

select * from finish();
rollback;
