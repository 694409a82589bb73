create or replace function purple_flea.secret(secret_name text) returns text
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  secret text;
begin
  -- Which of the two exists is known only when it runs, so neither may stand in the text.
  if to_regclass('vault.decrypted_secrets') is not null then
    execute 'select decrypted_secret from vault.decrypted_secrets where name = $1' into secret using secret_name;
  else
    execute 'select secret from purple_flea.secrets where name = $1' into secret using secret_name;
  end if;
  return nullif(btrim(secret), '');
end;
$$;
comment on function purple_flea.secret(text) is 'A secret by name, or null. For the owner''s own functions only.';
revoke all on function purple_flea.secret(text) from public, anon, authenticated, service_role;

create or replace function purple_flea.set_secret(secret_name text, new_secret text) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  known uuid;
begin
  if to_regclass('vault.decrypted_secrets') is not null then
    execute 'select id from vault.decrypted_secrets where name = $1' into known using secret_name;
    if known is null then
      execute 'select vault.create_secret($1, $2, $3)' using new_secret, secret_name, 'Purple Flea Edge';
    else
      execute 'select vault.update_secret($1, $2)' using known, new_secret;
    end if;
  else
    execute 'insert into purple_flea.secrets (name, secret) values ($1, $2)
             on conflict (name) do update set secret = excluded.secret' using secret_name, new_secret;
  end if;
end;
$$;
comment on function purple_flea.set_secret(text, text) is 'Sets a secret by name, in Vault where there is one. For the owner only.';
revoke all on function purple_flea.set_secret(text, text) from public, anon, authenticated, service_role;

-- An agent's own key, for a call: trading has keys of its own where there is a secret with ".trading" behind the name.
create or replace function purple_flea.agent_key(named text, call text) returns text
  language sql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(case when call in ('trade', 'order') then purple_flea.secret(named || '.trading') end, purple_flea.secret(named))
$$;
comment on function purple_flea.agent_key(text, text) is 'The key that an agent''s own calls are made with, or null while there is none.';
revoke all on function purple_flea.agent_key(text, text) from public, anon, authenticated, service_role, purple_flea_worker;

-- Keeps a key that a registration brought, under the name that the agent's row gives, and nowhere else. One that is there
-- already stays: its account would be out of reach. Then the new one is kept beside it, and false is given.
create or replace function purple_flea.keep_key(agent text, key text) returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  named text := (select coalesce(nullif(a.api_key, ''), 'purple_flea_agent_' || a.id) from public.agents a where a.id = agent for no key update);
begin
  if purple_flea.secret(named) is not null then
    perform purple_flea.set_secret(named || '.unused', key);
    return false;
  end if;
  -- First the key, then the row that names it: a row whose key is not there asks for a registration.
  perform purple_flea.set_secret(named, key);
  update public.agents a set api_key = named where a.id = agent and a.api_key <> named;
  return true;
end;
$$;
comment on function purple_flea.keep_key(text, text) is 'Keeps an agent''s own key as the secret that its row names, unless there is one.';
revoke all on function purple_flea.keep_key(text, text) from public, anon, authenticated, service_role, purple_flea_worker;
