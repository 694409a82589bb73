-- The tables that Realtime's subscribers see, through the policies in sql/functions. agents is none
-- of them, because its rows name keys.
do $$
declare
  followed text;
begin
  if not exists (
    select from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime'
  ) then
    create publication supabase_realtime;
  end if;
  foreach followed in array array[
    'wallet_changes', 'trade_results', 'escrow_requests', 'close_requests', 'frame_events'
  ] loop
    if not exists (
      select
      from pg_catalog.pg_publication_tables t
      where t.pubname = 'supabase_realtime'
        and t.schemaname = 'public'
        and t.tablename = followed
    ) then
      execute format('alter publication supabase_realtime add table public.%I', followed);
    end if;
  end loop;
end;
$$;
