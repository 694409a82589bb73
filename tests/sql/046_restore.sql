-- A database that was restored, copied or failed over hands out no stake before an operator
-- confirms the restore.
begin;
set local client_min_messages = error;
select * from no_plan();
update purple_flea.trade_policies set claim_faucet = false where agent_id is null;
insert into public.agents (id) values ('a'), ('held'), ('b');
insert into purple_flea.trade_policies (agent_id, paused) values ('held', true);
create function pg_temp.deposit(agent text) returns text language sql as $$
  insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance)
  values (agent, 'deposit', 100, 100)
  returning 'wallet-change-' || id
$$;
create function pg_temp.claimed() returns text[] language sql as $$
  select array(
    select j ->> 'reference'
    from jsonb_array_elements(public.claim_jobs('{}', 100) -> 'jobs') as j
    order by 1
  )
$$;
create function pg_temp.is_(wanted text) returns text language sql as $$
  select concat_ws(' ', state, changed_by, reason) from purple_flea.jobs where reference = wanted
$$;

select isnt(purple_flea.current_generation(), null, 'a fresh installation is confirmed');
select throws_ok(
  'select purple_flea.confirm_restore()',
  'P0001',
  null,
  'there is nothing to confirm then'
);

create temporary table before as
  select
    pg_temp.deposit('a') as due,
    pg_temp.deposit('held') as paused,
    pg_temp.deposit('a') as later,
    purple_flea.current_generation() as generation;
update purple_flea.jobs j
set due_at = clock_timestamp() + interval '1 hour', reason = 'rate_limited'
from before b
where j.reference = b.later;
create temporary table keyless as select pg_temp.deposit('b') as one;
update purple_flea.jobs j
set due_at = clock_timestamp() + interval '1 hour', reason = 'agent_without_key'
from keyless k
where j.reference = k.one;
select public.request_job('balance', 'balance-1', '{"agent_id": "a"}');
update purple_flea.jobs j set due_at = clock_timestamp() where j.reference = 'balance-1';

-- pg_restore --clean writes the row again in place, as it was.
create temporary table kept as select * from purple_flea.generation;
delete from purple_flea.generation where only_row;
savepoint restored;
insert into purple_flea.generation select * from kept;
select is(
  purple_flea.current_generation(),
  null,
  'a row that another transaction has written again is not confirmed'
);
select is(
  pg_temp.claimed(),
  array['balance-1'],
  'no job that stakes money is handed out; retryable jobs are'
);
select is(
  public.claim_jobs(array[due], 1) #>> '{answers,0,reason}',
  'restore_unconfirmed',
  'a caller that names a stake gets the reason'
)
from before;
select ok(not purple_flea.is_due(), 'and no notification is sent for it');
select ok(public.ledger_health() -> 'why' ? 'restore_unconfirmed', 'health says so');
select is(public.ledger_health() ->> 'status', 'degraded', 'and is not well');
update purple_flea.jobs j
set due_at = due_at - interval '10 minutes'
from before b
where j.reference = b.due;
select is(s.reason, 'restore_unconfirmed', 'so do the stuck jobs')
from purple_flea.stuck_jobs s, before b
where s.reference = b.due;
create temporary table since as select pg_temp.deposit('a') as one;
select is(j.generation, null, 'a job made meanwhile belongs to no generation')
from purple_flea.jobs j, since s
where j.reference = s.one;

create temporary table confirmed as select purple_flea.confirm_restore(why => 'tested') as c;
select is(c ->> 'unknown', '2', 'the stake that was due before is unknown') from confirmed;
select is(
  pg_temp.is_(one),
  'unknown restore restored',
  'so is one that waited for something that may have come meanwhile'
)
from keyless;
select is(pg_temp.is_(due), 'unknown restore restored', 'by the restore') from before;
select is(pg_temp.is_(paused), 'pending depositor', 'a paused job still waits') from before;
select is(
  pg_temp.is_(later),
  'pending depositor rate_limited',
  'a job that is due later still waits'
)
from before;
select isnt(purple_flea.current_generation(), generation, 'the generation is a new one')
from before;
select is(pg_temp.claimed(), array[one], 'a job made since is handed out') from since;
update purple_flea.jobs j set due_at = clock_timestamp() from before b where j.reference = b.later;
select is(pg_temp.claimed(), array[later], 'and the later one, at its time') from before;
select ok(
  j.policy is not null
    and j.stake = 10
    and j.bet_day is not null
    and j.key_name = ''
    and j.lookup_at > clock_timestamp(),
  'the unknown one can be looked up'
)
from purple_flea.jobs j, before b
where j.reference = b.due;

-- Released in bulk, once a look-up has not found them.
select is(
  purple_flea.release_restored('no bet of it there'),
  0,
  'a job that was not looked up is not released'
);
update purple_flea.jobs j
set
  lookup_at = clock_timestamp(),
  lease_until = clock_timestamp() - interval '2 minutes',
  claimed_at = clock_timestamp() - interval '3 minutes'
from before b
where j.reference = b.due;
create temporary table looked as select public.claim_lookups(10) as l;
select is(jsonb_array_length(l), 1, 'a look-up is handed out') from looked;
select is(
  public.settle_jobs(
    json_build_array(
      json_build_object(
        'reference', l #>> '{0,reference}',
        'token', l #>> '{0,token}',
        'state', 'unknown',
        'result', '{"status": "unknown", "reason": "not_found"}'::json
      )
    ),
    2
  ) #>> '{0,did}',
  'settled',
  'it was not found'
)
from looked;
select is(purple_flea.release_restored('no bet of it there'), 1, 'then it is released');
select is(pg_temp.is_(due), 'pending operator released', 'by an operator') from before;
select is(pg_temp.claimed(), array[due], 'and handed out') from before;

-- Data alone, loaded into another installation: its jobs carry another generation.
create temporary table foreigner as select pg_temp.deposit('b') as one;
update purple_flea.jobs j
set generation = gen_random_uuid()
from foreigner f
where j.reference = f.one;
select is(pg_temp.claimed(), '{}', 'a job of another generation is not handed out');
select ok(public.ledger_health() -> 'why' ? 'restore_unconfirmed', 'and health says why');
select is(
  purple_flea.confirm_restore(nothing_lost => true) ->> 'unknown',
  '0',
  'where nothing was lost nothing is unknown'
);
select is(pg_temp.claimed(), array[one], 'and all is handed out') from foreigner;

-- A restore that the database cannot detect.
select purple_flea.declare_restore('a disk snapshot');
select is(
  purple_flea.current_generation(),
  null,
  'a declared restore waits for its confirmation, too'
);
select purple_flea.confirm_restore(nothing_lost => true);
select isnt(purple_flea.current_generation(), null, 'and gets it');
savepoint in_a_subtransaction;
select lives_ok(
  $$select purple_flea.stamp(gen_random_uuid(), 'tested')$$,
  'stamping in a subtransaction'
);
select isnt(purple_flea.current_generation(), null, 'counts as well');

-- Each part of the identity counts.
create function pg_temp.counts(assignment text) returns boolean language plpgsql as $$
declare
  counted boolean;
begin
  execute 'update purple_flea.generation set ' || assignment || ' where only_row';
  update purple_flea.generation set stamped_xid = xmin where only_row;
  counted := purple_flea.current_generation() is null;
  perform purple_flea.stamp(gen_random_uuid(), 'tested');
  return counted;
end;
$$;
select ok(pg_temp.counts(part), 'another database differs by its ' || part)
from unnest(
  array['system_identifier = 1', 'database_oid = 1', $v$timeline = 'FFFFFFFF'$v$, 'jobs_oid = 1']
) as part;
select ok(not pg_temp.counts('stamped_because = stamped_because'), 'and the same one does not');

-- A paused agent's jobs, where the pause came after the backup.
create temporary table woken as select pg_temp.deposit('held') as one;
select purple_flea.declare_restore('again');
select is(
  purple_flea.confirm_restore(paused_too => true, why => 'the pause came later') ->> 'unknown',
  '2',
  'are unknown, too, if the operator says so'
);

-- An imported deposit that has its result.
create temporary table traded as select pg_temp.deposit('a') as one, pg_temp.deposit('a') as two;
insert into public.trade_results (agent_id, game, reference) select 'a', 'crash', one from traded;
insert into public.trade_results (agent_id, game, reference, created_at)
select 'a', 'crash', two, now() - interval '1 day'
from traded;
select is(
  pg_temp.claimed(),
  array[two],
  'a deposit with a result is not handed out; one whose result is older is another deposit'
)
from traded;
select is(pg_temp.is_(one), 'skipped sweeper already_traded', 'it is skipped') from traded;
select is(s.state, 'skipped', 'and listed for the operator')
from purple_flea.stuck_jobs s, traded t
where s.reference = t.one;

select * from finish();
rollback;
