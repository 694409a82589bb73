-- A publication of all tables, as change data capture makes one. Without an identity a table of it
-- could be neither updated nor deleted from.
begin;
set local client_min_messages = error;
select * from no_plan();

create function pg_temp.tables() returns setof regclass language sql as $$
  select c.oid::regclass
  from pg_class c
  where c.relnamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
    and c.relkind = 'r'
$$;
select is_empty(
  $$
    select t
    from pg_temp.tables() as t
    where not exists (select from pg_constraint c where c.conrelid = t and c.contype = 'p')
  $$,
  'every table has a primary key'
);
create publication of_all for all tables;
select lives_ok(format('delete from %s where false', t), format('rows of %s can be deleted', t))
from pg_temp.tables() as t;
select lives_ok(
  format('update %s set %I = %2$I where false', t, a.attname),
  format('rows of %s can be updated', t)
)
from pg_temp.tables() as t
cross join lateral (
  select a.attname
  from pg_attribute a
  where a.attrelid = t
    and a.attnum > 0
    and not a.attisdropped
    and a.attgenerated = ''
    and a.attidentity = ''
  limit 1
) as a;

select * from finish();
rollback;
