-- Claiming deliveries. A listener has a claimed delivery alone until the lease ends. Then the next
-- claim takes it, and a report of the first one changes nothing.

create or replace function purple_flea.end_deliveries(subscriptions uuid[], events bigint[])
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  limits constant record := purple_flea.delivery_limits();
  owners   uuid[];
  subjects text[];
begin
  with ended as (
    delete from purple_flea.event_deliveries d
    using unnest(subscriptions, events) as u (subscription_id, event_id)
    where d.subscription_id = u.subscription_id
      and d.event_id = u.event_id
    returning d.subscription_id, d.subject
  ),
  counted as (
    update purple_flea.subscription_progress p
    set pending = p.pending - e.number
    from (
      select x.subscription_id, count(*) as number from ended x group by x.subscription_id
    ) as e
    where p.subscription_id = e.subscription_id
  )
  select array_agg(e.subscription_id), array_agg(e.subject) into owners, subjects
  from ended e;
  perform purple_flea.order_subjects(owners, subjects);
  update public.event_subscriptions s
  set held_back_since = null
  from purple_flea.subscription_progress p
  where s.id = any (owners)
    and s.held_back_since is not null
    and p.subscription_id = s.id
    and p.pending < limits.pending;
end;
$$;
comment on function purple_flea.end_deliveries(uuid[], bigint[]) is
  'Deletes deliveries, and makes the next of each subject due. The caller holds the locks of the '
  'subscriptions'' progress.';

create or replace function purple_flea.note_listener() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform
  from purple_flea.listeners l
  where l.only_row
    and (l.claimed_at is null or l.claimed_at < clock_timestamp() - interval '10 seconds')
  for update skip locked;
  if found then
    update purple_flea.listeners l
    set claimed_at = clock_timestamp()
    where l.only_row;
  end if;
end;
$$;
comment on function purple_flea.note_listener() is
  'Notes that a listener claims, at most every ten seconds.';

-- The due subscriptions take turns: each gets one place, and then a further one of its few while
-- there are some. set_due() puts them behind the others. So a subscription whose receiver hangs, or
-- with a backlog, delays no other.
-- The id is the event's, the same for each attempt: Inngest runs no function twice for one id. No
-- workflow of ours begins with an event of this prefix, or an escrow of the feed would make another
-- escrow.
create or replace function purple_flea.inngest_event(
  type        text,
  occurred_at timestamptz,
  payload     json,
  webhook_id  text
) returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return json_build_object(
    'name', 'purple-flea-edge/' || type,
    'data', payload,
    'id', webhook_id,
    'ts', floor(extract(epoch from occurred_at) * 1000)::bigint
  )::text;
end;
$$;
comment on function purple_flea.inngest_event(text, timestamptz, json, text) is
  'Gives an event of the feed as Inngest''s event API takes it.';

create or replace function purple_flea.take_deliveries(
  subscriptions uuid[],
  most          integer,
  lease         interval
) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  at    constant timestamptz := clock_timestamp();
  claim constant uuid        := gen_random_uuid();
  taken jsonb;
begin
  with due as (
    select d.subscription_id, d.event_id
    from unnest(subscriptions) with ordinality as u (id, n)
    join public.event_subscriptions s on s.id = u.id
    cross join lateral (
      select count(*) as number
      from purple_flea.event_deliveries c
      where c.subscription_id = u.id
        and c.token is not null
        and c.due_at > at
    ) as f
    cross join lateral (
      select t.subscription_id, t.event_id, row_number() over () as turn
      from (
        select e.subscription_id, e.event_id
        from purple_flea.event_deliveries e
        where e.subscription_id = u.id
          and e.due_at <= at
        order by e.due_at, e.epoch, e.position, e.event_id
        limit greatest(0, purple_flea.in_flight_limit(s.first_failure_at) - f.number)
      ) as t
    ) as d
    order by d.turn, u.n
    limit most
  ),
  claimed as (
    update purple_flea.event_deliveries d
    set token    = claim,
        attempts = d.attempts + 1,
        due_at   = at + lease
    from due
    where d.subscription_id = due.subscription_id
      and d.event_id = due.event_id
    returning d.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
      'subscription', c.subscription_id,
      'event', c.event_id,
      'token', c.token,
      'attempt', c.attempts,
      'webhook_id', c.webhook_id,
      'url', s.url,
      'format', s.format,
      'body', case s.format
        when 'inngest' then purple_flea.inngest_event(
          e.type, e.occurred_at, e.payload::json, c.webhook_id)
        else e.payload::text
      end
    )), '[]')
    into taken
  from claimed c
  join public.event_subscriptions s on s.id = c.subscription_id
  -- The feed keeps an event for some time only.
  left join public.frame_events e on e.id = c.event_id;
  return taken;
end;
$$;
comment on function purple_flea.take_deliveries(uuid[], integer, interval) is
  'Claims the due deliveries of subscriptions whose progress the caller has locked. The body is '
  'null if the feed no longer has the event.';

create or replace function purple_flea.with_secrets(taken jsonb) returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    with secrets as (
      select
        o.subscription,
        purple_flea.secret(purple_flea.subscription_secret_name(o.subscription)) as secret
      from (
        select distinct (t ->> 'subscription')::uuid as subscription
        from jsonb_array_elements(taken) as t
      ) as o
    )
    select coalesce(
      jsonb_agg(t || jsonb_build_object('secret', s.secret) order by e.n),
      '[]'
    )
    from jsonb_array_elements(taken) with ordinality as e (t, n)
    join secrets s on s.subscription = (t ->> 'subscription')::uuid
    where t ->> 'body' is not null
  );
end;
$$;
comment on function purple_flea.with_secrets(jsonb) is
  'Gives claimed deliveries that have a body, each with its subscription''s secret.';

create or replace function public.claim_deliveries(most integer, lease_s integer) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  is_more boolean := false;
  due     uuid[];
  taken   jsonb;
  gone    record;
begin
  if most is null or most not between 1 and 1000
    or lease_s is null or lease_s not between 5 and 600 then
    raise exception 'most is 1 to 1000, and lease_s 5 to 600'
      using errcode = 'invalid_parameter_value';
  end if;
  perform purple_flea.note_listener();
  -- A restored or copied database may be behind what receivers have got.
  if purple_flea.current_generation() is null then
    return '{"state": "restore_unconfirmed", "deliveries": [], "more": false}';
  end if;
  begin
    is_more := purple_flea.fan_out();
  exception when others then
    -- What is pending goes on.
    raise warning 'purple_flea: new events became no deliveries: % %', sqlstate, sqlerrm;
  end;
  due := array(
    select p.subscription_id
    from purple_flea.subscription_progress p
    where p.due_at <= clock_timestamp()
    order by p.due_at
    limit most
    for update skip locked
  );
  taken := purple_flea.take_deliveries(due, most, make_interval(secs => lease_s));
  select
    array_agg((t ->> 'subscription')::uuid) as subscriptions,
    array_agg((t ->> 'event')::bigint) as events
    into gone
  from jsonb_array_elements(taken) as t
  where t ->> 'body' is null;
  if gone.events is not null then
    perform purple_flea.end_deliveries(gone.subscriptions, gone.events);
  end if;
  perform purple_flea.set_due(due);
  return jsonb_build_object(
    'state', 'ok',
    'deliveries', purple_flea.with_secrets(taken),
    'more', is_more or exists (
      select
      from purple_flea.subscription_progress p
      where p.due_at <= clock_timestamp()
    )
  );
end;
$$;
comment on function public.claim_deliveries(integer, integer) is
  'Claims due deliveries for one listener until the lease ends: an array of {subscription, event, '
  'token, attempt, webhook_id, url, format, secret, body}. Says whether more are due now.';
