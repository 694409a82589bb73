-- Access to the subscriptions' public tables. A member reads the rows of the tenant. No role writes
-- them: functions of the owner do. See 036_access.sql.

revoke all
  on public.event_subscriptions, public.event_delivery_attempts
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
revoke all
  on sequence public.event_delivery_attempts_id_seq
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
grant select
  on public.event_subscriptions, public.event_delivery_attempts
  to authenticated, service_role;

-- See 181_feed_access.sql for the form.
drop policy if exists event_subscriptions_member_reads on public.event_subscriptions;
create policy event_subscriptions_member_reads on public.event_subscriptions
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = event_subscriptions.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists event_subscriptions_service_reads on public.event_subscriptions;
create policy event_subscriptions_service_reads on public.event_subscriptions
  for select to service_role
  using (true);

drop policy if exists event_delivery_attempts_member_reads on public.event_delivery_attempts;
create policy event_delivery_attempts_member_reads on public.event_delivery_attempts
  for select to authenticated
  using (
    (
      select m.user_id
      from public.memberships m
      where m.tenant_id = event_delivery_attempts.tenant_id
        and m.user_id = (select purple_flea.caller())
    ) is not null
  );

drop policy if exists event_delivery_attempts_service_reads on public.event_delivery_attempts;
create policy event_delivery_attempts_service_reads on public.event_delivery_attempts
  for select to service_role
  using (true);
