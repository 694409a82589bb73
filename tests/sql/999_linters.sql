-- What Supabase's linters call an error (docs/deploy/supabase.md lists what is left, with reasons),
-- and the planner's settings that belong together.
begin;
set local client_min_messages = error;
select * from no_plan();

create temporary view exposed as
  select c.oid, c.relname, c.relkind, c.relrowsecurity, coalesce(c.reloptions, '{}') as options
  from pg_class c
  where c.relnamespace = 'public'::regnamespace
    and (
      has_any_column_privilege('anon', c.oid, 'select')
      or has_any_column_privilege('authenticated', c.oid, 'select')
    );
select bag_eq(
  $$
    select relname::text
    from exposed
    where relkind = 'v'
      and not options && '{security_invoker=on, security_invoker=true, security_invoker=1}'
  $$,
  -- Three show an owner a part of rows that the owner may not read: the ledger's jobs without their
  -- secrets, the agents that have claimed ones, and the sum of the escrows of agents that are other
  -- users'. The fourth shows all of a table that holds the same for all.
  array['agent_jobs', 'event_types', 'fleet', 'referral_earnings'],
  'four views alone run as their owner (security_definer_view)'
);
select is_empty(
  $$
    select v.relname
    from exposed v
    where v.relkind = 'v'
      and not v.options && '{security_barrier, security_barrier=on, security_barrier=true}'
  $$,
  'and each view''s own condition comes before a reader''s'
);
select is_empty(
  $$select relname from exposed where relkind in ('m', 'f')$$,
  'no materialized view and no foreign table is exposed'
);
select is_empty(
  $$select relname from exposed where relkind = 'r' and not relrowsecurity$$,
  'each exposed table has row-level security '
  '(rls_disabled_in_public, policy_exists_rls_disabled, sensitive_columns_exposed)'
);
select is_empty(
  $$
    select p.polname
    from pg_policy p
    join pg_class c on c.oid = p.polrelid
    where not c.relrowsecurity
      and c.relnamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
  $$,
  'no policy stands on a table without row-level security (policy_exists_rls_disabled)'
);
select is_empty(
  $$
    select d.objid::regclass
    from pg_depend d
    join pg_rewrite r on r.oid = d.objid
    join exposed e on e.oid = r.ev_class
    where d.refobjid = to_regclass('auth.users')
  $$,
  'no view shows the users (auth_users_exposed)'
);
select is_empty(
  $$
    select policyname
    from pg_policies
    where schemaname in ('public', 'purple_flea')
      and concat(qual, with_check) like '%user_metadata%'
  $$,
  'no policy believes what users write about themselves (rls_references_user_metadata)'
);
select is_empty(
  $$
    select c.conname
    from pg_constraint c
    where c.contype = 'f'
      and c.confrelid = to_regclass('auth.users')
      and c.connamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
  $$,
  'no foreign key leads into the users (fkey_to_auth_unique)'
);

-- A plan with a node that is off costs 1e10, so expensive that Postgres would compile it: a claim
-- of 30 ms took 630 ms.
select is_empty(
  $$
    select p.oid::regprocedure
    from pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
      and exists (select from unnest(p.proconfig) as s where s like 'enable\_%=off')
      and not p.proconfig @> array['jit=off']
  $$,
  'a function that turns off a part of the planner turns off the compiler'
);

select * from finish();
rollback;
