-- The index of jobs that may be archived, with the bets that callers request.
drop index concurrently if exists purple_flea.jobs_settled_idx;
create index concurrently if not exists jobs_settled_idx
  on purple_flea.jobs (changed_at)
  where state in ('executed', 'skipped', 'rejected', 'dead')
    and kind in ('deposit', 'trade', 'order', 'bet', 'close', 'balance', 'daily_claim');
