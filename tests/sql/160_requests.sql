-- Requests of callers: orders, and which references they may have.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, referral_code) values ('plain', 'ref_plain');
insert into public.agents (id) values ('modest');

-- Requested orders.
select is(
  public.request_job('trade', 'order-1', '{"agent_id": "nobody", "size": 10}') ->> 'refused',
  'unknown_agent',
  'an unknown agent orders nothing'
);
select is(
  public.request_job('trade', 'wallet-change-1', '{"agent_id": "plain", "size": 10}') ->> 'refused',
  'invalid_reference',
  'no order is called like a deposit'
);
select is(
  public.request_job('trade', 'faucet-modest', '{"agent_id": "plain", "size": 10}') ->> 'refused',
  'invalid_reference',
  'or like an agent''s claim'
);
select is(
  public.request_job(
    'trade',
    'order-1',
    '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}'
  ) ->> 'reference',
  'order-1',
  'an order is a job'
);
select is(
  public.request_job(
    'trade',
    'order-1',
    '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}'
  ) ->> 'reference',
  'order-1',
  'a second request for the same one'
);
select is(
  public.request_job(
    'trade',
    'order-1',
    '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 11}'
  ) ->> 'refused',
  'reference_taken',
  'another under its name is refused'
);
select is(
  public.request_job(
    'trade',
    'order-2',
    jsonb_build_object('agent_id', 'plain', 'market', 'BTC', 'direction', 'long', 'size', s)
  ) ->> 'refused',
  'invalid_order',
  'no job is made that no worker could read: ' || s
)
from unnest(array['x', '1e12', '-1', '100000000', '']) as s;
-- The same reference with another request, of each kind that finds its job by it.
create function pg_temp.asks(kind text, reference text, details jsonb) returns text
  language sql
as $$
  select coalesce(a ->> 'reference', a ->> 'refused')
  from public.request_job(kind, reference, details) as a
$$;
select is(pg_temp.asks('balance', 'look-1', '{"agent_id": "plain"}'), 'look-1', 'a look is named');
select is(pg_temp.asks('balance', 'look-1', '{"agent_id": "plain"}'), 'look-1', 'and found again');
select is(
  pg_temp.asks(kind, 'look-1', details::jsonb),
  'reference_taken',
  'another request under its name is refused: ' || kind || ' ' || details
)
from (values
  ('balance', '{"agent_id": "modest"}'),
  ('daily_claim', '{"agent_id": "plain"}'),
  ('trade', '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}'),
  ('order', '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}'),
  ('escrow', '{"sender_id": "plain", "receiver_id": "modest", "amount": 5}')
) as other (kind, details);
create temporary table gifts as
  select n, details
  from unnest(array[
    '{"sender_id": "plain", "receiver_id": "modest", "amount": 5, "description": "a gift"}',
    '{"sender_id": "plain", "receiver_id": "modest", "amount": 5.00, "description": "a gift"}'
  ]::jsonb[]) with ordinality as g (details, n);
select public.request_job('escrow', 'gift-1', details)
from gifts
where n = 1;
select is(
  pg_temp.asks('escrow', 'gift-1', details),
  'escrow-' || (select id from public.escrow_requests where asked_as = 'gift-1'),
  'an escrow is found again: ' || details::text
)
from gifts;
select is(
  pg_temp.asks('escrow', 'gift-1', details),
  'reference_taken',
  'another under its name is refused: ' || details::text
)
from unnest(array[
  '{"sender_id": "plain", "receiver_id": "modest", "amount": 5}',
  '{"sender_id": "plain", "receiver_id": "modest", "amount": 5, "description": "a loan"}',
  '{"sender_id": "plain", "receiver_id": "modest", "amount": 5, "description": "a gift",
    "timeout_hours": 2}',
  '{"sender_id": "plain", "receiver_id": "modest", "amount": 6, "description": "a gift"}',
  '{"sender_id": "modest", "receiver_id": "plain", "amount": 5, "description": "a gift"}'
]::jsonb[]) as details;
select is(
  pg_temp.asks('balance', 'gift-1', '{"agent_id": "plain"}'),
  'reference_taken',
  'so is one of another kind'
);
-- Where the reference is only an id it may be any text.
select is(
  pg_temp.asks(kind, name, details),
  expected,
  format('%s finds its job without the reference %L', kind, name)
)
from unnest(array['order-1', 'wallet-change-1', 'a b/ü', repeat('x', 300), '']) as name
cross join (values
  ('faucet', '{"agent_id": "modest"}'::jsonb, 'faucet-modest'),
  ('registration', '{"agent_id": "modest"}', 'registration-modest')
) as other (kind, details, expected);
select is(
  pg_temp.asks(kind, 'a b/ü', details),
  'invalid_reference',
  'a request that moves money has a reference that names it: ' || kind
)
from (values
  ('trade', '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}'::jsonb),
  ('escrow', '{"sender_id": "plain", "receiver_id": "modest", "amount": 5}')
) as other (kind, details);
select matches(
  pg_temp.asks('daily_claim', name, '{"agent_id": "plain"}'),
  '^by-hand-',
  'a claim does not need one'
)
from unnest(array['wallet-change-1', 'a b/ü']) as name;

select is(
  public.request_job('poker', 'order-2', '{"agent_id": "plain"}') ->> 'refused',
  'unknown_kind',
  'there are kinds, and no others'
);
insert into purple_flea.trade_policies (agent_id, daily_loss_limit) values ('plain', 100);
select pg_temp.hold_all_but('order-1');
create temporary table o as select pg_temp.claim('order-1') as c;
select is(c -> 'spent' ->> 'wagered', '0', 'it counts against the day''s limits') from o;
select pg_temp.settle(
  'order-1',
  c,
  'executed',
  '{"market": "BTC", "direction": "long", "size": 10, "wager": 10.27, '
  '"entry_price": 65536.5, "position_id": "pos_1", "order_id": "ord_1"}'
)
from o;
select results_eq(
  $$
    select game, wager, outcome, payout, market, direction, entry_price, position_id, order_id
    from public.trade_results
    where reference = 'order-1'
  $$,
  $$
    values (
      null::text,
      10.2700,
      null::text,
      null::numeric,
      'BTC',
      'long',
      65536.5,
      'pos_1',
      'ord_1'
    )
  $$,
  'its row of trade_results has the market and the ids'
);
select is(
  purple_flea.spent('plain', (clock_timestamp() at time zone 'UTC')::date, '') ->> 'lost',
  '10.2700',
  'a trade''s loss is unknown, so all of it counts'
);
select is_empty(
  $$select from purple_flea.job_events where kind = 'alarm'$$,
  'a fill of a little more than the asked size is no alarm'
);

select * from finish();
rollback;
