-- The state machine of jobs: every pair of states, allowed or refused, for every actor; and the
-- values that never change.
begin;
-- No function is called here, and each deposit would warn of that.
set local client_min_messages = error;
select * from no_plan();
-- These tests read deposits alone.
update purple_flea.trade_policies set claim_faucet = false;

insert into public.agents (id) values ('a'), ('b');
create temporary table states as
  select unnest(
    array['pending', 'claimed', 'executed', 'skipped', 'rejected', 'unknown', 'dead']
  ) as state;
create temporary table legal (from_state text, to_state text, changed_by text);
insert into legal values
  ('pending', 'claimed',  'any'), ('pending', 'dead',     'any'),
  ('claimed', 'executed', 'any'), ('claimed', 'skipped',  'any'), ('claimed', 'rejected', 'any'),
  ('claimed', 'pending',  'any'), ('claimed', 'unknown',  'any'), ('unknown', 'executed', 'any'),
  ('unknown', 'pending',  'operator'), ('unknown', 'rejected', 'operator'),
  ('pending', 'executed', 'worker');  -- released, and then the claimant's late answer came

-- Makes a job in a state by the shortest legal way, with the values that any state requires.
create function pg_temp.job_in(wanted text) returns text language plpgsql as $$
declare
  name text;
begin
  insert into public.wallet_changes (agent_id, change_type, new_balance)
  values ('a', 'deposit', 100)
  returning 'wallet-change-' || id into name;
  if wanted in ('claimed', 'executed', 'skipped', 'rejected', 'unknown') then
    update purple_flea.jobs
    set
      state = 'claimed',
      changed_by = 'worker',
      token = gen_random_uuid(),
      claimed_at = now(),
      lease_until = now(),
      lookup_at = now(),
      request = '{}',
      policy = '{}',
      bet_day = current_date,
      stake = 10,
      wager = 10,
      result = '{}',
      reason = 'test'
    where reference = name;
  end if;
  if wanted not in ('pending', 'claimed') then
    update purple_flea.jobs set state = wanted, reason = 'test' where reference = name;
  end if;
  return name;
end;
$$;
create function pg_temp.tries(from_state text, to_state text, who text) returns text
  language plpgsql
as $$
declare
  name text := pg_temp.job_in(from_state);
begin
  update purple_flea.jobs
  set
    state = to_state,
    changed_by = who,
    reason = 'test',
    token = gen_random_uuid(),
    claimed_at = now(),
    lease_until = now(),
    lookup_at = now(),
    request = '{}',
    policy = '{}',
    bet_day = current_date,
    stake = 10,
    wager = 10,
    result = '{}'
  where reference = name;
  return 'allowed';
exception when check_violation then
  return 'refused';
end;
$$;
select is(
  pg_temp.tries(f.state, t.state, who),
  case
    when exists (
      select from legal l
      where (l.from_state, l.to_state) = (f.state, t.state) and l.changed_by in ('any', who)
    ) then 'allowed'
    else 'refused'
  end,
  format('%s → %s by the %s', f.state, t.state, who)
)
from states f, states t, unnest(array['worker', 'sweeper', 'operator']) as who
where f.state <> t.state;

-- The values of each state.
select throws_ok(
  format(
    $$update purple_flea.jobs set state = 'claimed', changed_by = 'worker' where reference = %L$$,
    pg_temp.job_in('pending')
  ),
  '23514',
  null,
  'a claim has a token and a lease'
);
select throws_ok(
  format(
    $$update purple_flea.jobs set state = 'executed', wager = null where reference = %L$$,
    pg_temp.job_in('claimed')
  ),
  '23514',
  null,
  'an executed job has a wager'
);
select throws_ok(
  format(
    $$update purple_flea.jobs set state = 'rejected', reason = null where reference = %L$$,
    pg_temp.job_in('claimed')
  ),
  '23514',
  null,
  'a rejected job has a reason'
);
select throws_ok(
  format(
    $$update purple_flea.jobs set state = 'asleep' where reference = %L$$,
    pg_temp.job_in('pending')
  ),
  '23514',
  null,
  'there are seven states'
);
select throws_ok(
  format(
    $$
      update purple_flea.jobs
      set previous_state = 'claimed', state = 'executed'
      where reference = %L
    $$,
    pg_temp.job_in('pending')
  ),
  '23514',
  null,
  'the state before cannot be made up'
);

-- The values that never change.
select throws_ok(
  format(
    $$update purple_flea.jobs set result = '{"other": 1}' where reference = %L$$,
    pg_temp.job_in('executed')
  ),
  '23514',
  null,
  'an outcome does not change'
);
select throws_like(
  format(
    $$update purple_flea.jobs set idempotency_key = 'other' where reference = %L$$,
    pg_temp.job_in('pending')
  ),
  '%names cannot change%',
  'a bet key does not change'
);
select throws_like(
  format($$delete from purple_flea.jobs where reference = %L$$, pg_temp.job_in('executed')),
  '%cannot be deleted%',
  'a job is not forgotten'
);
select throws_like(
  'truncate purple_flea.jobs cascade',
  '%cannot be emptied%',
  'nor are all of them'
);
select throws_ok(
  format(
    $$delete from public.wallet_changes where 'wallet-change-' || id = %L$$,
    pg_temp.job_in('pending')
  ),
  '23503',
  null,
  'nor is a deposit with a job'
);
select throws_ok(
  format(
    $$update public.wallet_changes set agent_id = 'b' where 'wallet-change-' || id = %L$$,
    pg_temp.job_in('pending')
  ),
  '23514',
  null,
  'nor does it become another agent''s'
);
select throws_like(
  'delete from purple_flea.trade_policies',
  '%cannot be taken away%',
  'the shared policy stays'
);

-- The history.
create temporary table traced as select pg_temp.job_in('executed') as reference;
select results_eq(
  $$
    select from_state, to_state, changed_by
    from purple_flea.job_events
    join traced using (reference)
    order by id
  $$,
  $$
    values
      (null, 'pending', 'depositor'), ('pending', 'claimed', 'worker'),
      ('claimed', 'executed', 'worker')
  $$,
  'every change of state is a row of its history'
);

-- Names.
select matches(
  idempotency_key,
  '^' || reference || '-[0-9a-f]{16}$',
  'a bet key is the reference and 16 hexadecimal digits'
)
from purple_flea.jobs
limit 1;
select is(count(distinct idempotency_key), count(*), 'and no two are the same')
from purple_flea.jobs;
select throws_ok(
  $$
    insert into purple_flea.jobs (
      reference, idempotency_key, wallet_change_id, agent_id, expires_at
    )
    select reference, 'k', wallet_change_id + 1000000, agent_id, now()
    from purple_flea.jobs
    limit 1
  $$,
  '23505',
  null,
  'a deposit has one job'
);
insert into public.trade_results (agent_id, reference) values ('a', 'wallet-change-x');
select throws_ok(
  $$insert into public.trade_results (agent_id, reference) values ('a', 'wallet-change-x')$$,
  '23505',
  null,
  'a deposit has one row of trade_results'
);

-- A job is made with its deposit, or neither is.
create temporary table before_it as select count(*) from public.wallet_changes;
alter table purple_flea.jobs add constraint broken check (agent_id <> 'a') not valid;
select throws_ok(
  $$
    insert into public.wallet_changes (agent_id, change_type, new_balance)
    values ('a', 'deposit', 1)
  $$,
  '23514',
  null,
  'a deposit whose job cannot be made is not made'
);
alter table purple_flea.jobs drop constraint broken;
select is(
  (select count(*) from public.wallet_changes),
  (select count from before_it),
  'and leaves nothing behind'
);
insert into public.wallet_changes (agent_id, change_type, new_balance)
select 'a', case n % 2 when 0 then 'deposit' else 'payout' end, 1
from generate_series(1, 10) n;
select is(
  count(*)::int,
  5,
  'a statement of many rows makes the jobs of its deposits, and of nothing else'
)
from purple_flea.jobs
where wallet_change_id > (select max(id) - 10 from public.wallet_changes);

select * from finish();
rollback;
