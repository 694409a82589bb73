-- Triggers on wallet_changes that would bet on a deposit a second time, beside the ledger.

-- Gives every enabled trigger on wallet_changes that is not this project's and makes an HTTP
-- request. Either its function is a Database Webhook's, or the function's text calls pg_net, or the
-- text of a function that it names does.
create or replace function pg_temp.purple_flea_foreign_triggers()
  returns table (name text, function text, is_specifications boolean)
  language sql
  volatile
as $$
  with sending as (
    select p.oid, p.proname
    from pg_catalog.pg_proc p
    where p.prosrc ~* '"?\mnet"?\s*\.\s*"?http_(post|get|delete)'
      or (p.proname = 'http_request' and p.pronamespace = to_regnamespace('supabase_functions'))
  ),
  enabled as (
    select
      t.tgname::text as name,
      f.oid,
      f.prosrc,
      t.tgname = 'on_wallet_deposit' and f.proname = 'notify_trade_agent' as is_specifications
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_proc f on f.oid = t.tgfoid
    where t.tgrelid = to_regclass('public.wallet_changes')
      and not t.tgisinternal
      and t.tgenabled <> 'D'
      and f.pronamespace is distinct from to_regnamespace('purple_flea')
  )
  select e.name, e.oid::regprocedure::text, e.is_specifications
  from enabled e
  where e.is_specifications
    or e.oid in (select s.oid from sending s)
    -- A name with other characters would have to be quoted in the pattern.
    or exists (
      select
      from sending s
      where s.proname ~ '^[a-z_0-9]+$'
        and e.prosrc ~* ('\m' || s.proname || '"?\s*\(')
    )
$$;

-- Stops a migration before it changes anything, if another trigger would send deposits to a server.
create or replace function pg_temp.purple_flea_refuse_triggers(allowed text[]) returns void
  language plpgsql
  volatile
as $$
declare
  named text;
begin
  select string_agg(format('%I (function %s)', f.name, f.function), ', ' order by f.name) into named
  from pg_temp.purple_flea_foreign_triggers() f
  where not f.is_specifications
    and f.name <> all (allowed);
  if named is not null then
    raise exception 'a trigger on public.wallet_changes makes HTTP requests, '
      'so that each deposit might be bet on twice: %', named
      using hint = 'Drop it, or keep it with --allow-trigger NAME if it leads to no bet.';
  end if;
end;
$$;

-- Drops the specification's own trigger, which the ledger replaces. Gives the dropped objects.
create or replace function pg_temp.purple_flea_replace_trigger() returns text[]
  language plpgsql
  volatile
as $$
declare
  found   record;
  dropped text[] := '{}';
begin
  for found in
    select * from pg_temp.purple_flea_foreign_triggers() f where f.is_specifications
  loop
    execute format('drop trigger %I on public.wallet_changes', found.name);
    dropped := dropped || format('trigger %s on public.wallet_changes', found.name);
    raise notice 'trigger % on public.wallet_changes is dropped: the ledger takes its place, '
      'and both together would bet on each deposit twice', found.name;
    begin
      execute format('drop function %s', found.function);
      dropped := dropped || format('function %s', found.function);
    exception when dependent_objects_still_exist then
      raise notice 'function % stays, because something else uses it', found.function;
    end;
  end loop;
  return dropped;
end;
$$;
