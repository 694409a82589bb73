-- Which user asks. Policies and views compare a row's owner with it.

-- auth.uid() raises for a `sub` that is no uuid, as third-party tokens have; and on Realtime one subscriber whose policy
-- raises silences the changes for all others. This one answers null instead.
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
  return case when subject ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then subject::uuid end;
exception when others then
  -- The claims are no JSON: nobody that a row could belong to.
  return null;
end;
$$;
comment on function purple_flea.caller() is 'The user whose token the request carries; null for any other token, and for none. Never raises.';
revoke all on function purple_flea.caller() from public, anon, purple_flea_worker;
-- Policies and views evaluate it as the role that reads.
grant execute on function purple_flea.caller() to authenticated, service_role;
