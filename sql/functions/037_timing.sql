-- Every wait of the ledger, in one place.
create or replace function purple_flea.timing(
  out lease       interval,  -- how long a claim holds: twice the longest exchange with Purple Flea, and some
  out lookup_wait interval,  -- from the end of a lease to the first look-up: the longest exchange (13 s) and a minute
  out lookup_hold interval,  -- how long a look-up keeps others from the same; if nobody reports, the next one may try
  out max_age     interval,  -- how long a deposit may wait before nobody expects a bet on it any more
  out backoff     interval,  -- the first wait after an attempt that executed nothing; it doubles each time
  out backoff_max interval   -- and no longer than this
)
  -- Not SQL: Postgres plans the body of a SQL function anew for each call.
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
comment on function purple_flea.timing() is 'Every wait of the ledger.';
revoke all on function purple_flea.timing() from public, anon, authenticated, service_role, purple_flea_worker;

-- What Purple Flea does at most once, however often it is asked: of these nothing is ever unknown, they are asked again.
-- A second registration makes a second account, which costs nothing; the first one's key would be lost anyway.
create or replace function purple_flea.is_repeatable(kind text) returns boolean
  language sql
  immutable
  -- Inlined into its callers, which have a search path; with one of its own it could not be.
as $$
  select kind in ('registration', 'faucet', 'daily_claim', 'balance', 'escrow_release', 'escrow_cancel')
$$;
comment on function purple_flea.is_repeatable(text) is 'Whether asking for it twice does no harm.';
revoke all on function purple_flea.is_repeatable(text) from public, anon, authenticated, service_role, purple_flea_worker;
