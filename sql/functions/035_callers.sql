-- Which user calls. Policies and views compare a row's owner with this user.

-- auth.uid() raises for a `sub` that is no uuid, and third-party tokens have such a `sub`. On
-- Realtime one subscriber whose policy raises silences the changes for all others. This function
-- returns null.
create or replace function purple_flea.caller() returns uuid
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  subject text;
begin
  subject := coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  );
  return case
    when subject ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then subject::uuid
  end;
exception when others then
  -- The claims are no JSON, so no row can belong to this caller.
  return null;
end;
$$;
comment on function purple_flea.caller() is
  'Gives the user whose token the request carries; null for any other token, and without one. '
  'Never raises.';
