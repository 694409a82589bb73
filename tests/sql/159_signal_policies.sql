-- Signal policies and follows: what they may be, and whose they are.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, owner_id) values
  ('mine', '11111111-1111-1111-1111-111111111111'),
  ('yours', '22222222-2222-2222-2222-222222222222'),
  ('theirs', '33333333-3333-3333-3333-333333333333');
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

-- Policies.
select pg_temp.as_user('1');
select is(
  public.set_signal_policy('mine', '{"max_size": 25}') - 'changed_at',
  '{"agent_id": "mine", "confidence_above": 0.75, "max_size": 25, "markets": null,
    "actions": ["BUY"], "answers": "trade", "side": null, "wager": null}',
  'an owner sets a policy, and a maximum is enough'
);
select is(
  public.set_signal_policy(
    'mine',
    '{"max_size": 25, "confidence_above": 0.9, "markets": ["btc", "ETH-USD"],
      "actions": ["SELL", "BUY"], "answers": "coin-flip", "wager": 2.5, "side": "tails"}'
  ) - 'changed_at',
  '{"agent_id": "mine", "confidence_above": 0.9, "max_size": 25, "markets": ["BTC", "ETH-USD"],
    "actions": ["SELL", "BUY"], "answers": "coin-flip", "side": "tails", "wager": 2.5}',
  'a new policy takes the place of the old one'
);
create temporary table kept as select * from public.signal_policies;
select throws_ok(
  format('select public.set_signal_policy(%L, %L)', 'mine', wrong),
  '22023', null, 'this is no policy: ' || wrong
)
from unnest(array[
  '{}', '[]', '"x"', '7',
  '{"max_size": null}',
  '{"max_size": "25"}',
  '{"max_size": 0}',
  '{"max_size": -1}',
  '{"max_size": 100000000}',
  '{"max_size": 25, "confidence_above": 1}',
  '{"max_size": 25, "confidence_above": -0.1}',
  '{"max_size": 25, "confidence_above": "0.8"}',
  '{"max_size": 25, "actions": []}',
  '{"max_size": 25, "actions": ["HOLD"]}',
  '{"max_size": 25, "actions": "BUY"}',
  '{"max_size": 25, "actions": [null]}',
  '{"max_size": 25, "markets": []}',
  '{"max_size": 25, "markets": [null]}',
  '{"max_size": 25, "markets": [7]}',
  '{"max_size": 25, "markets": ["a b"]}',
  '{"max_size": 25, "markets": "BTC"}',
  '{"max_size": 25, "answers": "poker"}',
  '{"max_size": 25, "answers": "coin-flip"}',
  '{"max_size": 25, "answers": "coin-flip", "wager": 0}',
  '{"max_size": 25, "answers": "coin-flip", "wager": 0.005}',
  '{"max_size": 25, "answers": "coin-flip", "wager": "2"}',
  '{"max_size": 25, "answers": "coin-flip", "wager": 2, "side": "edge"}',
  '{"max_size": 25, "wager": 2}',
  '{"max_size": 25, "side": "heads"}',
  '{"max_size": 25, "paused": true}'
]) as wrong;
select set_eq('table public.signal_policies', 'table kept', 'a refused policy changes nothing');
select throws_ok(
  $$select public.set_signal_policy('yours', '{"max_size": 25}')$$,
  '42501', 'only the owner of the agent may do this', 'nobody sets another owner''s policy'
);
select is(public.set_signal_policy('mine', null), null, 'a policy is taken away');
select is_empty('table public.signal_policies', 'and is gone');
select public.set_signal_policy('mine', '{"max_size": 25}');
select throws_ok(
  $$insert into public.signal_policies (agent_id, max_size) values ('mine', 5)$$,
  '42501', null, 'no user writes the table'
);

-- Follows.
select is(
  public.follow_signals('mine', 'yours'),
  '{"agent_id": "mine", "follows": ["yours"]}',
  'an owner chooses a sender'
);
select is(
  public.follow_signals('mine', 'yours'),
  '{"agent_id": "mine", "follows": ["yours"]}',
  'twice is once'
);
select is(
  public.follow_signals('mine', 'nobody'),
  '{"agent_id": "mine", "follows": ["nobody", "yours"]}',
  'nobody learns whether an agent exists'
);
select is(
  public.follow_signals('mine', 'nobody', false),
  '{"agent_id": "mine", "follows": ["yours"]}',
  'and follows it no more'
);
select throws_ok(
  format('select public.follow_signals(%L, %L)', 'mine', wrong),
  '22023', null, 'this is no other agent'
)
from unnest(array['mine', '', repeat('x', 129), null]) as wrong;
select throws_ok(
  $$select public.follow_signals('yours', 'mine')$$,
  '42501', null, 'nobody chooses for another owner''s agent'
);
reset role;
insert into public.signal_follows (agent_id, sender_id)
select 'theirs', 's' || n from generate_series(1, 100) as n;
select pg_temp.as_user('3');
select throws_ok(
  $$select public.follow_signals('theirs', 'one-more')$$,
  '22023', null, 'an agent follows at most 100 senders'
);
select lives_ok($$select public.follow_signals('theirs', 's1')$$, 'which it may choose again');

-- Who reads what.
select pg_temp.as_role('service_role');
select is(
  public.publish_signal(
    '{"agent_id": "yours", "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 5}'
  ) ->> 'jobs',
  '1',
  'the service publishes'
);
create function pg_temp.counts() returns text language sql as $$
  select concat_ws(
    ' ',
    (select count(*) from public.trade_signals),
    (select count(*) from public.signal_answers),
    (select count(*) from public.signal_policies),
    (select count(*) from public.signal_follows)
  )
$$;
select is(pg_temp.counts(), '1 1 1 101', 'the service reads everything');
select pg_temp.as_user('1');
select is(pg_temp.counts(), '1 1 1 1', 'a follower''s owner reads the signal and its answer');
select is(
  (select j.state from public.agent_jobs j join public.signal_answers w using (reference)),
  'pending',
  'and how its job stands'
);
select pg_temp.as_user('2');
select is(pg_temp.counts(), '1 0 0 0', 'the sender''s owner reads the signal');
select pg_temp.as_user('4');
select is(pg_temp.counts(), '0 0 0 0', 'others read nothing');
select throws_ok(format('table public.%I', name), '42501', null, who || ' read no ' || name)
from unnest(array['anon', 'purple_flea_worker', 'purple_flea_operator']) as who
cross join unnest(
  array['trade_signals', 'signal_answers', 'signal_policies', 'signal_follows']
) as name
cross join lateral (select pg_temp.as_role(who)) as role_of;
reset role;

select * from finish();
rollback;
