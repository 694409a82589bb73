-- Settling deliveries: what a listener reports. A report counts if it carries the token of the
-- claim that still has the delivery.

create or replace function purple_flea.read_reports(outcomes jsonb)
  returns table (
    subscription_id uuid,
    tenant_id       uuid,
    event_id        bigint,
    subject         text,
    webhook_id      text,
    attempt         integer,
    did             text,
    status          integer,
    error           text,
    ms              integer,
    next_at         timestamptz
  )
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  at     constant timestamptz := clock_timestamp();
  limits constant record      := purple_flea.delivery_limits();
begin
  return query
    select distinct on (d.subscription_id, d.event_id)
      d.subscription_id,
      p.tenant_id,
      d.event_id,
      d.subject,
      d.webhook_id,
      d.attempts,
      o.did,
      o.status,
      case
        when o.did <> 'delivered'
          then coalesce(substring(o.error from '^[a-z_]{1,40}$'), 'other')
      end,
      least(greatest(o.ms, 0), 2147483647)::integer,
      case o.did
        -- Null without a wait: there is no further attempt, whatever the receiver asks for.
        when 'failed' then at + w.wait + case
          when make_interval(secs => o.retry_after_s) > w.wait
            then least(make_interval(secs => o.retry_after_s), limits.retry_after) - w.wait
          else interval '0'
        end
      end
    from jsonb_to_recordset(outcomes) as o (
      subscription uuid, event bigint, token uuid, did text, status integer, error text,
      retry_after_s double precision, ms bigint
    )
    join purple_flea.event_deliveries d
      on d.subscription_id = o.subscription
      and d.event_id = o.event
      and d.token = o.token
    join purple_flea.subscription_progress p on p.subscription_id = d.subscription_id
    cross join lateral (select purple_flea.delivery_wait(d.attempts) as wait) as w
    where o.did in ('delivered', 'failed', 'not_sent');
end;
$$;
comment on function purple_flea.read_reports(jsonb) is
  'Reads an array of {subscription, event, token, did, status, error, retry_after_s, ms}: the '
  'reports of present claims, with the time of the next attempt.';

create or replace function purple_flea.disable_subscription(subscription uuid, why text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid;
begin
  update public.event_subscriptions s
  set state           = 'disabled',
      disabled_reason = why,
      disabled_at     = clock_timestamp()
  where s.id = subscription
    and s.state = 'active'
  returning s.tenant_id into tenant;
  if found then
    perform purple_flea.emit(
      'subscription.disabled',
      tenant,
      'subscription:' || subscription,
      jsonb_build_object('subscription_id', subscription, 'reason', why)
    );
  end if;
end;
$$;
comment on function purple_flea.disable_subscription(uuid, text) is
  'Disables a subscription, with an event that says why. The caller holds the lock of its '
  'progress.';

-- A success and a failure that come in one call count as a success.
create or replace function purple_flea.judge_subscriptions(reports jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  at     constant timestamptz := clock_timestamp();
  limits constant record      := purple_flea.delivery_limits();
  judged record;
begin
  for judged in
    select
      s.id,
      bool_or(r.did = 'delivered') as succeeded,
      bool_or(coalesce(r.status = 410, false)) as is_gone,
      min(s.first_failure_at) <= at - limits.failing_for as is_failing
    from jsonb_to_recordset(reports) as r (subscription_id uuid, did text, status integer)
    join public.event_subscriptions s on s.id = r.subscription_id
    where r.did <> 'not_sent'
    group by s.id
    order by s.id
  loop
    update public.event_subscriptions s
    set last_success_at  = case when judged.succeeded then at else s.last_success_at end,
        first_failure_at = case
                             when not judged.succeeded then coalesce(s.first_failure_at, at)
                           end
    where s.id = judged.id
      and (judged.succeeded or s.first_failure_at is null);
    if judged.is_gone then
      perform purple_flea.disable_subscription(judged.id, 'gone');
    elsif judged.is_failing and not judged.succeeded then
      perform purple_flea.disable_subscription(judged.id, 'failing');
    end if;
  end loop;
end;
$$;
comment on function purple_flea.judge_subscriptions(jsonb) is
  'Notes successes and failures of subscriptions, and disables those that are gone or have failed '
  'for a day.';

create or replace function purple_flea.log_attempts(reports jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.event_delivery_attempts (
    subscription_id, tenant_id, event_id, webhook_id, attempt, at, outcome,
    status, error, ms, next_attempt_at
  )
  select
    r.subscription_id,
    r.tenant_id,
    r.event_id,
    r.webhook_id,
    r.attempt,
    clock_timestamp(),
    case
      when r.did = 'delivered'   then 'delivered'
      when r.next_at is not null then 'failed'
      else 'given_up'
    end,
    r.status,
    r.error,
    r.ms,
    r.next_at
  from jsonb_to_recordset(reports) as r (
    subscription_id uuid, tenant_id uuid, event_id bigint, webhook_id text, attempt integer,
    did text, status integer, error text, ms integer, next_at timestamptz
  )
  where r.did <> 'not_sent'
  order by r.subscription_id, r.event_id;
end;
$$;
comment on function purple_flea.log_attempts(jsonb) is 'Writes attempts to the log.';

create or replace function purple_flea.apply_reports(reports jsonb) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan
  set jit = off
as $$
declare
  over record;
  back record;
begin
  update purple_flea.event_deliveries d
  set token    = null,
      due_at   = coalesce(r.next_at, clock_timestamp()),
      attempts = d.attempts - case when r.did = 'not_sent' then 1 else 0 end
  from jsonb_to_recordset(reports)
    as r (subscription_id uuid, event_id bigint, did text, next_at timestamptz)
  where d.subscription_id = r.subscription_id
    and d.event_id = r.event_id
    and (r.did = 'not_sent' or r.next_at is not null);
  select array_agg(r.subscription_id) as subscriptions, array_agg(r.event_id) as events into over
  from jsonb_to_recordset(reports)
    as r (subscription_id uuid, event_id bigint, did text, next_at timestamptz)
  where r.did <> 'not_sent'
    and r.next_at is null;
  if over.events is not null then
    perform purple_flea.end_deliveries(over.subscriptions, over.events);
  end if;
  select array_agg(r.subscription_id) as subscriptions, array_agg(r.subject) as subjects into back
  from jsonb_to_recordset(reports)
    as r (subscription_id uuid, subject text, did text, next_at timestamptz)
  where r.did = 'not_sent'
    or r.next_at is not null;
  if back.subjects is not null then
    -- Events of the subject that were sent anew may have come before it meanwhile.
    perform purple_flea.order_subjects(back.subscriptions, back.subjects);
  end if;
end;
$$;
comment on function purple_flea.apply_reports(jsonb) is
  'Ends the deliveries that were delivered or are given up, and puts the others back. The caller '
  'holds the locks of the subscriptions'' progress.';

create or replace function public.settle_deliveries(outcomes jsonb) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  most    constant integer := 1000;
  named   uuid[];
  reports jsonb;
begin
  if jsonb_typeof(outcomes) is distinct from 'array' or jsonb_array_length(outcomes) > most then
    raise exception 'outcomes are an array of at most %', most
      using errcode = 'invalid_parameter_value';
  end if;
  named := array(
    select p.subscription_id
    from purple_flea.subscription_progress p
    where p.subscription_id in (
      select o.subscription from jsonb_to_recordset(outcomes) as o (subscription uuid)
    )
    order by p.subscription_id
    for update
  );
  select coalesce(jsonb_agg(to_jsonb(r)), '[]') into reports
  from purple_flea.read_reports(outcomes) r;
  perform purple_flea.log_attempts(reports);
  perform purple_flea.apply_reports(reports);
  perform purple_flea.judge_subscriptions(reports);
  perform purple_flea.set_due(named);
  return jsonb_build_object(
    'settled', jsonb_array_length(reports),
    'stale', jsonb_array_length(outcomes) - jsonb_array_length(reports),
    'due', exists (
      select
      from purple_flea.subscription_progress p
      where p.subscription_id = any (named)
        and p.due_at <= clock_timestamp()
    )
  );
end;
$$;
comment on function public.settle_deliveries(jsonb) is
  'Records what became of claimed deliveries: an array of {subscription, event, token, did, '
  'status, error, retry_after_s, ms}; did is delivered, failed or not_sent. Says how many counted, '
  'how many came too late, and whether more deliveries are due now.';
