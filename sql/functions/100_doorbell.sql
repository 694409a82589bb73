-- The doorbell: a signed request to the function, through pg_net, which says that there is something to do. It is
-- awareness, not delivery: it may get lost, come late or come twice, and what is to be done stands in the jobs. While
-- somebody waits for the next job anyway (095_watch.sql) nobody is called. And it
-- never stands in a deposit's way: whatever goes wrong with it, the row and its job are stored, and a warning says why
-- nobody was called.

create or replace function purple_flea.signature(webhook_id text, webhook_timestamp bigint, body jsonb, secret text) returns text
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
    raise exception 'purple_flea_webhook_secret is not of the form whsec_<base64>' using errcode = 'PF001';
  end if;
  -- pgcrypto may have been installed in another schema before us.
  select n.nspname into strict pgcrypto
  from pg_catalog.pg_extension e
  join pg_catalog.pg_namespace n on n.oid = e.extnamespace
  where e.extname = 'pgcrypto';
  -- body::text is what pg_net sends, to the byte.
  execute format('select %I.hmac($1, $2, ''sha256'')', pgcrypto) into digest
    using
      convert_to(webhook_id || '.' || webhook_timestamp || '.' || body::text, 'UTF8'),
      decode(substr(secret, 7), 'base64');
  return 'v1,' || encode(digest, 'base64');
end;
$$;
comment on function purple_flea.signature(text, bigint, jsonb, text) is 'The Standard Webhooks signature of a body, over the bytes that pg_net sends.';
revoke all on function purple_flea.signature(text, bigint, jsonb, text) from public, anon, authenticated, service_role;
-- Posts a body to the function, signed. A function whose claims announce that it answers at once is given 2 s, so that one
-- that hangs holds no other webhook of the database up for longer: pg_net sends the next batch when the last one is over.
create or replace function purple_flea.post(webhook_id text, body jsonb, preference text default null) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  -- A lock on pg_net's tables must not hold a deposit back for longer.
  set lock_timeout = '500ms'
as $$
declare
  url       text    := purple_flea.secret('purple_flea_function_url');
  secret    text    := purple_flea.secret('purple_flea_webhook_secret');
  signed_at bigint  := floor(extract(epoch from clock_timestamp()));
  at_once   boolean := preference is null and (select l.answers_at_once from purple_flea.ledger l);
begin
  if url is null or secret is null then
    raise exception using errcode = 'PF001',
      message = case when url is null then 'purple_flea_function_url' else 'purple_flea_webhook_secret' end || ' is not set';
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
    -- Without that announcement: longer than the function takes to do what is due.
    timeout_milliseconds => case when at_once then 2000 else 15000 end
  );
end;
$$;
comment on function purple_flea.post(text, jsonb, text) is 'Posts a body to the function, signed. Raises where it cannot.';
revoke all on function purple_flea.post(text, jsonb, text) from public, anon, authenticated, service_role;

-- Why the function was not called, in words that hold nothing of the URL or the secret: pg_net quotes both of what it refuses.
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
    else 'pg_net or the signature failed with SQLSTATE ' || state || '; look at purple_flea_function_url and purple_flea_webhook_secret'
  end
$$;
comment on function purple_flea.why_not_called(text, text) is 'An error of calling the function, without what it quotes.';
revoke all on function purple_flea.why_not_called(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Whether this transaction has notified the function already. Each notification makes it look for all that is due, so one
-- is enough, however many statements and rows: thousands would stall every other webhook of the database.
create or replace function purple_flea.first_notification() returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('purple_flea.rang_in', true) is not distinct from pg_current_xact_id()::text then
    return false;
  end if;
  perform set_config('purple_flea.rang_in', pg_current_xact_id()::text, true);
  return true;
end;
$$;
comment on function purple_flea.first_notification() is 'True the first time in a transaction.';
revoke all on function purple_flea.first_notification() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring_doorbell() returns trigger
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
  if first_id is not null and not purple_flea.is_watched() and purple_flea.first_notification() then
    perform purple_flea.post(
      'wallet-change-' || first_id,
      jsonb_build_object('ledger', true, 'reference', 'wallet-change-' || first_id)
    );
  end if;
  return null;
exception when others then
  raise warning 'purple_flea: deposit % is stored, but the function was not called: %', first_id, purple_flea.why_not_called(sqlstate, sqlerrm);
  return null;
end;
$$;
comment on function purple_flea.ring_doorbell() is 'Tells the function that a statement made deposits, once a transaction. Never fails.';
revoke all on function purple_flea.ring_doorbell() from public, anon, authenticated, service_role, purple_flea_worker;

-- The same for everything else that makes jobs or lets them go, and only if there is something to do.
create or replace function purple_flea.try_ring() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if purple_flea.is_due() and not purple_flea.is_watched() and purple_flea.first_notification() then
    perform purple_flea.post('ring-' || gen_random_uuid(), '{"ledger": true}');
  end if;
exception when others then
  raise warning 'purple_flea: what was asked for is stored, but the function was not called: %', purple_flea.why_not_called(sqlstate, sqlerrm);
end;
$$;
comment on function purple_flea.try_ring() is 'Tells the function that something is due. Never fails.';
revoke all on function purple_flea.try_ring() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.ring_if_due() returns trigger
  language plpgsql
  volatile
  -- Who asks may read neither jobs nor secrets.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.try_ring();
  return null;
end;
$$;
comment on function purple_flea.ring_if_due() is 'Tells the function that a statement made jobs. Never fails.';
revoke all on function purple_flea.ring_if_due() from public, anon, authenticated, service_role, purple_flea_worker;

create or replace trigger purple_flea_doorbell
  after insert on public.wallet_changes
  referencing new table as inserted
  for each statement execute function purple_flea.ring_doorbell();
