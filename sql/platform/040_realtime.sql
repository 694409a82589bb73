-- The policies by which Realtime lets a tenant's members, and nobody else, subscribe to the private
-- topic tenant:<id>, and an owner of agents to owner:<the user's id>. Realtime asks when a
-- subscriber joins. Nobody but the database sends to these topics. An owner's policy looks nothing
-- up, so that a join takes milliseconds.
-- The restrictive policies hold beside those of the project's own, which may open all topics. A
-- project without Realtime gets the same events from the feed.
do $$
declare
  others     constant text := format(
    '(extension <> ''broadcast'' or topic !~ %L)',
    '^tenant:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
  );
  not_owners constant text := format(
    '(extension <> ''broadcast'' or topic !~ %L)',
    '^owner:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
  );
  own        constant text := '''owner:'' || (select purple_flea.caller())';
  wanted     record;
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  for wanted in
    select v.*
    from (values
      (
        'purple_flea_member_follows',
        'for select to authenticated using (
          extension = ''broadcast''
          and (select purple_flea.may_follow(realtime.topic()))
        )'
      ),
      (
        'purple_flea_strangers_follow_not',
        format(
          'as restrictive for select to authenticated using (%s or purple_flea.may_follow(topic))',
          others
        )
      ),
      (
        'purple_flea_anonymous_follow_not',
        format('as restrictive for select to anon using (%s)', others)
      ),
      (
        'purple_flea_users_send_not',
        format('as restrictive for insert to anon, authenticated with check (%s)', others)
      ),
      (
        'purple_flea_owner_hears',
        format('for select to authenticated using (extension = ''broadcast'' and topic = %s)', own)
      ),
      (
        'purple_flea_strangers_hear_not',
        format(
          'as restrictive for select to authenticated using (%s or topic = %s)', not_owners, own
        )
      ),
      (
        'purple_flea_anonymous_hear_not',
        format('as restrictive for select to anon using (%s)', not_owners)
      ),
      (
        'purple_flea_users_tell_not',
        format('as restrictive for insert to anon, authenticated with check (%s)', not_owners)
      )
    ) as v (name, rule)
    where not exists (
      select
      from pg_catalog.pg_policies p
      where p.schemaname = 'realtime'
        and p.tablename = 'messages'
        and p.policyname = v.name
    )
  loop
    execute format('create policy %I on realtime.messages %s', wanted.name, wanted.rule);
  end loop;
exception when others then
  raise notice 'Realtime''s table takes no policy from this role (%): '
    'members hear of events by postgres_changes and the feed, and by no broadcast; owners hear of '
    'results by the same', sqlerrm;
end;
$$;
