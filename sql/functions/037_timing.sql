-- Every wait of the ledger, in one place. src/time_budget.rs has the function's side of these
-- figures.
create or replace function purple_flea.timing(
  out lease       interval,  -- how long a claim lasts: twice the longest exchange with Purple Flea
  out lookup_wait interval,  -- from a lease's end to the first look-up: 13 s and a minute
  out lookup_hold interval,  -- how long a look-up keeps other workers from the same job
  out max_age     interval,  -- how long a stake may wait before the agent no longer expects it
  out backoff     interval,  -- the first wait after an attempt without effect; it doubles each time
  out backoff_max interval   -- the longest of these waits
)
  -- PL/pgSQL, because Postgres plans the body of a SQL function again for each call.
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  lease       := interval '30 seconds';
  lookup_wait := interval '73 seconds';
  lookup_hold := interval '1 minute';
  max_age     := interval '24 hours';
  backoff     := interval '1 second';
  backoff_max := interval '5 minutes';
end;
$$;
comment on function purple_flea.timing() is 'Gives every wait of the ledger.';
