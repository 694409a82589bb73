-- Secrets. They lie in Supabase's Vault or, on a server without Vault, in the table purple_flea.secrets, which only its
-- owner may read. docs/secrets.md lists their names and says how an operator sets one.
--
-- An agent's secrets have the agent's id at the end of their names, so that no id can spell another agent's secret.

create or replace function purple_flea.key_name(agent text, purpose text default null) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select 'purple_flea_' || coalesce(purpose || '_', '') || 'key:' || agent
$$;
comment on function purple_flea.key_name(text, text) is 'Names the secret that holds an agent''s own key; with the purpose trading or unused, the agent''s other keys.';
revoke all on function purple_flea.key_name(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.agent_of_key(secret_name text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select substring(secret_name from '^purple_flea_(?:trading_|unused_)?key:(.+)$')
$$;
comment on function purple_flea.agent_of_key(text) is 'Gives the agent that a secret''s name belongs to; null for any other name.';
revoke all on function purple_flea.agent_of_key(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- A value copied from a file or a page often ends in a line break, which no HTTP header can carry.
create or replace function purple_flea.trimmed(value text) returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select btrim(value, E' \t\n\v\f\r')
$$;
comment on function purple_flea.trimmed(text) is 'Takes the white space from both ends of a value.';
revoke all on function purple_flea.trimmed(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Takes what BaseUrl::parse in src/upstream.rs takes: https, or http to a loopback host. A query is allowed, because
-- some gateways ask for one.
create or replace function purple_flea.is_function_url(value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select char_length(value) <= 2048  -- longer than any gateway's URL
    and value ~* ('^(https://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])'
                  || '|http://(localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[::1\]))'
                  || '(:[0-9]{1,5})?([/?][a-z0-9._~:/?@!$&''()*+,;=%-]*)?$')
    and coalesce(substring(value from '^[a-zA-Z]+://[^/?]*:([0-9]{1,5})(?:[/?]|$)')::integer, 1) between 1 and 65535
$$;
comment on function purple_flea.is_function_url(text) is 'Says whether a value can be the function''s URL: https, or http to a loopback host; no user, no fragment, no white space.';
revoke all on function purple_flea.is_function_url(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_webhook_secret(value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- The form is checked first, because decode() quotes a character of what it cannot read. The lengths are the
  -- function's own (src/webhook/signature.rs).
  select case
    when value ~ '^whsec_([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'
      then octet_length(decode(substr(value, 7), 'base64')) between 24 and 64
    else false
  end
$$;
comment on function purple_flea.is_webhook_secret(text) is 'Says whether a value is whsec_ and the base64 of 24 to 64 bytes.';
revoke all on function purple_flea.is_webhook_secret(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.is_well_formed(secret_name text, value text) returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when secret_name = 'purple_flea_function_url'   then purple_flea.is_function_url(value)
    when secret_name = 'purple_flea_webhook_secret' then purple_flea.is_webhook_secret(value)
    -- A key travels in an HTTP header.
    when purple_flea.agent_of_key(secret_name) is not null then char_length(value) <= 512 and value ~ '^[!-~]+$'
    else false
  end
$$;
comment on function purple_flea.is_well_formed(text, text) is 'Says whether a value can be the secret of this name.';
revoke all on function purple_flea.is_well_formed(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Reads a secret, trimmed, and never raises: one secret that Vault cannot decrypt must not stop the claims of others.
create or replace function purple_flea.read_secret(secret_name text, out value text, out trouble text)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    -- Only at run time is it known which of the two exists, so neither may stand in the function's text.
    if to_regclass('vault.decrypted_secrets') is not null then
      execute 'select decrypted_secret from vault.decrypted_secrets where name = $1' into value using secret_name;
    else
      execute 'select secret from purple_flea.secrets where name = $1' into value using secret_name;
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
comment on function purple_flea.read_secret(text) is 'Gives a secret''s value and what is wrong with it: missing, unreadable, malformed, or null.';
revoke all on function purple_flea.read_secret(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.secret(secret_name text) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  it record := purple_flea.read_secret(secret_name);
begin
  if it.trouble = 'unreadable' or (it.trouble = 'malformed' and purple_flea.agent_of_key(secret_name) is not null) then
    raise warning 'purple_flea: the secret % is %', secret_name, it.trouble;
    return null;
  end if;
  return it.value;
end;
$$;
comment on function purple_flea.secret(text) is 'Gives a secret by name, or null. Never raises; warns of a secret that cannot be read or used. For the owner''s own functions only.';
revoke all on function purple_flea.secret(text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.secret_trouble(secret_name text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select r.trouble from purple_flea.read_secret(secret_name) as r
$$;
comment on function purple_flea.secret_trouble(text) is 'Says what is wrong with a secret: missing, unreadable, malformed; null if nothing is.';
revoke all on function purple_flea.secret_trouble(text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Writes a secret without a look at its form. A registration's key comes this way, because a key that is refused is lost.
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
    execute 'insert into purple_flea.secrets (name, secret) values ($1, $2)
             on conflict (name) do update set secret = excluded.secret' using secret_name, new_secret;
    return;
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1' into known using secret_name;
  if known is not null and purple_flea.secret_trouble(secret_name) is not distinct from 'unreadable' then
    -- vault.update_secret() decrypts the old value first, and fails.
    execute 'delete from vault.secrets where id = $1' using known;
    known := null;
  end if;
  if known is null then
    execute 'select vault.create_secret($1, $2, $3)' using new_secret, secret_name, 'Purple Flea Edge';
  else
    execute 'select vault.update_secret($1, $2)' using known, new_secret;
  end if;
end;
$$;
comment on function purple_flea.store_secret(text, text) is 'Writes a secret by name, in Vault where there is one.';
revoke all on function purple_flea.store_secret(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- No message quotes the value. An unknown name is not quoted either: with the arguments swapped it is the value.
create or replace function purple_flea.set_secret(secret_name text, new_secret text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  key_least constant integer := 8;  -- characters; a shorter value is a mistake of typing, not a key
  trimmed   constant text    := coalesce(purple_flea.trimmed(new_secret), '');
  agent     constant text    := purple_flea.agent_of_key(secret_name);
begin
  perform purple_flea.hide_parameters();
  if agent is null and (secret_name is null or secret_name not in ('purple_flea_function_url', 'purple_flea_webhook_secret')) then
    raise exception 'a secret is called purple_flea_function_url, purple_flea_webhook_secret, or purple_flea_key:<agent id>'
      using errcode = 'invalid_parameter_value', hint = 'docs/secrets.md lists the names.';
  end if;
  if agent is not null and not exists (select from public.agents a where a.id = agent) then
    raise exception 'there is no agent that the secret % could belong to', secret_name using errcode = 'invalid_parameter_value';
  end if;
  if not purple_flea.is_well_formed(secret_name, trimmed) or (agent is not null and char_length(trimmed) < key_least) then
    raise exception 'the value given for % cannot be one', secret_name
      using errcode = 'invalid_parameter_value', hint = case
        when agent is not null then format('A key has %s to 512 visible ASCII characters.', key_least)
        when secret_name = 'purple_flea_function_url' then 'It is an https URL, or an http URL of a loopback host, without a user and a fragment.'
        else 'It is whsec_ and the base64 of 24 to 64 bytes: openssl rand -base64 32 makes such bytes.'
      end;
  end if;
  perform purple_flea.store_secret(secret_name, trimmed);
end;
$$;
comment on function purple_flea.set_secret(text, text) is 'Sets a secret by name, trimmed and checked, in Vault where there is one. For the owner only.';
revoke all on function purple_flea.set_secret(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Postgres prints a slow statement with its parameters (log_min_duration_statement, auto_explain), and a key may be one
-- of them. The settings are read when the statement ends, so a change inside it counts; a SET of the function itself
-- would end too early. On Supabase the role postgres may change them; elsewhere a superuser, or an owner with
-- `grant set on parameter`. (Statements and not set_config(): Supabase allows the statements alone.) docs/secrets.md says
-- what is left.
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
comment on function purple_flea.hide_parameters() is 'Keeps the parameters of this transaction''s statements out of Postgres'' log, where the owner may.';
revoke all on function purple_flea.hide_parameters() from public, anon, authenticated, service_role, purple_flea_worker;

-- A trading key that is there and cannot be used is still the one to use: another key would trade on another account.
create or replace function purple_flea.agent_secret(named text, call text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when call in ('trade', 'order') and purple_flea.secret_trouble(own.trading) is distinct from 'missing' then own.trading
    else named
  end
  from (
    select purple_flea.key_name(purple_flea.agent_of_key(named), 'trading') as trading
    where named = purple_flea.key_name(purple_flea.agent_of_key(named))
  ) as own
$$;
comment on function purple_flea.agent_secret(text, text) is 'Names the secret that an agent''s call is made with: for trades and orders its trading key, where there is one.';
revoke all on function purple_flea.agent_secret(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

create or replace function purple_flea.agent_key(named text, call text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select purple_flea.secret(purple_flea.agent_secret(named, call))
$$;
comment on function purple_flea.agent_key(text, text) is 'Gives the key that an agent''s own calls are made with, or null while there is none.';
revoke all on function purple_flea.agent_key(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Keeps a key that a registration brought. A key that is there already stays, readable or not: another in its place
-- would put its account out of reach.
create or replace function purple_flea.keep_key(agent text, key text) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  named constant text := purple_flea.key_name(agent);
begin
  perform purple_flea.hide_parameters();
  perform from public.agents a where a.id = agent for no key update;
  if purple_flea.secret_trouble(named) is distinct from 'missing' then
    perform purple_flea.store_secret(purple_flea.key_name(agent, 'unused'), key);
    return false;
  end if;
  -- The key comes first: a row that names a missing key asks for a registration.
  perform purple_flea.store_secret(named, key);
  update public.agents a set api_key = named where a.id = agent and a.api_key <> named;
  return true;
end;
$$;
comment on function purple_flea.keep_key(text, text) is 'Keeps an agent''s new key as the agent''s secret and returns true; beside it, as unused, and returns false if the agent has a key.';
revoke all on function purple_flea.keep_key(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- What an operator calls. scripts/ops set-agent-key passes the key without writing it into a statement.
create or replace function purple_flea.set_agent_key(agent text, key text, trading boolean default false) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  named   constant text := purple_flea.key_name(agent);
  before text;
begin
  perform purple_flea.hide_parameters();
  select a.api_key into before from public.agents a where a.id = agent for no key update;
  if not found then
    raise exception 'there is no such agent' using errcode = 'invalid_parameter_value';
  end if;
  if trading and before = '' then
    raise exception 'agent % uses the shared key: store a key of its own before its trading key', agent
      using errcode = 'object_not_in_prerequisite_state';
  end if;
  perform purple_flea.set_secret(case when trading then purple_flea.key_name(agent, 'trading') else named end, key);
  update public.agents a set api_key = named where a.id = agent and a.api_key <> named;
  -- Jobs that waited for this key wait no longer.
  update purple_flea.jobs j set due_at = statement_timestamp()
  where j.agent_id = agent and j.state = 'pending'
    and j.reason in ('agent_without_key', 'agents_key_unreadable', 'agents_key_malformed');
end;
$$;
comment on function purple_flea.set_agent_key(text, text, boolean) is 'Stores an agent''s own key, or its key for trading, and lets the agent use it. For the owner only.';
revoke all on function purple_flea.set_agent_key(text, text, boolean) from public, anon, authenticated, service_role, purple_flea_worker;
