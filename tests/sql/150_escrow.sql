-- Escrows: their steps, their rules, and the rows that they write.
begin;
\ir setup/services.psql

update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id, referral_code) values ('plain', 'ref_plain');
insert into public.agents (id, orchestrator_id) values ('keyed', 'plain');
select pg_temp.calls();

-- Escrows.
insert into public.escrow_requests (sender_id, receiver_id, amount, description)
values ('keyed', 'plain', 10, 'A logo');
create temporary table e as
  select 'escrow-' || max(id) as one, max(id) as id
  from public.escrow_requests;
select throws_ok(
  format('update public.escrow_requests set amount = 11 where id = %s', id),
  '23514',
  null,
  'terms stay'
)
from e;
update public.escrow_requests set requested_status = 'released' where id = (select id from e);
select is(
  (pg_temp.job(one || '-release')).due_at,
  'infinity',
  'an escrow that is not made yet cannot be released'
)
from e;
select is(
  public.claim_jobs(array[one || '-release'], 0) #>> '{answers,0,state}',
  'waiting',
  'a caller that names it is told to wait'
)
from e;
select throws_ok(
  format('update public.escrow_requests set requested_status = ''cancelled'' where id = %s', id),
  '23514',
  null,
  'nor be cancelled as well'
)
from e;
select throws_ok(
  $$
    insert into public.escrow_requests (sender_id, receiver_id, amount, requested_status)
    values ('keyed', 'plain', 1, 'released')
  $$,
  '23514',
  null,
  'nor be made and released at once'
);
select pg_temp.hold_all_but(one) from e;
create temporary table m as select pg_temp.claim(one) as c from e;
select is(c ->> 'counterparty', 'plain', 'it is made with the other side''s account') from m;
select is(c ->> 'referral_code', 'ref_plain', 'and with the orchestrator''s code') from m;
select pg_temp.calls();
select pg_temp.settle(
  one,
  c,
  'executed',
  '{"pf_escrow_id": "esc_1", "escrow_status": "funded", "fee": 0.1}'
)
from m, e;
select results_eq(
  format('select status, pf_escrow_id, fee, reason from public.escrow_requests where id = %s', id),
  $$values ('pending', 'esc_1', 0.1000, null::text)$$,
  'its row has Purple Flea''s id and the fee'
)
from e;
select is(
  (pg_temp.job(one || '-release')).due_at <= clock_timestamp(),
  true,
  'and its release is let go'
)
from e;
select cmp_ok(pg_temp.calls(), '>=', 1::bigint, 'and the function is notified');
create temporary table l as select pg_temp.claim(one || '-release') as c from e;
select is(c #>> '{escrow,id}', 'esc_1', 'which carries the escrow''s id') from l;
select pg_temp.settle(
  one || '-release',
  c,
  'executed',
  '{"pf_escrow_id": "esc_1", "escrow_status": "released", "fee": 0.1, "referral_earned": 0.015}'
)
from l, e;
select results_eq(
  format('select status, fee, referral_earned from public.escrow_requests where id = %s', id),
  $$values ('released', 0.1000, 0.0150)$$,
  'a release has its fee and its referral'
)
from e;
select throws_ok(
  format('update public.escrow_requests set requested_status = ''cancelled'' where id = %s', id),
  '23514',
  null,
  'a released escrow is not cancelled'
)
from e;
select is(
  public.request_job('escrow_cancel', 'x', jsonb_build_object('escrow_id', id)) ->> 'refused',
  'escrow_not_open',
  'not by a request either'
)
from e;
select is(
  public.request_job('escrow_release', 'x', jsonb_build_object('escrow_id', id)) ->> 'reference',
  one || '-release',
  'released twice is released once'
)
from e;
select is(
  public.request_job('escrow_release', 'x', '{"escrow_id": 0}') ->> 'refused',
  'unknown_escrow',
  'a missing escrow is not released'
);
select is(
  public.request_job(
    'escrow',
    'tip-1',
    '{"sender_id": "plain", "receiver_id": "nobody", "amount": 1}'
  ) ->> 'refused',
  'unknown_agent',
  'an unknown agent receives nothing'
);
select ok(
  public.request_job(
    'escrow',
    'tip-1',
    '{"sender_id": "plain", "receiver_id": "keyed", "amount": 1}'
  ) ->> 'reference' ~ '^escrow-\d+$',
  'a requested escrow is a row as well'
);
select public.request_job(
  'escrow',
  'tip-1',
  '{"sender_id": "plain", "receiver_id": "keyed", "amount": 1}'
);
select is(
  (select count(*) from public.escrow_requests where asked_as = 'tip-1'),
  1::bigint,
  'two requests give one escrow'
);
select is(
  public.request_job(
    'escrow',
    'tip-1',
    '{"sender_id": "plain", "receiver_id": "keyed", "amount": 2}'
  ) ->> 'refused',
  'reference_taken',
  'another under its name is refused'
);

-- No agent is paid before its account is made.
insert into public.agents (id, api_key) values ('newcomer', 'purple_flea_key:newcomer');
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'newcomer', 3);
create temporary table h as select 'escrow-' || max(id) as one from public.escrow_requests;
select is(
  (pg_temp.job(one)).due_at,
  'infinity',
  'an escrow for an agent under registration waits'
)
from h;
select pg_temp.hold_all_but('registration-newcomer');
create temporary table h1 as select pg_temp.claim('registration-newcomer') as c;
select pg_temp.settle('registration-newcomer', c, 'executed', '{"account": "ag_5"}', 'sk_newcomer')
from h1;
select is((pg_temp.job(one)).due_at <= clock_timestamp(), true, 'and is let go with the account')
from h;
select is(pg_temp.claim(one) ->> 'counterparty', 'ag_5', 'which it is made with') from h;

-- A refused escrow gets its status, and so does the requested step.
create temporary table t as
  select 'escrow-' || id as one, id
  from public.escrow_requests
  where asked_as = 'tip-1';
update public.escrow_requests set requested_status = 'released' where id = (select id from t);
select pg_temp.hold_all_but(one) from t;
create temporary table n as select pg_temp.claim(one) as c from t;
select pg_temp.settle(one, c, 'rejected', '{"reason": "insufficient_balance"}') from n, t;
select results_eq(
  format('select status, reason from public.escrow_requests where id = %s', id),
  $$values ('refused', 'insufficient_balance')$$,
  'a refused escrow says why'
)
from t;
select is(
  pg_temp.claim(one || '-release') #>> '{escrow,status}',
  'refused',
  'its release learns of it'
)
from t;
-- A step that Purple Flea refuses gets the escrow's status.
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 5);
create temporary table d as
  select 'escrow-' || max(id) as one, max(id) as id
  from public.escrow_requests;
select pg_temp.hold_all_but(one) from d;
create temporary table d1 as select pg_temp.claim(one) as c from d;
select pg_temp.settle(one, c, 'executed', '{"pf_escrow_id": "esc_2"}') from d1, d;
update public.escrow_requests set requested_status = 'cancelled' where id = (select id from d);
create temporary table d2 as select pg_temp.claim(one || '-cancel') as c from d;
select pg_temp.settle(one || '-cancel', c, 'skipped', '{"reason": "no_cancel"}') from d2, d;
select results_eq(
  format('select status, reason from public.escrow_requests where id = %s', id),
  $$values ('pending', 'no_cancel')$$,
  'an impossible step gets its reason'
)
from d;
update public.escrow_requests set requested_status = 'released' where id = (select id from d);
create temporary table d3 as select pg_temp.claim(one || '-release') as c from d;
select pg_temp.settle(
  one || '-release',
  c,
  'rejected',
  '{"reason": "invalid_status", "escrow_status": "refunded"}'
)
from d3, d;
select results_eq(
  format('select status, reason from public.escrow_requests where id = %s', id),
  $$values ('refunded', 'invalid_status')$$,
  'and its actual status'
)
from d;
-- A step that was refused for another reason can be requested again.
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 6);
create temporary table x as
  select 'escrow-' || max(id) as one, max(id) as id
  from public.escrow_requests;
create temporary table x1 as select pg_temp.claim(one) as c from x;
select pg_temp.settle(one, c, 'executed', '{"pf_escrow_id": "esc_3"}') from x1, x;
update public.escrow_requests set requested_status = 'released' where id = (select id from x);
create temporary table x2 as select pg_temp.claim(one || '-release') as c from x;
select pg_temp.settle(one || '-release', c, 'rejected', '{"reason": "forbidden"}') from x2, x;
select is(
  public.request_job('escrow_release', 'x', jsonb_build_object('escrow_id', id)) ->> 'reference',
  one || '-release-2',
  'a release without effect can be requested again'
)
from x;
select is((pg_temp.job(one || '-release-2')).state, 'pending', 'and is another job') from x;

-- The roles and their requests.
update public.agents set owner_id = '00000000-0000-0000-0000-000000000001' where id = 'keyed';
update public.agents set owner_id = '00000000-0000-0000-0000-000000000002' where id = 'plain';
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 7);
create temporary table w as select max(id) as id from public.escrow_requests;
grant select on w to authenticated, service_role;
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000002"}';
select throws_ok(
  $$update public.escrow_requests set requested_status = 'released' where id = (select id from w)$$,
  '42501',
  null,
  'the receiver''s owner sees it, and may not ask for a release'
);
select is(
  (select requested_status from public.escrow_requests where id = (select id from w)),
  null,
  'and releases nothing'
);
select results_eq(
  $$select orchestrator_id, escrows, fees, earned from public.referral_earnings$$,
  $$values ('plain', 2::bigint, 0.1000, 0.0150)$$,
  'an orchestrator''s owner sees what it earned'
);
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select throws_ok(
  $$update public.escrow_requests set status = 'released' where id = (select id from w)$$,
  '42501',
  null,
  'no owner sets a status'
);
select throws_ok(
  $$
    insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 1)
  $$,
  '42501',
  null,
  'or makes an escrow'
);
select lives_ok(
  $$update public.escrow_requests set requested_status = 'released' where id = (select id from w)$$,
  'the sender''s owner asks'
);
select is_empty('select * from public.referral_earnings', 'and sees no other agent''s earnings');
set local role service_role;
set local request.jwt.claims = '';
select throws_ok(
  $$update public.escrow_requests set status = 'released' where id = (select id from w)$$,
  '23514',
  null,
  'the service cannot set Purple Flea''s values'
);
select throws_ok(
  $$
    insert into public.escrow_requests (sender_id, receiver_id, amount, status)
    values ('keyed', 'plain', 1, 'released')
  $$,
  '23514',
  null,
  'not from the start either'
);
select is(
  (select count(*) from public.referral_earnings),
  1::bigint,
  'the service sees all earnings'
);
reset role;
select is(
  (pg_temp.job('escrow-' || id || '-release')).state,
  'pending',
  'the owner''s request is a job'
)
from w;

select * from finish();
rollback;
