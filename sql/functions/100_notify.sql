-- Notifications: signed requests to the function, through pg_net, which say that a job is due; or
-- bells over Realtime, on which a listener makes the request (101_doorbell.sql). They
-- are awareness and no delivery: a notification may get lost, come late or come twice, and the
-- truth is the row of the job. While a worker keeps the watch (095_watch.sql) the trigger notifies
-- no function. A notification that fails never fails a deposit: the row and its job are stored, and
-- a warning says why the function was not called.

create or replace function purple_flea.signature(
  webhook_id        text,
  webhook_timestamp bigint,
  body              jsonb,
  secret            text
) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  pgcrypto text;
  digest   bytea;
begin
  -- Checked here, because decode() would quote a character of it.
  if secret is null or secret !~ '^whsec_[A-Za-z0-9+/]{32,}={0,2}$' then
    raise exception 'purple_flea_webhook_secret is not of the form whsec_<base64>'
      using errcode = 'PF001';
  end if;
  -- pgcrypto may have been installed in another schema before.
  select n.nspname into strict pgcrypto
  from pg_catalog.pg_extension e
  join pg_catalog.pg_namespace n on n.oid = e.extnamespace
  where e.extname = 'pgcrypto';
  -- pg_net sends exactly the bytes of body::text.
  execute format('select %I.hmac($1, $2, ''sha256'')', pgcrypto)
    into digest
    using
      convert_to(webhook_id || '.' || webhook_timestamp || '.' || body::text, 'UTF8'),
      decode(substr(secret, 7), 'base64');
  return 'v1,' || encode(digest, 'base64');
end;
$$;
comment on function purple_flea.signature(text, bigint, jsonb, text) is
  'Gives the Standard Webhooks signature of a body, over the bytes that pg_net sends.';

-- A function that replies at once, as its claims announce, gets 2 s. pg_net sends the next batch
-- when the last one is over, so a function that hangs holds up every other webhook of the database.
create or replace function purple_flea.post(
  webhook_id text,
  body       jsonb,
  preference text default null
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A lock on pg_net's tables must not hold a deposit back for longer.
  set lock_timeout = '500ms'
as $$
declare
  at_once_ms constant integer := 2000;
  working_ms constant integer := 15000;  -- longer than the function takes to execute the due jobs
  url        text    := purple_flea.secret('purple_flea_function_url');
  secret     text    := purple_flea.secret('purple_flea_webhook_secret');
  signed_at  bigint  := floor(extract(epoch from clock_timestamp()));
  at_once    boolean := preference is null and (select l.answers_at_once from purple_flea.ledger l);
begin
  if url is null then
    raise exception 'purple_flea_function_url is not set' using errcode = 'PF001';
  elsif secret is null then
    raise exception 'purple_flea_webhook_secret is not set' using errcode = 'PF001';
  end if;
  perform net.http_post(
    url     => url,
    body    => body,
    headers => jsonb_build_object(
      'Content-Type',      'application/json',
      'Prefer',            coalesce(preference, 'respond-async'),
      'webhook-id',        webhook_id,
      'webhook-timestamp', signed_at::text,
      'webhook-signature', purple_flea.signature(webhook_id, signed_at, body, secret)
    ),
    timeout_milliseconds => case when at_once then at_once_ms else working_ms end
  );
end;
$$;
comment on function purple_flea.post(text, jsonb, text) is
  'Posts a body to the function, signed. Raises if it cannot.';

-- pg_net's errors quote the URL and the secret. This text holds neither.
create or replace function purple_flea.why_not_called(state text, message text) returns text
  language sql
  immutable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when state = 'PF001' then message
    when state in ('3F000', '42883') then 'this database has no pg_net'
    when state = '55P03' then 'a lock on pg_net''s tables was not to be had in time'
    else 'pg_net or the signature failed with SQLSTATE ' || state
      || '; look at purple_flea_function_url and purple_flea_webhook_secret'
  end
$$;
comment on function purple_flea.why_not_called(text, text) is
  'Says why the function was not called, without the values that the error quotes.';

-- Each notification makes the function look for all due jobs, so one a transaction is enough,
-- however many statements and rows. Thousands would stall every other webhook of the database.
create or replace function purple_flea.is_first_notification() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('purple_flea.notified_in', true)
    is not distinct from pg_current_xact_id()::text then
    return false;
  end if;
  perform set_config('purple_flea.notified_in', pg_current_xact_id()::text, true);
  return true;
end;
$$;
comment on function purple_flea.is_first_notification() is
  'Returns true the first time in a transaction.';

create or replace function purple_flea.notify_of_deposits() returns trigger
  language plpgsql
  volatile
  -- The depositor may read neither the secret nor, in general, the queue.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  first_id bigint;
begin
  select min(i.id) into first_id from inserted i where i.change_type = 'deposit';
  if first_id is not null
    and not purple_flea.is_watched()
    and purple_flea.is_first_notification() then
    perform purple_flea.notify(
      'wallet-change-' || first_id,
      jsonb_build_object('ledger', true, 'reference', 'wallet-change-' || first_id)
    );
  end if;
  return null;
exception when others then
  raise warning 'purple_flea: deposit % is stored, but the function was not called: %',
    first_id, purple_flea.why_not_called(sqlstate, sqlerrm);
  return null;
end;
$$;
comment on function purple_flea.notify_of_deposits() is
  'Notifies the function that a statement made deposits, once a transaction. Never fails.';

create or replace trigger purple_flea_notify
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.notify_of_deposits();

create or replace function purple_flea.notify_if_due() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if purple_flea.is_due()
    and not purple_flea.is_watched()
    and purple_flea.is_first_notification() then
    perform purple_flea.notify('notify-' || gen_random_uuid(), '{"ledger": true}');
  end if;
exception when others then
  raise warning 'purple_flea: what was asked for is stored, but the function was not called: %',
    purple_flea.why_not_called(sqlstate, sqlerrm);
end;
$$;
comment on function purple_flea.notify_if_due() is
  'Notifies the function if a job is due, once a transaction. Never fails.';

create or replace function purple_flea.notify_after_statement() returns trigger
  language plpgsql
  volatile
  -- The writer of the row may read neither jobs nor secrets.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.notify_if_due();
  return null;
end;
$$;
comment on function purple_flea.notify_after_statement() is
  'Notifies the function if a statement made due jobs. Never fails.';
