-- What Realtime's subscribers see, each through the policies in sql/functions. agents is not among it: its rows
-- name keys.

do $$
declare
  followed text;
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach followed in array array['wallet_changes', 'trade_results', 'escrow_requests'] loop
    if not exists (
      select from pg_catalog.pg_publication_tables
      where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = followed
    ) then
      execute format('alter publication supabase_realtime add table public.%I', followed);
    end if;
  end loop;
end;
$$;
