-- Fan-out: new events of the feed become deliveries. A claim does it, never the transaction that
-- fires an event. It reads the feed as followers do, so no subscription skips an event that is
-- committed late.

-- It depends on the event alone, and is the same after a restore of the database.
create or replace function purple_flea.webhook_id(
  event_id    bigint,
  epoch       integer,
  subject     text,
  occurred_at timestamptz
) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 'evt_' || left(
    encode(
      sha256(convert_to(
        concat_ws('|', event_id, epoch, extract(epoch from occurred_at), subject),
        'UTF8'
      )),
      'hex'
    ),
    32
  )
$$;
comment on function purple_flea.webhook_id(bigint, integer, text, timestamptz) is
  'Gives the header webhook-id of an event: the same for each attempt, so that a receiver knows an '
  'event that comes twice.';

-- These functions name a tenant's events by a range of frame_events_tenant_idx, and never by the
-- tenant alone: 186_read_events.sql says why.
--
-- A session would keep the plans that it made while the table of deliveries was empty, and read the
-- whole table with them later: 40 s for a claim of 30,000 deliveries. So these functions have their
-- statements planned each time.

-- Of a subject, one delivery is due or claimed, and the others wait for it.
create or replace function purple_flea.order_subjects(subscriptions uuid[], subjects text[])
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
begin
  update purple_flea.event_deliveries d
  set due_at = case
        when d.event_id = a.next then coalesce(d.due_at, clock_timestamp())
      end
  from (
    select distinct on (u.subscription_id, u.subject)
      u.subscription_id,
      u.subject,
      case when c.event_id is null then h.event_id end as next
    from unnest(subscriptions, subjects) as u (subscription_id, subject)
    left join purple_flea.event_deliveries c
      on c.subscription_id = u.subscription_id
      and c.subject = u.subject
      and c.token is not null
    cross join lateral (
      select e.event_id
      from purple_flea.event_deliveries e
      where e.subscription_id = u.subscription_id
        and e.subject = u.subject
      order by e.epoch, e.position, e.event_id
      limit 1
    ) as h
  ) as a
  where d.subscription_id = a.subscription_id
    and d.subject = a.subject
    and d.token is null
    and (d.due_at is not null or d.event_id = a.next)
    and (d.due_at is null or d.event_id is distinct from a.next);
end;
$$;
comment on function purple_flea.order_subjects(uuid[], text[]) is
  'Makes the first delivery of each subject due, unless one of the subject is claimed, and lets '
  'the others wait. The caller holds the locks of the subscriptions'' progress.';

create or replace function purple_flea.in_flight_limit(first_failure_at timestamptz)
  returns integer
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  limits constant record := purple_flea.delivery_limits();
begin
  return case when first_failure_at is null then limits.in_flight else limits.while_failing end;
end;
$$;
comment on function purple_flea.in_flight_limit(timestamptz) is
  'Gives how many deliveries of a subscription may be in flight at once.';

-- A claimed delivery is due at the end of its lease. So a subscription with as many in flight as it
-- may have is due when the first lease ends, and any other when its first delivery is.
create or replace function purple_flea.set_due(subscriptions uuid[]) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  at constant timestamptz := clock_timestamp();
begin
  update purple_flea.subscription_progress p
  set due_at = next.due_at
  from (
    select
      s.id,
      case
        when s.state <> 'active' then null
        when c.number >= purple_flea.in_flight_limit(s.first_failure_at) then c.first_end
        -- A delivery that is due already waits for the turns of the others.
        else least(case when w.due_at < at then at else w.due_at end, c.first_end)
      end as due_at
    from public.event_subscriptions s
    cross join lateral (
      select count(*) as number, min(d.due_at) as first_end
      from purple_flea.event_deliveries d
      where d.subscription_id = s.id
        and d.token is not null
        and d.due_at > at
    ) as c
    left join lateral (
      select d.due_at
      from purple_flea.event_deliveries d
      where d.subscription_id = s.id
        and d.due_at is not null
        and (d.token is null or d.due_at <= at)
      order by d.due_at
      limit 1
    ) as w on true
    where s.id = any (subscriptions)
  ) as next
  where p.subscription_id = next.id
    and p.due_at is distinct from next.due_at;
end;
$$;
comment on function purple_flea.set_due(uuid[]) is
  'Notes when a claim may next find a delivery of each subscription. The caller holds the locks of '
  'their progress.';

create or replace function purple_flea.is_unproven(
  last_success_at  timestamptz,
  first_failure_at timestamptz
) returns boolean
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return last_success_at is null or first_failure_at is not null;
end;
$$;
comment on function purple_flea.is_unproven(timestamptz, timestamptz) is
  'Says whether the receiver of a subscription has taken nothing yet, or nothing since a failure.';

-- A receiver that hangs is asked once at a time. If each of its events became a delivery at once, a
-- thousand such receivers would cost the database more than the changes that the events are about.
-- So an unproven subscription gets more events when few of its deliveries could be sent now. Those
-- that wait for another attempt do not count, nor those behind them: a subject that its receiver
-- refuses holds up no other.
--
-- The progress rows are locked, so that one fan-out alone moves a subscription, and none while its
-- deliveries are settled. A subscription that is locked has its turn at the next claim.
create or replace function purple_flea.pick_behind(epoch integer, below bigint, most integer)
  returns uuid[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  limits constant record      := purple_flea.delivery_limits();
  at     constant timestamptz := clock_timestamp();
begin
  return array(
    select p.subscription_id
    from (
      select t.tenant_id, n.epoch, n.position, n.id
      from (
        select distinct s.tenant_id from public.event_subscriptions s where s.state = 'active'
      ) as t
      cross join lateral (
        select e.epoch, e.position, e.id
        from public.frame_events e
        where e.tenant_id >= t.tenant_id
          and (e.tenant_id, e.epoch, e.position)
            < (t.tenant_id, pick_behind.epoch, pick_behind.below)
        order by e.tenant_id desc, e.epoch desc, e.position desc, e.id desc
        limit 1
      ) as n
    ) as newest
    join purple_flea.subscription_progress p
      on p.tenant_id = newest.tenant_id
      and (p.epoch, p.position, p.event_id) < (newest.epoch, newest.position, newest.id)
      and p.pending < limits.pending
    join public.event_subscriptions s
      on s.id = p.subscription_id
      and s.state = 'active'
    where not purple_flea.is_unproven(s.last_success_at, s.first_failure_at)
      or not exists (
        select
        from purple_flea.event_deliveries d
        where d.subscription_id = p.subscription_id
          and d.due_at <= at
          and d.token is null
        offset limits.ready - 1
      )
    -- Those with a backlog have enough to do until their next turn.
    order by p.pending
    limit most
    for update of p skip locked
  );
end;
$$;
comment on function purple_flea.pick_behind(integer, bigint, integer) is
  'Locks subscriptions for which the feed has new events, and gives their ids.';

create or replace function purple_flea.fan_out() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  most   constant integer := 100;  -- subscriptions of one claim
  each   constant integer := 50;   -- events of one subscription
  limits constant record  := purple_flea.delivery_limits();
  feed   constant record  := purple_flea.feed_now();
  -- One time for all, so that claims take them in the order of the feed.
  at     constant timestamptz := clock_timestamp();
  behind  uuid[];
  is_more boolean;
begin
  if feed.epoch is null then
    return false;
  end if;
  behind := purple_flea.pick_behind(feed.epoch, feed.below, most);
  if behind = '{}' then
    return false;
  end if;
  with passed as (
    select p.subscription_id, s.types, e.*
    from purple_flea.subscription_progress p
    join public.event_subscriptions s on s.id = p.subscription_id
    cross join lateral (
      select e.id, e.type, e.subject, e.epoch, e.position, e.occurred_at
      from public.frame_events e
      where (e.tenant_id, e.epoch, e.position, e.id)
          > (p.tenant_id, p.epoch, p.position, p.event_id)
        and (e.tenant_id, e.epoch, e.position) < (p.tenant_id, feed.epoch, feed.below)
      order by e.tenant_id, e.epoch, e.position, e.id
      limit least(
        limits.pending - p.pending,
        case
          when purple_flea.is_unproven(s.last_success_at, s.first_failure_at) then limits.ready
          else each
        end
      )
    ) as e
    where p.subscription_id = any (behind)
  ),
  made as (
    insert into purple_flea.event_deliveries
      (subscription_id, event_id, subject, epoch, position, webhook_id, due_at)
    select
      n.subscription_id,
      n.id,
      n.subject,
      n.epoch,
      n.position,
      purple_flea.webhook_id(n.id, n.epoch, n.subject, n.occurred_at),
      case
        when n.is_first and not exists (
          select
          from purple_flea.event_deliveries d
          where d.subscription_id = n.subscription_id
            and d.subject = n.subject
        ) then at
      end
    from (
      select
        p.*,
        1 = row_number() over (
          partition by p.subscription_id, p.subject order by p.epoch, p.position, p.id
        ) as is_first
      from passed p
      where p.types = '{}'
        or p.type = any (p.types)
    ) as n
    on conflict do nothing
    returning subscription_id
  ),
  counted as (
    select m.subscription_id, count(*) as number
    from made m
    group by m.subscription_id
  ),
  moved as (
    update purple_flea.subscription_progress p
    set epoch    = l.epoch,
        position = l.position,
        event_id = l.id,
        pending  = p.pending + coalesce(l.made, 0),
        due_at   = case
                     when l.made > 0 then least(p.due_at, at)
                     else p.due_at
                   end
    from (
      select distinct on (e.subscription_id)
        e.subscription_id, e.epoch, e.position, e.id, c.number as made,
        count(*) over (partition by e.subscription_id) as passed
      from passed e
      left join counted c on c.subscription_id = e.subscription_id
      order by e.subscription_id, e.epoch desc, e.position desc, e.id desc
    ) as l
    where p.subscription_id = l.subscription_id
    returning l.passed
  )
  select coalesce(max(m.passed) >= each, false) or cardinality(behind) >= most
    into is_more
  from moved m;
  update public.event_subscriptions s
  set held_back_since = at
  from purple_flea.subscription_progress p
  where s.id = any (behind)
    and p.subscription_id = s.id
    and p.pending >= limits.pending
    and s.held_back_since is null;
  return is_more;
end;
$$;
comment on function purple_flea.fan_out() is
  'Makes deliveries of new events for the subscriptions that want them. Says whether there are '
  'more.';
