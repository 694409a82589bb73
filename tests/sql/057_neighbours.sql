-- One bad row never touches its neighbours: a trigger of the application's that refuses, a backlog of one agent, a key that
-- cannot be used.
begin;
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('a'), ('b'), ('busy'), ('quiet'), ('sleepy');
create function pg_temp.deposit(agent text) returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values (agent, 'deposit', 100, 100)
  returning 'wallet-change-' || id
$$;
create function pg_temp.is_(wanted text) returns text language sql as $$
  select concat_ws(' ', state, reason) from purple_flea.jobs where reference = wanted
$$;
create function pg_temp.bet(id text) returns jsonb language sql as $$
  select jsonb_build_object('status', 'executed', 'game', 'crash', 'wager', 10, 'outcome', 'win', 'payout', 15, 'bet_id', id)
$$;

-- An application's trigger that refuses what we write back.
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('a', 'b', 1) returning 'escrow-' || id as escrow \gset
create temporary table late as select pg_temp.deposit('a') as one;
create temporary table claim as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
select is(jsonb_array_length(c -> 'jobs'), 2, 'an escrow and a deposit are under way') from claim;
create function pg_temp.refuses() returns trigger language plpgsql as $$begin raise exception 'not in my table'; end$$;
create trigger refuses before update on public.escrow_requests for each row execute function pg_temp.refuses();
update purple_flea.jobs set lease_until = now() - interval '1 second' where state = 'claimed';
select lives_ok('select purple_flea.expire(false)', 'a trigger that refuses stops no sweep');
select is(pg_temp.is_(one), 'unknown lease_ran_out', 'the other''s lease has ended') from late;
select is(pg_temp.is_(:'escrow'), 'claimed', 'the bad one waits alone');
select matches(t.why, 'not in my table', 'with the reason') from purple_flea.job_troubles t where t.reference = :'escrow';
select is(s.reason || ': ' || s.trouble, 'cannot_be_changed: P0001: not in my table', 'that an operator sees') from purple_flea.stuck_jobs s where s.reference = :'escrow';
select ok(public.ledger_health() -> 'why' ? 'cannot_be_changed', 'and health tells of');
select lives_ok($$select public.claim_jobs('{}', 10)$$, 'a claim goes on');
select lives_ok('select public.claim_lookups(10)', 'so does a look-up');
select is((select t.times from purple_flea.job_troubles t where t.reference = :'escrow'), 1, 'it is not tried again at once');
update purple_flea.job_troubles t set retry_at = now() - interval '1 second' where t.reference = :'escrow';
select purple_flea.expire(false);
select is((select t.times from purple_flea.job_troubles t where t.reference = :'escrow'), 2, 'but later');
drop trigger refuses on public.escrow_requests;
update purple_flea.job_troubles t set retry_at = now() - interval '1 second' where t.reference = :'escrow';
select purple_flea.expire(false);
select is(pg_temp.is_(:'escrow'), 'unknown lease_ran_out', 'once nothing refuses any more it goes on');
select is((select count(*)::int from purple_flea.job_troubles), 0, 'and its trouble is forgotten');

-- Settling: one outcome that cannot be recorded keeps none of the others from it.
create temporary table thirty as select pg_temp.deposit('a') as reference from generate_series(1, 30);
create temporary table token as select gen_random_uuid() as t;
select public.claim_jobs('{}', 100, t) from token;
create temporary table settled as select public.settle_jobs((
  select json_agg(json_build_object('reference', reference, 'token', t, 'state', 'executed', 'result',
    case n when 7 then '{"game": "crash", "wager": 10, "payout": 15, "outcome": "win", "nonce": 1e999999}'::json
           when 9 then to_json(pg_temp.bet('b9') || '{"game": "poker"}') else to_json(pg_temp.bet('b' || n)) end))
  from (select reference, row_number() over (order by reference) as n from thirty) as numbered, token), 2) as s;
select is((select count(*)::int from settled, jsonb_array_elements(s) as r where r ->> 'did' = 'settled'), 28, 'the others are settled');
select is((select array_agg(r ->> 'did' order by r ->> 'did') from settled, jsonb_array_elements(s) as r where r ->> 'did' <> 'settled'),
  array['not_readable', 'not_settled'], 'a number that no one can hold, and a game that is none, are told apart');
select is((select count(*)::int from public.trade_results t where t.bet_id like 'b%'), 28, 'with their rows');

-- A backlog of one agent, under everybody's daily limit.
update purple_flea.jobs set state = 'rejected', reason = 'test' where state = 'claimed';
update purple_flea.trade_policies set daily_wager_limit = 1000000 where agent_id is null;
insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) select 'busy', 'deposit', 100, 100 from generate_series(1, 1500);
create temporary table waiting as select pg_temp.deposit('quiet') as one;
create temporary table both_agents as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
select is((select array_agg(j #>> '{row,agent_id}' order by 1) from both_agents, jsonb_array_elements(c -> 'jobs') as j), array['busy', 'quiet'],
  'of each agent one job is handed out, however much another has waiting');
create temporary table named as select pg_temp.deposit('sleepy') as one;
select is(public.claim_jobs(array[one], 1, gen_random_uuid()) #>> '{jobs,0,reference}', one, 'and one that is asked for by its name') from named;
update purple_flea.trade_policies set daily_wager_limit = null where agent_id is null;

-- A backlog that is held back.
update purple_flea.jobs set state = 'rejected', reason = 'test' where state = 'claimed';
insert into purple_flea.trade_policies (agent_id, paused) values ('busy', true);
create temporary table behind as select pg_temp.deposit('quiet') as one, pg_temp.deposit('quiet') as two;
select is(public.claim_jobs('{}', 10, gen_random_uuid()) -> 'jobs' @> jsonb_build_array(jsonb_build_object('reference', one), jsonb_build_object('reference', two)), true,
  'what a pause holds back keeps no other waiting') from behind;
select ok(not purple_flea.is_due(), 'then nothing more is due');
select is((select n.jobs from purple_flea.not_executed() n where n.reason = 'paused'), 1000::bigint, 'health counts what is held back, to a thousand');

-- A claim that is later than its caller waits takes nothing.
create temporary table slow as select pg_temp.deposit('a') as one;
select is(public.claim_jobs('{}', 10, gen_random_uuid(), patience_ms => 0) -> 'jobs', '[]', 'a late claim takes nothing');
select is(pg_temp.is_(one), 'pending', 'and nothing happens to its job') from slow;
select is(jsonb_array_length(public.claim_jobs('{}', 10, gen_random_uuid(), patience_ms => 4000) -> 'jobs'), 1, 'one in time does');

-- Given up: before the claim, after it, in part, and after its lease.
update purple_flea.jobs set state = 'rejected', reason = 'test' where state = 'claimed';
create temporary table given as select pg_temp.deposit('a') as one, pg_temp.deposit('a') as two, gen_random_uuid() as early, gen_random_uuid() as late;
select is(public.abandon_claim(early), '{"gave_back": 0}', 'a claim can be given up before it arrives') from given;
select is(public.claim_jobs('{}', 10, early) -> 'jobs', '[]', 'then it takes nothing') from given;
select is(jsonb_array_length(public.claim_jobs('{}', 10, late) -> 'jobs'), 2, 'another takes both') from given;
select is(public.abandon_claim(late, array[one]), '{"gave_back": 1}', 'and gives one back') from given;
select is(pg_temp.is_(one), 'pending abandoned', 'which waits again') from given;
select is(pg_temp.is_(two), 'claimed', 'the other is still under way') from given;
select is(public.settle_job(two, late, 'executed', pg_temp.bet('late')) ->> 'did', 'settled', 'and is settled') from given;
update purple_flea.jobs j set lease_until = now() - interval '1 second' where j.state = 'claimed';
select is(public.claim_jobs('{}', 10, early) -> 'jobs', '[]', 'a given-up claim stays without jobs') from given;
create temporary table again as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
select is(c #>> '{jobs,0,reference}', one, 'what was given back is handed out') from again, given;
select public.abandon_claim((c ->> 'token')::uuid) from again;
select ok(j.due_at > clock_timestamp(), 'a second time it waits: nothing is due at once twice') from purple_flea.jobs j, given g where j.reference = g.one;
update purple_flea.jobs j set due_at = now() from given g where j.reference = g.one;
create temporary table third as select public.claim_jobs('{}', 10, gen_random_uuid()) as c;
update purple_flea.jobs j set lease_until = now() - interval '1 second' where j.state = 'claimed';
select purple_flea.expire(false);
select is(public.abandon_claim((c ->> 'token')::uuid), '{"gave_back": 0}', 'after its lease nothing is given back') from third;
select is(pg_temp.is_(one), 'unknown lease_ran_out', 'what was not known stays unknown') from given;

-- A version that the ledger does not speak.
create temporary table newer as select pg_temp.deposit('a') as one;
select is(c ->> 'mismatch', 'true', 'a newer function is told') from public.claim_jobs('{}', 10, protocol => 3) as c;
select is(public.claim_jobs('{}', 10, protocol => 0) -> 'jobs', '[]', 'and gets nothing');
select is(public.claim_lookups(10, 3), '[]', 'nor look-ups');
select is(pg_temp.is_(one), 'pending', 'its deposit waits') from newer;

-- The commit of a claim waits for the disk, whatever the database's default is.
set local synchronous_commit = off;
select public.claim_jobs('{}', 1);
select is(current_setting('synchronous_commit'), 'on', 'claims commit synchronously');
set local synchronous_commit = off;
select public.settle_jobs('[]');
select is(current_setting('synchronous_commit'), 'on', 'so do settlements');
set local synchronous_commit = local;
select public.abandon_claim(gen_random_uuid());
select is(current_setting('synchronous_commit'), 'local', 'what is safe already stays as it is');

-- Policies never raise, whatever a token says.
set local role authenticated;
set local request.jwt.claims = '{"sub": "auth0|no-uuid"}';
select lives_ok('select * from public.trade_results', 'a subject that is no uuid sees nothing, and raises nothing');
select is_empty('select * from public.wallet_changes', 'of nobody');
set local request.jwt.claims = 'no json';
select is_empty('select * from public.escrow_requests', 'neither do claims that are no JSON');
select is_empty('select * from public.agent_jobs', 'nor in the views');
reset role;

select * from finish();
rollback;
