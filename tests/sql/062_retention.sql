-- Retention: a settled job is archived with all its rows, and stays as final as before. Every
-- caller gets the same answers, and no deposit is bet on again.
begin;
-- No function is called here, and each row would warn of that.
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false;

insert into public.agents (id, owner_id)
values ('a', '00000000-0000-0000-0000-000000000001'), ('b', null);
create function pg_temp.deposit(agent text default 'a') returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
  values (agent, 'deposit', 100, 100)
  returning 'wallet-change-' || id
$$;
create function pg_temp.bet(id text) returns jsonb language sql as $$
  select jsonb_build_object(
    'status', 'executed',
    'game', 'crash',
    'wager', 10,
    'outcome', 'win',
    'payout', 15,
    'bet_id', id
  )
$$;
create function pg_temp.claim(wanted text) returns uuid language sql as $$
  select (public.claim_jobs(array[wanted], 1) ->> 'token')::uuid
$$;
create function pg_temp.settle(wanted text, token uuid, state text, result jsonb) returns text
  language sql
as $$
  select public.settle_job(wanted, token, state, result) ->> 'did'
$$;
create function pg_temp.asked(wanted text) returns jsonb language sql as $$
  select public.claim_jobs(array[wanted], 10) #> '{answers,0}'
$$;
-- Makes a job's last change older. (The guard lets no role do this.)
create function pg_temp.age(wanted text, by_how_much interval) returns void language plpgsql as $$
begin
  alter table purple_flea.jobs disable trigger jobs_guard;
  update purple_flea.jobs set changed_at = changed_at - by_how_much where reference = wanted;
  alter table purple_flea.jobs enable trigger jobs_guard;
end;
$$;
create function pg_temp.is_hot(wanted text) returns boolean language sql as $$
  select exists (select from purple_flea.jobs where reference = wanted)
$$;
create function pg_temp.is_archived(wanted text) returns boolean language sql as $$
  select exists (select from purple_flea.jobs_archive where reference = wanted)
$$;

-- A deposit for each state.
create temporary table d (name text primary key, reference text, token uuid);
insert into d
select name, pg_temp.deposit()
from unnest(
  array['executed', 'skipped', 'rejected', 'dead', 'unknown', 'young', 'pending']
) as name;
update purple_flea.jobs j
set due_at = 'infinity'
from d
where d.name in ('dead', 'pending') and j.reference = d.reference;
update d set token = pg_temp.claim(reference) where name not in ('dead', 'pending');
select pg_temp.settle(
  reference,
  token,
  state,
  pg_temp.bet(name) || jsonb_build_object('reason', 'test')
)
from d
cross join lateral (select case name when 'young' then 'executed' else name end as state) as s
where name not in ('dead', 'pending');
update purple_flea.jobs j
set state = 'dead', changed_by = 'sweeper', reason = 'too_old'
from d
where d.name = 'dead' and j.reference = d.reference;
select pg_temp.age(reference, interval '7 days 1 second') from d where name <> 'young';
select pg_temp.age(reference, interval '6 days 23 hours') from d where name = 'young';
create temporary table was as
  select
    reference,
    to_jsonb(j) as job,
    (
      select jsonb_agg(to_jsonb(e) order by id)
      from purple_flea.job_events e
      where e.reference = j.reference
    ) as events
  from purple_flea.jobs j;
-- A slot that was not removed, and jobs of kinds that are never archived.
insert into purple_flea.rate_slots (reference, token, call, account, held_until, within)
select reference, token, 'crash', '', now() - interval '7 days', '60 seconds'
from d
where name = 'executed';
select purple_flea.make_agent_job('faucet', 'a', 'faucet-a');
select pg_temp.settle('faucet-a', pg_temp.claim('faucet-a'), 'rejected', '{"reason": "test"}');
insert into public.escrow_requests (sender_id, receiver_id, amount) values ('a', 'b', 1);
create temporary table escrow as select reference from purple_flea.jobs where kind = 'escrow';
select pg_temp.settle(reference, pg_temp.claim(reference), 'rejected', '{"reason": "test"}')
from escrow;
select pg_temp.age('faucet-a', '100 days'), pg_temp.age(reference, '100 days') from escrow;
select is(state, 'rejected', reference || ' is settled')
from purple_flea.jobs
where kind in ('faucet', 'escrow');

select throws_ok('select purple_flea.archive_jobs(0)', '22023', null, 'a batch has a job at least');
select throws_ok('select purple_flea.archive_jobs(10001)', '22023', null, 'and a limit');
select throws_ok(
  'select purple_flea.archive_jobs(null)',
  '22023',
  null,
  'and null is no limit'
);
select is(purple_flea.archive_jobs(1), 1, 'no more are archived than asked for');
select is(purple_flea.archive_jobs(), 3, 'all that is settled for 7 days is archived');
select is(purple_flea.archive_jobs(), 0, 'once');
select is(
  (pg_temp.is_hot(reference), pg_temp.is_archived(reference)),
  (name in ('unknown', 'young', 'pending'), name in ('executed', 'skipped', 'rejected', 'dead')),
  format('%s: is in one of the two', name)
)
from d;
select ok(pg_temp.is_hot(reference), 'what is once for each agent or escrow stays: ' || reference)
from (select 'faucet-a' as reference union all select reference from escrow) as kept;
select is(
  (select to_jsonb(a) from purple_flea.jobs_archive a where a.reference = d.reference),
  was.job,
  format('%s: the archive has the whole row', name)
)
from d
join was using (reference)
where pg_temp.is_archived(d.reference);
select is(
  (
    select jsonb_agg(to_jsonb(e) order by id)
    from purple_flea.job_events_archive e
    where e.reference = d.reference
  ),
  was.events,
  format('%s: and its whole history', name)
)
from d
join was using (reference)
where pg_temp.is_archived(d.reference);
select is_empty(
  $$select reference from purple_flea.job_events where not pg_temp.is_hot(reference)$$,
  'which is nowhere else'
);
select is_empty('select reference from purple_flea.rate_slots', 'a slot goes with its job');
select isnt_empty(
  $$select from public.trade_results t join d using (reference) where d.name = 'executed'$$,
  'the rows that users read stay'
);

-- A second request.
select is(
  pg_temp.asked(reference) ->> 'state',
  name,
  format('%s: a second notification gets the same state', name)
)
from d
where pg_temp.is_archived(reference);
select is(pg_temp.asked(reference) #>> '{result,bet_id}', 'executed', 'with the outcome')
from d
where name = 'executed';
select is(pg_temp.asked(reference) ->> 'reason', 'too_old', 'or the reason')
from d
where name = 'dead';
create temporary table counted as select count(*) from purple_flea.jobs;
select is(purple_flea.make_missing_jobs(), 0, 'the sweeper misses nothing that is archived');
select is(purple_flea.make_missing_jobs(1), 0, 'from however far back it looks');
select throws_ok(
  format(
    $$
      insert into purple_flea.jobs (
        reference, idempotency_key, wallet_change_id, agent_id, expires_at
      )
      select %s, 'other', wallet_change_id, agent_id, now()
      from purple_flea.jobs_archive
      where reference = %L
    $$,
    other,
    reference
  ),
  '23505',
  null,
  'a job of an archived deposit is not made again: as ' || other
)
from d, unnest(array['reference', '''other''']) as other
where name = 'executed';
select is(count(*), (select count from counted), 'and there are as many jobs as before')
from purple_flea.jobs;

-- A late settlement.
select is(
  pg_temp.settle(reference, token, 'executed', pg_temp.bet('executed')),
  'settled_before',
  'the same outcome again has been settled before'
)
from d
where name = 'executed';
select is(
  pg_temp.settle(reference, token, 'executed', pg_temp.bet('second')),
  'conflict',
  'another bet is a conflict'
)
from d
where name = 'executed';
select is(
  pg_temp.settle(reference, token, 'executed', pg_temp.bet('third')),
  'conflict',
  'so is one on what was refused'
)
from d
where name = 'rejected';
select is(
  pg_temp.settle(reference, token, 'rejected', '{"reason": "no"}'),
  'too_late',
  'a refusal is too late'
)
from d
where name = 'skipped';
select is(
  pg_temp.settle(reference, gen_random_uuid(), 'executed', pg_temp.bet('fourth')),
  'unknown_token',
  'an unknown token is refused'
)
from d
where name = 'executed';
select is(
  public.settle_job(reference, token, 'executed', pg_temp.bet('executed')) ->> 'state',
  'executed',
  'the state is told'
)
from d
where name = 'executed';
select bag_eq(
  $$
    select d.name, e.kind, e.detail ->> 'bet_id'
    from purple_flea.job_events_archive e
    join d using (reference)
    where e.kind <> 'transition'
  $$,
  $$
    values
      ('executed', 'conflict', 'second'), ('rejected', 'conflict', 'third'),
      ('skipped', 'late_answer', null)
  $$,
  'each is kept, with its bet'
);
select is((public.ledger_health() ->> 'alarms')::int, 2, 'and is an alarm where it is one');
select bag_eq(
  'select d.name, s.state from purple_flea.stuck_jobs s join d using (reference) where s.alarm',
  $$values ('executed', 'executed'), ('rejected', 'rejected')$$,
  'which operators are shown'
);
-- (A later event has a higher number, in either table.)
select ok(
  (select max(id) from purple_flea.job_events_archive)
    > (select max(id) from purple_flea.job_events),
  'in the order in which it came'
);

-- Outcomes of an earlier claimant.
create temporary table twice (reference text, first uuid, second uuid);
insert into twice select pg_temp.deposit();
update twice set first = pg_temp.claim(reference);
select pg_temp.settle(reference, first, 'pending', '{"reason": "out_of_time"}') from twice;
update twice set second = pg_temp.claim(reference);
select pg_temp.settle(reference, second, 'executed', pg_temp.bet('b')) from twice;
select pg_temp.age(reference, '8 days') from twice;
select is(purple_flea.archive_jobs(), 1, 'a job of two claims is archived');
select is(
  pg_temp.settle(reference, first, 'executed', pg_temp.bet('c')),
  'conflict',
  'a bet of the earlier claimant is a conflict'
)
from twice;
select is(
  pg_temp.settle(reference, first, 'rejected', '{}'),
  'late_answer',
  'anything else of it is a late answer'
)
from twice;

-- Requested jobs.
create function pg_temp.trade(reference text, size text default '25.00') returns jsonb
  language sql
as $$
  select public.request_job(
    'trade',
    reference,
    jsonb_build_object('agent_id', 'a', 'market', 'BTC', 'direction', 'long', 'size', size)
  )
$$;
select pg_temp.trade('by-hand');
select pg_temp.settle(
  'by-hand',
  pg_temp.claim('by-hand'),
  'executed',
  '{"market": "BTC", "direction": "long", "wager": 25, "order_id": "o"}'
);
select
  public.request_job('balance', 'a-look', '{"agent_id": "a"}'),
  public.request_job('daily_claim', 'a-claim', '{"agent_id": "a"}');
select pg_temp.settle(r, pg_temp.claim(r), 'executed', '{}')
from unnest(array['a-look', 'a-claim']) as r;
select pg_temp.age(r, '8 days') from unnest(array['by-hand', 'a-look', 'a-claim']) as r;
select is(purple_flea.archive_jobs(), 3, 'requested jobs are archived');
select is(
  pg_temp.trade('by-hand'),
  '{"reference": "by-hand"}',
  'the same order again is the one that was done'
);
select is(pg_temp.asked('by-hand') #>> '{result,order_id}', 'o', 'and its outcome is told');
select is(
  pg_temp.trade('by-hand', '26.00'),
  '{"refused": "reference_taken"}',
  'another one has to be called otherwise'
);
select is(
  public.request_job('balance', 'a-look', '{"agent_id": "a"}'),
  '{"reference": "a-look"}',
  'the same look at a balance is the one that was had'
);
select is(
  public.request_job('daily_claim', 'a-claim', '{"agent_id": "a"}'),
  '{"reference": "a-claim"}',
  'the same claim of the day, too'
);
select is(
  public.request_job('balance', 'a-look', '{"agent_id": "b"}'),
  '{"refused": "reference_taken"}',
  'another agent''s is refused'
);
select is(
  purple_flea.make_agent_job('balance', 'b', 'a-look'),
  'balance.1-b',
  'a job of the ledger''s own gets another name'
);
select is_empty(
  $$select from purple_flea.jobs where reference in ('by-hand', 'a-look', 'a-claim')$$,
  'none of it is done again'
);
-- The number in its name counts on from the archived ones.
select pg_temp.settle('balance.1-b', pg_temp.claim('balance.1-b'), 'executed', '{}');
select pg_temp.age('balance.1-b', '8 days'), purple_flea.archive_jobs();
select is(
  purple_flea.make_agent_job('balance', 'b', 'a-look'),
  'balance.2-b',
  'and the next one another'
);
update purple_flea.jobs set due_at = 'infinity' where reference = 'balance.2-b';

-- Rows that must stay.
select throws_ok(
  format('delete from public.wallet_changes where ''wallet-change-'' || id = %L', reference),
  '23503',
  null,
  'a deposit whose job is archived is not deleted'
)
from d
where name = 'dead';
select throws_ok(
  format(
    'update public.wallet_changes set agent_id = ''b'' where ''wallet-change-'' || id = %L',
    reference
  ),
  '23514',
  null,
  'nor does it become another agent''s'
)
from d
where name = 'dead';
select throws_like(
  format('delete from purple_flea.jobs_archive where reference = %L', reference),
  '%is archived as it was%',
  'an archived job is not forgotten'
)
from d
where name = 'dead';
select throws_like(
  format('update purple_flea.jobs_archive set state = ''skipped'' where reference = %L', reference),
  '%is archived as it was%',
  'nor changed'
)
from d
where name = 'dead';
select throws_like(
  'truncate purple_flea.jobs_archive cascade',
  '%cannot be emptied%',
  'nor are all of them'
);
select throws_like(
  format('delete from purple_flea.jobs where reference = %L', reference),
  '%cannot be deleted%',
  format('%s: what is not archived is not deleted', name)
)
from d
where pg_temp.is_hot(reference);
select throws_ok(
  format(
    'insert into purple_flea.jobs_archive select * from purple_flea.jobs where reference = %L',
    reference
  ),
  '23514',
  null,
  format('%s: what is not settled is not archived', name)
)
from d
where name in ('unknown', 'pending');
select throws_like(
  format('select purple_flea.%s', call),
  '%not unknown%',
  'an archived job is settled for operators, too: ' || call
)
from
  d,
  unnest(
    array[
      format('release_job(%L, ''why'')', reference),
      format('close_job(%L, ''why'')', reference),
      format('record_bet(%L, ''b'', 1, true, 2)', reference)
    ]
  ) as call
where name = 'executed';
select throws_like(
  format('select purple_flea.retry_job(%L)', reference),
  '%is not pending%',
  'and is not tried again'
)
from d
where name = 'rejected';
select results_eq(
  format(
    $$
      select to_state
      from purple_flea.all_job_events
      where kind = 'transition' and reference = %L
      order by id
    $$,
    reference
  ),
  array['pending', 'claimed', 'executed'],
  'its history is in the view of all histories'
)
from d
where name = 'executed';

-- How long.
select throws_ok(
  'update purple_flea.ledger set archive_after = interval ''47 hours''',
  '23514',
  null,
  'nothing is archived that may yet be spoken of'
);
select throws_ok(
  'update purple_flea.ledger set archive_after = null',
  '23502',
  null,
  'nor at once'
);
update purple_flea.ledger set archive_after = '6 days';
select is(purple_flea.archive_jobs(), 1, 'operators say how long');

-- The sweeper.
update purple_flea.ledger set archive_after = '2 days';
insert into d select name, pg_temp.deposit() from unnest(array['swept', 'stays']) as name;
update d set token = pg_temp.claim(reference) where name in ('swept', 'stays');
select
  pg_temp.settle(reference, token, 'skipped', '{"reason": "test"}'),
  pg_temp.age(reference, '3 days')
from d
where name in ('swept', 'stays');
alter table purple_flea.jobs_archive add constraint broken check (reference is null) not valid;
select lives_ok(
  'select purple_flea.sweep()',
  'an archive that takes nothing does not keep the sweeper'
);
select is(swept_at > now() - interval '1 minute', true, 'from sweeping') from purple_flea.ledger;
select ok(pg_temp.is_hot(reference), 'and loses nothing') from d where name = 'swept';
alter table purple_flea.jobs_archive drop constraint broken;
select purple_flea.sweep();
select ok(pg_temp.is_archived(reference) and not pg_temp.is_hot(reference), 'the sweeper archives')
from d
where name = 'swept';

-- A restore brings back jobs that have been archived since: once as they are archived, once as they
-- were before.
alter table purple_flea.jobs disable trigger user;
insert into purple_flea.jobs
select a.*
from purple_flea.jobs_archive a
join d using (reference)
where d.name in ('swept', 'stays', 'executed');
update purple_flea.jobs j
set state = 'pending', previous_state = null, due_at = now(), expires_at = now() + interval '1 day'
from d
where d.name = 'executed' and j.reference = d.reference;
update purple_flea.jobs j
set reason = 'otherwise'
from d
where d.name = 'stays' and j.reference = d.reference;
alter table purple_flea.jobs enable trigger user;
insert into d values ('next', pg_temp.deposit());
select is(
  jsonb_array_length(public.claim_jobs('{}', 1) -> 'jobs'),
  0,
  'an executed job is not claimed again after a restore'
);
select is((state, reason)::text, '(dead,done_before)', 'but put out of the way')
from purple_flea.jobs
join d using (reference)
where name = 'executed';
select is(
  pg_temp.settle(reference, token, 'executed', pg_temp.bet('another')),
  'conflict',
  'nor settled twice: another bet is an alarm'
)
from d
where name = 'executed';
create temporary table unasked as select public.claim_jobs('{}', 1) as c;
select is(
  c #>> '{jobs,0,reference}',
  reference,
  'and the job behind it is claimed without being named'
)
from unasked, d
where name = 'next';
update d set token = (select (c ->> 'token')::uuid from unasked) where name = 'next';
select
  pg_temp.settle(reference, token, 'skipped', '{"reason": "test"}'),
  pg_temp.age(reference, '2 days 1 minute')
from d
where name = 'next';
select is(purple_flea.archive_jobs(2), 2, 'identical jobs are archived again');
select is(
  array_agg(pg_temp.is_hot(reference) order by name),
  array[true, false, true, false],
  'the others stay visible, and block no other job'
)
from d
where name in ('executed', 'next', 'stays', 'swept');
select is(count(*)::int, 1, 'and is archived once')
from purple_flea.jobs_archive
join d using (reference)
where name = 'swept';

-- The roles that may.
select throws_ok(
  'delete from public.agents where id = ''a''',
  '23503',
  null,
  'an agent with archived jobs stays'
);
create function pg_temp.tries(who text, what text) returns text language plpgsql as $$
begin
  execute format('set local role %I', who);
  execute what;
  reset role;
  return 'allowed';
exception when others then
  reset role;
  return sqlstate;
end;
$$;
select is(pg_temp.tries(who, what), '42501', format('%s may not: %s', who, what))
from
  unnest(array['anon', 'authenticated', 'service_role', 'purple_flea_worker']) as who,
  unnest(
    array[
      'select purple_flea.archive_jobs()', 'select from purple_flea.jobs_archive',
      'select from purple_flea.job_events_archive', 'select from purple_flea.all_jobs',
      'select from purple_flea.all_job_events',
      'insert into purple_flea.jobs_archive default values',
      'delete from purple_flea.jobs_archive', 'delete from purple_flea.job_events_archive',
      'truncate purple_flea.jobs_archive cascade',
      'update purple_flea.ledger set archive_after = ''2 days'''
    ]
  ) as what;
set local role authenticated;
set local request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000001"}';
select isnt_empty(
  'select from public.agent_jobs where reference = ''by-hand'' and state = ''executed''',
  'an owner sees what is archived of their own agents'
);
select is_empty('select from public.agent_jobs where agent_id <> ''a''', 'and no other agents''');

select * from finish();
rollback;
