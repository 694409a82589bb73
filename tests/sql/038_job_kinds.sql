-- The kinds of jobs: the lists in functions, checks and indexes are those of the table.
begin;
select * from no_plan();

create function pg_temp.kinds_in(definition text) returns text[] language sql as $$
  select array(
    select k.kind
    from purple_flea.job_kinds k
    where definition ~ ('[{'',]' || k.kind || '[}'',]')
    order by k.kind
  )
$$;
create function pg_temp.kinds_where(column_name text) returns text[] language sql as $$
  select array(
    select k.kind
    from purple_flea.job_kinds k
    where (to_jsonb(k) ->> column_name)::boolean
    order by k.kind
  )
$$;

select bag_eq(
  'select kind from purple_flea.job_kinds',
  array['deposit', 'trade', 'order', 'bet', 'close', 'registration', 'faucet', 'daily_claim', 'balance',
        'escrow', 'escrow_release', 'escrow_cancel', 'escrow_complete', 'escrow_dispute',
        'escrow_status'],
  'these are all kinds'
);
select is(
  array[purple_flea.is_retryable(k.kind), purple_flea.is_staking(k.kind),
        purple_flea.is_archivable(k.kind)],
  array[k.retryable, k.stakes, k.archived],
  'the functions and the table agree about ' || k.kind
)
from purple_flea.job_kinds k;
select is_empty(
  $$select kind from purple_flea.job_kinds where retryable and stakes$$,
  'no stake is retryable'
);
select is(
  pg_temp.kinds_in(pg_get_constraintdef(c.oid)),
  wanted,
  conname || ' has the table''s kinds'
)
from pg_constraint c
join (
  select
    'jobs_kind_check' as conname,
    array(select kind from purple_flea.job_kinds order by kind) as wanted
  union all
  select 'jobs_stake_check', pg_temp.kinds_where('stakes')
  union all
  select 'jobs_archive_kind_check', pg_temp.kinds_where('archived')
) as w using (conname);
select is(
  pg_temp.kinds_in(pg_get_indexdef('purple_flea.jobs_settled_idx'::regclass)),
  pg_temp.kinds_where('archived'),
  'the index of jobs that may be archived has the table''s kinds'
);
insert into public.agents (id) values ('a');
select throws_ok(
  $$insert into purple_flea.jobs (reference, idempotency_key, kind, agent_id, expires_at)
    values ('x', 'x', 'poker', 'a', now())$$,
  '23514', null, 'another kind is refused'
);

-- The functions are inlined, so that a partial index answers for them.
create function pg_temp.plan_of(query text) returns text language plpgsql as $$
declare
  line text;
  plan text := '';
begin
  set local enable_seqscan = off;
  for line in execute 'explain (costs off) ' || query loop
    plan := plan || line || E'\n';
  end loop;
  return plan;
end;
$$;
select matches(
  pg_temp.plan_of(
    $$
      select from purple_flea.jobs j
      where purple_flea.is_final(j.state)
        and purple_flea.is_archivable(j.kind)
        and j.changed_at < now()
    $$
  ),
  'jobs_settled_idx',
  'final jobs are found by their index'
);
select matches(
  pg_temp.plan_of($$select from purple_flea.jobs j
    where j.agent_id = 'a' and j.kind = 'registration' and purple_flea.is_under_way(j.state)$$),
  'jobs_registration_idx', 'jobs under way are found by their index'
);
select matches(
  pg_temp.plan_of(
    $$
      select from purple_flea.jobs j
      where j.escrow_id = 1 and j.kind = 'escrow' and not purple_flea.ended_without_effect(j.state)
    $$
  ),
  'jobs_escrow_idx',
  'escrows'' jobs are found by their index'
);

select * from finish();
rollback;
