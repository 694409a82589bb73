-- Cursors: places in the feed. Only the database makes and reads them.
--
-- A cursor is the base64url of 39 bytes: a version, the first 8 bytes of the generation's SHA-256,
-- epoch, position and id, and 10 bytes of an HMAC-SHA256 over all of these and the tenant. So no
-- client makes one up, and a tenant's cursor is no other's.

create or replace function purple_flea.hmac_pad(secret bytea, pad integer) returns bytea
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  block bytea := secret || decode(repeat('00', 64 - octet_length(secret)), 'hex');
begin
  for at in 0..63 loop
    block := set_byte(block, at, get_byte(block, at) # pad);
  end loop;
  return block;
end;
$$;
comment on function purple_flea.hmac_pad(bytea, integer) is
  'Gives a block of HMAC-SHA256: a secret of at most 64 bytes, xored with a pad.';

create or replace function purple_flea.cursor_seal(generation uuid) returns bytea[]
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  secret constant bytea := (select f.secret from purple_flea.feed f);
begin
  return array[
    substr(sha256(uuid_send(generation)), 1, 8),
    purple_flea.hmac_pad(secret, 54),  -- HMAC's inner pad, 0x36
    purple_flea.hmac_pad(secret, 92)   -- and its outer one, 0x5c
  ];
end;
$$;
comment on function purple_flea.cursor_seal(uuid) is
  'Gives what all cursors of one page have in common: the mark of the generation, and the two '
  'blocks of the secret.';

create or replace function purple_flea.sign_cursor(
  seal    bytea[],
  tenant  uuid,
  content bytea
) returns bytea
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return substr(sha256(seal[3] || sha256(seal[2] || content || uuid_send(tenant))), 1, 10);
end;
$$;
comment on function purple_flea.sign_cursor(bytea[], uuid, bytea) is
  'Gives the signature of a cursor''s content for a tenant.';

create or replace function purple_flea.make_cursor(
  seal     bytea[],
  tenant   uuid,
  epoch    integer,
  "position" bigint,
  id       bigint
) returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  version constant bytea := '\x01';
  content constant bytea := version || seal[1] || int4send(epoch) || int8send(position)
    || int8send(id);
begin
  -- 39 bytes need no padding.
  return translate(
    encode(content || purple_flea.sign_cursor(seal, tenant, content), 'base64'),
    '+/',
    '-_'
  );
end;
$$;
comment on function purple_flea.make_cursor(bytea[], uuid, integer, bigint, bigint) is
  'Makes a tenant''s cursor of a place in the feed.';

create or replace function purple_flea.read_cursor(
  seal         bytea[],
  tenant       uuid,
  cursor       text,
  out epoch    integer,
  out "position" bigint,
  out id       bigint,
  out trouble  text
)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  content bytea;
begin
  if cursor !~ '^[A-Za-z0-9_-]{52}$' then
    trouble := 'cursor_invalid';
    return;
  end if;
  content := decode(translate(cursor, '-_', '+/'), 'base64');
  if get_byte(content, 0) <> 1
    or purple_flea.sign_cursor(seal, tenant, substr(content, 1, 29)) <> substr(content, 30) then
    trouble := 'cursor_invalid';
    return;
  end if;
  epoch    := ('x' || encode(substr(content, 10, 4), 'hex'))::bit(32)::integer;
  position := ('x' || encode(substr(content, 14, 8), 'hex'))::bit(64)::bigint;
  id       := ('x' || encode(substr(content, 22, 8), 'hex'))::bit(64)::bigint;
  if substr(content, 2, 8) <> seal[1] then
    trouble := 'cursor_of_another_generation';
  end if;
end;
$$;
comment on function purple_flea.read_cursor(bytea[], uuid, text) is
  'Reads a tenant''s cursor: its place in the feed, and its trouble: cursor_invalid, '
  'cursor_of_another_generation, or null.';
