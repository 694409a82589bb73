-- Keys for clients that are no browser. A key is shown once, and the table holds its hash alone.

create or replace function public.create_api_key(tenant_id uuid, label text, scopes text[])
  returns jsonb
  language plpgsql
  volatile
  -- No role of the API writes keys.
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- 32 bytes of three random UUIDs, which the server draws from the system's strong generator.
  key  constant text := 'ek_' || translate(
    rtrim(
      encode(
        sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
          || uuid_send(gen_random_uuid())),
        'base64'
      ),
      '='
    ),
    '+/',
    '-_'
  );
  made public.api_keys;
begin
  perform purple_flea.refuse_strangers(create_api_key.tenant_id);
  if create_api_key.label is null or char_length(create_api_key.label) not between 1 and 100 then
    raise exception 'a label has 1 to 100 characters' using errcode = 'invalid_parameter_value';
  elsif create_api_key.scopes is null
    or create_api_key.scopes = '{}'
    or array_position(create_api_key.scopes, null) is not null
    or not create_api_key.scopes <@ '{events:read,records:read}' then
    raise exception 'scopes are events:read, records:read, or both'
      using errcode = 'invalid_parameter_value';
  elsif not exists (select from public.tenants t where t.id = create_api_key.tenant_id) then
    raise exception 'there is no such tenant' using errcode = 'invalid_parameter_value';
  end if;
  insert into public.api_keys (tenant_id, label, prefix, hash, scopes, created_by)
  values (
    create_api_key.tenant_id,
    create_api_key.label,
    left(key, 11),
    sha256(convert_to(key, 'UTF8')),
    array(select distinct s from unnest(create_api_key.scopes) as s order by s),
    purple_flea.caller()
  )
  returning * into made;
  return jsonb_build_object(
    'id', made.id,
    'key', key,
    'prefix', made.prefix,
    'tenant_id', made.tenant_id,
    'label', made.label,
    'scopes', made.scopes,
    'created_at', made.created_at
  );
end;
$$;
comment on function public.create_api_key(uuid, text, text[]) is
  'Makes a key for a tenant, and gives it this once: {id, key, prefix, tenant_id, label, scopes, '
  'created_at}. For the tenant''s owners and admins, and the service.';

create or replace function public.revoke_api_key(id uuid) returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  key public.api_keys;
begin
  select * into key from public.api_keys k where k.id = revoke_api_key.id;
  -- A stranger does not learn whether the key exists.
  perform purple_flea.refuse_strangers(key.tenant_id);
  if key.id is null then
    raise exception 'there is no such key' using errcode = 'invalid_parameter_value';
  end if;
  update public.api_keys k
  set revoked_at = clock_timestamp()
  where k.id = key.id
    and k.revoked_at is null;
  return (
    select jsonb_build_object('id', k.id, 'prefix', k.prefix, 'revoked_at', k.revoked_at)
    from public.api_keys k
    where k.id = key.id
  );
end;
$$;
comment on function public.revoke_api_key(uuid) is
  'Lets a key open nothing any more: {id, prefix, revoked_at}. For the tenant''s owners and '
  'admins, and the service. A second call changes nothing.';

create or replace function purple_flea.tell_of_revoked_key() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform purple_flea.emit(
    'api_key.revoked',
    new.tenant_id,
    'api_key:' || new.id,
    jsonb_build_object(
      'api_key_id', new.id,
      'status', 'revoked',
      'actor', purple_flea.caller()
    )
  );
  return null;
end;
$$;
comment on function purple_flea.tell_of_revoked_key() is 'Fires api_key.revoked.';

create or replace trigger purple_flea_tell
  after update of revoked_at on public.api_keys
  for each row when (old.revoked_at is null and new.revoked_at is not null)
  execute function purple_flea.tell_of_revoked_key();

-- A former member keeps the keys that the member made. They stop with the membership.
create or replace function purple_flea.revoke_keys_of_member() returns trigger
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  update public.api_keys k
  set revoked_at = clock_timestamp()
  where k.tenant_id = old.tenant_id
    and k.created_by = old.user_id
    and k.revoked_at is null;
  return null;
end;
$$;
comment on function purple_flea.revoke_keys_of_member() is
  'Revokes the keys that a former member has made for the tenant.';

create or replace trigger purple_flea_revoke
  after delete on public.memberships
  for each row execute function purple_flea.revoke_keys_of_member();
create or replace trigger purple_flea_revoke_moved
  after update of tenant_id, user_id on public.memberships
  for each row when ((old.tenant_id, old.user_id) is distinct from (new.tenant_id, new.user_id))
  execute function purple_flea.revoke_keys_of_member();

create or replace function purple_flea.key_of(key_hash text) returns public.api_keys
  language plpgsql
  volatile  -- sees a revocation in the same transaction
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  key public.api_keys;
begin
  if key_hash ~ '^[0-9a-f]{64}$' then
    select * into key
    from public.api_keys k
    where k.hash = decode(key_hash, 'hex')
      and k.revoked_at is null;
  end if;
  return key;
end;
$$;
comment on function purple_flea.key_of(text) is
  'Gives the key with this SHA-256 in hexadecimal digits, unless it is revoked; null if there is '
  'none.';

-- The clock may have been set back since.
create or replace function purple_flea.note_use(key public.api_keys) returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  at        constant timestamptz := clock_timestamp();
  each_note constant interval    := '1 minute';
  each_told constant interval    := '1 hour';
  told      timestamptz;
begin
  if key.last_used_at > at - each_note and key.last_used_at <= at then
    return;
  end if;
  -- Of many calls at once, one writes. The others do not wait for it.
  select k.use_told_at into told
  from public.api_keys k
  where k.id = key.id
    and (k.last_used_at is not distinct from key.last_used_at)
  for no key update skip locked;
  if not found then
    return;
  end if;
  if told > at - each_told and told <= at then
    update public.api_keys k set last_used_at = at where k.id = key.id;
    return;
  end if;
  update public.api_keys k
  set last_used_at = at,
      use_told_at  = at
  where k.id = key.id;
  perform purple_flea.emit(
    'api_key.used',
    key.tenant_id,
    'api_key:' || key.id,
    jsonb_build_object('api_key_id', key.id, 'status', 'active')
  );
end;
$$;
comment on function purple_flea.note_use(public.api_keys) is
  'Notes the use of a key, at most once a minute, and fires api_key.used, at most once an hour.';
