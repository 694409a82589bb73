-- The faucet's limit of an address: one claim a day, the oldest agent first.
begin;
\ir setup/services.psql

create function pg_temp.claim_all() returns jsonb language sql as $$
  select coalesce(
    jsonb_object_agg(j ->> 'reference', j || jsonb_build_object('token', c ->> 'token')),
    '{}'
  )
  from public.claim_jobs('{}', 100, gen_random_uuid(), 'live') as c
  cross join jsonb_array_elements(c -> 'jobs') as j
$$;
create function pg_temp.refuse(claimed jsonb, wait_s integer) returns text
  language sql
as $$
  select pg_temp.settle(
    claimed ->> 'reference',
    claimed,
    'pending',
    jsonb_build_object(
      'reason', 'rate_limited', 'purple_flea_code', 'ip_rate_limited', 'retry_after_s', wait_s
    )
  )
$$;
create function pg_temp.wait_of(wanted text) returns interval language sql as $$
  select date_trunc('minute', due_at - clock_timestamp() + interval '1 second')
  from purple_flea.jobs
  where reference = wanted
$$;

-- Three agents; the last row is the oldest agent's.
insert into public.agents (id, created_at) values
  ('second', now() - interval '2 days'),
  ('third', now() - interval '1 day'),
  ('first', now() - interval '3 days');
create temporary table a as select pg_temp.claim_all() as c;
select is(
  (select count(*) from a, jsonb_object_keys(c)),
  3::bigint,
  'each claim is handed out'
);
select is(c -> 'faucet-third' -> 'faucet_wait_s', null, 'and may be sent') from a;
select is(pg_temp.refuse(c -> 'faucet-third', 25200), 'settled', 'the faucet refuses the address')
from a;
select cmp_ok(
  pg_temp.wait_of('faucet-third'),
  '>=',
  interval '7 hours',
  'the claim waits as long as the reply says'
);
select cmp_ok(
  pg_temp.wait_of('faucet-third'),
  '<=',
  interval '7 hours 3 minutes',
  'and hardly longer'
);
-- The others report the same wait, and prolong it by nothing.
select pg_temp.refuse(c -> 'faucet-first', 86400) from a;
select pg_temp.refuse(c -> 'faucet-second', 25199) from a;
select ok(
  purple_flea.faucet_wait_s() between 25100 and 25200,
  'the stop lasts as long as its first refusal says'
);
-- A new agent's account is looked at, and no claim is sent.
insert into public.agents (id) values ('fourth');
create temporary table n as select pg_temp.claim('faucet-fourth', 'live') as c;
select ok(
  (c ->> 'faucet_wait_s')::integer between 25100 and 25200,
  'a new agent''s claim is told to wait'
)
from n;
select pg_temp.refuse(c, (c ->> 'faucet_wait_s')::integer) from n;
-- Other calls go on.
insert into public.wallet_changes (agent_id, change_type, new_balance)
values ('fourth', 'deposit', 100);
select is(
  jsonb_array_length(public.claim_jobs('{}', 100, gen_random_uuid(), 'live') -> 'jobs'),
  1,
  'the stop holds no bet back'
);
-- The sweeper gives each its turn.
select purple_flea.make_timely_jobs();
select results_eq(
  $$
    select j.agent_id, round(extract(epoch from j.due_at - s.until))
    from purple_flea.jobs j
    cross join purple_flea.rate_stops s
    where j.kind = 'faucet'
    order by j.due_at
  $$,
  $$values ('first', 0::numeric), ('second', 15), ('third', 30), ('fourth', 45)$$,
  'the oldest agent claims first'
);
select is(pg_temp.claim_all(), '{}', 'no one claims before');
select is(
  pg_temp.claim('faucet-third', 'live') #>> '{answer,reason}',
  'rate_limited',
  'a caller learns why'
);
-- The day after.
update purple_flea.rate_stops set until = until - interval '7 hours';
update purple_flea.jobs
set due_at = due_at - interval '7 hours'
where kind = 'faucet' and state = 'pending';
delete from purple_flea.rate_slots;
create temporary table d as select pg_temp.claim_all() as c;
select is(
  array(select jsonb_object_keys(c) from d),
  array['faucet-first'],
  'after the stop the oldest agent claims'
);
select is(c -> 'faucet-first' -> 'faucet_wait_s', null, 'and its claim is sent') from d;

-- A claim that never had its turn is given up with a reason.
update purple_flea.jobs
set expires_at = clock_timestamp() - interval '1 second'
where reference in ('faucet-second', 'faucet-third');
update purple_flea.jobs
set result = '{"reason": "no_answer"}'
where reference = 'faucet-third';
select purple_flea.expire(false);
select is((pg_temp.job('faucet-second')).state, 'dead', 'a claim is given up');
select is((pg_temp.job('faucet-second')).reason, 'one_claim_a_day', 'with the reason');
select is((pg_temp.job('faucet-third')).reason, 'too_old', 'which is not every claim''s');
select ok(
  (pg_temp.job('faucet-fourth')).expires_at > clock_timestamp() + interval '29 days',
  'after 30 days'
);

select * from finish();
rollback;
