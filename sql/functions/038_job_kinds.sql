-- The kinds of jobs and all rules that depend on the kind. A new kind is one row here. Its request
-- and its outcome have code of their own: docs/adding-a-job-kind.md.

-- A faucet claim waits for its turn among the claims of one address, one a day. After 30 days it is
-- given up.
insert into purple_flea.job_kinds as known
  (kind, retryable, stakes, archived, named_by_caller, earns_referral, max_age)
values
  ('deposit',        false, true,  true,  false, false, '24 hours'),
  ('trade',          false, true,  true,  true,  false, '24 hours'),
  ('order',          false, true,  true,  true,  false, '24 hours'),
  ('bet',            false, true,  true,  true,  false, '24 hours'),
  ('close',          false, false, true,  false, false, '24 hours'),
  ('registration',   true,  false, false, false, true,  '7 days'),
  ('faucet',         true,  false, false, false, true,  '30 days'),
  ('daily_claim',    true,  false, true,  true,  false, '7 days'),
  ('balance',        true,  false, true,  true,  false, '7 days'),
  ('escrow',         false, false, false, false, true,  '24 hours'),
  ('escrow_release', true,  false, false, false, false, '7 days'),
  ('escrow_cancel',  true,  false, false, false, false, '7 days'),
  ('escrow_complete', true, false, false, false, false, '7 days'),
  ('escrow_dispute', true,  false, false, false, false, '7 days'),
  ('escrow_status',  true,  false, false, false, false, '7 days')
on conflict (kind) do update
set retryable       = excluded.retryable,
    stakes          = excluded.stakes,
    archived        = excluded.archived,
    named_by_caller = excluded.named_by_caller,
    earns_referral  = excluded.earns_referral,
    max_age         = excluded.max_age;

-- Claims test the kind of many jobs. A list in the text of an inlined function costs nothing there;
-- a look-up in the table would be one more call for each job. So the lists are written out of the
-- table.
do $$
declare
  derived record;
begin
  for derived in
    select
      f.name,
      f.meaning,
      array(
        select k.kind
        from purple_flea.job_kinds k
        where (to_jsonb(k) ->> f.column_name)::boolean
        order by k.kind
      ) as kinds
    from (values
      ('is_retryable', 'retryable',
       'Says whether Purple Flea executes this kind at most once, however often it is asked.'),
      ('is_staking', 'stakes',
       'Says whether jobs of this kind stake money that counts in the daily limits.'),
      ('is_archivable', 'archived',
       'Says whether jobs of this kind are archived when they are final.')
    ) as f (name, column_name, meaning)
  loop
    -- Without a search path of its own, because Postgres inlines no function that has one.
    execute format(
      'create or replace function purple_flea.%I(kind text) returns boolean
       language sql immutable as $f$ select kind = any (%L::text[]) $f$',
      derived.name, derived.kinds);
    execute format('comment on function purple_flea.%I(text) is %L', derived.name, derived.meaning);
  end loop;
end;
$$;

-- The checks of the tables are written out of the table, too. A foreign key would lock the kind's
-- row for each new job. A check that stands with the same list is kept: its rows are checked
-- already. The list in the index jobs_settled_idx is the third one; a test compares it, and a
-- migration changes it.
do $$
declare
  wanted record;
begin
  for wanted in
    select c.table_name, c.constraint_name, c.definition, c.kinds
    from (
      select
        'jobs'            as table_name,
        'jobs_kind_check' as constraint_name,
        'kind = any (%L::text[])' as definition,
        array(select k.kind from purple_flea.job_kinds k order by k.kind) as kinds
      union all
      select
        'jobs',
        -- A stake counts on the day of its claim.
        'jobs_stake_check',
        'kind <> all (%L::text[]) or (
           (state <> ''claimed'' or policy is not null)
           and (state not in (''claimed'', ''unknown'', ''executed'') or bet_day is not null)
           and (state <> ''executed'' or (wager is not null and wager > 0))
         )',
        array(select k.kind from purple_flea.job_kinds k where k.stakes order by k.kind)
      union all
      select
        'jobs_archive',
        'jobs_archive_kind_check',
        'kind = any (%L::text[])',
        array(select k.kind from purple_flea.job_kinds k where k.archived order by k.kind)
    ) as c
  loop
    continue when exists (
      select
      from pg_catalog.pg_constraint t
      where t.conrelid = format('purple_flea.%I', wanted.table_name)::regclass
        and t.conname = wanted.constraint_name
        and position(quote_literal(wanted.kinds::text) in pg_get_constraintdef(t.oid)) > 0
    );
    execute format(
      'alter table purple_flea.%I drop constraint if exists %I',
      wanted.table_name, wanted.constraint_name);
    -- scripts/migrate validates it while the ledger works.
    execute format(
      'alter table purple_flea.%I add constraint %I check (%s) not valid',
      wanted.table_name, wanted.constraint_name, format(wanted.definition, wanted.kinds));
  end loop;
end;
$$;
