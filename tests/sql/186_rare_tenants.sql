-- A tenant with few events, in a table whose statistics know another tenant alone.
begin;
\ir setup/feed.psql

insert into public.frame_events
  (tenant_id, type, subject, payload, occurred_at, epoch, position)
select pg_temp.tenant('nobodys'), 'test.rejected', 'trade:' || n, '{}', now(), 1, n
from generate_series(1, 30000) as n;
analyze public.frame_events;
insert into public.frame_events
  (tenant_id, type, subject, payload, occurred_at, epoch, position)
select pg_temp.tenant('a'), 'test.rejected', 'trade:rare', '{}', now(), 1, 0;

-- An index counts the entries that a walk reads; the table counts the rows of other scans.
create function pg_temp.rows_read() returns bigint language sql volatile as $$
  select pg_stat_get_xact_tuples_returned('public.frame_events'::regclass)
    + sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint
  from pg_index i
  where i.indrelid = 'public.frame_events'::regclass
$$;
create temporary table counted as
select name, null::bigint as n, after, types
from (
  values
    ('from the beginning', null, null::text[]),
    ('from the end', 'latest', null),
    ('of a type', null, '{test.rejected}')
) as v (name, after, types);
do $$
declare
  was bigint;
  what record;
begin
  for what in select * from counted loop
    was := pg_temp.rows_read();
    perform pg_temp.read('a', what.after, what.types);
    update counted set n = pg_temp.rows_read() - was where name = what.name;
  end loop;
end;
$$;
select cmp_ok(n, '<=', 10::bigint, 'a page ' || name || ' reads no other tenant''s events')
from counted;

-- A webhook of that tenant. Its fan-out, too.
select public.create_event_subscription(pg_temp.tenant('a'), 'https://hooks.example.com/a');
update purple_flea.subscription_progress set epoch = 1, position = -1 where true;
truncate counted;
insert into counted select 'before', pg_temp.rows_read();
select purple_flea.fan_out();
select is((select p.pending from purple_flea.subscription_progress p), 1, 'its webhook gets it');
select cmp_ok(
  pg_temp.rows_read() - n, '<=', 10::bigint, 'without a look at other tenants'' events')
from counted;

select * from finish();
rollback;
