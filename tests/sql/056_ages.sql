-- How old a deposit may get, and that none is missing: whatever its id and its time are, and however it came.
begin;
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('a'), ('held');
create function pg_temp.deposit(agent text, made timestamptz default clock_timestamp()) returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance, created_at) values (agent, 'deposit', 100, 100, made)
  returning 'wallet-change-' || id
$$;
create function pg_temp.is_(wanted text) returns text language sql as $$
  select concat_ws(' ', state, reason) from purple_flea.jobs where reference = wanted
$$;
create function pg_temp.claimed() returns text[] language sql as $$
  select array(select j ->> 'reference' from jsonb_array_elements(public.claim_jobs('{}', 100) -> 'jobs') as j order by 1)
$$;

-- Age is said once, when the job is made.
create temporary table made as select
  pg_temp.deposit('a', now() - interval '1 year') as imported, pg_temp.deposit('a', now() + interval '1 year') as to_come, pg_temp.deposit('a') as today;
select is(pg_temp.claimed(), array[to_come, today], 'a row of a year ago is not handed out') from made;
select is(pg_temp.is_(imported), 'dead too_old', 'it is too old') from made;
select ok(j.expires_at between now() + interval '23 hours' and now() + interval '25 hours', 'a time to come counts as now')
from purple_flea.jobs j, made m where j.reference = m.to_come;

-- A pause moves the end by as long as it lasts, whether or not a sweeper comes meanwhile.
insert into purple_flea.trade_policies (agent_id) values ('held');
create temporary table paused as select pg_temp.deposit('held') as one;
update purple_flea.trade_policies set paused = true where agent_id = 'held';
-- A day and an hour go by, without a sweeper.
update purple_flea.jobs j set created_at = created_at - interval '25 hours', expires_at = expires_at - interval '25 hours', due_at = due_at - interval '25 hours'
from paused p where j.reference = p.one;
update purple_flea.pauses p set held = tstzrange(lower(p.held) - interval '25 hours', null) where p.agent_id = 'held';
update purple_flea.trade_policies set paused = false where agent_id = 'held';
select is((select count(*)::int from purple_flea.pauses p where p.agent_id = 'held' and not upper_inf(p.held)), 1, 'the pause''s end is written down');
select is(pg_temp.claimed(), array[one], 'what was held back for a day has not grown old') from paused;
update purple_flea.jobs j set state = 'pending', reason = 'rate_limited', due_at = now(), expires_at = now() - interval '1 second' from paused p where j.reference = p.one;
select public.claim_jobs('{}', 1);
select is(pg_temp.is_(one), 'dead too_old', 'a pause is counted once') from paused;
delete from purple_flea.trade_policies where agent_id = 'held';
insert into purple_flea.trade_policies (agent_id, paused) values ('held', true);
delete from purple_flea.trade_policies where agent_id = 'held';
select is((select count(*)::int from purple_flea.pauses p where upper_inf(p.held)), 0, 'a policy that goes ends its pause');
-- Two pauses at once count once.
insert into purple_flea.pauses (held, by) values (tstzrange(now() - interval '5 hours', now() - interval '3 hours'), 'policy');
insert into purple_flea.pauses (agent_id, held, by) values ('a', tstzrange(now() - interval '4 hours', now() - interval '2 hours'), 'policy');
select is(purple_flea.held_for('a', now() - interval '10 hours'), interval '3 hours', 'pauses that overlap count once');
select is(purple_flea.held_for('a', now() - interval '210 minutes'), interval '90 minutes', 'and from the job''s making on');
select public.claim_jobs('{}', 0);
select ok(purple_flea.is_held('a'), 'the function''s own pause is written down, too');
select public.claim_jobs('{}', 0) from generate_series(1, 3);
select is((select count(*)::int from purple_flea.pauses p where p.by = 'function'), 1, 'in one row, however often it asks');

-- Missing jobs.
alter table public.wallet_changes disable trigger purple_flea_jobs;
create temporary table ids as select currval('public.wallet_changes_id_seq') as last;
insert into public.wallet_changes (id, agent_id, change_type, new_balance) values (1000000, 'a', 'deposit', 1);
select is(purple_flea.make_missing_jobs(), 1, 'an explicit id far ahead is found');
create temporary table behind as select pg_temp.deposit('a') as one, pg_temp.deposit('a', now() - interval '2 hours') as two, pg_temp.deposit('a', now() - interval '2 days') as old;
update purple_flea.ledger l set searched_at = now() - interval '11 minutes' where l.only_row;
select is(purple_flea.make_missing_jobs(), 2, 'what lies behind it is found by its time, every ten minutes');
select is(pg_temp.is_(two), 'pending was_missing', 'and waits for its turn') from behind;
select is(purple_flea.make_missing_jobs(), 0, 'nothing is made twice');
select is(purple_flea.make_missing_jobs((select last from ids)), 1, 'an operator finds the rest');
select purple_flea.expire(false);
select is(pg_temp.is_(old), 'dead missed', 'what is found too late is not bet on, and says so') from behind;
select is(s.state, 'dead', 'the operator sees it') from purple_flea.stuck_jobs s, behind b where s.reference = b.old;
select ok((public.ledger_health() ->> 'alarms')::int >= 1, 'and health counts it');
alter table public.wallet_changes enable trigger purple_flea_jobs;

-- The mark that is sure moves only past what no open transaction can still add to.
update purple_flea.ledger l set checked_until = 0, next_until = null, next_xid = null where l.only_row;
select purple_flea.make_missing_jobs();
select is((select l.checked_until from purple_flea.ledger l), 0::bigint, 'the mark does not move while this transaction is open');
select is((select l.next_until from purple_flea.ledger l), 1000000::bigint, 'but is noted');

-- A row that becomes a deposit.
insert into public.wallet_changes (id, agent_id, change_type, new_balance) values (2000000, 'a', 'withdrawal', 1);
update public.wallet_changes set change_type = 'deposit' where id = 2000000;
select is(pg_temp.is_('wallet-change-2000000'), 'pending', 'a row that is updated to a deposit has a job at once');
select throws_ok($$update public.wallet_changes set change_type = 'payout' where id = 2000000$$, '23514', null, 'and stays one');

-- Notifications: one a transaction, however many statements.
create schema if not exists net;
create temporary table posts (body jsonb, headers jsonb, timeout integer);
create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds integer) returns bigint language sql as $$
  insert into posts (body, headers, timeout) values (body, headers, timeout_milliseconds) returning 1::bigint
$$;
grant usage on schema net to public;
grant all on posts to public;
select purple_flea.set_secret('purple_flea_function_url', 'http://127.0.0.1:9/execute-trade'), purple_flea.set_secret('purple_flea_webhook_secret', 'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=');
select set_config('purple_flea.notified_in', '', true);
select pg_temp.deposit('a') from generate_series(1, 30);
select is((select count(*)::int from posts), 1, 'many statements of one transaction notify once');
select is((select timeout from posts), 15000, 'and wait for the function''s work');
select public.claim_jobs('{}', 1, after_reply => true);
select set_config('purple_flea.notified_in', '', true);
delete from posts where true;
select pg_temp.deposit('a');
select is((select timeout from posts), 2000, 'a function that answers at once is given two seconds');

select * from finish();
rollback;
