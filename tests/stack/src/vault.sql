-- A stand-in for Supabase's Vault (supabase_vault 0.3), with its interface, its grants, and the behaviour that this
-- project depends on: a secret that cannot be decrypted raises for every query that reads its value, and
-- update_secret() reads the old value first. Run by the superuser. Its encryption is a name for base64.

create schema vault;

create table vault.secrets (
  id          uuid        primary key default gen_random_uuid(),
  name        text,
  description text        not null default '',
  secret      text        not null,
  key_id      uuid,
  nonce       bytea,
  created_at  timestamptz not null default current_timestamp,
  updated_at  timestamptz not null default current_timestamp
);
create unique index on vault.secrets (name) where name is not null;

create function vault.open_secret(sealed text) returns text
  language plpgsql
  immutable
as $$
begin
  if sealed !~ '^sealed:' then
    raise exception 'pgsodium_crypto_aead_det_decrypt_by_id: invalid ciphertext';
  end if;
  return convert_from(decode(substr(sealed, 8), 'base64'), 'UTF8');
end;
$$;

create function vault.seal_secret(plain text) returns text
  language sql
  immutable
as $$
  select 'sealed:' || encode(convert_to(plain, 'UTF8'), 'base64')
$$;

create view vault.decrypted_secrets as
  select s.id, s.name, s.description, s.secret, vault.open_secret(s.secret) as decrypted_secret, s.key_id, s.nonce, s.created_at, s.updated_at
  from vault.secrets s;

create function vault.create_secret(new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null) returns uuid
  language sql
  security definer
  set search_path = ''
as $$
  insert into vault.secrets (secret, name, description) values (vault.seal_secret(new_secret), new_name, new_description) returning id
$$;

create function vault.update_secret(secret_id uuid, new_secret text default null, new_name text default null, new_description text default null, new_key_id uuid default null) returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
begin
  perform d.decrypted_secret from vault.decrypted_secrets d where d.id = secret_id;
  update vault.secrets s
  set secret = coalesce(vault.seal_secret(new_secret), s.secret), name = coalesce(new_name, s.name),
      description = coalesce(new_description, s.description), updated_at = now()
  where s.id = secret_id;
end;
$$;

revoke all on function vault.create_secret(text, text, text, uuid), vault.update_secret(uuid, text, text, text, uuid),
  vault.open_secret(text), vault.seal_secret(text) from public;
grant usage on schema vault to postgres, service_role;
grant select, delete on vault.secrets, vault.decrypted_secrets to postgres, service_role;
grant execute on function vault.create_secret(text, text, text, uuid), vault.update_secret(uuid, text, text, text, uuid),
  vault.open_secret(text) to postgres, service_role;
