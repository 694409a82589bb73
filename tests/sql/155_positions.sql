-- Positions: the requests to close one, their rules, and the rows that they write; the direction and
-- the leverage of policies and orders.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('plain'), ('keyed');
select purple_flea.set_agent_key('keyed', 'sk_live_keyed');
select purple_flea.set_agent_key('keyed', 'sk_trade_keyed', trading => true);
select pg_temp.calls();

-- A row is a job.
insert into public.close_requests (agent_id, position_id) values ('keyed', 'pos_1');
select is(pg_temp.calls(), 1::bigint, 'a request to close a position notifies the function');
create temporary table c as
  select 'close-' || max(id) as one, max(id) as id
  from public.close_requests;
select results_eq(
  format(
    'select kind, agent_id, state, request from purple_flea.jobs where reference = %L', one),
  format(
    $$values ('close', 'keyed', 'pending',
      '{"id": %s, "agent_id": "keyed", "position_id": "pos_1"}'::jsonb)$$,
    id),
  'and has a job'
)
from c;
select throws_ok(
  format($$update public.close_requests set position_id = 'pos_2' where id = %s$$, id),
  '23514',
  null,
  'it stays as it is'
)
from c;
select throws_ok(
  format('delete from public.close_requests where id = %s', id),
  '23514',
  null,
  'and where it is'
)
from c;

-- A second request has no effect.
insert into public.close_requests (agent_id, position_id) values ('keyed', 'pos_1');
select results_eq(
  'select status, reason from public.close_requests order by id desc limit 1',
  $$values ('refused', 'already_requested')$$,
  'a second request for the position is refused at once, with its reason'
);
select is_empty(
  format($$select from purple_flea.jobs where kind = 'close' and reference <> %L$$, one),
  'and has no job'
)
from c;
insert into public.close_requests (agent_id, position_id) values ('plain', 'pos_1');
select is(
  (select status from public.close_requests order by id desc limit 1),
  'pending',
  'another agent''s position is another one'
);
select is(
  public.request_job('close', 'again', '{"agent_id": "keyed", "position_id": "pos_1"}')
    ->> 'reference',
  one,
  'a caller''s request gets the job that there is'
)
from c;

-- The outcome.
select pg_temp.hold_all_but(one) from c;
create temporary table c1 as select pg_temp.claim(one, 'live') as claimed from c;
select is(claimed ->> 'key', 'sk_trade_keyed', 'the close has the agent''s trading key') from c1;
select pg_temp.settle(
  one, claimed, 'pending', '{"reason": "no_answer", "cause": "timed_out"}') from c1, c;
select results_eq(
  format('select status, reason, pnl from public.close_requests where id = %s', id),
  $$values ('pending', 'no_answer', null::numeric(12,4))$$,
  'a close that waits says why'
)
from c;
select pg_temp.hold_all_but(one) from c;
create temporary table c2 as select pg_temp.claim(one, 'live') as claimed from c;
select is(
  pg_temp.settle(
    one,
    claimed,
    'executed',
    '{"position_id": "pos_1", "exit_price": 64536.5, "pnl": -1.53, "fee": 0.06,
      "reason": "already_closed"}'
  ),
  'settled',
  'a close is settled'
)
from c2, c;
select results_eq(
  format(
    'select status, exit_price, pnl, fee, reason from public.close_requests where id = %s', id),
  $$values ('closed', 64536.5, -1.5300::numeric(12,4), 0.0600::numeric(12,4), null::text)$$,
  'and its row has the price, the loss and the fee'
)
from c;
select is_empty('select * from public.trade_results', 'it is no stake');
select is(
  public.request_job('close', 'later', '{"agent_id": "keyed", "position_id": "pos_1"}')
    ->> 'reference',
  one,
  'a position that is closed is closed once'
)
from c;

-- A refused close can be requested again.
create temporary table p as
  select 'close-' || max(id) as one, max(id) as id
  from public.close_requests
  where agent_id = 'plain';
select pg_temp.hold_all_but(one) from p;
create temporary table p1 as select pg_temp.claim(one, 'live') as claimed from p;
select pg_temp.settle(one, claimed, 'rejected', '{"reason": "position_not_found"}') from p1, p;
select results_eq(
  format('select status, reason from public.close_requests where id = %s', id),
  $$values ('refused', 'position_not_found')$$,
  'a refused close says why'
)
from p;
select isnt(
  public.request_job('close', 'anew', '{"agent_id": "plain", "position_id": "pos_1"}')
    ->> 'reference',
  one,
  'and can be requested again'
)
from p;
select is(
  (select status from public.close_requests order by id desc limit 1),
  'pending',
  'which is another row, that observers see'
);
select throws_ok(
  $$
    insert into public.close_requests (agent_id, position_id, status)
    select agent_id, position_id, 'closed'
    from public.close_requests
    order by id desc
    limit 1
  $$,
  '23505',
  null,
  'no position is closed twice'
);
select is(
  public.request_job('close', 'x', '{"agent_id": "nobody", "position_id": "pos_1"}') ->> 'refused',
  'unknown_agent',
  'an unknown agent has no positions'
);
select throws_ok(
  $$insert into public.close_requests (agent_id, position_id) values ('plain', 'a b')$$,
  '23514',
  null,
  'an id of another form is refused'
);
select is(
  public.request_job(
    'trade', 'close-7', '{"agent_id": "plain", "market": "BTC", "size": 1}') ->> 'refused',
  'invalid_reference',
  'no caller takes the name of a row''s job'
);
select is(
  (public.claim_jobs(array['close-0'], 0, api => 'live') #>> '{answers,0,state}'),
  'not_found',
  'a close without a row is none'
);

-- One transaction that holds the row keeps no other outcome back.
select is(
  purple_flea.lock_for_settling(array_agg(reference)),
  array_agg(reference order by reference),
  'the rows of closes are locked with their jobs'
)
from purple_flea.jobs
where kind = 'close';

-- Purple Flea's limit.
select results_eq(
  $$select most, within from purple_flea.rate_limits where api = 'live' and 'close' = any (calls)$$,
  $$values (30, interval '60 seconds')$$,
  'closes are counted for themselves'
);

-- The roles and their requests.
update public.agents set owner_id = '00000000-0000-0000-0000-000000000001' where id = 'keyed';
update public.agents set owner_id = '00000000-0000-0000-0000-000000000002' where id = 'plain';
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select results_eq(
  'select distinct agent_id from public.close_requests',
  array['keyed'],
  'an owner sees the closes of their own agents'
);
select throws_ok(
  $$insert into public.close_requests (agent_id, position_id) values ('keyed', 'pos_3')$$,
  '42501',
  null,
  'and inserts none'
);
select throws_ok(
  $$update public.close_requests set status = 'closed'$$,
  '42501',
  null,
  'and changes none'
);
set local role service_role;
set local request.jwt.claims = '';
select lives_ok(
  $$insert into public.close_requests (agent_id, position_id) values ('keyed', 'pos_3')$$,
  'the service asks'
);
select is(
  (select status from public.close_requests where position_id = 'pos_3'),
  'pending',
  'by a row'
);
select throws_ok(
  $$update public.close_requests set pnl = 1000000 where position_id = 'pos_3'$$,
  '23514',
  null,
  'and cannot set Purple Flea''s values'
);
select throws_ok(
  $$
    insert into public.close_requests (agent_id, position_id, status)
    values ('keyed', 'pos_4', 'closed')
  $$,
  '23514',
  null,
  'not from the start either'
);
reset role;

-- A policy's direction and leverage.
select is(
  (select (direction, leverage)::text from purple_flea.trade_policies where agent_id is null),
  '(,)',
  'nobody has chosen the shared policy''s direction and leverage'
);
select throws_ok(
  format('update purple_flea.trade_policies set leverage = %s where agent_id is null', l),
  '23514',
  null,
  'a leverage of ' || l || ' is refused'
)
from unnest(array[0, 51]) as l;
update purple_flea.trade_policies
set leverage = 3, game = 'trade', market = 'BTC'
where agent_id is null;
insert into public.wallet_changes (id, agent_id, change_type, new_balance)
values (4711, 'plain', 'deposit', 100);
select pg_temp.hold_all_but('wallet-change-4711');
create temporary table w as
  select public.claim_jobs(
    array['wallet-change-4711'], 1, 'b2f1a9c0-0000-4000-8000-000000000001', 'live', protocol => 2
  ) as claimed;
select is(
  claimed #> '{jobs,0,policy}' @> '{"direction": null, "leverage": 3}',
  true,
  'a claim has the policy''s leverage, and the direction that nobody chose'
)
from w;
select is(
  public.claim_jobs(
    array['wallet-change-4711'], 1, 'b2f1a9c0-0000-4000-8000-000000000001', 'live', protocol => 1
  ) #>> '{jobs,0,policy,direction}',
  'long',
  'release 0.1.0 reads no policy without a direction'
);
select public.settle_job(
  'wallet-change-4711', 'b2f1a9c0-0000-4000-8000-000000000001', 'executed',
  '{"market": "BTC", "size": 10, "wager": 10.27, "leverage": 3, "position_id": "pos_9"}'
);
select results_eq(
  $$select direction, leverage, position_id from public.trade_results$$,
  $$values (null::text, 3::numeric, 'pos_9')$$,
  'a result has the leverage that Purple Flea used'
);

-- A request's direction and leverage.
select is(
  public.request_job(
    'trade', 'plain-1', '{"agent_id": "plain", "market": "BTC", "size": 10, "leverage": 2}'
  ) ->> 'reference',
  'plain-1',
  'a requested trade needs no direction'
);
update purple_flea.jobs
set request = request || '{"direction": "long"}'
where reference = 'plain-1';
select is(
  public.request_job(
    'trade', 'plain-1', '{"agent_id": "plain", "market": "BTC", "size": 10, "leverage": 2}'
  ) ->> 'reference',
  'plain-1',
  'release 0.1.0 wrote long where the caller chose none'
);
select is(
  public.request_job(
    'trade', 'plain-1', '{"agent_id": "plain", "market": "BTC", "size": 10, "leverage": 3}'
  ) ->> 'refused',
  'reference_taken',
  'another leverage is another trade'
);
select is(
  public.request_job(
    'trade',
    'plain-2',
    jsonb_build_object('agent_id', 'plain', 'market', 'BTC', 'size', 10, 'leverage', l)
  ) ->> 'refused',
  'invalid_order',
  'a leverage of ' || l || ' is no order'
)
from unnest(array['0', '51', '2.5', '-1', 'x']) as l;

select * from finish();
rollback;
