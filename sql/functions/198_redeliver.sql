-- Redelivery, and the end of the log.

-- Events that the subscription has not reached yet come anyway.
create or replace function purple_flea.passed_events(
  subscription uuid,
  from_event   bigint,
  to_event     bigint,
  most         integer
) returns setof public.frame_events
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
begin
  return query
    select e.*
    from public.event_subscriptions s
    join purple_flea.subscription_progress p on p.subscription_id = s.id
    join public.frame_events e
      on e.tenant_id = s.tenant_id
      and (s.types = '{}' or e.type = any (s.types))
      and (e.epoch, e.position, e.id) <= (p.epoch, p.position, p.event_id)
    where s.id = subscription
      and e.id between from_event and to_event
      and not exists (
        select
        from purple_flea.event_deliveries d
        where d.subscription_id = s.id
          and d.event_id = e.id
      )
    limit most;
end;
$$;
comment on function purple_flea.passed_events(uuid, bigint, bigint, integer) is
  'Gives the events within two ids that a subscription wants, has passed, and has not pending.';

create or replace function public.redeliver_events(
  subscription uuid,
  from_event   bigint,
  to_event     bigint default null
) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- Locks the subscription, or raises.
  tenant constant uuid    := purple_flea.managed_subscription(subscription);
  last   constant bigint  := coalesce(to_event, from_event);
  room   constant integer := (purple_flea.delivery_limits()).pending - (
    select p.pending
    from purple_flea.subscription_progress p
    where p.subscription_id = redeliver_events.subscription
  );
  queued integer;
begin
  if (select s.state from public.event_subscriptions s where s.id = subscription) <> 'active' then
    raise exception 'the subscription is disabled'
      using errcode = 'check_violation',
            hint    = 'Enable it first: public.enable_event_subscription(id).';
  end if;
  queued := (
    select count(*) from purple_flea.passed_events(subscription, from_event, last, room + 1)
  );
  if queued > room then
    raise exception 'these are more events than the % that the subscription has room for', room
      using errcode = 'check_violation',
            hint    = 'Name a smaller range, and the rest when these are delivered.';
  end if;
  insert into purple_flea.event_deliveries
    (subscription_id, event_id, subject, epoch, position, webhook_id)
  select
    redeliver_events.subscription,
    e.id,
    e.subject,
    e.epoch,
    e.position,
    purple_flea.webhook_id(e.id, e.epoch, e.subject, e.occurred_at)
  from purple_flea.passed_events(subscription, from_event, last, room) e;
  update purple_flea.subscription_progress p
  set pending = p.pending + queued
  where p.subscription_id = redeliver_events.subscription;
  perform purple_flea.order_subjects(array_agg(s.subscription_id), array_agg(s.subject))
  from (
    select distinct d.subscription_id, d.subject
    from purple_flea.event_deliveries d
    where d.subscription_id = redeliver_events.subscription
      and d.event_id between from_event and last
  ) as s;
  perform purple_flea.set_due(array[subscription]);
  return jsonb_build_object('queued', queued);
end;
$$;
comment on function public.redeliver_events(uuid, bigint, bigint) is
  'Delivers an event once more, or all within two ids, in their order for each subject and under '
  'their webhook-ids. For owners and admins of the tenant, and the service.';

create or replace function purple_flea.prune_attempts(most integer default 5000) returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  pruned integer;
begin
  delete from public.event_delivery_attempts a
  where a.id in (
    select o.id
    from public.event_delivery_attempts o
    where o.at < clock_timestamp() - (purple_flea.delivery_limits()).log_kept
    order by o.at
    limit most
  );
  get diagnostics pruned = row_count;
  return pruned;
end;
$$;
comment on function purple_flea.prune_attempts(integer) is
  'Deletes the oldest attempts of the log that are older than it keeps; says how many.';
