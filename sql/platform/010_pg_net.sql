-- pg_net sends the notifications. Without it deposits are recorded all the same, and a warning for
-- each deposit says that the function was not called.
do $$
begin
  if to_regnamespace('net') is not null then
    return;
  end if;
  if exists (select from pg_catalog.pg_available_extensions e where e.name = 'pg_net') then
    create extension pg_net;
  else
    raise notice 'this server has no pg_net: deposits will be recorded, '
      'but the function will not be called';
  end if;
exception when others then
  raise notice 'pg_net could not be enabled (%): deposits will be recorded, '
    'but the function will not be called', sqlerrm;
end;
$$;
