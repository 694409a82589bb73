-- Webhook subscriptions: how an owner or an admin of a tenant makes, enables and deletes one.

insert into purple_flea.event_types as known (type, description)
values (
  'subscription.disabled',
  'Nothing more is sent to a webhook subscription: its receiver is gone, or failed for a day, or '
  'its maker is no member any more.'
)
on conflict (type) do update
set description = excluded.description;
comment on column public.event_subscriptions.disabled_reason is
  'gone (the receiver answered 410), failing (a day without a success), member_left (its maker is '
  'no member any more), or ledger_uninstalled.';

-- Every figure about deliveries, in one place.
create or replace function purple_flea.delivery_limits(
  out subscriptions integer,   -- of one tenant
  out pending       integer,   -- deliveries of one subscription; further events wait in the feed
  out ready         integer,   -- the same of those that could be sent now, while it is unproven
  out in_flight     integer,   -- deliveries of one subscription at once
  out while_failing integer,   -- the same after a failure: receivers that hang take few places
  out failing_for   interval,  -- failures without a success, after which it is disabled
  out retry_after   interval,  -- the longest wait that a receiver may ask for
  out log_kept      interval   -- how long attempts stay in the log
)
  language plpgsql  -- see timing()
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  subscriptions := 1000;
  pending       := 1000;
  ready         := 20;
  in_flight     := 4;
  while_failing := 1;
  failing_for   := interval '1 day';
  retry_after   := interval '1 hour';
  log_kept      := interval '7 days';
end;
$$;
comment on function purple_flea.delivery_limits() is 'Gives every limit of webhook deliveries.';

-- The waits together are 24.7 hours, so the last attempt comes after a day. Jitter only adds, up to
-- a fifth: receivers that failed together are not asked together.
create or replace function purple_flea.delivery_wait(attempts integer) returns interval
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  waits constant interval[] := '{
    5 seconds, 30 seconds, 2 minutes, 10 minutes, 30 minutes,
    1 hour, 2 hours, 4 hours, 8 hours, 9 hours
  }';
begin
  return waits[attempts] * (1 + random() * 0.2);
end;
$$;
comment on function purple_flea.delivery_wait(integer) is
  'Gives the wait after a number of failed attempts; null: there is no further attempt.';

-- A name and no address: the listener checks what the name leads to, and a certificate has a name.
-- Ports below 1024 are those of other services. A secret in a query would stand in the logs of
-- proxies; the signature tells the receiver who sends.
create or replace function purple_flea.is_subscription_url(value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select char_length(value) <= 2048
    and value ~* (
      '^https://([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)+[a-z]([a-z0-9-]*[a-z0-9])?'
      || '(:[0-9]{1,5})?(/[a-z0-9._~:/@!$&''()*+,;=%-]*)?$'
    )
    and position('@' in value) = 0
    and not value ~* '^https://([^/:]*\.)?(localhost|local|internal|home\.arpa)(:|/|$)'
    and (
      coalesce(substring(value from '^[^/]*//[^/:]*:([0-9]{1,5})')::integer, 443) = 443
      or substring(value from '^[^/]*//[^/:]*:([0-9]{1,5})')::integer between 1024 and 65535
    )
$$;
comment on function purple_flea.is_subscription_url(text) is
  'Says whether a value can be a receiver''s URL: https, a public-looking name, port 443 or 1024 '
  'and above, no user, no query, no fragment.';

-- The URL of an event API is its origin, or a prefix. The listener adds /e/ and the key, which must
-- not stand in a column that members read.
create or replace function purple_flea.check_format(format text, url text, event_key text)
  returns void
  language plpgsql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if format is null or format not in ('standard', 'inngest') then
    raise exception 'a subscription''s format is standard or inngest'
      using errcode = 'invalid_parameter_value';
  elsif format = 'standard' and event_key is not null then
    raise exception 'only a subscription for Inngest has an event key'
      using errcode = 'invalid_parameter_value',
            hint    = 'The secret of any other is made here, and given with its id.';
  elsif format = 'inngest' and not coalesce(purple_flea.is_event_key(event_key), false) then
    raise exception 'the event key given cannot be one'
      using errcode = 'invalid_parameter_value',
            hint    = 'It is 1 to 256 of A-Z a-z 0-9 _ -.';
  elsif format = 'inngest' and url ~ '/e(/|$)' then
    raise exception 'the URL of an event API does not name its key'
      using errcode = 'invalid_parameter_value',
            hint    = 'It ends before /e/: https://inn.gs, for example. The key is event_key.';
  end if;
end;
$$;
comment on function purple_flea.check_format(text, text, text) is
  'Raises invalid_parameter_value for a format, or an event key, that no subscription can have.';

create or replace function purple_flea.check_subscription(url text, types text[]) returns void
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most    constant integer := 64;  -- types
  unknown text;
begin
  if url is null or not purple_flea.is_subscription_url(url) then
    raise exception 'this URL cannot be a receiver''s'
      using errcode = 'invalid_parameter_value',
            hint    = 'It is https://name[:port][/path] with a public name, at most 2048 '
              'characters, port 443 or 1024 and above, without a user, a query and a fragment.';
  end if;
  if types is null or cardinality(types) > most or array_position(types, null) is not null then
    raise exception 'types are an array of at most % types', most
      using errcode = 'invalid_parameter_value',
            hint    = 'An empty array means all types.';
  end if;
  unknown := (
    select string_agg(left(t, 64), ', ' order by t)
    from unnest(types) as t
    where t not in (select k.type from purple_flea.event_types k)
  );
  if unknown is not null then
    raise exception 'there are no events of the types: %', unknown
      using errcode = 'invalid_parameter_value',
            hint    = 'select type from public.event_types lists them.';
  end if;
end;
$$;
comment on function purple_flea.check_subscription(text, text[]) is
  'Raises invalid_parameter_value for a URL or types that no subscription can have.';

-- A new subscription gets what is committed from now on. Events of transactions that are under way
-- belong to it, so it may begin with some that were committed a moment before.
create or replace function purple_flea.begin_progress(subscription uuid, tenant uuid) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  feed record := purple_flea.feed_now();
begin
  insert into purple_flea.subscription_progress
    (subscription_id, tenant_id, epoch, position, event_id)
  select
    subscription,
    tenant,
    -- While the database waits for a confirmation, its events belong to the next epoch.
    coalesce(feed.epoch, f.epoch + 1),
    coalesce(feed.below - 1, 0),
    9223372036854775807
  from purple_flea.feed f;
end;
$$;
comment on function purple_flea.begin_progress(uuid, uuid) is
  'Lets a subscription begin at the end of the feed.';

create or replace function public.create_event_subscription(
  tenant_id uuid,
  url       text,
  types     text[] default '{}',
  format    text   default 'standard',
  event_key text   default null
) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  limits constant record := purple_flea.delivery_limits();
  made   constant uuid   := gen_random_uuid();
  secret constant text   := coalesce(event_key, 'whsec_' || encode(
    sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
      || uuid_send(gen_random_uuid())),
    'base64'
  ));
begin
  perform purple_flea.hide_parameters();
  perform purple_flea.refuse_strangers(tenant_id);
  perform purple_flea.check_subscription(url, types);
  perform purple_flea.check_format(format, url, event_key);
  perform
  from public.tenants t
  where t.id = create_event_subscription.tenant_id
  for no key update;
  if not found then
    raise exception 'there is no such tenant' using errcode = 'invalid_parameter_value';
  end if;
  if limits.subscriptions <= (
    select count(*)
    from public.event_subscriptions s
    where s.tenant_id = create_event_subscription.tenant_id
  ) then
    raise exception 'the tenant has % subscriptions, and may have no more', limits.subscriptions
      using errcode = 'check_violation',
            hint    = 'Delete one: public.delete_event_subscription(id).';
  end if;
  insert into public.event_subscriptions (id, tenant_id, url, types, format, created_by)
  values (
    made,
    create_event_subscription.tenant_id,
    create_event_subscription.url,
    array(select distinct t from unnest(create_event_subscription.types) as t order by t),
    create_event_subscription.format,
    purple_flea.caller()
  );
  perform purple_flea.begin_progress(made, tenant_id);
  perform purple_flea.store_secret(purple_flea.subscription_secret_name(made), secret);
  if format = 'inngest' then
    return jsonb_build_object('id', made);
  end if;
  return jsonb_build_object('id', made, 'secret', secret);
end;
$$;
comment on function public.create_event_subscription(uuid, text, text[], text, text) is
  'Makes a webhook subscription of a tenant. Gives its id and, only now, its secret. With the '
  'format inngest it sends events to Inngest, with an event key that is never given back. For '
  'owners and admins of the tenant, and the service.';

-- Gives the tenant, or raises: a stranger learns nothing about which ids there are.
create or replace function purple_flea.managed_subscription(subscription uuid) returns uuid
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  tenant uuid := (
    select s.tenant_id from public.event_subscriptions s where s.id = subscription
  );
begin
  perform purple_flea.refuse_strangers(tenant);
  -- The order of the locks is the same for all: progress, subscription, deliveries.
  perform
  from purple_flea.subscription_progress p
  where p.subscription_id = subscription
  for update;
  if not found then
    raise exception 'there is no such subscription' using errcode = 'invalid_parameter_value';
  end if;
  return tenant;
end;
$$;
comment on function purple_flea.managed_subscription(uuid) is
  'Locks a subscription that the caller may manage, and gives its tenant. Raises for any other.';

create or replace function public.delete_event_subscription(id uuid) returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.managed_subscription(id);
  delete from public.event_subscriptions s where s.id = delete_event_subscription.id;
end;
$$;
comment on function public.delete_event_subscription(uuid) is
  'Deletes a webhook subscription, what it has pending, and its secret. For owners and admins of '
  'the tenant, and the service.';

create or replace function purple_flea.forget_subscription() returns trigger
  language plpgsql
  volatile
  -- Who deletes a tenant may not change secrets.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.drop_secret(purple_flea.subscription_secret_name(old.id));
  return null;
end;
$$;
comment on function purple_flea.forget_subscription() is
  'Deletes the secret of a deleted subscription.';

create or replace trigger purple_flea_forget
  after delete on public.event_subscriptions
  for each row execute function purple_flea.forget_subscription();

-- The deletion of a tenant reaches a subscription before its progress. Every other function has the
-- locks in the other order.
create or replace function purple_flea.lock_progress_of_tenant() returns trigger
  language plpgsql
  volatile
  -- Who deletes a tenant may not read progress.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform
  from purple_flea.subscription_progress p
  where p.tenant_id = old.id
  order by p.subscription_id
  for update;
  return old;
end;
$$;
comment on function purple_flea.lock_progress_of_tenant() is
  'Waits until no delivery of a tenant is claimed or settled, before the tenant is deleted.';

create or replace trigger purple_flea_lock_progress
  before delete on public.tenants
  for each row execute function purple_flea.lock_progress_of_tenant();

create or replace function public.enable_event_subscription(id uuid) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  tenant  constant uuid := purple_flea.managed_subscription(id);
  trouble constant text := purple_flea.secret_trouble(purple_flea.subscription_secret_name(id));
begin
  if trouble is not null then
    raise exception 'the secret of the subscription is %', trouble
      using errcode = 'check_violation',
            hint    = 'An operator sets it (docs/secrets.md). Or make a new subscription, and '
              'delete this one.';
  end if;
  update public.event_subscriptions s
  set state            = 'active',
      disabled_reason  = null,
      disabled_at      = null,
      first_failure_at = null
  where s.id = enable_event_subscription.id
    and s.state = 'disabled';
  if found then
    update purple_flea.event_deliveries d
    set attempts = 0,
        due_at   = null,
        token    = null
    where d.subscription_id = enable_event_subscription.id;
    perform purple_flea.order_subjects(
      array_agg(d.subscription_id),
      array_agg(d.subject)
    )
    from (
      select distinct e.subscription_id, e.subject
      from purple_flea.event_deliveries e
      where e.subscription_id = enable_event_subscription.id
    ) as d;
    perform purple_flea.set_due(array[id]);
  end if;
  return jsonb_build_object(
    'id', id,
    'pending', (
      select p.pending
      from purple_flea.subscription_progress p
      where p.subscription_id = enable_event_subscription.id
    ),
    'missed', exists (
      select
      from purple_flea.subscription_progress p
      join purple_flea.feed_floors f on f.tenant_id = tenant
      where p.subscription_id = enable_event_subscription.id
        and (p.epoch, p.position, p.event_id) < (f.epoch, f.position, f.id)
    )
  );
end;
$$;
comment on function public.enable_event_subscription(uuid) is
  'Enables a disabled subscription. It goes on where it was. Gives how many deliveries are pending '
  'at once, and whether it has missed events that the feed no longer has.';

create or replace function purple_flea.record_subscription(of_tenant uuid, record_id text)
  returns jsonb
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if record_id !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return null;
  end if;
  return (
    select to_jsonb(s)
    from public.event_subscriptions s
    where s.id = record_id::uuid
      and s.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_subscription(uuid, text) is
  'Gives a tenant''s webhook subscription by its id.';
