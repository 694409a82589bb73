-- Secrets. Supabase's Vault holds them. On a server without Vault the table purple_flea.secrets
-- holds them, and only its owner may read it. docs/secrets.md lists their names and says how an
-- operator sets one.

-- A secret of an agent ends in the agent's id, so that no id can spell another agent's secret.
create or replace function purple_flea.key_name(agent text, purpose text default null) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 'purple_flea_' || coalesce(purpose || '_', '') || 'key:' || agent
$$;
comment on function purple_flea.key_name(text, text) is
  'Names the secret that holds an agent''s own key; with the purpose trading or unused, the '
  'agent''s other keys.';

create or replace function purple_flea.agent_of_key(secret_name text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select substring(secret_name from '^purple_flea_(?:trading_|unused_)?key:(.+)$')
$$;
comment on function purple_flea.agent_of_key(text) is
  'Gives the agent that a secret''s name belongs to; null for any other name.';

create or replace function purple_flea.subscription_secret_name(subscription uuid) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 'purple_flea_subscription:' || subscription
$$;
comment on function purple_flea.subscription_secret_name(uuid) is
  'Names the secret of a subscription.';

create or replace function purple_flea.subscription_of_secret(secret_name text) returns uuid
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select substring(
    secret_name from '^purple_flea_subscription:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$'
  )::uuid
$$;
comment on function purple_flea.subscription_of_secret(text) is
  'Gives the webhook subscription that a secret''s name belongs to; null for any other name.';

-- A value copied from a file or a page often ends in a line break, which no HTTP header can carry.
create or replace function purple_flea.trimmed(value text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select btrim(value, E' \t\n\v\f\r')
$$;
comment on function purple_flea.trimmed(text) is 'Takes the white space from both ends of a value.';

-- Accepts the same URLs as the function's settings: https, or http to a loopback host. A query is
-- allowed, because some gateways need one.
create or replace function purple_flea.is_function_url(value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select char_length(value) <= 2048  -- longer than any gateway's URL
    and value ~* (
      '^(https://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])'
      || '|http://(localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[::1\]))'
      || '(:[0-9]{1,5})?([/?][a-z0-9._~:/?@!$&''()*+,;=%-]*)?$'
    )
    and coalesce(
      substring(value from '^[a-zA-Z]+://[^/?]*:([0-9]{1,5})(?:[/?]|$)')::integer,
      1
    ) between 1 and 65535
$$;
comment on function purple_flea.is_function_url(text) is
  'Says whether a value can be the function''s URL: https, or http to a loopback host; no user, '
  'no fragment, no white space.';

create or replace function purple_flea.is_webhook_secret(value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- The form is checked first, because decode() quotes a character that it cannot read. The
  -- function has the same lengths (signature.rs).
  select case
    when value ~ '^whsec_([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'
      then octet_length(decode(substr(value, 7), 'base64')) between 24 and 64
    else false
  end
$$;
comment on function purple_flea.is_webhook_secret(text) is
  'Says whether a value is whsec_ and the base64 of 24 to 64 bytes.';

-- It stands in the path of a URL as it is.
create or replace function purple_flea.is_event_key(value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select char_length(value) <= 256 and value ~ '^[A-Za-z0-9_-]+$' and not value like 'whsec\_%'
$$;
comment on function purple_flea.is_event_key(text) is
  'Says whether a value can be an event key of Inngest: 1 to 256 of A-Z a-z 0-9 _ -.';

create or replace function purple_flea.is_well_formed(secret_name text, value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when secret_name = 'purple_flea_function_url' then purple_flea.is_function_url(value)
    when secret_name = 'purple_flea_webhook_secret' then purple_flea.is_webhook_secret(value)
    -- set_secret() knows which of the two the subscription's format demands.
    when purple_flea.subscription_of_secret(secret_name) is not null
      then purple_flea.is_webhook_secret(value) or purple_flea.is_event_key(value)
    -- A key travels in an HTTP header.
    when purple_flea.agent_of_key(secret_name) is not null
      then char_length(value) <= 512 and value ~ '^[!-~]+$'
    else false
  end
$$;
comment on function purple_flea.is_well_formed(text, text) is
  'Says whether a value can be the secret of this name.';

-- Never raises, because one secret that Vault cannot decrypt must not stop the claims of other
-- agents.
create or replace function purple_flea.read_secret(
  secret_name text,
  out value   text,
  out trouble text
)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    -- One of the two does not exist, so neither may be named outside `execute`. `supabase db lint`
    -- reads what `execute` is given, so the table that Supabase does not have is an argument.
    if to_regclass('vault.decrypted_secrets') is not null then
      execute 'select decrypted_secret from vault.decrypted_secrets where name = $1'
        into value using secret_name;
    else
      execute format('select secret from %s where name = $1', 'purple_flea.secrets')
        into value using secret_name;
    end if;
  exception when others then
    trouble := 'unreadable';
    return;
  end;
  value   := nullif(purple_flea.trimmed(value), '');
  trouble := case
    when value is null then 'missing'
    when not purple_flea.is_well_formed(secret_name, value) then 'malformed'
  end;
end;
$$;
comment on function purple_flea.read_secret(text) is
  'Gives a secret''s value, trimmed, and its trouble: missing, unreadable, malformed, or null.';

create or replace function purple_flea.secret(secret_name text) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  held record := purple_flea.read_secret(secret_name);
begin
  if held.trouble = 'unreadable'
    or (
      held.trouble = 'malformed'
      and secret_name not in ('purple_flea_function_url', 'purple_flea_webhook_secret')
    ) then
    raise warning 'purple_flea: the secret % is %', secret_name, held.trouble;
    return null;
  end if;
  return held.value;
end;
$$;
comment on function purple_flea.secret(text) is
  'Gives a secret by name, or null. Never raises; warns of a secret that cannot be read or used. '
  'Only the owner''s own functions call it.';

create or replace function purple_flea.secret_trouble(secret_name text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select r.trouble from purple_flea.read_secret(secret_name) as r
$$;
comment on function purple_flea.secret_trouble(text) is
  'Names the trouble of a secret: missing, unreadable, malformed; null without any.';

-- Does not check the value. A registration's key is stored this way, because a refused key is lost.
create or replace function purple_flea.store_secret(secret_name text, new_secret text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  known uuid;
begin
  if to_regclass('vault.decrypted_secrets') is null then
    execute format(
        'insert into %s (name, secret) values ($1, $2)
         on conflict (name) do update set secret = excluded.secret',
        'purple_flea.secrets'
      )
      using secret_name, new_secret;
    return;
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1'
    into known using secret_name;
  if known is not null
    and purple_flea.secret_trouble(secret_name) is not distinct from 'unreadable' then
    -- vault.update_secret() decrypts the old value first, and fails.
    execute 'delete from vault.secrets where id = $1' using known;
    known := null;
  end if;
  if known is null then
    execute 'select vault.create_secret($1, $2, $3)'
      using new_secret, secret_name, 'Purple Flea Edge';
  else
    execute 'select vault.update_secret($1, $2)' using known, new_secret;
  end if;
end;
$$;
comment on function purple_flea.store_secret(text, text) is
  'Writes a secret by name, into Vault if the server has it.';

create or replace function purple_flea.drop_secret(secret_name text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('vault.secrets') is not null then
    execute 'delete from vault.secrets where name = $1' using secret_name;
  else
    execute format('delete from %s where name = $1', 'purple_flea.secrets') using secret_name;
  end if;
end;
$$;
comment on function purple_flea.drop_secret(text) is 'Deletes a secret by name, if there is one.';

-- No message quotes the value. No message quotes an unknown name either: with swapped arguments the
-- name is the value.
create or replace function purple_flea.set_secret(secret_name text, new_secret text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  key_least constant integer := 8;  -- characters; a shorter value is a typing mistake and no key
  trimmed   constant text    := coalesce(purple_flea.trimmed(new_secret), '');
  agent     constant text    := purple_flea.agent_of_key(secret_name);
  receiver  constant uuid    := purple_flea.subscription_of_secret(secret_name);
  for_inngest boolean;
begin
  perform purple_flea.hide_parameters();
  if agent is null
    and receiver is null
    and (secret_name is null
         or secret_name not in ('purple_flea_function_url', 'purple_flea_webhook_secret')) then
    raise exception 'a secret is called purple_flea_function_url, purple_flea_webhook_secret, '
      'purple_flea_key:<agent id>, or purple_flea_subscription:<subscription id>'
      using errcode = 'invalid_parameter_value',
            hint    = 'docs/secrets.md lists the names.';
  end if;
  if agent is not null and not exists (select from public.agents a where a.id = agent) then
    raise exception 'there is no agent that the secret % could belong to', secret_name
      using errcode = 'invalid_parameter_value';
  end if;
  if receiver is not null then
    select s.format = 'inngest' into for_inngest
    from public.event_subscriptions s
    where s.id = receiver;
    if not found then
      raise exception 'there is no subscription that the secret % could belong to', secret_name
        using errcode = 'invalid_parameter_value';
    end if;
  end if;
  if not purple_flea.is_well_formed(secret_name, trimmed)
    or for_inngest <> purple_flea.is_event_key(trimmed)
    or (agent is not null and char_length(trimmed) < key_least) then
    raise exception 'the value given for % cannot be one', secret_name
      using errcode = 'invalid_parameter_value',
            hint    = case
              when agent is not null
                then format('A key has %s to 512 visible ASCII characters.', key_least)
              when for_inngest
                then 'It is an event key of Inngest: 1 to 256 of A-Z a-z 0-9 _ -.'
              when secret_name = 'purple_flea_function_url'
                then 'It is an https URL, or an http URL of a loopback host, '
                  'without a user and a fragment.'
              else 'It is whsec_ and the base64 of 24 to 64 bytes: '
                'openssl rand -base64 32 makes such bytes.'
            end;
  end if;
  perform purple_flea.store_secret(secret_name, trimmed);
end;
$$;
comment on function purple_flea.set_secret(text, text) is
  'Sets a secret by name, trimmed and checked. Only the owner may call it.';

-- Postgres prints a slow statement with its parameters (log_min_duration_statement, auto_explain),
-- and a key may be one of them. Postgres reads these settings when the statement ends, so a change
-- inside the statement counts; a SET of the function itself would end too early. On Supabase the
-- role postgres may change the settings. Elsewhere a superuser may, or an owner with `grant set on
-- parameter`. Supabase allows the statements alone, and no set_config(). docs/secrets.md says what
-- remains visible.
create or replace function purple_flea.hide_parameters() returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    set local log_parameter_max_length = 0;
  exception when insufficient_privilege then
    begin
      -- Older projects allow this one alone. The statement is then not logged at all.
      set local log_min_duration_statement = -1;
    exception when insufficient_privilege then
      null;
    end;
  end;
  begin
    set local auto_explain.log_parameter_max_length = 0;
  exception when insufficient_privilege or undefined_object or invalid_name then
    null;  -- PostgreSQL 15's auto_explain prints no parameters, and has no such setting.
  end;
end;
$$;
comment on function purple_flea.hide_parameters() is
  'Keeps the parameters of this transaction''s statements out of Postgres'' log, where the owner '
  'may.';
