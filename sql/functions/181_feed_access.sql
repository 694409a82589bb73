-- Access to the feed's public tables. A member reads the rows of the tenant. Anonymous callers get
-- nothing. No role writes events or keys: functions of the owner do. See 036_access.sql.

revoke all
  on public.tenants, public.memberships, public.api_keys, public.frame_events
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
revoke all
  on sequence public.frame_events_id_seq
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;

grant select, insert, update, delete on public.tenants, public.memberships to service_role;
grant select on public.tenants, public.memberships, public.frame_events
  to authenticated, service_role;
-- By column: nobody reads a key's hash.
grant select (
    id, tenant_id, label, prefix, scopes, created_by, created_at, last_used_at, revoked_at
  )
  on public.api_keys
  to authenticated, service_role;

-- Each row looks up the caller's own membership of its tenant by primary key. A sub-select that
-- gives a value is never turned into a join, which could read all of a user's tenants.
drop policy if exists tenants_member_reads on public.tenants;
create policy tenants_member_reads on public.tenants
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists tenants_service_writes on public.tenants;
create policy tenants_service_writes on public.tenants
  for all to service_role
  using (true)
  with check (true);

-- The other policies look up a row of this kind, and end with the first comparison. A policy that
-- looked up memberships itself would call itself.
drop policy if exists memberships_member_reads on public.memberships;
create policy memberships_member_reads on public.memberships
  for select to authenticated
  using (user_id = (select purple_flea.caller()) or purple_flea.is_member(tenant_id));

drop policy if exists memberships_service_writes on public.memberships;
create policy memberships_service_writes on public.memberships
  for all to service_role
  using (true)
  with check (true);

drop policy if exists api_keys_member_reads on public.api_keys;
create policy api_keys_member_reads on public.api_keys
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = api_keys.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists api_keys_service_reads on public.api_keys;
create policy api_keys_service_reads on public.api_keys
  for select to service_role
  using (true);

drop policy if exists frame_events_member_reads on public.frame_events;
create policy frame_events_member_reads on public.frame_events
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = frame_events.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists frame_events_service_reads on public.frame_events;
create policy frame_events_service_reads on public.frame_events
  for select to service_role
  using (true);

-- Events are never changed, and deleted by their age alone (188_event_retention.sql).
create or replace function purple_flea.keep_events() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'events are never changed: followers have read them'
    using errcode = 'object_not_in_prerequisite_state';
end;
$$;
comment on function purple_flea.keep_events() is 'Refuses to change or to empty the event feed.';

create or replace trigger purple_flea_keep
  before update on public.frame_events
  for each row execute function purple_flea.keep_events();
create or replace trigger purple_flea_refuse_truncate
  before truncate on public.frame_events
  for each statement execute function purple_flea.keep_events();
