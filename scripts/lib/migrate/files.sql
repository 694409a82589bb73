-- What is to be applied: a row for each file. scripts/migrate fills it.
create temporary table if not exists purple_flea_files (
  kind     text not null,  -- groundwork, migration, function, platform or online, in the order in which they are applied
  name     text not null,
  checksum text not null,
  content  text            -- null: an earlier file of `supabase db push` has it
);
delete from pg_temp.purple_flea_files where true;

-- What was done, for scripts/migrate to read. (Notices are for people, and a pooler might keep them.)
create temporary table if not exists purple_flea_told (place integer generated always as identity, line text not null);
delete from pg_temp.purple_flea_told where true;

create or replace function pg_temp.purple_flea_tell(line text) returns void
  language sql
  volatile
as $$
  insert into pg_temp.purple_flea_told (line) values (line)
$$;

-- Constraints that hold for new rows, while those from before have not been looked at.
create or replace function pg_temp.purple_flea_not_valid() returns table (on_table regclass, name text)
  language sql
  volatile
as $$
  select t.owned, c.conname::text
  from pg_temp.purple_flea_tables() as t (owned)
  join pg_catalog.pg_constraint c on c.conrelid = t.owned
  join pg_catalog.pg_class r on r.oid = c.conrelid
  -- Ours are called after their table.
  where not c.convalidated and c.contype in ('c', 'f') and starts_with(c.conname, r.relname || '_')
  order by 1, 2
$$;

-- Indexes of this name that a build has left unfinished.
create or replace function pg_temp.purple_flea_broken_indexes(index_name text) returns setof regclass
  language sql
  volatile
as $$
  select c.oid::regclass
  from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  where not i.indisvalid and c.relname = index_name and i.indrelid in (select * from pg_temp.purple_flea_tables())
$$;
