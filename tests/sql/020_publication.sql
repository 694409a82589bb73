-- The publication for Realtime (sql/platform/020_publication.sql).
begin;
set local client_min_messages = error;
select * from no_plan();

select bag_eq(
  $$select tablename::text from pg_publication_tables where pubname = 'supabase_realtime'$$,
  array['wallet_changes', 'trade_results', 'escrow_requests', 'close_requests', 'frame_events'],
  'observers see five tables, and not the agents'
);
select is_empty(
  $$
    select p.tablename
    from pg_publication_tables p
    where pubname = 'supabase_realtime'
      and not exists (
        select from pg_constraint c
        where c.conrelid = format('%I.%I', p.schemaname, p.tablename)::regclass and contype = 'p'
      )
  $$,
  'each with a primary key, or observers would get errors'
);

select * from finish();
rollback;
