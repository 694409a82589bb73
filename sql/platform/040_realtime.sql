-- The policy by which Realtime lets a tenant's members subscribe to the private topic
-- tenant:<id>. Realtime asks when a subscriber joins. There is none for sending: the database alone
-- sends. A project without Realtime gets the same events from the feed.
do $$
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  if exists (
    select
    from pg_catalog.pg_policies p
    where p.schemaname = 'realtime'
      and p.tablename = 'messages'
      and p.policyname = 'purple_flea_member_follows'
  ) then
    return;
  end if;
  execute $policy$
    create policy purple_flea_member_follows on realtime.messages
      for select to authenticated
      using (
        extension = 'broadcast'
        and (select purple_flea.may_follow(realtime.topic()))
      )
  $policy$;
exception when others then
  raise notice 'Realtime''s table takes no policy from this role (%): '
    'members hear of events by postgres_changes and the feed, and by no broadcast', sqlerrm;
end;
$$;
