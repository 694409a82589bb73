-- The keys of agents at Purple Flea: which secret holds the key for a call, and how a new key is
-- kept.

-- A trading key that is there and cannot be used is still the key to use: another key would trade
-- on another account.
create or replace function purple_flea.agent_secret(named text, call text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when call in ('trade', 'order', 'close')
      and purple_flea.secret_trouble(own.trading) is distinct from 'missing'
      then own.trading
    else named
  end
  from (
    select purple_flea.key_name(purple_flea.agent_of_key(named), 'trading') as trading
    where named = purple_flea.key_name(purple_flea.agent_of_key(named))
  ) as own
$$;
comment on function purple_flea.agent_secret(text, text) is
  'Names the secret for an agent''s call: for trades, orders and closes the agent''s trading key, '
  'if it has one.';

create or replace function purple_flea.agent_key(named text, call text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select purple_flea.secret(purple_flea.agent_secret(named, call))
$$;
comment on function purple_flea.agent_key(text, text) is
  'Gives the key for an agent''s own call, or null while there is none.';

-- A key that is there already stays, readable or not: another key in its place would put the
-- account of the first one out of reach.
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
  -- The key is stored first, because a row that names a missing key makes a registration.
  perform purple_flea.store_secret(named, key);
  update public.agents a
  set api_key = named
  where a.id = agent
    and a.api_key <> named;
  return true;
end;
$$;
comment on function purple_flea.keep_key(text, text) is
  'Keeps the key that a registration brought. Returns false if the agent has a key: then the new '
  'key is stored beside it, as unused.';

-- An operator calls it. scripts/ops set-agent-key passes the key without writing it into a
-- statement.
create or replace function purple_flea.set_agent_key(
  agent   text,
  key     text,
  trading boolean default false
) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  named  constant text := purple_flea.key_name(agent);
  before text;
begin
  perform purple_flea.hide_parameters();
  select a.api_key into before
  from public.agents a
  where a.id = agent
  for no key update;
  if not found then
    raise exception 'there is no such agent' using errcode = 'invalid_parameter_value';
  end if;
  if trading and before = '' then
    raise exception 'agent % uses the shared key: store a key of its own before its trading key',
      agent
      using errcode = 'object_not_in_prerequisite_state';
  end if;
  perform purple_flea.set_secret(
    case when trading then purple_flea.key_name(agent, 'trading') else named end,
    key
  );
  update public.agents a
  set api_key = named
  where a.id = agent
    and a.api_key <> named;
  -- Jobs that waited for this key are due.
  update purple_flea.jobs j
  set due_at = statement_timestamp()
  where j.agent_id = agent
    and j.state = 'pending'
    and j.reason in ('agent_without_key', 'agents_key_unreadable', 'agents_key_malformed');
end;
$$;
comment on function purple_flea.set_agent_key(text, text, boolean) is
  'Stores an agent''s own key, or its key for trading, and lets the agent use it. Only the owner '
  'may call it.';
