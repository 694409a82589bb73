-- What is not a deposit: agents, escrows, orders, each with its row, its job and what is written back; whose keys are
-- used; and Purple Flea's limits.
begin;
-- Nobody is to be called, and each row would warn of that.
set local client_min_messages = error;
select * from no_plan();

create function pg_temp.job(wanted text) returns purple_flea.jobs language sql as $$select * from purple_flea.jobs where reference = wanted$$;
create function pg_temp.claim(wanted text, of_api text default 'gateway') returns jsonb language sql as $$
  select coalesce(c -> 'jobs' -> 0, '{}') || jsonb_build_object('token', c ->> 'token', 'answer', c #> '{answers,0}')
  from public.claim_jobs(array[wanted], 1, gen_random_uuid(), of_api) as c
$$;
create function pg_temp.settle(wanted text, claimed jsonb, to_state text, outcome jsonb, key text default null) returns text language sql as $$
  select public.settle_job(wanted, (claimed ->> 'token')::uuid, to_state, outcome, key) ->> 'did'
$$;
-- Everything but one job waits, so that a claim of one is a claim of that one.
create function pg_temp.hold_all_but(wanted text) returns void language sql as $$
  update purple_flea.jobs set due_at = case when reference = wanted then clock_timestamp() else 'infinity' end where state = 'pending'
$$;

-- Whoever is called is told of everything that is due.
create schema net;
create table net.calls (url text, body jsonb);
grant usage on schema net to public;
grant all on net.calls to public;
create function net.http_post(url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds integer default 5000) returns bigint language sql as $$
  insert into net.calls values (url, body) returning 1::bigint
$$;
select purple_flea.set_secret('purple_flea_function_url', 'https://function.test/execute-trade');
select purple_flea.set_secret('purple_flea_webhook_secret', 'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=');
-- (Once a transaction; each look at them begins another, as it were.)
create function pg_temp.calls() returns bigint language sql as $$
  select set_config('purple_flea.notified_in', '', true);
  with gone as (delete from net.calls returning 1) select count(*) from gone
$$;

-- A new agent with everybody's key claims the faucet; one whose key is not there is registered first.
insert into public.agents (id) values ('plain');
insert into public.agents (id, api_key, orchestrator_id) values ('keyed', 'purple_flea_key:keyed', 'plain');
select is(pg_temp.calls(), 1::bigint, 'new agents ring, once a transaction');
select is((pg_temp.job('faucet-plain')).due_at <= clock_timestamp(), true, 'a new agent claims the faucet');
select is((pg_temp.job('registration-plain')).state, null, 'and is not registered where it names no key');
select is((pg_temp.job('registration-keyed')).state, 'pending', 'one that names a key which is not there is registered');
select is((pg_temp.job('faucet-keyed')).due_at, 'infinity', 'and claims the faucet when it is');
insert into public.agents (id) values ('an agent with a long and odd name, /?');
select ok(reference ~ '^faucet:[0-9a-f]{24}$', 'whatever its name, its job has a plain one') from purple_flea.jobs where agent_id like 'an agent%';
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
select pg_temp.calls();
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
insert into public.agents (id) values ('modest'), ('other');
select is(pg_temp.calls(), 0::bigint, 'nobody is called for nothing');
select is_empty($$select from purple_flea.jobs where agent_id in ('modest', 'other')$$, 'where the policy says so no faucet is claimed');

-- Registration: the key goes into the vault and nowhere else.
update public.agents set referral_code = 'ref_plain' where id = 'plain';
select pg_temp.hold_all_but('registration-keyed');
create temporary table r as select pg_temp.claim('registration-keyed') as c;
select is(c ->> 'referral_code', 'ref_plain', 'it is registered with its orchestrator''s code') from r;
select is(c -> 'own_key', 'true', 'and has a key of its own, which is not there') from r;
select is(c -> 'key', null, 'not there') from r;
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('keyed', 'deposit', 100);
select is(pg_temp.settle('registration-keyed', c, 'executed', '{"account": "ag_1", "referral_code": "ref_keyed"}', 'sk_live_very_secret'), 'settled', 'it is settled with its key') from r;
select is(purple_flea.secret('purple_flea_key:keyed'), 'sk_live_very_secret', 'the key is where the row names it');
select results_eq($$select pf_agent_id, referral_code from public.agents where id = 'keyed'$$, $$values ('ag_1', 'ref_keyed')$$, 'the agent''s row has its account and its code');
select is_empty($$select from purple_flea.jobs j where j::text like '%very_secret%' union all select from purple_flea.job_events e where e::text like '%very_secret%'$$, 'no job and no event has the key');
select is((pg_temp.job('faucet-keyed')).due_at <= clock_timestamp(), true, 'its faucet claim is let go');
select cmp_ok(pg_temp.calls(), '>=', 1::bigint, 'and rung for');
select is(public.request_job('registration', 'again', '{"agent_id": "keyed"}') ->> 'reference', 'registration-keyed', 'asked again it is the same');

-- A key that came although nobody could settle its job is not kept.
insert into public.agents (id, api_key) values ('unsettled', 'purple_flea_key:unsettled');
select pg_temp.hold_all_but('registration-unsettled');
create temporary table u as select pg_temp.claim('registration-unsettled') as c;
select is(pg_temp.settle('registration-unsettled', jsonb_build_object('token', gen_random_uuid()), 'executed', '{}', 'sk_stolen'), 'unknown_token', 'who did not claim settles nothing') from u;
select is(purple_flea.secret('purple_flea_key:unsettled'), null, 'and sets no key');
select is(pg_temp.settle('registration-unsettled', c, 'unknown', '{"reason": "timed_out"}'), 'settled', 'what does no harm twice is never unknown') from u;
select is((pg_temp.job('registration-unsettled')).state, 'pending', 'but asked again');
update purple_flea.jobs set due_at = clock_timestamp() where reference = 'registration-unsettled';
select pg_temp.claim('registration-unsettled');
update purple_flea.jobs set lease_until = clock_timestamp() - interval '1 second' where reference = 'registration-unsettled';
select purple_flea.expire(false);
select is((pg_temp.job('registration-unsettled')).state, 'pending', 'also when its claimant is gone');
select is(pg_temp.settle('registration-unsettled', c, 'executed', '{"account": "ag_2"}', 'sk_live_late'), 'settled', 'a late answer will do') from u;
select is(purple_flea.secret('purple_flea_key:unsettled'), 'sk_live_late', 'with its key');
select is_empty($$select from purple_flea.job_events where kind = 'conflict'$$, 'and is no conflict');

-- A deposit that was claimed before the key was there, and comes back after.
insert into public.agents (id, api_key) values ('racer', 'purple_flea_key:racer');
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('racer', 'deposit', 100);
create temporary table q as select reference as one from purple_flea.jobs where agent_id = 'racer' and kind = 'deposit';
create temporary table q1 as select pg_temp.claim('registration-racer') as c;
select pg_temp.hold_all_but(one) from q;
create temporary table q2 as select pg_temp.claim(one) as c from q;
select pg_temp.settle('registration-racer', c, 'executed', '{"account": "ag_4"}', 'sk_racer') from q1;
select pg_temp.settle(one, c, 'pending', '{"reason": "agent_without_key", "retry_after_s": 60}') from q2, q;
select is((pg_temp.job(one)).due_at <= clock_timestamp(), true, 'what waited for a key that has come does not wait longer') from q;

-- The faucet: what it gives becomes a deposit; what we knew of does not.
select pg_temp.hold_all_but('faucet-keyed');
create temporary table f as select pg_temp.claim('faucet-keyed') as c;
select is(c ->> 'account', 'ag_1', 'it is claimed for the account') from f;
select is(c ->> 'key', 'sk_live_very_secret', 'with the agent''s own key') from f;
select pg_temp.settle('faucet-keyed', c, 'executed', '{"credited": 1, "claim_id": "c-1"}') from f;
select results_eq(
  $$select change_amount, new_balance from public.wallet_changes where agent_id = 'keyed' and change_amount is not null$$,
  $$values (1.0000, 1.0000)$$, 'its credit is a deposit');
select is((select balance from public.agents where id = 'keyed'), 1.0000, 'and the agent''s balance');
select ok(exists (select from purple_flea.jobs j join public.wallet_changes w on w.id = j.wallet_change_id where w.agent_id = 'keyed' and w.change_amount = 1), 'which has its job');
select pg_temp.hold_all_but('faucet-plain');
create temporary table g as select pg_temp.claim('faucet-plain') as c;
select pg_temp.settle('faucet-plain', c, 'rejected', '{"reason": "already_claimed"}') from g;
select is_empty($$select from public.wallet_changes where agent_id = 'plain'$$, 'what an account of its own holds is no deposit');
select is(public.request_job('faucet', 'x', '{"agent_id": "plain"}') ->> 'reference', 'faucet.2-plain', 'what came to nothing may be asked for again');
update public.agents set balance = 5 where id = 'plain';
-- By a name that no other agent's can have.
insert into public.agents (id) values ('twin'), ('twin-2');
select public.request_job('faucet', 'x', jsonb_build_object('agent_id', t)) from unnest(array['twin', 'twin-2']) as t;
select pg_temp.hold_all_but('faucet-twin');
select pg_temp.settle('faucet-twin', c, 'rejected', '{"reason": "agent_not_found"}') from pg_temp.claim('faucet-twin') as c;
select is(public.request_job('faucet', 'x', '{"agent_id": "twin"}') ->> 'reference', 'faucet.2-twin', 'an agent whose name ends in a number is another');
update purple_flea.trade_policies set claim_faucet = true where agent_id is null;
insert into public.agents (id, api_key) values ('given', 'purple_flea_key:given');
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
select pg_temp.hold_all_but('registration-given');
select pg_temp.settle('registration-given', c, 'executed', '{"account": "ag_3"}', 'sk_given') from pg_temp.claim('registration-given') as c;
create temporary table v as select pg_temp.claim('faucet-given') as c;
select is(c -> 'fresh', 'true', 'of an agent that we registered, and to whom nothing has come, the balance tells what the faucet gave') from v;
select is((select c -> 'fresh' from g), null, 'of nobody else');
select pg_temp.settle('faucet-given', c, 'executed', '{"credited": 1, "balance": 1, "reason": "already_claimed"}') from v;
select results_eq($$select change_amount, new_balance from public.wallet_changes where agent_id = 'given'$$, $$values (1.0000, 1.0000)$$, 'which is a deposit');

-- The balance: on demand, on a schedule, and one look at a time.
select is(public.request_job('balance', 'look-1', '{"agent_id": "plain"}') ->> 'reference', 'look-1', 'a look is asked for');
select is(public.request_job('balance', 'look-2', '{"agent_id": "plain"}') ->> 'reference', 'look-1', 'one at a time');
select pg_temp.hold_all_but('look-1');
create temporary table b as select pg_temp.claim('look-1') as c;
select pg_temp.settle('look-1', c, 'executed', '{"balance": 4.25}') from b;
select is((select balance from public.agents where id = 'plain'), 4.2500, 'what it found stands in the agent''s row');
update purple_flea.trade_policies set balance_every = '10 minutes' where agent_id is null;
update public.agents set balance_at = clock_timestamp() - interval '11 minutes' where id = 'modest';
update public.agents set balance_at = clock_timestamp() where id <> 'modest';
select purple_flea.make_timely_jobs();
select purple_flea.make_timely_jobs();
select results_eq($$select agent_id from purple_flea.jobs where kind = 'balance' and state = 'pending'$$, array['modest'], 'when its time has come the next look is made, once');
update purple_flea.trade_policies set balance_every = null where agent_id is null;

-- The faucet's claim of the day, once a day.
insert into purple_flea.trade_policies (agent_id, claim_daily) values ('other', true);
select purple_flea.make_timely_jobs();
select purple_flea.make_timely_jobs();
create temporary table y as select reference as one from purple_flea.jobs where kind = 'daily_claim';
select is(one, 'daily_claim-other-' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD'), 'a claim is made for the day, where the policy says so') from y;
select pg_temp.hold_all_but(one) from y;
select pg_temp.settle(one, c, 'executed', '{"credited": 0.5, "claim_id": "d-1"}') from y, pg_temp.claim(one) as c;
select results_eq($$select change_amount from public.wallet_changes where agent_id = 'other'$$, array[0.5], 'and is a deposit');
select purple_flea.make_timely_jobs();
select is((select count(*) from purple_flea.jobs where kind = 'daily_claim'), 1::bigint, 'once a day');
insert into public.agents (id) select repeat('n', n) from generate_series(20, 40) as n;
update purple_flea.trade_policies set claim_daily = true where agent_id is null;
select lives_ok('select purple_flea.make_timely_jobs()', 'whatever an agent is called');
update purple_flea.trade_policies set claim_daily = false where agent_id is null;
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
delete from purple_flea.trade_policies where agent_id = 'other';

-- Orders by hand.
select is(public.request_job('trade', 'order-1', '{"agent_id": "nobody", "size": 10}') ->> 'refused', 'unknown_agent', 'nobody orders nothing');
select is(public.request_job('trade', 'wallet-change-1', '{"agent_id": "plain", "size": 10}') ->> 'refused', 'invalid_reference', 'no order is called like a deposit');
select is(public.request_job('trade', 'faucet-modest', '{"agent_id": "plain", "size": 10}') ->> 'refused', 'invalid_reference', 'or like an agent''s claim');
select is(public.request_job('trade', 'order-1', '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}') ->> 'reference', 'order-1', 'an order is a job');
select is(public.request_job('trade', 'order-1', '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 10}') ->> 'reference', 'order-1', 'the same one asked again');
select is(public.request_job('trade', 'order-1', '{"agent_id": "plain", "market": "BTC", "direction": "long", "size": 11}') ->> 'refused', 'reference_taken', 'another under its name is refused');
select is(public.request_job('trade', 'order-2', jsonb_build_object('agent_id', 'plain', 'market', 'BTC', 'direction', 'long', 'size', s)) ->> 'refused', 'invalid_order', 'no job is made that nobody could read: ' || s)
from unnest(array['x', '1e12', '-1', '100000000', '']) as s;
select is(public.request_job('poker', 'order-2', '{"agent_id": "plain"}') ->> 'refused', 'unknown_kind', 'there are kinds, and no others');
insert into purple_flea.trade_policies (agent_id, daily_loss_limit) values ('plain', 100);
select pg_temp.hold_all_but('order-1');
create temporary table o as select pg_temp.claim('order-1') as c;
select is(c -> 'spent' ->> 'wagered', '0', 'it counts against the day''s limits') from o;
select pg_temp.settle('order-1', c, 'executed', '{"market": "BTC", "direction": "long", "size": 10, "wager": 10.27, "entry_price": 65536.5, "position_id": "pos_1", "order_id": "ord_1"}') from o;
select results_eq(
  $$select game, wager, outcome, payout, market, direction, entry_price, position_id, order_id from public.trade_results where reference = 'order-1'$$,
  $$values (null::text, 10.2700, null::text, null::numeric, 'BTC', 'long', 65536.5, 'pos_1', 'ord_1')$$, 'its row of trade_results has the market and the ids');
select is(purple_flea.spent('plain', (clock_timestamp() at time zone 'UTC')::date, '') ->> 'lost', '10.2700', 'nobody tells what a trade lost: all of it counts');
select is_empty($$select from purple_flea.job_events where kind = 'alarm'$$, 'a fill that is a little more than was asked for is no alarm');

-- Escrows.
insert into public.escrow_requests (sender_id, receiver_id, amount, description) values ('keyed', 'plain', 10, 'A logo');
create temporary table e as select 'escrow-' || max(id) as one, max(id) as id from public.escrow_requests;
select throws_ok(format('update public.escrow_requests set amount = 11 where id = %s', id), '23514', null, 'terms stay') from e;
update public.escrow_requests set requested_status = 'released' where id = (select id from e);
select is((pg_temp.job(one || '-release')).due_at, 'infinity', 'what is not made cannot be released yet') from e;
select is(public.claim_jobs(array[one || '-release'], 0) #>> '{answers,0,state}', 'waiting', 'whoever asks for it is told to wait') from e;
select throws_ok(format('update public.escrow_requests set requested_status = ''cancelled'' where id = %s', id), '23514', null, 'nor be cancelled as well') from e;
select throws_ok($$insert into public.escrow_requests (sender_id, receiver_id, amount, requested_status) values ('keyed', 'plain', 1, 'released')$$, '23514', null, 'nor be made and released at once');
select pg_temp.hold_all_but(one) from e;
create temporary table m as select pg_temp.claim(one) as c from e;
select is(c ->> 'counterparty', 'plain', 'it is made with the other side''s account') from m;
select is(c ->> 'referral_code', 'ref_plain', 'and with the orchestrator''s code') from m;
select pg_temp.calls();
select pg_temp.settle(one, c, 'executed', '{"pf_escrow_id": "esc_1", "escrow_status": "funded", "fee": 0.1}') from m, e;
select results_eq(format('select status, pf_escrow_id, fee, reason from public.escrow_requests where id = %s', id), $$values ('pending', 'esc_1', 0.1000, null::text)$$, 'its row has Purple Flea''s id and the fee') from e;
select is((pg_temp.job(one || '-release')).due_at <= clock_timestamp(), true, 'and its release is let go') from e;
select cmp_ok(pg_temp.calls(), '>=', 1::bigint, 'and rung for');
create temporary table l as select pg_temp.claim(one || '-release') as c from e;
select is(c #>> '{escrow,id}', 'esc_1', 'which knows what to release') from l;
select pg_temp.settle(one || '-release', c, 'executed', '{"pf_escrow_id": "esc_1", "escrow_status": "released", "fee": 0.1, "referral_earned": 0.015}') from l, e;
select results_eq(format('select status, fee, referral_earned from public.escrow_requests where id = %s', id), $$values ('released', 0.1000, 0.0150)$$, 'a release has its fee and its referral') from e;
select throws_ok(format('update public.escrow_requests set requested_status = ''cancelled'' where id = %s', id), '23514', null, 'what is released is not cancelled') from e;
select is(public.request_job('escrow_cancel', 'x', jsonb_build_object('escrow_id', id)) ->> 'refused', 'escrow_not_open', 'not by hand either') from e;
select is(public.request_job('escrow_release', 'x', jsonb_build_object('escrow_id', id)) ->> 'reference', one || '-release', 'released twice is released once') from e;
select is(public.request_job('escrow_release', 'x', '{"escrow_id": 0}') ->> 'refused', 'unknown_escrow', 'what is not there is not released');
select is(public.request_job('escrow', 'tip-1', '{"sender_id": "plain", "receiver_id": "nobody", "amount": 1}') ->> 'refused', 'unknown_agent', 'nobody receives nothing');
select ok(public.request_job('escrow', 'tip-1', '{"sender_id": "plain", "receiver_id": "keyed", "amount": 1}') ->> 'reference' ~ '^escrow-\d+$', 'by hand it is a row as well');
select public.request_job('escrow', 'tip-1', '{"sender_id": "plain", "receiver_id": "keyed", "amount": 1}');
select is((select count(*) from public.escrow_requests where asked_as = 'tip-1'), 1::bigint, 'asked twice it is one');
select is(public.request_job('escrow', 'tip-1', '{"sender_id": "plain", "receiver_id": "keyed", "amount": 2}') ->> 'refused', 'reference_taken', 'another under its name is refused');

-- Nobody is paid whose account is yet to be made.
insert into public.agents (id, api_key) values ('newcomer', 'purple_flea_key:newcomer');
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'newcomer', 3);
create temporary table h as select 'escrow-' || max(id) as one from public.escrow_requests;
select is((pg_temp.job(one)).due_at, 'infinity', 'an escrow for somebody who is being registered waits') from h;
select pg_temp.hold_all_but('registration-newcomer');
create temporary table h1 as select pg_temp.claim('registration-newcomer') as c;
select pg_temp.settle('registration-newcomer', c, 'executed', '{"account": "ag_5"}', 'sk_newcomer') from h1;
select is((pg_temp.job(one)).due_at <= clock_timestamp(), true, 'and is let go with the account') from h;
select is(pg_temp.claim(one) ->> 'counterparty', 'ag_5', 'which it is made with') from h;

-- A key that is there stays, whoever else registers.
insert into public.agents (id, api_key) values ('late', 'purple_flea_key:late');
select pg_temp.hold_all_but('registration-late');
create temporary table k as select pg_temp.claim('registration-late') as c;
select purple_flea.set_secret('purple_flea_key:late', 'sk_by_hand');
select pg_temp.settle('registration-late', c, 'executed', '{"account": "ag_6"}', 'sk_second') from k;
select is((pg_temp.job('registration-late')).reason, 'key_is_there', 'a registration that comes too late says so');
select is(purple_flea.secret('purple_flea_key:late'), 'sk_by_hand', 'and changes no key');
select is(purple_flea.secret('purple_flea_unused_key:late'), 'sk_second', 'its own is kept beside it');
select is((select pf_agent_id from public.agents where id = 'late'), null, 'and its account is not the agent''s');
select ok(exists (select from purple_flea.job_events where reference = 'registration-late' and kind = 'alarm'), 'somebody has to look');
delete from purple_flea.job_events where reference = 'registration-late' and kind = 'alarm';
select is(public.request_job('registration', 'x', '{"agent_id": "late"}') ->> 'refused', 'already_registered', 'nobody is registered twice by hand either');

-- An escrow that is refused says so, and so does what was asked of it.
create temporary table t as select 'escrow-' || id as one, id from public.escrow_requests where asked_as = 'tip-1';
update public.escrow_requests set requested_status = 'released' where id = (select id from t);
select pg_temp.hold_all_but(one) from t;
create temporary table n as select pg_temp.claim(one) as c from t;
select pg_temp.settle(one, c, 'rejected', '{"reason": "insufficient_balance"}') from n, t;
select results_eq(format('select status, reason from public.escrow_requests where id = %s', id), $$values ('refused', 'insufficient_balance')$$, 'a refused escrow says why') from t;
select is(pg_temp.claim(one || '-release') #>> '{escrow,status}', 'refused', 'its release learns of it') from t;
-- And a step that Purple Flea refuses says what became of it.
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 5);
create temporary table d as select 'escrow-' || max(id) as one, max(id) as id from public.escrow_requests;
select pg_temp.hold_all_but(one) from d;
create temporary table d1 as select pg_temp.claim(one) as c from d;
select pg_temp.settle(one, c, 'executed', '{"pf_escrow_id": "esc_2"}') from d1, d;
update public.escrow_requests set requested_status = 'cancelled' where id = (select id from d);
create temporary table d2 as select pg_temp.claim(one || '-cancel') as c from d;
select pg_temp.settle(one || '-cancel', c, 'skipped', '{"reason": "no_cancel"}') from d2, d;
select results_eq(format('select status, reason from public.escrow_requests where id = %s', id), $$values ('pending', 'no_cancel')$$, 'what is not possible is said') from d;
update public.escrow_requests set requested_status = 'released' where id = (select id from d);
create temporary table d3 as select pg_temp.claim(one || '-release') as c from d;
select pg_temp.settle(one || '-release', c, 'rejected', '{"reason": "invalid_status", "escrow_status": "refunded"}') from d3, d;
select results_eq(format('select status, reason from public.escrow_requests where id = %s', id), $$values ('refunded', 'invalid_status')$$, 'and what it turned out to be') from d;
-- What was refused for another reason can be asked for again.
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 6);
create temporary table x as select 'escrow-' || max(id) as one, max(id) as id from public.escrow_requests;
create temporary table x1 as select pg_temp.claim(one) as c from x;
select pg_temp.settle(one, c, 'executed', '{"pf_escrow_id": "esc_3"}') from x1, x;
update public.escrow_requests set requested_status = 'released' where id = (select id from x);
create temporary table x2 as select pg_temp.claim(one || '-release') as c from x;
select pg_temp.settle(one || '-release', c, 'rejected', '{"reason": "forbidden"}') from x2, x;
select is(public.request_job('escrow_release', 'x', jsonb_build_object('escrow_id', id)) ->> 'reference', one || '-release-2', 'a release that came to nothing can be asked for again') from x;
select is((pg_temp.job(one || '-release-2')).state, 'pending', 'and is another job') from x;

-- Who may ask for what.
update public.agents set owner_id = '00000000-0000-0000-0000-000000000001' where id = 'keyed';
update public.agents set owner_id = '00000000-0000-0000-0000-000000000002' where id = 'plain';
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 7);
create temporary table w as select max(id) as id from public.escrow_requests;
grant select on w to authenticated, service_role;
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000002"}';
select lives_ok($$update public.escrow_requests set requested_status = 'released' where id = (select id from w)$$, 'the receiver''s owner sees it');
select is((select requested_status from public.escrow_requests where id = (select id from w)), null, 'and releases nothing');
select results_eq($$select orchestrator_id, escrows, fees, earned from public.referral_earnings$$, $$values ('plain', 1::bigint, 0.1000, 0.0150)$$, 'an orchestrator''s owner sees what it earned');
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select throws_ok($$update public.escrow_requests set status = 'released' where id = (select id from w)$$, '42501', null, 'no owner sets a status');
select throws_ok($$insert into public.escrow_requests (sender_id, receiver_id, amount) values ('keyed', 'plain', 1)$$, '42501', null, 'or makes an escrow');
select lives_ok($$update public.escrow_requests set requested_status = 'released' where id = (select id from w)$$, 'the sender''s owner asks');
select is_empty('select * from public.referral_earnings', 'and sees nobody else''s earnings');
set local role service_role;
set local request.jwt.claims = '';
select throws_ok($$update public.escrow_requests set status = 'released' where id = (select id from w)$$, '23514', null, 'the service cannot say what Purple Flea says');
select throws_ok($$insert into public.escrow_requests (sender_id, receiver_id, amount, status) values ('keyed', 'plain', 1, 'released')$$, '23514', null, 'not from the start either');
select is((select count(*) from public.referral_earnings), 1::bigint, 'the service sees all earnings');
reset role;
select is((pg_temp.job('escrow-' || id || '-release')).state, 'pending', 'what the owner asked for is a job') from w;

-- Purple Flea's limits, ahead of time.
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
delete from purple_flea.rate_slots;
insert into public.wallet_changes (agent_id, change_type, new_balance) select 'other', 'deposit', 100 from generate_series(1, 70);
create temporary table many as select public.claim_jobs('{}', 100, gen_random_uuid(), 'live') as c;
select is(jsonb_array_length(c -> 'jobs'), 60, 'no more are claimed than Purple Flea takes') from many;
select is(c -> 'more', 'true', 'and more are due') from many;
create temporary table waiting as select max(reference) as one from purple_flea.jobs where state = 'pending' and agent_id = 'other';
select is(pg_temp.claim(one, 'live') #>> '{answer,reason}', 'rate_limited', 'the others wait, and know why') from waiting;
select ok((pg_temp.claim(one, 'live') #>> '{answer,retry_after_s}')::int between 60 and 91, 'and for how long') from waiting;
select is(pg_temp.claim(one, 'live') -> 'reference', null, 'and are not claimed') from waiting;
select is(public.request_job('balance', 'look-3', '{"agent_id": "other"}') ->> 'reference', 'look-3', 'what has no limit');
select is(pg_temp.claim('look-3', 'live') ->> 'reference', 'look-3', 'does not wait');
select is(jsonb_array_length(public.claim_jobs('{}', 1, gen_random_uuid(), 'gateway') -> 'jobs'), 1, 'the gateway has no such limit');
-- A call that is over holds its slot for a minute yet; one that was not made gives it back.
create temporary table two as select array_agg(reference) as r from (select j ->> 'reference' as reference from many, jsonb_array_elements(c -> 'jobs') as j limit 2) as x;
select public.settle_job(r[1], (c ->> 'token')::uuid, 'skipped', '{"reason": "below_min_balance"}') from two, many;
select public.settle_job(r[2], (c ->> 'token')::uuid, 'executed', '{"game": "crash", "wager": 10, "outcome": "loss", "payout": 0}') from two, many;
select is((select count(*) from purple_flea.rate_slots, two where reference = r[1]), 0::bigint, 'what was not sent gives its slot back');
select ok((select held_until from purple_flea.rate_slots, two where reference = r[2]) between clock_timestamp() + interval '58 seconds' and clock_timestamp() + interval '60 seconds', 'what was sent holds it for a minute more');
select is(jsonb_array_length(public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs'), 1, 'so that one more is claimed');
update purple_flea.rate_slots set held_until = held_until - interval '2 minutes';
select is(jsonb_array_length(public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs'), 8, 'and the rest when their time has come');
-- Sixty for each account, where agents have their own.
delete from purple_flea.rate_slots;
update purple_flea.trade_policies set game = 'coin-flip' where agent_id is null;
insert into purple_flea.trade_policies (agent_id, game) values ('keyed', 'crash');
update purple_flea.jobs set due_at = 'infinity' where state = 'pending';
insert into purple_flea.rate_slots (reference, token, call, account, held_until, within) select 'look-1', gen_random_uuid(), 'coin-flip', 'purple_flea_key:keyed', clock_timestamp() + interval '1 minute', '1 minute' from generate_series(1, 59);
insert into public.wallet_changes (agent_id, change_type, new_balance) select 'keyed', 'deposit', 100 from generate_series(1, 3);
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('other', 'deposit', 100);
select results_eq(
  $$select j #>> '{row,agent_id}' from jsonb_array_elements(public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs') as j order by 1$$,
  array['keyed', 'other'], 'sixty of an account for all games together, whoever else has room');
-- What Purple Flea says itself counts, too.
select pg_temp.hold_all_but(max(reference)) from purple_flea.jobs where state = 'pending' and agent_id = 'keyed' and kind = 'deposit';
delete from purple_flea.rate_slots;
create temporary table s as select max(reference) as one from purple_flea.jobs where state = 'pending' and due_at < 'infinity';
create temporary table s1 as select pg_temp.claim(one) as c from s;
select pg_temp.settle(one, c, 'pending', '{"reason": "rate_limited", "retry_after_s": 30, "purple_flea_code": "rate_limited"}') from s, s1;
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('keyed', 'deposit', 100);
select is(jsonb_array_length(public.claim_jobs('{}', 100) -> 'jobs'), 0, 'after a "too many" nobody calls the same again');
update purple_flea.rate_stops set until = clock_timestamp();
select is(jsonb_array_length(public.claim_jobs('{}', 100) -> 'jobs'), 1, 'until its time is over');

-- Keys.
select purple_flea.set_secret('purple_flea_trading_key:keyed', 'sk_trade_own');
update purple_flea.trade_policies set game = 'trade', market = 'BTC' where agent_id = 'keyed';
insert into public.wallet_changes (agent_id, change_type, new_balance) values ('keyed', 'deposit', 100);
select is(public.claim_jobs('{}', 1) #>> '{jobs,0,key}', 'sk_trade_own', 'trading has a key of its own where there is one');
select is_empty($$
  select from purple_flea.jobs j where j::text like '%sk_trade_own%' union all select from purple_flea.job_events e where e::text like '%sk_trade_own%'
$$, 'which stands nowhere else');

select * from finish();
rollback;
