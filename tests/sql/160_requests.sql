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
