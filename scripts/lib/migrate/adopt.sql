-- Brings existing tables to the shape that a migration wants. The migration makes each wanted
-- table in the schema purple_flea_wanted. A missing table moves from there. An existing table is
-- compared and changed.

create or replace function pg_temp.purple_flea_columns(wanted regclass, there regclass)
  returns table (
    name           text,
    type           text,
    base           text,
    not_null       boolean,
    default_is     text,
    generated      boolean,
    is_there       boolean,
    there_type     text,
    there_base     text,
    there_not_null boolean,
    there_default  text
  )
  language sql
  volatile
as $$
  select
    w.attname::text,
    format_type(w.atttypid, w.atttypmod),
    format_type(w.atttypid, null),
    w.attnotnull,
    pg_get_expr(wd.adbin, wd.adrelid),
    w.attgenerated <> '',
    t.attname is not null,
    format_type(t.atttypid, t.atttypmod),
    format_type(t.atttypid, null),
    t.attnotnull,
    pg_get_expr(td.adbin, td.adrelid)
  from pg_catalog.pg_attribute w
  left join pg_catalog.pg_attrdef wd
    on wd.adrelid = w.attrelid
    and wd.adnum = w.attnum
  left join pg_catalog.pg_attribute t
    on t.attrelid = there
    and t.attname = w.attname
    and t.attnum > 0
    and not t.attisdropped
  left join pg_catalog.pg_attrdef td
    on td.adrelid = t.attrelid
    and td.adnum = t.attnum
  where w.attrelid = wanted
    and w.attnum > 0
    and not w.attisdropped
  order by w.attnum
$$;

-- Gives a constraint's definition, so that its text makes the same constraint again. Postgres
-- writes a `between` inside an `and` as two comparisons, and would read them as part of the `and`.
create or replace function pg_temp.purple_flea_definition(constraint_oid oid) returns text
  language sql
  volatile
as $$
  select regexp_replace(
    pg_get_constraintdef(constraint_oid),
    '\(\((\w+(?:\([^()]*\))?) >= ([^ ]+)\) AND \(\1 <= ([^ ]+)\)\)',
    '(\1 between \2 and \3)',
    'g'
  )
$$;

-- Gives the wanted constraints that are missing or have another definition.
create or replace function pg_temp.purple_flea_missing(wanted regclass, there regclass)
  returns table (name text, kind "char", definition text, columns text[], expression text)
  language sql
  volatile
as $$
  select
    w.conname::text,
    w.contype,
    pg_temp.purple_flea_definition(w.oid),
    array(
      select a.attname::text
      from pg_catalog.pg_attribute a
      where a.attrelid = wanted
        and a.attnum = any (w.conkey)
      order by a.attnum
    ),
    pg_get_expr(w.conbin, w.conrelid)
  from pg_catalog.pg_constraint w
  where w.conrelid = wanted
    and w.contype in ('c', 'p', 'u', 'f')
    and not exists (
      select
      from pg_catalog.pg_constraint t
      where t.conrelid = there
        and t.conname = w.conname
        and pg_get_constraintdef(t.oid) = pg_get_constraintdef(w.oid)
    )
  order by 1
$$;

-- Says whether a column of one type may become one of another without a change of meaning. Values
-- are checked one by one.
create or replace function pg_temp.purple_flea_converts(there_base text, base text) returns boolean
  language sql
  immutable
as $$
  select there_base = base
    or base = 'text'
    or (base = 'numeric'
        and there_base in ('smallint', 'integer', 'bigint', 'real', 'double precision'))
    or (base = 'bigint' and there_base in ('smallint', 'integer'))
    or (base = 'timestamp with time zone'
        and there_base in ('timestamp without time zone', 'date'))
    or (base = 'jsonb' and there_base = 'json')
$$;

-- Gives the expression that reads a column's value as the wanted type. Times without a zone are
-- Supabase's: UTC.
create or replace function pg_temp.purple_flea_read(column_name text, there_base text, type text)
  returns text
  language sql
  immutable
as $$
  select case
    when type = 'timestamp with time zone' and there_base = 'timestamp without time zone'
      then format('%I at time zone ''UTC''', column_name)
    else format('%I::%s', column_name, type)
  end
$$;

-- Says whether a relation has a column of this name.
create or replace function pg_temp.purple_flea_has_column(relation regclass, column_name text)
  returns boolean
  language sql
  volatile
as $$
  select exists (
    select
    from pg_catalog.pg_attribute a
    where a.attrelid = relation
      and a.attname = column_name
      and not a.attisdropped
  )
$$;

-- Counts the rows that meet a condition and names the first ones, or gives null if there are none.
create or replace function pg_temp.purple_flea_odd(
  there     regclass,
  source    text,
  condition text,
  what      text
) returns text
  language plpgsql
  volatile
as $$
declare
  most_named constant integer := 20;
  longest_id constant integer := 64;
  by_id      constant boolean := pg_temp.purple_flea_has_column(there, 'id');
  number     bigint;
  named      text;
begin
  execute format(
    'select count(*), string_agg(name, '', '' order by place) filter (where place <= %s)
     from (
       select row_number() over (order by %s) as place, left(%s, %s) as name
       from %s
       where %s
     ) as odd',
    most_named,
    case when by_id then 'id' else 'ctid' end,
    case when by_id then 'quote_nullable(id::text)' else 'ctid::text' end,
    longest_id,
    source,
    condition
  ) into number, named;
  if number = 0 then
    return null;
  end if;
  return format(
    '%s: %s is broken by %s in %s: %s%s',
    there,
    what,
    case number when 1 then '1 row' else number || ' rows' end,
    case when by_id then 'id' else 'place' end,
    named,
    case when number > most_named then ', …' else '' end
  );
end;
$$;

-- Gives the rules that rows of a table may break: their description, and the condition of a row
-- that breaks them.
create or replace function pg_temp.purple_flea_rules(wanted regclass, there regclass, source text)
  returns table (what text, condition text)
  language sql
  volatile
as $$
  select format('column %s (not null)', c.name), format('%I is null', c.name)
  from pg_temp.purple_flea_columns(wanted, there) c
  where c.is_there
    and c.not_null
    and not c.there_not_null
  union all
  select
    format('column %s (%s)', c.name, c.type),
    format('%1$I <> ''NaN'' and (round(%1$I, 4) <> %1$I or abs(%1$I) >= 1e8)', c.name)
  from pg_temp.purple_flea_columns(wanted, there) c
  where c.is_there
    and c.type = 'numeric(12,4)'
    and c.there_type <> c.type
  union all
  select
    format(
      '%s %s',
      m.name,
      case
        when m.kind = 'c' then lower(left(m.definition, 5)) || substr(m.definition, 6)
        else lower(m.definition)
      end
    ),
    case m.kind
      when 'c' then format('(%s) is false', m.expression)
      else format(
        '(%1$s) in (select %1$s from %2$s group by %1$s having count(*) > 1)',
        array_to_string(m.columns, ', '),
        source
      )
    end
  from pg_temp.purple_flea_missing(wanted, there) m
  where m.kind <> 'f'
    -- No row can break the rule of a column that is new.
    and not exists (
      select
      from pg_temp.purple_flea_columns(wanted, there) c
      where c.name = any (m.columns)
        and not c.is_there
    )
$$;

-- Gives a line for each kind of row, or of column type, that keeps a table from the wanted shape.
create or replace function pg_temp.purple_flea_odd_rows(wanted regclass, there regclass)
  returns setof text
  language plpgsql
  volatile
as $$
declare
  source text;
  rule   record;
begin
  if (select c.relkind from pg_catalog.pg_class c where c.oid = there) not in ('r', 'p') then
    return next format('%s is no table', there);
    return;
  end if;
  return query
    select format(
      '%s: column %s is %s, and %s is wanted',
      there, c.name, c.there_type, c.type)
    from pg_temp.purple_flea_columns(wanted, there) c
    where c.is_there
      and not pg_temp.purple_flea_converts(c.there_base, c.base);
  if found then
    return;  -- Rows of another type cannot be checked.
  end if;
  select format(
      '(select ctid, %s from %s) as r',
      string_agg(
        format('%s as %I', pg_temp.purple_flea_read(c.name, c.there_base, c.base), c.name),
        ', '
      ),
      there
    )
    into source
  from pg_temp.purple_flea_columns(wanted, there) c
  where c.is_there;
  for rule in select * from pg_temp.purple_flea_rules(wanted, there, source) loop
    return next pg_temp.purple_flea_odd(there, source, rule.condition, rule.what);
  end loop;
end;
$$;

-- Gives the rows of one of the four tables that name a missing agent; null if there are none.
create or replace function pg_temp.purple_flea_odd_references(table_name text, column_name text)
  returns text
  language plpgsql
  volatile
as $$
declare
  there constant regclass := to_regclass(format('public.%I', table_name));
begin
  if not pg_temp.purple_flea_has_column(there, column_name) then
    return null;
  end if;
  return pg_temp.purple_flea_odd(
    there,
    format('%s as r', there),
    case
      when to_regclass('public.agents') is null then format('r.%I is not null', column_name)
      else format(
        'r.%1$I is not null and not exists (
           select from public.agents a where a.id::text = r.%1$I::text)',
        column_name)
    end,
    format('column %s (an id of agents)', column_name)
  );
end;
$$;

-- Gives the sequence that a column's default reads.
create or replace function pg_temp.purple_flea_sequence_of(there regclass, column_name text)
  returns regclass
  language sql
  volatile
as $$
  select d.refobjid::regclass
  from pg_catalog.pg_attrdef def
  join pg_catalog.pg_attribute a
    on a.attrelid = def.adrelid
    and a.attnum = def.adnum
  join pg_catalog.pg_depend d
    on d.classid = 'pg_attrdef'::regclass
    and d.objid = def.oid
    and d.refclassid = 'pg_class'::regclass
  join pg_catalog.pg_class s
    on s.oid = d.refobjid
    and s.relkind = 'S'
  where def.adrelid = there
    and a.attname = column_name
$$;

-- Gives an id the sequence that the ledger expects, by its name, in place of any other source of
-- numbers.
create or replace function pg_temp.purple_flea_adopt_serial(there regclass, column_name text)
  returns void
  language plpgsql
  volatile
as $$
declare
  relation  constant name := (select c.relname from pg_catalog.pg_class c where c.oid = there);
  in_schema constant name := (
    select c.relnamespace::regnamespace::name from pg_catalog.pg_class c where c.oid = there
  );
  called    constant name := format('%s_%s_seq', relation, column_name);
  sequence  regclass      := pg_temp.purple_flea_sequence_of(there, column_name);
  last      bigint;
begin
  if sequence is null then
    execute format('create sequence %I.%I', in_schema, called);
    sequence := format('%I.%I', in_schema, called)::regclass;
    execute format('select max(%I) from %s', column_name, there) into last;
    if last is not null then
      perform setval(sequence, greatest(last, 1));
    end if;
  elsif (select c.relname from pg_catalog.pg_class c where c.oid = sequence) <> called then
    execute format('alter sequence %s rename to %I', sequence, called);
  end if;
  if (
    select format_type(s.seqtypid, null) from pg_catalog.pg_sequence s where s.seqrelid = sequence
  ) <> 'bigint' then
    execute format('alter sequence %s as bigint', sequence);
  end if;
  execute format('alter sequence %s owned by %s.%I', sequence, there, column_name);
  execute format(
    'alter table %s alter column %I set default nextval(%L)',
    there, column_name, sequence);
end;
$$;

-- Drops the references from or to a column whose type changes. They come back as the migration
-- wants them.
create or replace function pg_temp.purple_flea_drop_references(
  there       regclass,
  column_name text,
  wanted_type text
) returns void
  language plpgsql
  volatile
as $$
declare
  k record;
begin
  for k in
    select f.conname, f.conrelid::regclass as on_table
    from pg_catalog.pg_constraint f
    join pg_catalog.pg_attribute a
      on a.attname = column_name
      and a.attrelid = there
      and (
        (f.conrelid = there and a.attnum = any (f.conkey))
        or (f.confrelid = there and a.attnum = any (f.confkey))
      )
    where f.contype = 'f'
  loop
    if k.on_table not in (select * from pg_temp.purple_flea_tables()) then
      raise exception 'constraint % of table % keeps column % of % from becoming %; '
        'drop it, and make it again afterwards',
        k.conname, k.on_table, column_name, there, wanted_type;
    end if;
    execute format('alter table %s drop constraint %I', k.on_table, k.conname);
  end loop;
end;
$$;

-- Adds the missing columns, and brings the others to the wanted types.
create or replace function pg_temp.purple_flea_adopt_types(wanted regclass, there regclass)
  returns void
  language plpgsql
  volatile
as $$
declare
  c record;
begin
  for c in select * from pg_temp.purple_flea_columns(wanted, there) loop
    if not c.is_there then
      execute format(
        'alter table %s add column %I %s%s%s',
        there,
        c.name,
        c.type,
        case
          when c.generated then format(' generated always as (%s) stored', c.default_is)
          when c.default_is is not null then ' default ' || c.default_is
          else ''
        end,
        case when c.not_null then ' not null' else '' end
      );
    elsif c.there_type <> c.type then
      perform pg_temp.purple_flea_drop_references(there, c.name, c.type);
      execute format('alter table %s alter column %I drop identity if exists', there, c.name);
      if c.default_is is null or c.default_is not like 'nextval(%' then
        execute format('alter table %s alter column %I drop default', there, c.name);
      end if;
      execute format(
        'alter table %s alter column %I type %s using %s',
        there, c.name, c.type, pg_temp.purple_flea_read(c.name, c.there_base, c.type));
    end if;
  end loop;
end;
$$;

-- Gives each column its wanted default, and makes it not null if that is wanted.
create or replace function pg_temp.purple_flea_adopt_defaults(wanted regclass, there regclass)
  returns void
  language plpgsql
  volatile
as $$
declare
  c record;
begin
  for c in select * from pg_temp.purple_flea_columns(wanted, there) where not generated loop
    if c.default_is like 'nextval(%' then
      execute format('alter table %s alter column %I drop identity if exists', there, c.name);
      if c.there_default is distinct from
        format('nextval(%L::regclass)', format('%s_%s_seq', there, c.name)) then
        perform pg_temp.purple_flea_adopt_serial(there, c.name);
      end if;
    elsif c.default_is is null and c.there_default is not null then
      execute format('alter table %s alter column %I drop default', there, c.name);
    elsif c.default_is is distinct from c.there_default then
      execute format('alter table %s alter column %I set default %s', there, c.name, c.default_is);
    end if;
    if c.not_null <> c.there_not_null then
      execute format(
        'alter table %s alter column %I %s not null',
        there, c.name, case when c.not_null then 'set' else 'drop' end);
    end if;
  end loop;
end;
$$;

create or replace function pg_temp.purple_flea_adopt_constraints(wanted regclass, there regclass)
  returns void
  language plpgsql
  volatile
as $$
declare
  m          record;
  other_name text;
  has_rows   boolean;
begin
  execute format('select exists (select from %s)', there) into has_rows;
  for m in select * from pg_temp.purple_flea_missing(wanted, there) loop
    execute format('alter table %s drop constraint if exists %I', there, m.name);
    -- The same constraint may exist under another name.
    select c.conname into other_name
    from pg_catalog.pg_constraint c
    where c.conrelid = there
      and c.contype = m.kind
      and m.kind in ('p', 'u', 'f')
      and pg_get_constraintdef(c.oid) = m.definition
    limit 1;
    if other_name is not null then
      execute format('alter table %s rename constraint %I to %I', there, other_name, m.name);
    else
      -- It holds for new rows at once. Existing rows are checked after the transaction,
      -- while deposits go on.
      execute format(
        'alter table %s add constraint %I %s%s',
        there,
        m.name,
        m.definition,
        case when m.kind in ('c', 'f') and has_rows then ' not valid' else '' end
      );
    end if;
  end loop;
end;
$$;

-- Gives an index's definition as it is on a table.
create or replace function pg_temp.purple_flea_index_on(index_oid oid, there regclass) returns text
  language sql
  volatile
as $$
  select regexp_replace(
    pg_get_indexdef(index_oid),
    ' ON \S+ USING ',
    format(' ON %s USING ', there)
  )
$$;

create or replace function pg_temp.purple_flea_adopt_indexes(wanted regclass, there regclass)
  returns void
  language plpgsql
  volatile
as $$
declare
  i record;
begin
  for i in
    select
      pg_temp.purple_flea_index_on(c.oid, there) as definition,
      old.oid::regclass as old,
      pg_temp.purple_flea_index_on(old.oid, there) as old_definition,
      old_index.indisvalid
    from pg_catalog.pg_index x
    join pg_catalog.pg_class c on c.oid = x.indexrelid
    left join pg_catalog.pg_class old
      on old.relname = c.relname
      and old.relnamespace = (
        select t.relnamespace from pg_catalog.pg_class t where t.oid = there
      )
    left join pg_catalog.pg_index old_index on old_index.indexrelid = old.oid
    where x.indrelid = wanted
      and not exists (
        select
        from pg_catalog.pg_constraint k
        where k.conindid = c.oid
          and k.contype in ('p', 'u')
      )
    order by c.relname
  loop
    if i.old_definition is distinct from i.definition or not i.indisvalid then
      if i.old is not null then
        execute format('drop index %s', i.old);
      end if;
      execute i.definition;
    end if;
  end loop;
end;
$$;

create or replace function pg_temp.purple_flea_adopt(table_name text, in_schema text) returns void
  language plpgsql
  volatile
as $$
declare
  wanted constant regclass := format('purple_flea_wanted.%I', table_name)::regclass;
  there  constant regclass := to_regclass(format('%I.%I', in_schema, table_name));
begin
  if there is null then
    execute format('alter table %s set schema %I', wanted, in_schema);
    return;
  end if;
  perform pg_temp.purple_flea_adopt_types(wanted, there);
  perform pg_temp.purple_flea_adopt_defaults(wanted, there);
  perform pg_temp.purple_flea_adopt_constraints(wanted, there);
  perform pg_temp.purple_flea_adopt_indexes(wanted, there);
  execute format('drop table %s', wanted);
end;
$$;

-- Makes a reference from one of the four tables to agents, as the ledger needs it.
create or replace function pg_temp.purple_flea_adopt_reference(there regclass, column_name text)
  returns void
  language plpgsql
  volatile
as $$
declare
  called   constant text := format('%s_%s_fkey', there, column_name);
  wanted   constant text := format(
    'FOREIGN KEY (%I) REFERENCES agents(id) ON DELETE RESTRICT', column_name);
  other    record;
  has_rows boolean;
begin
  for other in
    select c.conname
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a
      on a.attrelid = there
      and a.attname = column_name
      and c.conkey = array[a.attnum]
    where c.conrelid = there
      and c.contype = 'f'
      and c.confrelid = 'public.agents'::regclass
      and (c.conname <> called or pg_get_constraintdef(c.oid) <> wanted)
  loop
    execute format('alter table %s drop constraint %I', there, other.conname);
  end loop;
  if not exists (
    select from pg_catalog.pg_constraint c where c.conrelid = there and c.conname = called
  ) then
    execute format('select exists (select from %s)', there) into has_rows;
    execute format(
      'alter table %s add constraint %I %s%s',
      there, called, wanted, case when has_rows then ' not valid' else '' end);
  end if;
end;
$$;
