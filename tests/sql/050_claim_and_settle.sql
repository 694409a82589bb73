-- What the function calls: claim_jobs, settle_job, settle_jobs, claim_lookups. As service_role where it matters.
begin;
-- Nobody is to be called, and each deposit would warn of that.
set local client_min_messages = error;
select * from no_plan();
-- Deposits alone are looked at here.
update purple_flea.trade_policies set claim_faucet = false;

insert into public.agents (id) values ('a'), ('limited'), ('asleep');
insert into purple_flea.trade_policies (agent_id, daily_wager_limit, daily_loss_limit, max_wager) values ('limited', 25, 15, 9.999);
insert into purple_flea.trade_policies (agent_id, paused) values ('asleep', true);
create function pg_temp.deposit(agent text, balance numeric default 100) returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values (agent, 'deposit', balance, balance)
  returning 'wallet-change-' || id
$$;
create function pg_temp.state_of(wanted text) returns text language sql as $$select state from purple_flea.jobs where reference = wanted$$;
create function pg_temp.claims(reference text, claim uuid) returns jsonb language sql as $$select public.claim_jobs(array[reference], 1, claim)$$;
create function pg_temp.later(wanted text, by_how_much interval) returns void language sql as $$
  update purple_flea.jobs set lease_until = lease_until - by_how_much, claimed_at = claimed_at - by_how_much, due_at = due_at - by_how_much,
    lookup_at = lookup_at - by_how_much, expires_at = expires_at - by_how_much, created_at = created_at - by_how_much
  where reference = wanted;
  update purple_flea.pauses set held = tstzrange(lower(held) - by_how_much, upper(held)) where upper_inf(held) or upper(held) > clock_timestamp();
  update purple_flea.rate_stops set until = until - by_how_much
$$;
create temporary table tokens (name text primary key, token uuid default gen_random_uuid());
insert into tokens (name) values ('one'), ('two'), ('three'), ('four'), ('five'), ('six'), ('seven'), ('eight'), ('nine');
create function pg_temp.t(wanted text) returns uuid language sql as $$select token from tokens where name = wanted$$;
create function pg_temp.bet(wager numeric, id text) returns jsonb language sql as $$
  select jsonb_build_object('status', 'executed', 'game', 'crash', 'wager', wager, 'outcome', 'win', 'payout', wager * 1.5, 'bet_id', id)
$$;

-- Claiming freezes and leases.
create temporary table d as select pg_temp.deposit('a', 123.45) as one;
create temporary table first_claim as select pg_temp.claims(one, pg_temp.t('one')) as c from d;
select is(c #>> '{jobs,0,reference}', one, 'a due job is claimed') from first_claim, d;
select is(c #>> '{jobs,0,row,new_balance}', '123.4500', 'with its row frozen, to the digit') from first_claim;
select is(c #>> '{jobs,0,policy,wager_fraction}', '0.100000', 'and its policy') from first_claim;
select is(c #>> '{jobs,0,stake}', '12.3500', 'and the most that it can cost') from first_claim;
select ok((c ->> 'lease_ms')::int between 29000 and 30000, 'for half a minute') from first_claim;
select is(c #>> '{answers,0,state}', 'claimed', 'and the caller is told') from first_claim;
select is(pg_temp.claims(one, pg_temp.t('one')) #>> '{jobs,0,reference}', one, 'asked again by the same claim it is handed out again') from d;
select is((select attempts from purple_flea.jobs, d where reference = one), 1, 'without counting as an attempt');
select is(pg_temp.claims(one, pg_temp.t('two')) #>> '{answers,0,state}', 'in_flight', 'for another claim it is in flight') from d;
select throws_ok('select public.claim_jobs(array[]::text[], 101)', '22023', null, 'a claim takes at most 100');
select throws_ok('select public.claim_jobs(array[]::text[], -1)', '22023', null, 'and no fewer than none');
select is(public.claim_jobs(array['nobody', 'wallet-change-0']) -> 'answers' -> 1 ->> 'state', 'not_found', 'every reference is answered for');

-- Settling: once or twice is the same.
select is(public.settle_job(one, pg_temp.t('one'), 'executed', pg_temp.bet(12.35, 'b1')) ->> 'did', 'settled', 'the claimant settles') from d;
select is(public.settle_job(one, pg_temp.t('one'), 'executed', pg_temp.bet(12.35, 'b1')) ->> 'did', 'settled_before', 'and again without effect') from d;
select results_eq('select agent_id, game, wager, outcome, payout, bet_id from public.trade_results join d on reference = one',
  $$values ('a', 'crash', 12.3500::numeric(12,4), 'win', 18.5250::numeric(12,4), 'b1')$$, 'trade_results has the outcome once');
select is(pg_temp.claims(one, pg_temp.t('two')) #>> '{answers,0,result,bet_id}', 'b1', 'who asks later gets the outcome') from d;
select is(public.settle_job(one, pg_temp.t('one'), 'executed', pg_temp.bet(12.35, 'b2')) ->> 'did', 'conflict', 'another bet on it is a conflict') from d;
select is(public.settle_job(one, gen_random_uuid(), 'executed', pg_temp.bet(12.35, 'b3')) ->> 'did', 'unknown_token', 'a token that nobody got is refused') from d;
select is(public.settle_job('nobody', gen_random_uuid(), 'executed', '{}') ->> 'did', 'not_found', 'so is a job that is not there');
select throws_ok($$select public.settle_job('x', gen_random_uuid(), 'dead', '{}')$$, '22023', null, 'nobody settles to dead');
select throws_ok($$select public.settle_job('x', gen_random_uuid(), 'executed', '[]')$$, '22023', null, 'nor without a result');

-- A claim that runs out; its late answer; the next claimant and the last one's outcome.
create temporary table late as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('two')) from late;
select pg_temp.later(one, '31 seconds') from late;
select is(pg_temp.claims(one, pg_temp.t('three')) #>> '{answers,0,state}', 'unknown', 'a lease that ran out leaves nobody knowing') from late;
select is(public.settle_job(one, pg_temp.t('two'), 'rejected', '{"reason": "no"}') ->> 'did', 'too_late', 'a late refusal is kept, and an operator decides') from late;
select is(public.settle_job(one, pg_temp.t('two'), 'executed', pg_temp.bet(10, 'b4')) ->> 'did', 'settled', 'a late bet is the truth') from late;
select is(pg_temp.state_of(one), 'executed', 'and settles it') from late;

create temporary table again as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('seven')) from again;
select is(public.settle_job(one, pg_temp.t('seven'), 'pending', '{"reason": "rate_limited", "retry_after_s": 7}') ->> 'did', 'settled', 'what was not executed waits') from again;
select ok(due_at between clock_timestamp() + interval '6.9 seconds' and clock_timestamp() + interval '10.6 seconds', 'as long as it was told, and a little by chance')
from purple_flea.jobs, again where reference = one;
select is(pg_temp.claims(one, pg_temp.t('three')) #>> '{answers,0,state}', 'waiting', 'and is not claimed before') from again;
select pg_temp.later(one, '1 minute') from again;
select is(pg_temp.claims(one, pg_temp.t('three')) #>> '{answers,0,state}', 'claimed', 'but then') from again;
select is(public.settle_job(one, pg_temp.t('seven'), 'executed', pg_temp.bet(10, 'b5')) ->> 'did', 'conflict', 'a bet of an earlier claimant is a conflict') from again;
select is(pg_temp.state_of(one), 'claimed', 'and changes nothing') from again;
select is(e.detail ->> 'bet_id', 'b5', 'but is kept with its bet') from purple_flea.job_events e, again where reference = one and kind = 'conflict';
select ok((public.ledger_health() ->> 'alarms')::int >= 1, 'and is an alarm');

-- An outcome that cannot be recorded is kept, and keeps nobody else's.
create temporary table broken as select pg_temp.deposit('a') as one, pg_temp.deposit('a') as two;
select public.claim_jobs(array[one, two], 2, pg_temp.t('four')) from broken;
select results_eq(
  format($$select did from jsonb_to_recordset(public.settle_jobs(%L::json)) as r (did text)$$, jsonb_build_array(
    jsonb_build_object('reference', one, 'token', pg_temp.t('four'), 'state', 'executed', 'result', pg_temp.bet(10, 'b6') || '{"game": "poker"}'),
    jsonb_build_object('reference', one, 'token', 'nonsense', 'state', 'executed', 'result', '{}'::jsonb),
    jsonb_build_object('reference', two, 'token', pg_temp.t('four'), 'state', 'executed', 'result', pg_temp.bet(10, 'b7')))),
  array['not_settled', 'not_readable', 'settled'], 'one that fails does not touch the others') from broken;
select is(result ->> 'bet_id', 'b6', 'its outcome is in the job') from purple_flea.jobs, broken where reference = one;
select is(pg_temp.state_of(two), 'executed', 'the other is settled') from broken;
select throws_ok($$select public.settle_jobs('{}')$$, '22023', null, 'outcomes are an array');

-- A pause here, or in the settings of the function (a limit of 0).
create temporary table asleep as select pg_temp.deposit('asleep') as one;
select is(pg_temp.claims(one, pg_temp.t('five')) #>> '{answers,0,reason}', 'paused', 'a paused agent''s job waits') from asleep;
create temporary table held as select one, pg_temp.deposit('a') as two from asleep;
select is(public.claim_jobs(array[two], 0) #>> '{answers,0,reason}', 'paused', 'so does everybody''s when the function is paused') from held;
select is(jsonb_array_length(public.claim_jobs(array[two], 0) -> 'jobs'), 0, 'and nothing is claimed') from held;
select pg_temp.later(one, '25 hours'), pg_temp.later(two, '25 hours') from held;
select public.claim_jobs(array[two], 0) from held;
select is(array[pg_temp.state_of(one), pg_temp.state_of(two)], array['pending', 'pending'], 'a pause condemns nothing') from held;
update purple_flea.jobs set expires_at = clock_timestamp() - interval '1 second' where reference = (select two from held);
select is(public.claim_jobs(array[two], 1, pg_temp.t('six')) #>> '{answers,0,state}', 'dead', 'only age does') from held;
update purple_flea.trade_policies set paused = true where agent_id is null;
select pg_temp.deposit('a');
select is(jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs'), 0, 'everybody''s pause holds everybody back');
update purple_flea.trade_policies set paused = false where agent_id is null;
select public.claim_jobs('{}', 100);

-- A daily limit: one at a time, and what was spent is handed out.
create temporary table few as select pg_temp.deposit('limited') as one, pg_temp.deposit('limited') as two;
create temporary table few_claim as select public.claim_jobs(array[one, two], 10, pg_temp.t('five')) as c from few;
select is(jsonb_array_length(c -> 'jobs'), 1, 'of an agent with a limit one job is claimed at a time') from few_claim;
select is(c #> '{jobs,0,spent}', '{"wagered": 0, "lost": 0, "open": 0}', 'with what was spent today') from few_claim;
select is(c ->> 'more', 'true', 'and the word that there is more') from few_claim;
select is(c #>> '{jobs,0,stake}', '9.9900', 'no more is staked than the policy allows') from few_claim;
select is(jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs'), 0, 'and no other while it is under way');
select throws_ok(format($$update purple_flea.jobs set state = 'claimed', changed_by = 'worker', token = gen_random_uuid(), claimed_at = now(),
  lease_until = now(), request = '{}', policy = '{}', bet_day = current_date, limited = true where reference = %L$$, two),
  '23505', null, 'not even by hand') from few;
select public.settle_job(one, pg_temp.t('five'), 'executed', pg_temp.bet(9.99, 'b8') || '{"outcome": "loss", "payout": 0}') from few;
create temporary table second_claim as select public.claim_jobs(array[two], 10, pg_temp.t('six')) as c from few;
select is(c #> '{jobs,0,spent}', '{"wagered": 9.9900, "lost": 9.9900, "open": 0}', 'what is settled counts') from second_claim;
select pg_temp.later(two, '31 seconds'), pg_temp.deposit('limited') from few;
select is(public.claim_jobs('{}', 10) #> '{jobs,0,spent}', '{"wagered": 9.9900, "lost": 9.9900, "open": 9.9900}', 'what is unknown counts as its worst');

-- The stake is the function's own formula.
select is(purple_flea.stake(balance, p), expected, format('of %s', balance))
from (values (100, 10.00), (5.05, 0.51), (5.0499, 0.50), (12345678.1235, 1234567.81), (0.04, 0), (null, 0)) as c (balance, expected),
     purple_flea.trade_policies p where p.agent_id is null;

-- Looking up.
create temporary table lost as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000a') from lost;
select public.settle_job(one, '00000000-0000-4000-8000-00000000000a', 'unknown', '{"reason": "timed_out"}') from lost;
select is(public.claim_lookups(50), '[]', 'nothing is looked up before its lease and the longest exchange are over');
select pg_temp.later(one, '102 seconds') from lost;
select is(public.claim_lookups(50), '[]', 'not a second earlier');
select pg_temp.later(one, '2 seconds') from lost;
create temporary table looking as select public.claim_lookups(50) as c;
select is(c #>> '{0,reference}', one, 'then it is handed out') from looking, lost;
select is(public.claim_lookups(50), '[]', 'to one at a time');
select is(public.settle_job(one, (c #>> '{0,token}')::uuid, 'unknown', '{"reason": "not_found"}') ->> 'did', 'settled', 'looked for in vain') from looking, lost;
select is(pg_temp.state_of(one), 'unknown', 'it stays unknown: that proves nothing') from lost;
select ok(lookup_at > clock_timestamp() + interval '90 seconds', 'and is looked for again, later and later') from purple_flea.jobs, lost where reference = one;
select is(public.settle_job(one, (c #>> '{0,token}')::uuid, 'pending', '{"reason": "x"}') ->> 'did', 'too_late', 'no worker releases it') from looking, lost;

-- Operators.
select throws_like(format('select purple_flea.release_job(%L, %L)', one, 'why'), '%not unknown%', 'only what is unknown is released') from again;
create temporary table fresh as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000b') from fresh;
select public.settle_job(one, '00000000-0000-4000-8000-00000000000b', 'unknown', '{"reason": "timed_out"}') from fresh;
select throws_like(format('select purple_flea.release_job(%L, %L)', one, 'why'), '%may still be under way%', 'and not while its claimant may be at work') from fresh;
select pg_temp.later(one, '2 minutes') from fresh;
select isnt_empty(format('select from purple_flea.stuck_jobs where reference = %L', one), 'what is unknown is shown to operators') from fresh;
select lives_ok(format('select purple_flea.release_job(%L, %L)', one, 'looked at Purple Flea'), 'an operator releases it') from fresh;
select is(pg_temp.state_of(one), 'pending', 'to be bet on again') from fresh;
select results_eq(format($$select changed_by, detail ->> 'why' from purple_flea.job_events where reference = %L order by id desc limit 1$$, one),
  $$values ('operator', 'looked at Purple Flea')$$, 'and is named for it') from fresh;
select lives_ok(format('select purple_flea.close_job(%L, %L)', one, 'nothing there'), 'or closes it') from lost;
select is(pg_temp.state_of(one), 'rejected', 'without a bet') from lost;
create temporary table found as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000c') from found;
select pg_temp.later(one, '2 minutes') from found;
select purple_flea.expire(false);
select lives_ok(format('select purple_flea.record_bet(%L, %L, 10.00, true, 15.00)', one, 'b9'), 'or records the bet that was found') from found;
select is(payout, 15.0000, 'with its row of trade_results') from public.trade_results, found where reference = one;
select throws_like(format('select purple_flea.retry_job(%L)', one), '%not pending%', 'only what is pending is tried again') from found;

-- A token serves one claim: asked again when all is settled, it takes nothing more.
create temporary table once as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('eight')) from once;
select public.settle_job(one, pg_temp.t('eight'), 'skipped', '{"reason": "test"}') from once;
select pg_temp.deposit('a');
select is(pg_temp.claims(one, pg_temp.t('eight')) -> 'jobs', '[]', 'a claim that was settled takes nothing more') from once;
select public.claim_jobs('{}', 100);

-- A bet that turns out to have been made on a job that was released: it must not be bet on again.
create temporary table hasty as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, pg_temp.t('nine')) from hasty;
select pg_temp.later(one, '2 minutes') from hasty;
select purple_flea.expire(false);
select purple_flea.release_job(one, 'too hasty') from hasty;
select is(public.settle_job(one, pg_temp.t('nine'), 'executed', pg_temp.bet(10, 'b10')) ->> 'did', 'settled', 'the late answer of a released job') from hasty;
select is(pg_temp.state_of(one), 'executed', 'keeps it from being bet on again') from hasty;
select isnt(bet_day, null, 'and counts on its day') from purple_flea.jobs, hasty where reference = one;

-- A wait that nobody can mean.
create temporary table patient as select pg_temp.deposit('a') as one;
select pg_temp.claims(one, '00000000-0000-4000-8000-00000000000d') from patient;
select public.settle_job(one, '00000000-0000-4000-8000-00000000000d', 'pending', '{"reason": "x", "retry_after_s": 1e12}') from patient;
select ok(due_at < clock_timestamp() + interval '2 hours', 'is cut to what anybody could') from purple_flea.jobs, patient where reference = one;

-- The sweeper.
alter table public.wallet_changes disable trigger purple_flea_jobs;
create temporary table missing as select pg_temp.deposit('a') as one;
alter table public.wallet_changes enable trigger purple_flea_jobs;
select is(pg_temp.state_of(one), null, 'a deposit without a job') from missing;
select matches(purple_flea.sweep(), '^not notified|^notified', 'is made one by the sweeper');
select is(pg_temp.state_of(one), 'pending', 'and waits for its turn') from missing;
update purple_flea.ledger set starts_after = (select max(id) from public.wallet_changes), checked_until = (select max(id) from public.wallet_changes);
alter table public.wallet_changes disable trigger purple_flea_jobs;
create temporary table older as select pg_temp.deposit('a') as one;
alter table public.wallet_changes enable trigger purple_flea_jobs;
update purple_flea.ledger set starts_after = starts_after + 1;
select purple_flea.make_missing_jobs(1);
select is(pg_temp.state_of(one), null, 'a deposit from before the ledger gets none') from older;
select is(public.ledger_health() ->> 'sweeper', 'ok', 'who sweeps is seen');
update purple_flea.ledger set swept_at = clock_timestamp() - interval '4 minutes';
select is(public.ledger_health() ->> 'sweeper', 'missing', 'who does not is missed');

select * from finish();
rollback;
