-- Indexes on tables that may be large, built while the ledger works.
create index concurrently if not exists jobs_lane_idx
  on purple_flea.jobs (agent_id, kind, due_at)
  where state = 'pending';
create index concurrently if not exists jobs_generation_idx
  on purple_flea.jobs (generation)
  where state = 'pending';
create index concurrently if not exists wallet_changes_created_at_idx
  on public.wallet_changes (created_at)
  where change_type = 'deposit';
drop index concurrently if exists purple_flea.jobs_agent_due_idx;
